"""Bad input: one clear line that names the file, an exit status that is not 0 or the case skipped, and no case lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tiny_folders import write_pictures, write_volumes

from diffboost3d.cli import main

BAD = "case_01"


def image_of(root: Path, case: str = BAD) -> Path:
    return root / "images" / f"{case}.nii.gz"


def label_of(root: Path, case: str = BAD) -> Path:
    return root / "labels" / f"{case}.nii.gz"


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray], shift_mm: float = 0.0) -> None:
    old = nib.load(path)
    affine = old.affine.copy()
    affine[0, 3] += shift_mm
    nib.save(nib.Nifti1Image(change(np.asarray(old.dataobj).copy()), affine), path)


def with_nan(array: np.ndarray) -> np.ndarray:
    array = array.astype(np.float32)
    array[2, 3, 1] = np.nan
    return array


def with_unknown_value(array: np.ndarray) -> np.ndarray:
    array[0, 0, 0] = 9
    return array


def with_fraction(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) + 0.3


DAMAGES: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "truncated": (
        lambda root: image_of(root).write_bytes(image_of(root).read_bytes()[:900]) and None,
        ["images/case_01.nii.gz", "damaged"],
    ),
    "not an image": (lambda root: image_of(root).write_bytes(b"hello") and None, ["images/case_01.nii.gz", "damaged"]),
    "empty file": (lambda root: image_of(root).write_bytes(b"") and None, ["images/case_01.nii.gz", "damaged"]),
    "NaN": (lambda root: rewrite(image_of(root), with_nan), ["images/case_01.nii.gz", "1 voxels are NaN"]),
    "constant": (lambda root: rewrite(image_of(root), np.zeros_like), ["images/case_01.nii.gz", "every voxel is 0"]),
    "4D": (
        lambda root: rewrite(image_of(root), lambda a: np.stack([a, a], axis=-1)),
        ["images/case_01.nii.gz", "4D image", "one 3D volume a file"],
    ),
    "label of another shape": (
        lambda root: rewrite(label_of(root), lambda a: a[:-1]),
        ["labels/case_01.nii.gz", "another grid", "shape 16x18x8 against 15x18x8"],
    ),
    "label of another affine": (
        lambda root: rewrite(label_of(root), lambda a: a, shift_mm=2.5),
        ["labels/case_01.nii.gz", "another grid", "2.5 mm"],
    ),
    "unknown label value": (
        lambda root: rewrite(label_of(root), with_unknown_value),
        ["labels/case_01.nii.gz", "label value 9 is unknown", "0, 2, 5"],
    ),
    "fractional label": (
        lambda root: rewrite(label_of(root), with_fraction),
        ["labels/case_01.nii.gz", "no whole numbers"],
    ),
    "truncated label": (
        lambda root: label_of(root).write_bytes(label_of(root).read_bytes()[:200]) and None,
        ["labels/case_01.nii.gz", "damaged"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_case_is_skipped_in_one_line_that_names_the_file_and_the_others_are_kept(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_volumes(tmp_path / "data")
    spoil, words = DAMAGES[damage]
    spoil(root)
    assert main(["prepare", f"data.root={root}", f"workspace={tmp_path / 'ws'}"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("! ")]
    assert len(lines) == 1
    assert lines[0].endswith("the case is skipped")
    for word in words:
        assert word in lines[0]
    manifest = json.loads((tmp_path / "ws" / "manifest.json").read_text())
    assert len(manifest["cases"]) == 8
    assert BAD not in {case["id"] for case in manifest["cases"]}
    (finding,) = json.loads((tmp_path / "ws" / "findings.json").read_text())
    assert finding["case"] == BAD


def test_a_missing_label_leaves_the_image_unlabelled_and_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_volumes(tmp_path / "data")
    label_of(root).unlink()
    assert main(["prepare", f"data.root={root}", f"workspace={tmp_path / 'ws'}"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("! ")]
    assert "labels/case_01.nii.gz is missing" in line
    assert line.endswith("the image is used unlabelled")
    for split in json.loads((tmp_path / "ws" / "splits.json").read_text()):
        assert BAD in split["unlabelled"]
        assert BAD not in split["training"] + split["validation"] + split["test"]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the command says when it refuses: one line, exit status 1 or 2, no traceback."""
    assert main(list(words)) in (1, 2)
    said = capsys.readouterr().err.splitlines()
    messages = [line for line in said if line.startswith("diffboost3d: ")]
    assert len(messages) == 1
    assert not any("Traceback" in line for line in said)
    return messages[0]


def test_folders_that_hold_nothing_usable_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    workspace = f"workspace={tmp_path / 'ws'}"
    assert "the layout isn't recognised; found nothing; expected imagesTr/" in refused(
        capsys, "run", f"data.root={empty}", workspace
    )
    (empty / "images").mkdir()
    assert "no images found" in refused(capsys, "run", f"data.root={empty}", workspace)
    assert "no such folder" in refused(capsys, "run", f"data.root={tmp_path / 'nowhere'}", workspace)
    assert "data.root is missing" in refused(capsys, "run", workspace)


def test_a_folder_without_one_good_case_is_refused_and_the_first_reason_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_volumes(tmp_path / "data", 3)
    for number in range(3):
        image_of(root, f"case_{number:02d}").write_bytes(b"no")
    said = refused(capsys, "prepare", f"data.root={root}", f"workspace={tmp_path / 'ws'}")
    assert "none of 3 cases can be used" in said
    assert "case_00.nii.gz" in said


def test_a_damaged_dataset_json_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_volumes(tmp_path / "data")
    (root / "dataset.json").write_text("{")
    assert "dataset.json: is no valid JSON" in refused(
        capsys, "prepare", f"data.root={root}", f"workspace={tmp_path / 'ws'}"
    )


def test_an_unwritable_workspace_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    said = refused(capsys, "prepare", "data.root=x", f"workspace={tmp_path / 'file' / 'ws'}")
    assert "can't be written" in said
    assert "choose another" in said


def test_a_stage_names_the_stage_that_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("pretrain", "finetune", "synthesize", "train", "evaluate", "report"):
        assert "run `diffboost3d prepare`" in refused(capsys, stage, f"workspace={tmp_path / 'ws'}")


def test_too_few_patients_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_volumes(tmp_path / "data", 3)
    said = refused(capsys, "prepare", f"data.root={root}", f"workspace={tmp_path / 'ws'}", "data.folds=5")
    assert "5 folds need at least 5 labelled patients" in said


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ("[", "no valid JSON"),
        ("{}", "should be a list of folds"),
        (
            '[{"training": ["case_00"], "validation": ["case_01"], "test": ["case_02"], "extra": []}]',
            "unknown part 'extra'",
        ),
        (
            '[{"training": ["case_00"], "validation": ["case_00"], "test": ["case_02"]}]',
            "in both training and validation",
        ),
        ('[{"training": ["case_00"], "validation": ["case_01"], "test": ["nobody"]}]', "no usable test case"),
        (
            '[{"training": ["case_00"], "validation": ["case_01"], "test": ["case_02", "case_02"]}]',
            "names 'case_02' twice",
        ),
    ],
)
def test_splits_that_can_not_be_are_refused(
    splits: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_volumes(tmp_path / "data", 4)
    (tmp_path / "splits.json").write_text(splits)
    words = [f"data.root={root}", f"workspace={tmp_path / 'ws'}", f"data.splits={tmp_path / 'splits.json'}"]
    assert said in refused(capsys, "prepare", *words)


def test_a_missing_splits_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_volumes(tmp_path / "data", 4)
    words = [f"data.root={root}", f"workspace={tmp_path / 'ws'}", "data.splits=nowhere.json"]
    assert "nowhere.json: no such file" in refused(capsys, "prepare", *words)
    assert not (tmp_path / "ws" / "prepared").exists()


def test_a_refused_colour_picture_is_skipped_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    root = write_pictures(tmp_path / "data")
    first = sorted((root / "images").iterdir())[0]
    colours = np.zeros((*np.asarray(Image.open(first)).shape[:2], 3), np.uint8)
    colours[2:, :, 0] = 200
    Image.fromarray(colours).save(first)
    words = [f"data.root={root}", f"workspace={tmp_path / 'ws'}", "prepare.colour=refuse"]
    assert main(["prepare", *words]) == 0
    assert f"{first.name}: a colour picture" in capsys.readouterr().out


def test_two_runs_do_not_share_a_workspace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diffboost3d.cases.workspace import Workspace

    with Workspace(tmp_path / "ws").opened():
        assert "in use by another run" in refused(capsys, "prepare", "data.root=x", f"workspace={tmp_path / 'ws'}")


def test_a_generator_of_other_settings_is_refused_not_misused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tiny_folders import TINY

    root = write_volumes(tmp_path / "data")
    words = [f"data.root={root}", f"workspace={tmp_path / 'ws'}", *TINY]
    assert main(["prepare", *words]) == 0
    assert main(["pretrain", *words, "diffusion.slice_axis=0"]) == 0
    said = refused(capsys, "finetune", *words)
    assert "trained with diffusion slice_axis=0, not None" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["network=monai", "network._target_=monai.networks.nets.Unett", "network.arguments={}"],
            "network._target_=monai.networks.nets.Unett is no network class of MONAI",
        ),
        (["+network.arguments.chanels=[4]"], "network.arguments don't fit network 'unet': UNet takes no chanels"),
        (["+train.loss_arguments.gama=2"], "train.loss_arguments don't fit loss 'dice_ce'"),
    ],
)
@pytest.mark.parametrize("command", ["run", "compare"])
def test_a_segmenter_that_can_not_be_is_refused_before_a_generator_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, words: list[str], told: str
) -> None:
    from tiny_folders import TINY

    root = write_volumes(tmp_path / "data")
    given = [*TINY, *words, "compare.processes=0", "compare.validation=1"]
    given = [one for one in given if not (one.startswith("network.arguments={channels") and "network=monai" in words)]
    assert told in refused(capsys, command, f"data.root={root}", f"workspace={tmp_path / 'ws'}", *given)
    assert not list((tmp_path / "ws").rglob("*.safetensors"))


@pytest.mark.parametrize("command", ["run", "demo", "compare"])
def test_a_class_that_monai_does_not_have_is_refused_before_anything_is_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    words = ["network=monai", "network._target_=monai.networks.nets.Unett", f"workspace={tmp_path / 'ws'}"]
    assert "did you mean monai.networks.nets.Unet?" in refused(capsys, command, f"data.root={tmp_path}", *words)
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize("command", ["plan", "predict", "train", "report"])
def test_a_folder_that_nothing_prepared_is_refused_and_left_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    said = refused(capsys, command, f"workspace={tmp_path / 'ws'}", f"predict.input={tmp_path}", "predict.output=out")
    assert "manifest.json is missing: run `diffboost3d prepare`" in said
    assert not (tmp_path / "ws").exists()


def test_the_folder_of_a_study_is_told_from_one_of_its_workspaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jobs").mkdir()
    for size in ("n003", "n010"):
        (tmp_path / "longer" / size).mkdir(parents=True)
        (tmp_path / "longer" / size / "manifest.json").write_text("{}")
    said = refused(capsys, "predict", f"workspace={tmp_path}", f"predict.input={tmp_path}", "predict.output=out")
    assert f"{tmp_path} is the folder of a study; its workspaces are {tmp_path / 'longer' / 'n003'}, " in said
    assert f"workspace={tmp_path / 'longer' / 'n003'}" in said
    assert not (tmp_path / "config").exists()
    shutil.rmtree(tmp_path / "longer")
    said = refused(capsys, "plan", f"workspace={tmp_path}")
    assert "is the folder of a study that has no workspace yet" in said


def test_a_workspace_behind_a_link_finds_the_data(tmp_path: Path) -> None:
    from diffboost3d.cases.workspace import Workspace

    root = write_volumes(tmp_path / "data", 4)
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "ws").symlink_to(tmp_path / "far" / "away")
    assert main(["prepare", f"data.root={root}", f"workspace={tmp_path / 'ws'}"]) == 0
    workspace = Workspace(tmp_path / "ws")
    manifest = workspace.read_manifest()
    assert workspace.source(manifest, manifest.cases[0].image).is_file()
