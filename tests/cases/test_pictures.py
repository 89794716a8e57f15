"""Picture folders as they are given: how images, masks and classes are found, and how masks become labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from diffboost3d.cases.checks import check_image, check_pair
from diffboost3d.cases.layouts import Pair, read_folder
from diffboost3d.cases.masks import read_masks
from diffboost3d.errors import DataError
from diffboost3d.imaging.files import read


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def mask(path: Path, rows: slice, columns: slice, value: int = 255) -> Path:
    pixels = np.zeros((24, 32), np.uint8)
    pixels[rows, columns] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


# --- layouts ---------------------------------------------------------------------------------------------------------
def test_busi_as_downloaded_has_classes_and_several_masks(tmp_path: Path) -> None:
    touch(*(tmp_path / "benign" / f"benign (1){end}.png" for end in ("", "_mask", "_mask_1", "_mask_2")))
    touch(*(tmp_path / "normal" / f"normal (1){end}.png" for end in ("", "_mask")))
    touch(tmp_path / "malignant" / "malignant (2).png", tmp_path / "malignant" / "lost_mask.png")
    folder = read_folder(tmp_path)
    assert folder.layout == "pictures"
    benign, malignant, normal = folder.pairs
    assert (benign.id, benign.stratum, benign.label and benign.label.name) == (
        "benign (1)",
        "benign",
        "benign (1)_mask.png",
    )
    assert [path.name for path in benign.masks] == ["benign (1)_mask_1.png", "benign (1)_mask_2.png"]
    assert (normal.id, normal.stratum, normal.masks) == ("normal (1)", "normal", ())
    assert malignant.label is None
    assert malignant.missing == "malignant (2)_mask beside malignant (2).png"
    assert folder.notes == ("1 mask has no image: malignant/lost_mask.png",)


def test_classes_may_number_their_pictures_alike(tmp_path: Path) -> None:
    for name in ("cyst", "tumour"):
        touch(tmp_path / name / "1.png", tmp_path / name / "1_seg.png")
    assert [pair.id for pair in read_folder(tmp_path).pairs] == ["cyst_1", "tumour_1"]


def test_masks_beside_the_images_of_one_folder_need_no_class(tmp_path: Path) -> None:
    touch(tmp_path / "a.bmp", tmp_path / "a_Mask.bmp")
    (pair,) = read_folder(tmp_path).pairs
    assert (pair.id, pair.stratum, pair.label) == ("a", None, tmp_path / "a_Mask.bmp")


def test_a_picture_called_as_another_and_a_word_is_no_image(tmp_path: Path) -> None:
    touch(*(tmp_path / "cyst" / f"{name}.png" for name in ("a", "a_mask", "b", "b_msk", "c", "c_label")))
    folder = read_folder(tmp_path)
    assert [(pair.id, pair.label is not None) for pair in folder.pairs] == [
        ("cyst_a", True), ("cyst_b", False), ("cyst_c", True)
    ]  # fmt: skip
    assert [one.case for one in folder.findings] == ["cyst_b_msk"]
    assert "b_msk.png could be a label of b" in folder.findings[0].problem


def test_an_index_tells_class_and_patient_and_is_held_against_the_files(tmp_path: Path) -> None:
    touch(*(tmp_path / "images" / f"{name}.png" for name in "abc"), *(tmp_path / "masks" / f"{n}.png" for n in "abc"))
    touch(tmp_path / "masks" / "b_mask_1.png", tmp_path / "masks" / "other.png")
    (tmp_path / "index.csv").write_text("file,class,patient\na.png,benign,p7\nb.png,malignant,\ngone.png,benign,p8\n")
    folder = read_folder(tmp_path)
    assert [(pair.stratum, pair.patient, len(pair.masks)) for pair in folder.pairs] == [
        ("benign", "p7", 0),
        ("malignant", None, 1),
        (None, None, 0),
    ]
    assert folder.notes == (
        "1 mask has no image: masks/other.png",
        "1 files of index.csv are not in images/: gone.png",
        "1 images are not in index.csv: c.png",
    )


@pytest.mark.parametrize("separator", [";", "\t"])
def test_an_index_may_be_separated_as_spreadsheets_do(separator: str, tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a.png", tmp_path / "masks" / "a.png")
    rows = [("File", "Class", "Patient"), ("a.png", "benign", "p7")]
    (tmp_path / "index.csv").write_text("\n".join(map(separator.join, rows)), encoding="utf-8-sig")
    (pair,) = read_folder(tmp_path).pairs
    assert (pair.stratum, pair.patient) == ("benign", "p7")


def test_an_index_without_files_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a.png")
    (tmp_path / "index.csv").write_text("class\nbenign\n")
    with pytest.raises(DataError, match=r"index\.csv: a row names no file"):
        read_folder(tmp_path)


# --- masks -----------------------------------------------------------------------------------------------------------
def test_several_masks_are_joined_and_the_first_wins(tmp_path: Path) -> None:
    first = mask(tmp_path / "m.png", np.s_[2:8], np.s_[4:10], 1)
    second = mask(tmp_path / "m_1.png", np.s_[6:12], np.s_[8:14], 2)
    label, grid, notes = read_masks([first, second], {0, 1, 2})
    assert grid.shape == label.shape == (32, 24, 1)
    assert [int((label == value).sum()) for value in (1, 2)] == [36, 36 - 4]
    assert notes == ()


def test_masks_of_unlike_size_are_refused(tmp_path: Path) -> None:
    first = mask(tmp_path / "m.png", np.s_[2:8], np.s_[4:10])
    Image.new("L", (30, 24)).save(tmp_path / "m_1.png")
    with pytest.raises(DataError, match=r"m_1\.png: the mask lies on another grid than m\.png"):
        read_masks([first, tmp_path / "m_1.png"], {0, 255})


@pytest.mark.parametrize(("known", "value"), [({0, 255}, 255), ({0, 1}, 1), (None, 255)])
def test_a_jpeg_mask_becomes_hard(known: set[int] | None, value: int, tmp_path: Path) -> None:
    path = mask(tmp_path / "m.jpg", np.s_[5:17], np.s_[6:20])
    assert len(np.unique(np.asarray(Image.open(path)))) > 2
    label, _, (note,) = read_masks([path], known)
    assert np.array_equal(label[:, :, 0].T[5:17, 6:20], np.full((12, 14), value))
    assert (label > 0).sum() == 12 * 14
    assert "m.jpg has" in note


def test_a_smoothed_mask_becomes_hard_where_one_label_is_known(tmp_path: Path) -> None:
    path = mask(tmp_path / "m.png", np.s_[4:20], np.s_[6:26])
    Image.open(path).filter(ImageFilter.GaussianBlur(0.7)).save(path)
    assert abs(int((read_masks([path], {0, 255})[0] > 0).sum()) - 16 * 20) <= 4
    assert len(np.unique(read_masks([path], {0, 255, 7})[0])) > 2  # left to the check of values


def test_a_smoothed_mask_without_known_labels_is_not_taken_for_many_labels(tmp_path: Path) -> None:
    path = mask(tmp_path / "m.png", np.s_[4:20], np.s_[6:26])
    Image.open(path).filter(ImageFilter.GaussianBlur(1.5)).save(path)
    with pytest.raises(DataError, match=r"m\.png: has \d+ grey levels; is it a smoothed mask.* data\.labels="):
        read_masks([path], None)
    labels = np.arange(24 * 32).reshape(24, 32) // 48  # 16 labels
    Image.fromarray(labels.astype(np.uint8)).save(path)
    assert len(np.unique(read_masks([path], None)[0])) == 16


def test_an_image_is_no_grey_level_mask(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(20, 240, (24, 32)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "m.png")
    with pytest.raises(DataError, match="is it an image"):
        read_masks([tmp_path / "m.png"], {0, 255})


def test_a_mask_of_ones_is_not_taken_for_black(tmp_path: Path) -> None:
    image = mask(tmp_path / "image.png", np.s_[2:8], np.s_[4:10], 90)
    label = mask(tmp_path / "m.png", np.s_[2:8], np.s_[4:10], 1)
    checked, finding = check_pair(Pair("a", image, label), {0, 255})
    assert (checked is not None, finding) == (True, None)
    assert np.array_equal(checked.label > 0, read_masks([label], None)[0] == 1)
    assert np.unique(checked.label).tolist() == [0, 255]
    assert checked.label_notes == ("the mask m.png has 0 and 1; its 1 is taken for the one label, 255",)
    checked, finding = check_pair(Pair("a", image, label), {0, 2, 255})  # which one?
    assert checked is None
    assert "label value 1 is unknown; known: 0, 2, 255" in str(finding)


def test_an_empty_mask_in_jpeg_stays_empty(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 4, (24, 32)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "m.jpg")
    assert not read_masks([tmp_path / "m.jpg"], {0, 255})[0].any()


def test_colour_pictures_are_refused_where_that_is_asked_for(tmp_path: Path) -> None:
    pixels = np.full((24, 32, 3), 90, np.uint8)
    pixels[:6, :8] = (220, 30, 30)
    Image.fromarray(pixels).save(tmp_path / "doppler.png")
    image = read(tmp_path / "doppler.png")
    check_image(tmp_path / "doppler.png", image)
    with pytest.raises(DataError, match=r"doppler\.png: a colour picture \(6.25 % of its pixels\)"):
        check_image(tmp_path / "doppler.png", image, "refuse")
