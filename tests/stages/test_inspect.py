"""`inspect`: every planted fault is named by its code, on its case, and none is invented on clean folders."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from inspected import CASES, Change, array_of, problems, save, seen
from PIL import Image, ImageFilter

from diffboost3d.cases.observations import CODES
from diffboost3d.cli import main
from diffboost3d.stages.inspect import series_observations


def thicken(image: Path, label: Path) -> None:
    for path in (image, label):
        save(path, array_of(path), nib.load(path).affine @ np.diag([1, 1, 3, 1]))


def swap(image: Path, label: Path) -> None:
    kept = image.read_bytes()
    image.write_bytes(label.read_bytes())
    label.write_bytes(kept)


def four_dimensions(image: Path, label: Path) -> None:
    save(image, np.stack([array_of(image)] * 3, axis=-1))


def with_value(value: float) -> Change:
    def change(image: Path, label: Path) -> None:
        array = array_of(label).astype(np.float32 if value != int(value) else np.uint8)
        array[3, 3, 3] = value
        save(label, array)

    return change


def with_nan(image: Path, label: Path) -> None:
    array = array_of(image).astype(np.float32)
    array[1, 2, 3] = np.nan
    save(image, array)


def move(image: Path, label: Path) -> None:
    affine = nib.load(label).affine.copy()
    affine[0, 3] += 4
    save(label, array_of(label), affine)


PLANTED: dict[str, Change] = {
    "mixed-spacing": thicken,
    "swapped": swap,
    "label-grid": move,
    "4d-file": four_dimensions,
    "missing-label": lambda image, label: label.unlink(),
    "unknown-label-value": with_value(7),
    "label-not-whole": with_value(0.5),
    "nan-voxels": with_nan,
    "constant-image": lambda image, label: save(image, np.full_like(array_of(image), 3)),
    "unreadable": lambda image, label: image.write_bytes(image.read_bytes()[: image.stat().st_size // 2]),
}


@pytest.mark.parametrize("code", PLANTED)
def test_a_planted_fault_is_named_on_its_case_and_no_other_is(code: str, cohorts: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cohorts / "mr", tmp_path / "data")
    name = "mr_003.nii.gz"
    PLANTED[code](folder / "imagesTr" / name, folder / "labelsTr" / name)
    assert problems(seen(folder, "inspect.label_fit=false")) == {(code, "mr_003")}


def test_a_folder_in_which_nothing_can_be_read_is_told_without_a_crash(
    cohorts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(cohorts / "mr", tmp_path / "data")
    for path in (folder / "imagesTr").iterdir():
        path.write_bytes(b"")
    assert main(["inspect", str(folder)]) == 0
    assert "unreadable" in capsys.readouterr().out


def turn_left_right(image: Path, label: Path) -> None:
    save(label, array_of(label)[::-1])


def shift_by_five(image: Path, label: Path) -> None:
    save(label, np.roll(array_of(label), (5, -4), (0, 1)))


@pytest.mark.parametrize(
    ("code", "kind", "change", "words"),
    [
        ("flipped-label", "ct", turn_left_right, "mirrored left-right"),
        ("shifted-label", "mr", shift_by_five, "5 voxels towards left, 4 voxels to the front"),
    ],
)
def test_a_label_that_lies_wrong_on_the_right_grid_is_named(
    code: str, kind: str, change: Change, words: str, cohorts: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(cohorts / kind, tmp_path / "data")
    name = f"{kind}_004"
    change(folder / "imagesTr" / f"{name}.nii.gz", folder / "labelsTr" / f"{name}.nii.gz")
    found = seen(folder)
    assert problems(found) == {(code, name)}
    assert words in next(one["what"] for one in found["findings"] if one["code"] == code)


@pytest.mark.parametrize("change", [lambda hu: hu + 1024, lambda hu: (hu + 1024) / 4000.0], ids=["offset", "0 to 1"])
def test_a_ct_on_another_scale_than_the_others_is_named(change: Any, cohorts: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cohorts / "ct", tmp_path / "data")
    path = folder / "imagesTr" / "ct_005.nii.gz"
    save(path, change(array_of(path).astype(np.float32)))
    assert problems(seen(folder, "inspect.label_fit=false")) == {("mixed-intensity-scale", "ct_005")}


def test_the_same_image_under_two_ids_is_named_even_stored_otherwise(cohorts: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cohorts / "ct", tmp_path / "data")
    twin, path = (folder / "imagesTr" / f"ct_00{number}.nii.gz" for number in (1, 6))
    save(path, array_of(twin).astype(np.float32) * 2 + 1, nib.load(path).affine)
    found = seen(folder, "inspect.label_fit=false", "data.modality=MRI")
    assert problems(found) == {("duplicate", "ct_006")}
    told = seen(folder, "inspect.label_fit=false", "data.modality=MRI", r"data.patients=(ct)_")
    assert not problems(told)  # of one patient, no split parts them


def test_a_case_stored_with_other_axes_is_a_note_and_its_label_still_fits(cohorts: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cohorts / "ct", tmp_path / "data")
    for part in ("imagesTr", "labelsTr"):
        path = folder / part / "ct_004.nii.gz"
        image = nib.load(path)
        nib.save(image.as_reoriented(nib.orientations.axcodes2ornt("SAR")), path)
    found = seen(folder)
    assert not problems(found)
    assert [one["case"] for one in found["findings"] if one["code"] == "other-orientation"] == ["ct_004"]


def test_a_colour_picture_is_named(cohorts: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cohorts / "us", tmp_path / "data")
    path = folder / "images" / "us_001.png"
    grey = np.asarray(Image.open(path))
    Image.fromarray(np.stack([grey, grey // 2, grey], axis=-1)).save(path)
    found = seen(folder, "inspect.label_fit=false")
    assert [one["case"] for one in found["findings"] if one["code"] == "colour-picture"] == ["us_001"]
    assert problems(found) <= {("colour-picture", "us_001")}


def test_what_reading_does_to_a_mask_is_a_note(cohorts: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cohorts / "us", tmp_path / "data")
    path = folder / "labels" / "us_001.png"
    smooth = Image.open(path).convert("L").filter(ImageFilter.GaussianBlur(1))
    top = np.asarray(smooth).max()
    smooth.point([round(255 * level / top) for level in range(256)]).save(path)
    found = seen(folder, "inspect.label_fit=false")
    (note,) = [one for one in found["findings"] if one["code"] == "read-as"]
    assert (note["level"], note["case"], note["file"]) == ("note", "us_001", os.path.join("labels", "us_001.png"))
    assert "grey levels; from 128 on it is foreground" in note["what"]
    assert not problems(found)


def test_masks_of_another_colour_in_each_case_are_named_and_refused(cohorts: Path, tmp_path: Path, capsys) -> None:
    folder = shutil.copytree(cohorts / "us", tmp_path / "data")
    (folder / "dataset.json").unlink()
    for number, path in enumerate(sorted((folder / "labels").glob("*.png"))):
        mask = np.asarray(Image.open(path).convert("L")) > 0
        Image.fromarray(mask[..., None] * np.eye(3, dtype=np.uint8)[number % 2] * np.uint8(255)).save(path)
    (problem,) = [one for one in seen(folder, "inspect.label_fit=false")["findings"] if one["level"] == "problem"]
    assert problem["code"] == "mask-colours"
    assert "masks of 2 colours: #00ff00 in" in problem["what"]
    words = [f"data.root={folder}", f"workspace={tmp_path / 'ws'}"]
    assert main(["prepare", *words]) == 1
    assert "masks of 2 colours: #00ff00 in" in capsys.readouterr().err
    assert main(["prepare", *words, "data.labels={background: 0, lesion: 255}"]) == 0
    assert not problems(seen(folder, "data.labels={background: 0, lesion: 255}", "inspect.label_fit=false"))


@pytest.mark.parametrize("kind", ["mr", "ct", "us"])
def test_nothing_is_invented_on_the_built_in_cohorts_and_nothing_is_written(kind: str, cohorts: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (cohorts / kind).rglob("*")}
    found = seen(cohorts / kind)
    assert not problems(found)
    assert (found["cases"], found["labelled"]) == (CASES, CASES)
    assert {path: path.stat().st_mtime_ns for path in (cohorts / kind).rglob("*")} == before


def test_volumes_are_told_in_millilitres_and_pixels(cohorts: Path) -> None:
    found = seen(cohorts / "ct", "inspect.label_fit=false")
    liver = next(one for one in found["labels"] if one["name"] == "liver")
    counts = [int((array_of(path) == 1).sum()) for path in sorted((cohorts / "ct" / "labelsTr").iterdir())]
    assert liver["voxels"] == [min(counts), np.median(counts), max(counts)]
    assert liver["volume"] == pytest.approx([count * 2 * 2 * 4 / 1000 for count in liver["voxels"]])
    pixels = seen(cohorts / "us", "inspect.label_fit=false")["labels"][0]
    assert (pixels["unit"], pixels["volume"]) == ("pixels", pixels["voxels"])


def test_many_missing_labels_are_the_nature_of_a_set(cohorts: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cohorts / "mr", tmp_path / "data")
    for number in range(5):
        (folder / "labelsTr" / f"mr_00{number}.nii.gz").unlink()
    found = seen(folder, "inspect.label_fit=false")
    assert not problems(found)
    assert found["unlabelled"] == 5


def test_the_command_takes_a_folder_and_a_file_and_is_strict_when_asked(
    cohorts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(cohorts / "mr", tmp_path / "data")
    with_nan(folder / "imagesTr" / "mr_000.nii.gz", folder)
    words = ["inspect", str(folder), "inspect.label_fit=false", "inspect.workers=2"]
    assert main([*words, "--json", str(tmp_path / "found.json")]) == 0
    said = capsys.readouterr().out
    assert "! nan-voxels" in said
    assert "mr_000" in said
    kept = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert (kept["folder"], kept["problems"], kept["skipped"]) == ("data", 1, 1)
    assert main([*words, "inspect.strict=true"]) == 1
    assert not (tmp_path / "ws").exists()


def test_no_file_is_written_into_the_data_folder(cohorts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = (cohorts / "mr" / "dataset.json").read_bytes()
    assert main(["inspect", str(cohorts / "mr"), "--json", str(cohorts / "mr" / "dataset.json")]) == 2
    assert "into which nothing is written" in capsys.readouterr().err
    assert (cohorts / "mr" / "dataset.json").read_bytes() == facts


@pytest.mark.real_data
def test_two_series_in_one_dicom_folder_are_named(real_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "patient"
    for number in (1, 2):
        for path in sorted((real_data / "dicom_example" / f"hippocampus_crop_{number}").glob("*.dcm")):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / f"{number}_{path.name}")
    assert [one.code for one in series_observations(tmp_path / "data")] == ["two-series"]
    assert ("two-series", "patient") in problems(seen(tmp_path / "data"))


def test_every_code_is_on_the_page() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "look-at-your-data.md"
    text = page.read_text(encoding="utf-8")
    assert [code for code in CODES if f"`{code}`" not in text] == []


def test_channels_in_one_file_are_channels_where_they_are_named(cohorts: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cohorts / "mr", tmp_path / "data")
    for path in sorted((folder / "imagesTr").iterdir()):
        save(path, np.stack([array_of(path), array_of(path)[::-1]], axis=-1))
    facts = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    (folder / "dataset.json").write_text(json.dumps(facts | {"modality": {"0": "T2", "1": "ADC"}}), encoding="utf-8")
    found = seen(folder, "inspect.label_fit=false")
    assert not problems(found)
    assert found["channels"] == ["T2", "ADC"]
