"""The whole way on tiny folders, in 3D and 2D: every stage, every arm, and what a run leaves behind."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torchio as tio
from PIL import Image
from tiny_folders import LABELS, ODD_CASE, TINY, write_pictures, write_volumes

from diffboost3d.cli import main

ARMS = ("none", "classical", "cutmix", "cutmix_classical", "diffboost", "diffboost_classical")
STAGES = ("prepare", "pretrain", "finetune", "synthesize", "train", "evaluate", "report")
SPLITS = [
    {
        "training": ["case_00", "case_01", ODD_CASE],
        "unlabelled": ["case_03"],
        "validation": ["case_04"],
        "test": ["case_05", "case_06", "case_07", "case_08"],
    }
]


def settings(data, workspace, *more):
    return [f"data.root={data}", f"workspace={workspace}", *TINY, *more]


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("3d")
    write_volumes(folder / "data")
    (folder / "splits.json").write_text(json.dumps(SPLITS), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def words(volumes):
    more = (
        f"data.splits={volumes / 'splits.json'}",
        f"arms=[{','.join(ARMS)}]",
        "train.steps=2",
        "synthesize.samples=2",
    )
    return settings(volumes / "data", volumes / "ws", *more)


@pytest.fixture(scope="module")
def workspace(volumes, words):
    assert main(["run", *words]) == 0
    return volumes / "ws"


@pytest.fixture(scope="module")
def flat_workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("2d")
    write_pictures(folder / "data")
    more = ("arms=[none,classical,cutmix,diffboost_classical]", "train.steps=2")
    assert main(["run", *settings(folder / "data", folder / "ws", *more)]) == 0
    return folder / "ws"


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


def scores_of(workspace):
    with (workspace / "scores.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def synthetic_files(workspace):
    return sorted(path for path in (workspace / "synthetic").rglob("*.nii.gz"))


def contents(workspace, folder, pattern):
    root = workspace / folder
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob(pattern)) if path.is_file()
    }


# --- what is there ---------------------------------------------------------------------------------------------------
def test_every_stage_leaves_its_configuration_and_a_record(workspace):
    assert {path.stem for path in (workspace / "config").iterdir()} == {*STAGES, "run"}
    records = {path.parent.relative_to(workspace).as_posix(): load(path) for path in workspace.rglob("record.json")}
    assert records["diffusion/pretrained/fold0"]["stage"] == "pretrain"
    assert records["diffusion/fold0"]["stage"] == "finetune"
    assert records["synthetic/fold0"]["stage"] == "synthesize"
    for arm in ARMS:
        assert records[f"segmentation/fold0/{arm}/seed0"]["stage"] == "train"
        assert records[f"segmentation/fold0/{arm}/seed0/predictions"]["stage"] == "evaluate"
    for name, record in records.items():
        if not name.startswith("prepared/"):
            assert record["started"] <= record["ended"]
            assert {"diffboost3d", "torch", "monai"} <= set(record["versions"])


def test_nothing_half_written_is_left(workspace, flat_workspace):
    for folder in (workspace, flat_workspace):
        assert not [path for path in folder.rglob("*") if ".partial" in path.name]


def test_no_pickle_is_left(workspace):
    endings = {"".join(path.suffixes[-1:]) for path in workspace.rglob("*") if path.is_file()}
    assert not endings & {".pt", ".pth", ".bin", ".pkl", ".ckpt"}


def test_json_files_hold_no_absolute_path(workspace, flat_workspace):
    def texts(value):
        if isinstance(value, dict):
            return [text for pair in value.items() for one in pair for text in texts(one)]
        if isinstance(value, list):
            return [text for one in value for text in texts(one)]
        return [value] if isinstance(value, str) else []

    for folder in (workspace, flat_workspace):
        files = list(folder.rglob("*.json"))
        assert len(files) > 10
        for path in files:
            assert not [text for text in texts(load(path)) if Path(text).is_absolute()], path
            assert str(folder.parent) not in path.read_text(encoding="utf-8")


def test_the_user_s_folder_is_not_touched(volumes, workspace, tmp_path):
    write_volumes(tmp_path / "again")
    before, after = (contents(folder, ".", "*") for folder in (tmp_path / "again", volumes / "data"))
    assert before.keys() == after.keys()
    for name in before:
        if name.endswith(".nii.gz"):
            first, second = nib.load(tmp_path / "again" / name), nib.load(volumes / "data" / name)
            assert np.array_equal(np.asarray(first.dataobj), np.asarray(second.dataobj))


# --- synthetic volumes -----------------------------------------------------------------------------------------------
def test_there_are_k_synthetic_volumes_for_each_labelled_training_case_and_no_other(workspace):
    names = {path.relative_to(workspace / "synthetic" / "fold0").as_posix() for path in synthetic_files(workspace)}
    assert names == {f"{case}/{sample:02d}.nii.gz" for case in SPLITS[0]["training"] for sample in range(2)}
    seeds = {load(path)["seed"] for path in (workspace / "synthetic" / "fold0").glob("case_*/*.json")}
    assert len(seeds) == 6


def test_synthetic_volumes_have_the_geometry_and_type_of_their_case(volumes, workspace):
    for path in synthetic_files(workspace):
        source = volumes / "data" / "images" / f"{path.parent.name}.nii.gz"
        made, real = nib.load(path), nib.load(source)
        assert made.shape == real.shape
        assert made.get_data_dtype() == real.get_data_dtype()
        assert np.array_equal(made.affine, real.affine)
        assert made.header.get_zooms() == real.header.get_zooms()
        assert made.header.get_xyzt_units() == real.header.get_xyzt_units()
        for name in ("sform_code", "qform_code"):
            assert int(made.header[name]) == int(real.header[name])
        assert np.array_equal(made.get_qform(), real.get_qform())
        one, other = sitk.ReadImage(str(path)), sitk.ReadImage(str(source))
        for question in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection", "GetPixelID"):
            assert getattr(one, question)() == getattr(other, question)()
        first, second = tio.ScalarImage(path), tio.ScalarImage(source)
        assert first.spatial_shape == second.spatial_shape
        assert first.orientation == second.orientation
        assert np.array_equal(first.affine, second.affine)
        assert first.spacing == second.spacing


def test_synthetic_volumes_say_so_and_are_no_copies(volumes, workspace):
    seen = set()
    for path in synthetic_files(workspace):
        made = nib.load(path)
        real = np.asarray(nib.load(volumes / "data" / "images" / f"{path.parent.name}.nii.gz").dataobj)
        array = np.asarray(made.dataobj)
        assert b"synthetic" in bytes(made.header["descrip"])
        assert load(path.with_name(path.name.replace(".nii.gz", ".json")))["synthetic"] is True
        assert np.isfinite(array).all()
        assert not np.array_equal(array, real)
        assert array.min() >= real.min() - 1
        assert array.max() <= real.max() + 1
        seen.add(array.tobytes())
    assert len(seen) == 6


# --- scores and predictions ------------------------------------------------------------------------------------------
def test_scores_are_a_tidy_table_of_every_cell(workspace):
    rows = scores_of(workspace)
    assert list(rows[0]) == ["arm", "fold", "seed", "case", "label", "metric", "value", "unit"]
    assert {row["arm"] for row in rows} == set(ARMS)
    assert {row["case"] for row in rows} == set(SPLITS[0]["test"])
    assert {row["label"] for row in rows} == {"shell", "core"}
    assert {(row["metric"], row["unit"]) for row in rows} >= {("dice", ""), ("hd95", "mm"), ("assd", "mm"), ("nsd", "")}
    keys = [tuple(row[name] for name in ("arm", "fold", "seed", "case", "label", "metric")) for row in rows]
    assert len(set(keys)) == len(keys) == len(ARMS) * 4 * 2 * len({row["metric"] for row in rows})
    for row in rows:
        if row["metric"] in ("dice", "nsd"):
            assert 0 <= float(row["value"]) <= 1


def test_predictions_have_the_user_s_label_values_on_the_file_s_grid(volumes, workspace):
    for arm in ARMS:
        folder = workspace / "segmentation" / "fold0" / arm / "seed0" / "predictions"
        paths = sorted(folder.glob("*.nii.gz"))
        assert [path.name for path in paths] == [f"{case}.nii.gz" for case in SPLITS[0]["test"]]
        for path in paths:
            predicted, image = nib.load(path), nib.load(volumes / "data" / "images" / path.name)
            assert predicted.shape == image.shape
            assert np.array_equal(predicted.affine, image.affine)
            assert set(np.unique(np.asarray(predicted.dataobj))) <= set(LABELS.values())
            assert np.issubdtype(predicted.get_data_dtype(), np.unsignedinteger)


def test_scores_are_those_of_the_predictions_written(volumes, workspace):
    for row in scores_of(workspace):
        if row["metric"] == "dice" and row["arm"] == "none":
            path = workspace / "segmentation" / "fold0" / "none" / "seed0" / "predictions" / f"{row['case']}.nii.gz"
            found = np.asarray(nib.load(path).dataobj) == LABELS[row["label"]]
            truth = np.asarray(nib.load(volumes / "data" / "labels" / path.name).dataobj) == LABELS[row["label"]]
            dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
            assert float(row["value"]) == pytest.approx(dice, abs=1e-4)


# --- report ----------------------------------------------------------------------------------------------------------
class Links(HTMLParser):
    """Everything that a page would load."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loaded += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]


def test_the_report_is_one_file_that_loads_nothing(workspace, flat_workspace):
    for folder in (workspace, flat_workspace):
        text = (folder / "report" / "index.html").read_text(encoding="utf-8")
        page = Links(text)
        assert "script" not in page.tags
        assert page.loaded
        assert all(value.startswith(("data:", "#")) for value in page.loaded)
        assert not re.search(r"url\((?!['\"]?data:)|@import", text)
        assert "diffboost" in text


# --- again -----------------------------------------------------------------------------------------------------------
def run_and_hear(workspace, words):
    """What a run adds to the log."""
    log = workspace / "log.txt"
    before = len(log.read_text(encoding="utf-8"))
    assert main(["run", *words]) == 0
    return log.read_text(encoding="utf-8")[before:]


def test_a_second_run_does_no_work_and_says_so(workspace, words):
    def times(*patterns):
        return {path: path.stat().st_mtime_ns for pattern in patterns for path in workspace.rglob(pattern)}

    kept = ("record.json", "*.nii.gz", "*.safetensors", "predictions/*")
    before, files = times(*kept), contents(workspace, "synthetic", "*")
    said = run_and_hear(workspace, words)
    assert times(*kept) == before
    assert contents(workspace, "synthetic", "*") == files
    assert "pretrain fold 0: done already" in said
    assert "finetune fold 0: done already" in said
    assert re.search(r"synthesize fold 0: .*done already", said)
    for arm in ARMS:
        assert f"train fold 0, {arm}, seed 0: done already" in said
    assert "made anew" not in said


@pytest.fixture(scope="module")
def apart(volumes, words):
    """A second workspace on the same data, made by one command a stage."""
    for stage in STAGES:
        assert main([stage, *words, f"workspace={volumes / 'apart'}", "arms=[none,diffboost]"]) == 0
    return volumes / "apart"


def test_stages_one_by_one_make_what_run_makes(apart, workspace):
    kept = {"prepared": "*", "synthetic": "*.nii.gz", "synthetic/fold0": "*/*.json", "diffusion": "*.safetensors"}
    for folder, pattern in kept.items():
        assert contents(apart, folder, pattern) == contents(workspace, folder, pattern)
    for arm in ("none", "diffboost"):
        name = f"segmentation/fold0/{arm}/seed0"
        assert contents(apart, name, "*.safetensors") == contents(workspace, name, "*.safetensors")
        assert contents(apart, f"{name}/predictions", "*.nii.gz") == contents(
            workspace, f"{name}/predictions", "*.nii.gz"
        )
    rows = scores_of(workspace)
    assert scores_of(apart) == [row for row in rows if row["arm"] in ("none", "diffboost")]


def test_only_what_changed_is_made_anew(apart, words):
    synthetic = contents(apart, "synthetic", "*")
    model = contents(apart, "segmentation/fold0/none/seed0", "model.safetensors")
    said = run_and_hear(apart, [*words, f"workspace={apart}", "arms=[none,diffboost]", "merge.alpha=0.1"])
    assert contents(apart, "synthetic", "*") == synthetic
    assert contents(apart, "segmentation/fold0/none/seed0", "model.safetensors") == model
    assert "train fold 0, none, seed 0: done already" in said
    assert "segmentation/fold0/diffboost/seed0 is of another configuration or input: it is made anew" in said


def test_volumes_of_other_settings_do_not_count_as_finished_once_they_are_being_replaced(
    volumes, words, workspace, monkeypatch, capsys
):
    from diffboost3d.stages import synthesize

    def stopped(*arguments):
        raise KeyboardInterrupt

    shutil.copytree(workspace, volumes / "stale")
    changed = [*words, f"workspace={volumes / 'stale'}", "arms=[diffboost]", "synthesize.rho=0.9"]
    with monkeypatch.context() as patched:
        patched.setattr(synthesize, "_synthesize", stopped)
        assert main(["synthesize", *changed]) == 130
    assert main(["train", *changed]) == 1
    assert "run `diffboost3d synthesize`" in capsys.readouterr().err
    assert main(["synthesize", *changed]) == 0
    assert main(["train", *changed]) == 0


# --- 2D --------------------------------------------------------------------------------------------------------------
def test_pictures_go_the_whole_way_as_pictures(flat_workspace):
    manifest = load(flat_workspace / "manifest.json")
    assert manifest["spatial_dims"] == 2
    assert manifest["physical"] is False
    assert list(manifest["labels"].values()) == [0, 2, 5]
    made = sorted((flat_workspace / "synthetic" / "fold0").rglob("*.png"))
    assert len(made) == 5
    for path in made:
        with Image.open(path) as picture:
            assert (picture.size, picture.mode) == ((24, 20), "L")
            assert len(np.unique(np.asarray(picture))) > 5
    predictions = sorted((flat_workspace / "segmentation").rglob("predictions/*.png"))
    assert len(predictions) == 4 * 3
    for path in predictions:
        with Image.open(path) as picture:
            assert picture.size == (24, 20)
            assert set(np.unique(np.asarray(picture))) <= {0, 2, 5}
    assert {row["unit"] for row in scores_of(flat_workspace) if row["metric"] == "hd95"} == {"px"}


# --- real data -------------------------------------------------------------------------------------------------------
@pytest.fixture
def hippocampus(tmp_path):
    """Eight real cases, copied into a folder of their own."""
    root = (
        Path(os.environ.get("DIFFBOOST3D_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
        / "hippocampus"
    )
    if not (root / "dataset.json").is_file():
        pytest.skip(f"no real sample data at {root}; set DIFFBOOST3D_DATA to its parent folder")
    facts = load(root / "dataset.json")
    chosen = facts["training"][:8]
    for pair in chosen:
        for name in pair.values():
            (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, tmp_path / "data" / name)
    facts = {name: facts[name] for name in ("name", "modality", "labels") if name in facts} | {"training": chosen}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    return tmp_path / "data"


@pytest.mark.real_data
@pytest.mark.slow
def test_real_cases_go_the_whole_way(hippocampus, tmp_path):
    workspace = tmp_path / "ws"
    assert (
        main(["run", "data=hippocampus", "data.patients=case", *settings(hippocampus, workspace, "train.batch=1")]) == 0
    )
    assert (workspace / "report" / "index.html").is_file()
    made = synthetic_files(workspace)
    assert made
    for path in made:
        source = nib.load(hippocampus / "imagesTr" / f"{path.parent.name}.nii.gz")
        assert nib.load(path).shape == source.shape
        assert np.array_equal(nib.load(path).affine, source.affine)
        assert nib.load(path).get_data_dtype() == source.get_data_dtype()
    predictions = sorted((workspace / "segmentation").rglob("predictions/*.nii.gz"))
    assert predictions
    for path in predictions:
        assert set(np.unique(np.asarray(nib.load(path).dataobj))) <= {0, 1, 2}
