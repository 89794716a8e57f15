"""Exported data sets: who is trained on in which fold, labels, bytes, what is refused, and what a kill leaves."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image
from pretended_synthesis import give_label, pretend_to_synthesize, record, write_json
from tiny_folders import LABELS, ODD_CASE, write_pictures, write_volumes

from diffboost3d.cases.layouts import read_folder
from diffboost3d.cases.workspace import Workspace
from diffboost3d.cli import main
from diffboost3d.imaging.files import read, read_grid

FOLDS = range(3)
SET = Path("export") / "nnunet" / "Dataset500_Balls"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ and ws/: nine cases, three folds, two synthetic volumes of each training case."""
    folder = tmp_path_factory.mktemp("export")
    write_volumes(folder / "data")
    words = [f"data.root={folder / 'data'}", f"workspace={folder / 'ws'}", "prepare.workers=1"]
    splits = [
        {"training": [f"case_0{n}" for n in a], "unlabelled": [f"case_0{n}" for n in u],
         "validation": [f"case_0{n}" for n in v], "test": [f"case_0{n}" for n in t]}
        for a, u, v, t in (((0, 1, 2), (3,), (4,), (5, 6)), ((5, 6, 4), (), (0,), (1, 2)), ((3, 7), (8,), (5,), (0, 4)))
    ]  # fmt: skip
    write_json(folder / "splits.json", splits)
    assert main(["prepare", *words, f"data.splits={folder / 'splits.json'}"]) == 0
    for fold in FOLDS:
        pretend_to_synthesize(Workspace(folder / "ws"), fold)
    return folder


@pytest.fixture
def made(original: Path, tmp_path: Path) -> Path:
    """A copy of `original` that a test may spoil."""
    return shutil.copytree(original, tmp_path / "copy")


def export(folder: Path, *words: str) -> int:
    return main(["export", f"workspace={folder / 'ws'}", *words])


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- who is trained on -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("folds", [[0], [2], [0, 1], [2, 0, 1]])
def test_no_fold_trains_on_a_held_out_case_nor_on_a_volume_that_another_folds_generator_made(
    folds: list[int], made: Path
) -> None:
    workspace = Workspace(made / "ws")
    assert export(made, f"folds={folds}") == 0
    target = made / "ws" / SET
    about = {image["name"]: image for image in load(target / "diffboost3d.json")["images"]}
    entries = load(target / "splits_final.json")
    assert len(entries) == len(folds)
    for fold, entry in zip(folds, entries, strict=True):
        split = workspace.read_split(fold)
        assert entry["val"] == list(split.validation)
        trained = [about[name] for name in entry["train"]]
        assert {image["case"] for image in trained if not image["synthetic"]} == set(split.training)
        children = [image for image in trained if image["synthetic"]]
        assert len(children) == 2 * len(split.training)
        assert {image["record"]["fold"] for image in children} == {fold}
        held_out = {about[name]["patient"] for name in entry["val"]} | set(split.test)
        assert not held_out & {image["patient"] for image in trained}
    labelled = {path.name.removesuffix(".nii.gz") for path in (target / "labelsTr").iterdir()}
    assert labelled == {name for entry in entries for name in (*entry["train"], *entry["val"])}
    assert load(target / "dataset.json")["numTraining"] == len(labelled)


def test_test_images_have_no_label_and_only_those_that_no_exported_fold_learns_from(made: Path) -> None:
    assert export(made, "folds=[0]") == 0
    assert names_in(made / "ws" / SET / "imagesTs") == ["case_05_0000.nii.gz", "case_06_0000.nii.gz"]
    assert not list((made / "ws" / SET / "labelsTr").glob("case_05*"))
    assert export(made, "folds=[0,1]", "export.dataset_id=501") == 0
    assert not (made / "ws/export/nnunet/Dataset501_Balls/imagesTs").exists()
    assert export(made, "export.test_images=false") == 0
    assert not (made / "ws" / SET / "imagesTs").exists()


def test_only_accepted_volumes_are_exported_and_each_with_its_own_label(made: Path) -> None:
    workspace = Workspace(made / "ws")
    record(workspace, 0, "case_00", 0, accepted=False, reasons=["its label is not found in it"])
    for sample in (0, 1):
        record(workspace, 0, "case_01", sample, accepted=False)
    own = read(give_label(workspace, 0, "case_00", 1)).array
    assert export(made) == 0
    target = made / "ws" / SET
    synthetic = [name for name in names_in(target / "labelsTr") if "synthetic" in name]
    assert synthetic == [f"case_0{case}_fold0_synthetic0{sample}.nii.gz" for case, sample in ((0, 1), (2, 0), (2, 1))]
    written = read(target / "labelsTr" / synthetic[0]).array
    assert np.array_equal(written, np.searchsorted([0, LABELS["shell"], LABELS["core"]], own))
    assert not np.array_equal(written, read(target / "labelsTr" / "case_00.nii.gz").array)


@pytest.mark.parametrize(("wanted", "count"), [("0", 0), ("1", 3), ("null", 6)])
def test_the_number_of_synthetic_volumes_can_be_chosen_also_none(wanted: str, count: int, made: Path) -> None:
    if wanted == "0":
        shutil.rmtree(made / "ws" / "synthetic")
    assert export(made, f"export.samples={wanted}") == 0
    assert len(load(made / "ws" / SET / "splits_final.json")[0]["train"]) == 3 + count


# --- files -----------------------------------------------------------------------------------------------------------
def test_images_are_copied_to_the_byte_and_labels_are_numbered_in_a_row_on_the_grid_of_their_image(made: Path) -> None:
    before = contents(made / "data")
    assert export(made) == 0
    target, data = made / "ws" / SET, made / "data"
    facts = load(target / "dataset.json")
    assert facts["labels"] == {"background": 0, "shell": 1, "core": 2}
    assert facts["label_values_before"] == {"shell": 2, "core": 5}
    assert facts["channel_names"] == {"0": "MRI"}
    assert facts["file_ending"] == ".nii.gz"
    assert "SYNTHETIC" in facts["description"]
    case = f"{ODD_CASE}.nii.gz"
    assert (target / "imagesTr" / f"{ODD_CASE}_0000.nii.gz").read_bytes() == (data / "images" / case).read_bytes()
    child = made / "ws/synthetic/fold0/case_02/01.nii.gz"
    assert (target / "imagesTr/case_02_fold0_synthetic01_0000.nii.gz").read_bytes() == child.read_bytes()
    for name in load(target / "splits_final.json")[0]["train"]:
        image, label = target / "imagesTr" / f"{name}_0000.nii.gz", target / "labelsTr" / f"{name}.nii.gz"
        assert np.array_equal(nib.load(image).affine, nib.load(label).affine)
        assert nib.load(label).get_data_dtype() == np.uint8
        one, other = sitk.ReadImage(str(image)), sitk.ReadImage(str(label))
        assert (one.GetSize(), one.GetSpacing(), one.GetDirection()) == (
            other.GetSize(),
            other.GetSpacing(),
            other.GetDirection(),
        )
    real = read(data / "labels" / case).array
    assert np.array_equal(read(target / "labelsTr" / case).array, np.searchsorted([0, 2, 5], real))
    assert contents(made / "data") == before


def test_the_ignore_label_gets_the_highest_number_as_nnunet_asks(tmp_path: Path) -> None:
    data, ws = write_volumes(tmp_path / "data"), Workspace(tmp_path / "ws")
    labels = "{void: 0, Ignore: 2, core: 5}"
    assert main(["prepare", f"data.root={data}", f"workspace={ws.root}", f"data.labels={labels}"]) == 0
    assert export(tmp_path, "export.samples=0") == 0
    target = ws.root / SET
    assert load(target / "dataset.json")["labels"] == {"background": 0, "core": 1, "ignore": 2}
    case = ws.read_split(0).training[0]
    before, after = read(data / "labels" / f"{case}.nii.gz").array, read(target / "labelsTr" / f"{case}.nii.gz").array
    assert (after[before == 2] == 2).all()
    assert (after[before == 5] == 1).all()


def test_ct_is_called_ct_so_that_nnunet_keeps_its_units(made: Path) -> None:
    manifest = load(made / "ws" / "manifest.json")
    write_json(made / "ws" / "manifest.json", {**manifest, "modality": "ct"})
    assert export(made, "export.name=abdomen") == 0
    assert load(made / "ws/export/nnunet/Dataset500_abdomen/dataset.json")["channel_names"] == {"0": "CT"}


@pytest.mark.parametrize("how", ["hardlink", "symlink"])
def test_links_lead_to_the_users_files_and_labels_are_new_files(how: str, made: Path) -> None:
    assert export(made, f"export.files={how}") == 0
    link, source = made / "ws" / SET / "imagesTr" / "case_00_0000.nii.gz", made / "data" / "images" / "case_00.nii.gz"
    assert os.path.samefile(link, source)
    assert link.is_symlink() == (how == "symlink")
    if how == "symlink":
        assert not os.path.isabs(os.readlink(link))
    assert not os.path.samefile(made / "ws" / SET / "labelsTr/case_00.nii.gz", made / "data/labels/case_00.nii.gz")


def test_a_plain_nii_is_packed_where_others_are_packed_already(made: Path) -> None:
    packed, plain = made / "data/images/case_00.nii.gz", made / "data/images/case_00.nii"
    before = read(packed)
    nib.save(nib.load(packed), plain)
    packed.unlink()
    manifest = load(made / "ws" / "manifest.json")
    manifest["cases"][0]["image"] = "images/case_00.nii"
    write_json(made / "ws" / "manifest.json", manifest)
    assert export(made, "export.files=hardlink") == 0
    after = read(made / "ws" / SET / "imagesTr" / "case_00_0000.nii.gz")
    assert np.array_equal(after.array, before.array)
    assert after.grid == before.grid


def test_pictures_become_grey_png_with_labels_in_a_row(tmp_path: Path) -> None:
    data, ws = write_pictures(tmp_path / "data"), Workspace(tmp_path / "ws")
    for path in sorted((data / "images").iterdir())[:4]:  # as colour, and as JPEG: nnU-Net takes neither
        Image.open(path).convert("RGB").save(path)
    words = [f"data.root={data}", f"workspace={ws.root}", "data.name=Balls", "data.modality=Ultrasound"]
    assert main(["prepare", *words]) == 0
    pretend_to_synthesize(ws, 0, samples=1)
    assert export(tmp_path) == 0
    target = ws.root / SET
    assert load(target / "dataset.json")["file_ending"] == ".png"
    for name in load(target / "splits_final.json")[0]["train"]:
        with Image.open(target / "imagesTr" / f"{name}_0000.png") as picture:
            assert (picture.mode, picture.size) == ("L", (24, 20))
        assert set(np.unique(read(target / "labelsTr" / f"{name}.png").array)) <= {0, 1, 2}


def test_msd_lists_training_and_validation_apart_and_keeps_each_fold_in_a_folder_of_its_own(made: Path) -> None:
    assert export(made, "export.format=msd", "folds=[0,1]") == 0
    for fold in (0, 1):
        target = made / "ws" / "export" / "msd" / f"Task500_Balls_fold{fold}"
        split, facts = Workspace(made / "ws").read_split(fold), load(target / "dataset.json")
        found = read_folder(target)
        assert (found.layout, found.unlisted, found.labels) == ("msd", 0, {"background": 0, "shell": 1, "core": 2})
        assert {pair.id.split("_fold")[0] for pair in found.pairs} == set(split.training)
        assert facts["numTraining"] == len(found.pairs) == 3 * len(split.training)
        assert [Path(pair["image"]).name for pair in facts["validation"]] == [
            f"{one}.nii.gz" for one in split.validation
        ]
        for pair in (*facts["training"], *facts["validation"]):
            assert read_grid(target / pair["image"]) == read_grid(target / pair["label"])
        assert len(facts["test"]) == facts["numTest"] == len(names_in(target / "imagesTs"))


# --- going on, and what is refused -----------------------------------------------------------------------------------
class Killed(BaseException):
    """What no handler catches."""


@pytest.fixture
def killed_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Make the export die while it writes its n-th label."""

    def arrange(count: int) -> None:
        from diffboost3d.stages import export as stage

        write, calls = stage.write_label_like, iter(range(count + 1))

        def dying(path: Path, *rest: Any) -> None:
            if next(calls) == count:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_name(f".partial-1-{path.name}").write_bytes(b"half")
                raise Killed
            write(path, *rest)

        monkeypatch.setattr(stage, "write_label_like", dying)

    yield arrange
    monkeypatch.undo()


@pytest.mark.parametrize("count", [0, 5])
def test_a_killed_export_leaves_no_data_set_and_goes_on_to_the_same_bytes(
    count: int, made: Path, tmp_path: Path, killed_after: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    assert export(made, f"export.target={raw / 'whole'}") == 0
    killed_after(count)
    with pytest.raises(Killed):
        export(made, f"export.target={raw / 'killed'}")
    assert not list((raw / "killed").glob("Dataset*"))
    kept = {path: path.stat().st_mtime_ns for path in (raw / "killed").rglob("case_*.nii.gz")}
    monkeypatch.undo()
    assert export(made, f"export.target={raw / 'killed'}") == 0
    assert contents(raw / "killed") == contents(raw / "whole")
    times = {path.stat().st_mtime_ns for path in (raw / "killed").rglob("case_*.nii.gz")}
    assert set(kept.values()) <= times  # what was finished was not made again


def test_a_finished_export_is_kept_and_another_one_replaces_it(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(made) == 0
    before = (made / "ws" / SET / "dataset.json").stat().st_mtime_ns
    capsys.readouterr()
    assert export(made) == 0
    assert "is done already" in capsys.readouterr().out
    assert (made / "ws" / SET / "dataset.json").stat().st_mtime_ns == before
    assert export(made, "export.samples=1") == 0
    assert len(list((made / "ws" / SET / "imagesTr").glob("*synthetic*"))) == 3
    assert names_in(made / "ws" / "export" / "nnunet") == ["Dataset500_Balls"]


def test_what_export_did_not_make_is_left_alone(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = made / "ws" / SET
    target.mkdir(parents=True)
    (target / "dataset.json").write_text("{}")
    assert export(made) == 1
    assert "was not made by `export`" in capsys.readouterr().err
    assert (target / "dataset.json").read_text() == "{}"
    assert export(made, "export.name=Other") == 2
    assert "choose another export.dataset_id" in capsys.readouterr().err
    shutil.rmtree(target)
    assert export(made) == 0
    (target / "notes.txt").write_text("mine")
    assert export(made, "export.samples=1") == 1
    assert "notes.txt was not put there" in capsys.readouterr().err
    assert (target / "notes.txt").is_file()


def _forget_fold(ws: Workspace) -> None:
    shutil.rmtree(ws.synthetic(0))


def _forget_sample(ws: Workspace) -> None:
    ws.synthetic_record(0, "case_01", 1).unlink()


def _forget_volume(ws: Workspace) -> None:
    ws.synthetic_volume(0, "case_01", 1, ".nii.gz").unlink()


def _train_anew(ws: Workspace) -> None:
    write_json(ws.finetuned(0) / "record.json", {"digest": "m1", "training": list(ws.read_split(0).training)})


def _learn_from_a_test_case(ws: Workspace) -> None:
    write_json(ws.pretrained(0) / "record.json", {"digest": "p", "training": ["case_00", "case_05"]})


def _split_anew(ws: Workspace) -> None:
    splits = load(ws.splits_path)
    splits[0]["training"].append("case_07")
    write_json(ws.splits_path, splits)


def _find_a_sibling(ws: Workspace) -> None:
    manifest = load(ws.manifest_path)
    for case in manifest["cases"]:
        case["patient"] = "one" if case["id"] in ("case_00", "case_05") else case["id"]
    write_json(ws.manifest_path, manifest)


def _move_the_source(ws: Workspace) -> None:
    path = ws.source(ws.read_manifest(), "images/case_00.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), path)


def _unknown_label(ws: Workspace) -> None:
    path = give_label(ws, 0, "case_00", 0)
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.full(image.shape, 9, np.uint8), image.affine), path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_forget_fold, "run `diffboost3d synthesize`"),
        (_forget_sample, "01.json is missing"),
        (_forget_volume, "01.nii.gz is missing"),
        (_train_anew, "is stale"),
        (_learn_from_a_test_case, "saw case_05, now held out"),
        (_find_a_sibling, "saw case_00, now held out"),
        (_split_anew, "was trained on other cases"),
        (_move_the_source, "its grid is not that of case_00 any more"),
        (_unknown_label, "label value 9 is unknown"),
    ],
)
def test_stale_missing_and_changed_volumes_are_refused_in_one_line(
    spoil: Any, said: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(Workspace(made / "ws"))
    assert export(made) == 1
    assert said in (error := capsys.readouterr().err.splitlines()[-1])
    assert error.startswith("diffboost3d: ")
    assert not (made / "ws" / SET).exists()


def test_samples_left_from_an_earlier_larger_number_are_not_exported(made: Path) -> None:
    (made / "ws/synthetic/fold0/config.yaml").write_text("synthesize: {samples: 1}\n")
    record(Workspace(made / "ws"), 0, "case_00", 1, model="an older one")
    assert export(made) == 0
    assert not list((made / "ws" / SET / "imagesTr").glob("*synthetic01*"))
