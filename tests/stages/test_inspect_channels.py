"""`inspect` of several channels, of sets too small to tell, and of labels as `prepare` has them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from inspected import CASES, array_of, problems, save, seen
from PIL import Image, ImageFilter

from diffboost3d.cases.inspection_rules import Limits, not_told
from diffboost3d.cases.workspace import Workspace
from diffboost3d.cli import main
from diffboost3d.cohort import write_cohort
from diffboost3d.config import compose
from diffboost3d.imaging.label_fit import Gain, LabelFit, LabelModel, Moments, label_fit
from diffboost3d.report.inspection import lines_of
from diffboost3d.stages import prepare


# --- several channels ------------------------------------------------------------------------------------------------
def write_two_channels(root: Path, source: Path, layout: str) -> Path:
    """The cases of a cohort with a second channel, T2 and ADC: as one 4D file each, as numbered files, or as BIDS."""
    facts = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    names = {"0": "T2", "1": "ADC"}
    for path in sorted((source / "imagesTr").iterdir()):
        case, image = path.name.removesuffix(".nii.gz"), nib.load(path)
        first, affine = array_of(path).astype(np.float32), image.affine
        channels = (first, 1500 - 300 * (first[:, ::-1] - first.mean()) / first.std())  # ADC has one scale in all cases
        label = source / "labelsTr" / path.name
        if layout == "4D":
            files = {root / "imagesTr" / path.name: np.stack(channels, axis=-1)}
            target = root / "labelsTr" / path.name
        elif layout == "nnunet":
            files = {root / "imagesTr" / f"{case}_000{n}.nii.gz": one for n, one in enumerate(channels)}
            target = root / "labelsTr" / path.name
        else:
            subject = f"sub-{case.replace('_', '')}"
            kinds = zip(("T2w", "ADC"), channels, strict=True)
            files = {root / subject / "anat" / f"{subject}_{kind}.nii.gz": one for kind, one in kinds}
            target = root / "derivatives" / "drawn" / subject / "anat" / f"{subject}_dseg.nii.gz"
        for file, array in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, affine), file)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(label, target)
    told = {"modality": names} if layout == "4D" else {"channel_names": names, "file_ending": ".nii.gz"}
    told |= {"training": facts["training"]} if layout == "4D" else {}
    if layout != "bids":
        (root / "dataset.json").write_text(json.dumps({"labels": facts["labels"], **told}), encoding="utf-8")
    return root


def change_channel(root: Path, layout: str, case: str, change: Callable[[Any], Any]) -> None:
    """Change the channels (2, I, J, K) of a case."""
    if layout == "4D":
        path = root / "imagesTr" / f"{case}.nii.gz"
        save(path, np.moveaxis(change(np.moveaxis(array_of(path), -1, 0).copy()), 0, -1))
        return
    folder = root / "imagesTr" if layout == "nnunet" else root / f"sub-{case.replace('_', '')}" / "anat"
    files = sorted(folder.glob(f"{case if layout == 'nnunet' else 'sub-'}*"), reverse=layout == "bids")
    for path, array in zip(files, change(np.stack([array_of(path) for path in files])), strict=True):
        save(path, array)


def twin_of_first(channels: Any) -> Any:
    channels[1] = channels[0]
    return channels


def other_scale(channels: Any) -> Any:
    channels[1] *= 1e-3
    return channels


def nan_in_second(channels: Any) -> Any:
    channels[1, 2, 3, 4] = np.nan
    return channels


CHANNEL_FAULTS = {
    "same-channels": (twin_of_first, "are the same image"),
    "mixed-intensity-scale": (other_scale, "ADC: its range is"),
    "nan-voxels": (nan_in_second, "1 voxels are NaN"),
}


@pytest.mark.parametrize("layout", ["4D", "nnunet", "bids"])
def test_each_channel_is_looked_at(layout: str, cohorts: Path, tmp_path: Path) -> None:
    root = write_two_channels(tmp_path / "data", cohorts / "mr", layout)
    words = ["inspect.label_fit=false", *(["data.bids.images=[T2w,ADC]"] if layout == "bids" else [])]
    clean = seen(root, *words)
    assert not problems(clean)
    assert (clean["cases"], clean["labelled"]) == (CASES, CASES)
    assert clean["channels"] == (["T2w", "ADC"] if layout == "bids" else ["T2", "ADC"])
    (second,) = clean["further_intensities"].values()
    assert second["p50"] != clean["intensity"]["p50"]
    assert any(line.startswith("intensity    ADC: min") for line in lines_of(clean, 3))
    for number, (change, _) in enumerate(CHANNEL_FAULTS.values()):
        change_channel(root, layout, f"mr_00{number}", change)
    found = {one["code"]: one for one in seen(root, *words)["findings"]}
    for number, (code, (_, said)) in enumerate(CHANNEL_FAULTS.items()):
        assert found[code]["case"].endswith(f"00{number}"), code
        assert said in found[code]["what"]


def test_a_second_channel_that_another_case_has_too_is_a_duplicate(cohorts: Path, tmp_path: Path) -> None:
    root = write_two_channels(tmp_path / "data", cohorts / "mr", "nnunet")
    one, other = (root / "imagesTr" / f"mr_00{number}_0001.nii.gz" for number in (2, 5))
    save(other, array_of(one))
    (found,) = (one for one in seen(root, "inspect.label_fit=false")["findings"] if one["level"] == "problem")
    assert (found["code"], found["case"], found["file"]) == ("duplicate", "mr_005", "imagesTr/mr_005_0001.nii.gz")
    assert found["what"] == "ADC: the same image as imagesTr/mr_002_0001.nii.gz"


def test_a_channel_that_is_damaged_or_lies_elsewhere_is_named_itself(cohorts: Path, tmp_path: Path) -> None:
    root = write_two_channels(tmp_path / "data", cohorts / "mr", "nnunet")
    moved, cut = (root / "imagesTr" / f"mr_00{number}_0001.nii.gz" for number in (2, 5))
    save(moved, array_of(moved), nib.load(moved).affine @ np.diag([1, 1, 2, 1]))
    cut.write_bytes(cut.read_bytes()[:2000])
    found = [one for one in seen(root, "inspect.label_fit=false")["findings"] if one["level"] == "problem"]
    assert [(one["code"], one["file"]) for one in found] == [
        ("channel-grid", "imagesTr/mr_002_0001.nii.gz"),
        ("unreadable", "imagesTr/mr_005_0001.nii.gz"),
    ]


@pytest.mark.real_data
def test_the_contrasts_of_a_real_study_are_channels(real_data: Path) -> None:
    found = seen(real_data / "dicom_example" / "brain", "data.series=[t1pre,t1post,flair,t2]")
    assert not problems(found)
    assert found["channels"] == ["t1pre", "t1post", "flair", "t2"]
    assert list(found["further_intensities"]) == ["t1post", "flair", "t2"]


# --- too few to tell -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cases", [1, 5])
def test_few_cases_are_said_not_to_be_checked_for_mirrored_labels(cases: int, cohorts: Path, tmp_path: Path) -> None:
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        for path in sorted((cohorts / "mr" / f"{part}Tr").iterdir())[:cases]:
            shutil.copyfile(path, tmp_path / part / path.name)
    with_flip = tmp_path / "labels" / "mr_000.nii.gz"
    save(with_flip, np.ascontiguousarray(array_of(with_flip)[::-1]))
    (note,) = (one for one in seen(tmp_path)["findings"] if one["code"] == "fit-not-checked")
    few = "1 labelled case is" if cases == 1 else f"{cases} labelled cases are"
    said = f"mirrored and shifted labels were not looked for: {few} too few to tell (inspect.least_cases=6)"
    assert note["what"] == said


def test_turns_by_which_the_labels_of_a_set_lose_nothing_are_said() -> None:
    same, lost = Gain(-0.02, -0.05), Gain(-0.8, -0.9)
    fit = LabelFit(-0.5, {"mirrored left-right": same, "mirrored feet-head": lost}, (0, 0, 0), Gain(-0.3, -0.4))
    fits = {f"c{number}": fit for number in range(8)}
    (note,) = not_told(fits, 8, Limits())
    assert note.what.startswith("labels that are mirrored left-right can't be told from others in this set")
    (note,) = not_told(dict(list(fits.items())[:4]), 8, Limits())
    assert "4 of 8 labels could not be judged, and the others are too few to tell" in note.what


# --- as `prepare` has it ---------------------------------------------------------------------------------------------
def with_ignored_voxels(root: Path, source: Path, value: int) -> Path:
    """A cohort in the layout of nnU-Net v2, whose labels have voxels that nobody labelled."""
    facts = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    labels = {name: int(number) for number, name in facts["labels"].items()} | {"ignore": value}
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    for path in sorted((source / "imagesTr").iterdir()):
        case, label = path.name.removesuffix(".nii.gz"), source / "labelsTr" / path.name
        shutil.copyfile(path, root / "imagesTr" / f"{case}_0000.nii.gz")
        shutil.copyfile(label, root / "labelsTr" / path.name)
        array = array_of(label).copy()
        array[:4] = value
        save(root / "labelsTr" / path.name, array)
    told = {"labels": labels, "channel_names": {"0": "MRI"}, "file_ending": ".nii.gz", "numTraining": CASES}
    (root / "dataset.json").write_text(json.dumps(told), encoding="utf-8")
    return root


@pytest.mark.parametrize("words", [(), ("data.labels={background: 0, inner: 1, outer: 2}",)], ids=["told", "named"])
def test_the_ignore_label_of_a_folder_is_taken_as_prepare_takes_it(
    words: tuple[str, ...], cohorts: Path, tmp_path: Path
) -> None:
    root = with_ignored_voxels(tmp_path / "data", cohorts / "mr", 3)
    found = seen(root, "inspect.label_fit=false", *words)
    workspace = Workspace(tmp_path / "ws")
    config = compose([f"data.root={root}", "prepare.workers=1", *words])
    with workspace.opened():
        prepare.run(config, workspace)
    manifest = workspace.read_manifest()
    assert not problems(found)
    assert found["labelled"] == sum(case.label is not None for case in manifest.cases) == CASES
    named = {name: value for name, value in manifest.labels.items() if value}
    assert {one["name"]: one["value"] for one in found["labels"]} == named
    assert manifest.ignore_label == 3


@pytest.mark.parametrize("ending", [".jpg", ".png"])
@pytest.mark.filterwarnings("error")
def test_grey_level_masks_are_looked_at_for_mirrored_ones_like_any_others(ending: str, tmp_path: Path) -> None:
    write_cohort("ultrasound", tmp_path, CASES, 0, (96, 80))
    for number, path in enumerate(sorted((tmp_path / "labels").iterdir())):
        mask = np.asarray(Image.open(path))
        mask = np.ascontiguousarray(mask[:, ::-1]) if number == 4 else mask
        path.unlink()
        Image.fromarray(mask).filter(ImageFilter.GaussianBlur(0.7)).save(path.with_suffix(ending))
    found = seen(tmp_path, "data.labels={background: 0, lesion: 1}")
    assert problems(found) == {("flipped-label", "us_004")}
    assert "fit-not-checked" not in {one["code"] for one in found["findings"]}


@pytest.mark.filterwarnings("error")
def test_a_model_of_no_labels_judges_none() -> None:
    maps, at, classes = np.ones((3, 4, 4, 2), np.float32), np.zeros((1, 3), int), np.zeros(1, int)
    nothing = Moments.of(maps, at[:0], classes[:0], 2)
    assert label_fit(LabelModel.fit(nothing), maps, at, classes, 2, 1) is None


def test_a_label_whose_header_was_rounded_is_a_note(cohorts: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cohorts / "mr", tmp_path / "data")
    path = folder / "labelsTr" / "mr_003.nii.gz"
    affine = nib.load(path).affine.copy()
    affine[1, 3] += 5e-3
    save(path, array_of(path), affine)
    found = seen(folder, "inspect.label_fit=false")
    assert (problems(found), found["labelled"]) == (set(), CASES)
    (note,) = (one for one in found["findings"] if one["code"] == "label-grid")
    assert (note["case"], note["file"]) == ("mr_003", "labelsTr/mr_003.nii.gz")
    assert "0.005 mm at a corner" in note["what"]


def test_smoothed_masks_are_told_by_inspect_and_prepare_alike(
    cohorts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(cohorts / "us", tmp_path / "data")
    for path in (folder / "labels").iterdir():
        hard = Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8) * 255)
        hard.filter(ImageFilter.GaussianBlur(2)).save(path)
    (folder / "dataset.json").unlink(missing_ok=True)
    found = seen(folder, "inspect.label_fit=false")
    assert {code for code, _ in problems(found)} == {"unknown-label-value"}
    assert "is it a smoothed mask" in found["findings"][0]["what"]
    assert main(["prepare", f"data.root={folder}", f"workspace={tmp_path / 'ws'}", "prepare.workers=1"]) == 1
    assert "is it a smoothed mask" in capsys.readouterr().err
    words = ["data.labels={background: 0, lesion: 255}", "inspect.label_fit=false"]
    assert problems(seen(folder, *words)) == set()


def test_an_image_of_few_grey_levels_is_an_image(cohorts: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cohorts / "mr", tmp_path / "data")
    for path in (folder / "imagesTr").iterdir():
        array = array_of(path).astype(float)
        save(path, np.clip(array * 20 / np.percentile(array, 99.5), 0, 24).astype(np.uint8))
    assert problems(seen(folder, "inspect.label_fit=false")) == set()


def test_a_label_given_for_a_channel_is_named(cohorts: Path, tmp_path: Path) -> None:
    images, labels = (sorted((cohorts / "mr" / name).iterdir()) for name in ("imagesTr", "labelsTr"))
    rows = [f"{image},{label},{image.name[:6]}" for image, label in zip(images, labels, strict=True)]
    (tmp_path / "cases.csv").write_text("\n".join(["image,image2,id", *rows]))
    found = seen(tmp_path / "cases.csv", "inspect.label_fit=false")
    assert problems(found) == {("label-like-image", image.name[:6]) for image in images}
    assert "the channel image_1 has only" in found["findings"][0]["what"]
