"""`predict`: new images in, label maps out, on their own grids; what is finished stays, what is bad is named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from tiny_folders import LABELS, ODD_CASE, TINY, anatomy, write_pictures, write_volumes

from diffboost3d.cases.workspace import Workspace
from diffboost3d.cli import main

WORDS = [*TINY, "arms=[none]", "seeds=[0,1]", "train.steps=2", "data.folds=3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Data and a workspace with two segmenters, their components chosen and their test cases evaluated."""
    folder = tmp_path_factory.mktemp("predict")
    write_volumes(folder / "data")
    words = [f"data.root={folder / 'data'}", f"workspace={folder / 'ws'}", *WORDS]
    for stage in ("prepare", "train", "evaluate"):
        more = ["evaluate.postprocessing=validated"] if stage == "evaluate" else []
        assert main([stage, *words, *more]) == 0
    return folder


@pytest.fixture(scope="module")
def laptop(trained, tmp_path_factory):
    """manifest.json and segmentation/ alone, on a machine without images; gives the workspace."""
    there = tmp_path_factory.mktemp("laptop") / "model"
    shutil.copytree(trained / "ws" / "segmentation", there / "segmentation")
    shutil.copy(trained / "ws" / "manifest.json", there)
    return there


@pytest.fixture
def scans(tmp_path):
    """New images: another grid, oblique int16 voxels of other size, and one of a scanner that counts from elsewhere."""
    folder = tmp_path / "scans"
    folder.mkdir()
    tilt = np.deg2rad(9)
    turn = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    for number, (shape, axes) in enumerate([((17, 21, 7), "RAS"), ((23, 14, 9), "PIR")]):
        image, _ = anatomy(100 + number, shape)
        affine = np.eye(4)
        affine[:3, :3] = turn @ np.diag([1.0, 0.8, 3.1])
        affine[:3, 3] = (7, -3, 11)
        pictured = nib.Nifti1Image((image - 200).astype(np.int16), affine)
        pictured = pictured.as_reoriented(nib.orientations.axcodes2ornt(axes))
        pictured.set_data_dtype(np.int16)
        pictured.header["descrip"] = b"scan"
        nib.save(pictured, folder / f"new_{number}.nii.gz")
    return folder


def predict(workspace, source, output, *more, arm="none"):
    """Exit status; nothing of the data is named."""
    words = [f"predict.input={source}", f"predict.output={output}", f"predict.arm={arm}", "runtime.device=cpu"]
    return main(["predict", f"workspace={workspace}", *words, "runtime.threads=1", *more])


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_label_maps_have_the_grid_and_header_of_their_images_and_the_user_s_values(laptop, scans, tmp_path):
    assert predict(laptop, scans, tmp_path / "out") == 0
    found = set()
    for path in sorted(scans.iterdir()):
        image, label = nib.load(path), nib.load(tmp_path / "out" / path.name)
        assert label.shape == image.shape
        assert np.array_equal(label.affine, image.affine)
        assert label.get_data_dtype() == np.uint8
        for field in ("sform_code", "qform_code", "xyzt_units", "descrip"):
            assert label.header[field] == image.header[field]
        found |= set(np.unique(np.asarray(label.dataobj)).tolist())
    assert found <= set(LABELS.values())
    assert len(found) > 1


def test_a_new_image_is_segmented_as_evaluate_segments_the_same_file(trained, laptop, tmp_path):
    """Prepared from the file alone, under other settings of today, it gives the label map of `evaluate` to the byte."""
    test = Workspace(trained / "ws").read_split(0).test
    (tmp_path / "scans").mkdir()
    for case in {*test, ODD_CASE}:
        shutil.copy(trained / "data" / "images" / f"{case}.nii.gz", tmp_path / "scans")
    other = ["prepare.spacing_mm=[4,4,4]", "prepare.intensity.kind=ct_window", "predict.postprocessing=validated"]
    assert predict(laptop, tmp_path / "scans", tmp_path / "out", *other) == 0
    for case in test:
        there = Workspace(trained / "ws").prediction(0, "none", 0, case, ".nii.gz")
        assert (tmp_path / "out" / there.name).read_bytes() == there.read_bytes()


def test_records_say_what_made_each_label_map_without_absolute_paths(laptop, scans, tmp_path):
    assert predict(laptop, scans, tmp_path / "out", "predict.seeds=[0,1]", "predict.mirror_axes=[1,0]") == 0
    record = json.loads((tmp_path / "out" / "new_0.json").read_text())
    assert record["image"]["path"] == "../scans/new_0.nii.gz"
    assert [model["path"] for model in record["models"]] == [
        f"segmentation/fold0/none/seed{seed}/model.safetensors" for seed in (0, 1)
    ]
    assert len({model["digest"] for model in record["models"]}) == 2
    assert record["settings"] == {"overlap": 0.5, "mirror_axes": [0, 1], "precision": "no"}
    assert record["postprocessing"]["choice"] == "none"
    label = np.asarray(nib.load(tmp_path / "out" / "new_0.nii.gz").dataobj)
    assert record["voxels"] == {name: int((label == value).sum()) for name, value in LABELS.items()}
    for path in (tmp_path / "out").rglob("*.json"):
        assert str(tmp_path) not in path.read_text()


def test_probability_maps_agree_with_the_label_map(laptop, scans, tmp_path):
    assert predict(laptop, scans / "new_1.nii.gz", tmp_path / "out", "predict.probabilities=true") == 0
    label = nib.load(tmp_path / "out" / "new_1.nii.gz")
    maps = {value: nib.load(tmp_path / f"out/probabilities/new_1_label{value}.nii.gz") for value in (2, 5)}
    for one in maps.values():
        assert one.get_data_dtype() == np.float32
        assert np.array_equal(one.affine, label.affine)
    values = {value: np.asarray(one.dataobj) for value, one in maps.items()}
    background = 1 - sum(values.values())
    stacked = np.stack([background, values[2], values[5]])
    assert stacked.min() > -1e-6
    chosen = np.array([0, 2, 5])[stacked.argmax(axis=0)]
    assert (chosen == np.asarray(label.dataobj)).mean() > 0.999
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "diffboost3d.json", "labels.ctbl", "labels.label", "new_1.json", "new_1.nii.gz", "probabilities"
    }  # fmt: skip


def test_what_is_finished_is_not_made_again_and_a_kill_costs_one_image(laptop, scans, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert predict(laptop, scans, out) == 0
    whole = files(out)
    (out / "new_1.json").unlink()  # as a kill leaves it: a label map, maybe another's, without its record
    (out / "new_1.nii.gz").write_bytes(b"half")
    (out / ".partial-77-new_1.json").write_bytes(b"{")
    before = (out / "new_0.nii.gz").stat().st_mtime_ns
    assert predict(laptop, scans, out) == 0
    assert files(out) == whole
    assert (out / "new_0.nii.gz").stat().st_mtime_ns == before
    monkeypatch.setattr("diffboost3d.stages.predict.mean_probabilities", lambda *_: pytest.fail("made again"))
    assert predict(laptop, scans, out) == 0


def test_a_changed_image_or_setting_makes_the_label_map_anew(laptop, scans, tmp_path):
    out = tmp_path / "out"
    assert predict(laptop, scans, out) == 0
    first = {name: json.loads((out / f"{name}.json").read_text())["digest"] for name in ("new_0", "new_1")}
    image = nib.load(scans / "new_1.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1].copy(), image.affine), scans / "new_1.nii.gz")
    assert predict(laptop, scans, out) == 0
    second = {name: json.loads((out / f"{name}.json").read_text())["digest"] for name in first}
    assert second["new_0"] == first["new_0"]
    assert second["new_1"] != first["new_1"]
    assert predict(laptop, scans, out, "predict.overlap=0.25") == 0
    assert json.loads((out / "new_0.json").read_text())["digest"] != first["new_0"]


def test_a_label_map_that_someone_corrected_is_left_alone(laptop, scans, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(laptop, scans, out) == 0
    label = nib.load(out / "new_0.nii.gz")
    nib.save(nib.Nifti1Image(np.full(label.shape, 5, np.uint8), label.affine), out / "new_0.nii.gz")
    corrected = (out / "new_0.nii.gz").read_bytes()
    assert predict(laptop, scans, out) == 0
    assert predict(laptop, scans, out, "predict.seeds=[1]") == 1
    assert "new_0.nii.gz: was changed since" in capsys.readouterr().out
    assert (out / "new_0.nii.gz").read_bytes() == corrected


def test_bad_files_are_named_in_a_line_each_and_the_others_are_done(laptop, scans, tmp_path, capsys):
    (scans / "cut.nii.gz").write_bytes((scans / "new_0.nii.gz").read_bytes()[:300])
    nib.save(nib.Nifti1Image(np.full((8, 8, 4), 3.0, np.float32), np.eye(4)), scans / "flat.nii.gz")
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(8, 9, 1)), np.eye(4)), scans / "slice.nii.gz")
    nan = np.random.default_rng(0).normal(size=(8, 9, 5))
    nan[1, 2, 3] = np.nan
    nib.save(nib.Nifti1Image(nan, np.eye(4)), scans / "nan.nii")
    nib.save(nib.load(scans / "new_0.nii.gz"), scans / "new_1.nii")
    assert predict(laptop, scans, tmp_path / "out") == 1
    told = capsys.readouterr()
    lines = [line for line in told.out.splitlines() if line.startswith("!")]
    said = {"cut.nii.gz": "damaged", "flat.nii.gz": "every voxel is 3", "slice.nii.gz": "trained on volumes",
            "nan.nii": "NaN", "new_1.nii.gz": "same name"}  # fmt: skip
    assert len(lines) == len(said)
    for name, words in said.items():
        assert [line for line in lines if f"/{name}:" in line and words in line], name
    assert told.err.count("diffboost3d:") == 1
    assert "5 of 7 images could not be predicted" in told.err
    assert {path.name for path in (tmp_path / "out").glob("*.nii*")} == {"new_0.nii.gz", "new_1.nii"}


def test_a_folder_of_other_files_is_never_written_to(laptop, scans, tmp_path, capsys):
    before = files(scans)
    assert predict(laptop, scans, scans) == 1
    assert "has files that `predict` did not write" in capsys.readouterr().err
    assert files(scans) == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["predict.arm=diffboost"], "trained in this workspace: segmentation/fold0/none/seed0, segmentation/fold0/none/seed1"),
        (["predict.folds=[2]"], "fold 2, seed 0"),
        (["predict.input=/nowhere/at/all"], "no such file or folder"),
        (["predict.output=null"], "predict.output is missing"),
        (["predict.seeds=[0,0]"], "each once"),
        (["predict.mirror_axes=[0,0]"], "each once"),
    ],
)  # fmt: skip
def test_what_can_not_be_done_is_refused_in_one_line(laptop, scans, tmp_path, capsys, more, said):
    assert predict(laptop, scans, tmp_path / "out", *more) in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_segmenters_of_other_preparation_are_refused(laptop, scans, tmp_path, capsys):
    copied = shutil.copytree(laptop, tmp_path / "copied")
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["preparation"]["spacing_mm"] = [2.0, 2.0, 2.0]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    assert predict(copied, scans, tmp_path / "out") == 1
    assert "prepared in another way" in capsys.readouterr().err
    del manifest["preparation"]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    assert predict(copied, scans, tmp_path / "out") == 1
    assert "run `prepare` again" in capsys.readouterr().err


# --- components ------------------------------------------------------------------------------------------------------
def test_the_decision_rests_on_validation_cases_alone(trained):
    workspace = Workspace(trained / "ws")
    decision = json.loads(workspace.postprocessing(0, "none", 0).read_text())
    split = workspace.read_split(0)
    assert decision["connectivity"] == "corners"
    for told in decision["labels"].values():
        assert set(told["cases"]) == set(split.validation)
        before, after = np.array([*told["cases"].values()]).mean(axis=0)
        assert told["keep_largest"] == (after > before)


def test_validated_components_are_applied_and_said(laptop, scans, tmp_path, capsys):
    copied = shutil.copytree(laptop, tmp_path / "copied")
    path = Workspace(copied).postprocessing(0, "none", 0)
    decision = json.loads(path.read_text())
    for told in decision["labels"].values():
        told["cases"] = {"case": [0.5, 0.6]}
    path.write_text(json.dumps(decision))
    assert predict(copied, scans, tmp_path / "plain") == 0
    assert predict(copied, scans, tmp_path / "kept", "predict.postprocessing=validated") == 0
    from scipy import ndimage

    for name in ("new_0.nii.gz", "new_1.nii.gz"):
        plain, kept = (np.asarray(nib.load(tmp_path / folder / name).dataobj) for folder in ("plain", "kept"))
        assert ((kept == plain) | (kept == 0)).all()
        for value in (2, 5):
            assert ndimage.label(kept == value, np.ones((3, 3, 3)))[1] <= 1
            assert (kept == value).any() == (plain == value).any()
    path.write_text(json.dumps({**decision, "model": "another"}))
    assert predict(copied, scans, tmp_path / "none", "predict.postprocessing=validated") == 1
    assert "another training" in capsys.readouterr().err
    path.unlink()
    assert predict(copied, scans, tmp_path / "none", "predict.postprocessing=validated") == 1
    assert "evaluate.postprocessing=validated" in capsys.readouterr().err


# --- 2D --------------------------------------------------------------------------------------------------------------
def test_pictures_go_the_same_way(tmp_path):
    write_pictures(tmp_path / "data")
    words = [f"data.root={tmp_path / 'data'}", f"workspace={tmp_path / 'ws'}", *WORDS, "seeds=[0]", "network.divisor=4"]
    for stage in ("prepare", "train"):
        assert main([stage, *words]) == 0
    shutil.rmtree(tmp_path / "ws" / "prepared")
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "new").mkdir()
    image, _ = anatomy(50, (31, 22))  # neither the size of training nor a multiple of anything
    Image.fromarray(np.clip(image.T / 4, 0, 255).astype(np.uint8)).save(tmp_path / "new" / "a.jpg", quality=95)
    more = ["predict.probabilities=true", "predict.mirror_axes=[0,1,2]", "predict.precision=bf16"]
    assert predict(tmp_path / "ws", tmp_path / "new", tmp_path / "out", *more) == 0
    label = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert label.shape == (22, 31)
    assert set(np.unique(label)) <= set(LABELS.values())
    shown = Image.open(tmp_path / "out" / "probabilities" / "a_label5.png")
    assert shown.size == (31, 22)
    assert np.asarray(shown).dtype == np.uint16 or np.asarray(shown).max() > 255
    assert os.listdir(tmp_path / "new") == ["a.jpg"]
