"""Layouts: MSD, nnU-Net and plain folders are recognised, with their label names and values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffboost3d.cases.layouts import read_folder
from diffboost3d.errors import DataError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_msd_is_read_from_its_list(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr" / "a.nii.gz", tmp_path / "labelsTr" / "a.nii.gz", tmp_path / "imagesTr" / "b.nii.gz")
    facts = {
        "name": "Spleen",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "spleen"},
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in "ab"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    folder = read_folder(tmp_path)
    assert (folder.layout, folder.name, folder.modality) == ("msd", "Spleen", "CT")
    assert folder.labels == {"background": 0, "spleen": 1}
    assert [(pair.id, pair.label is not None, pair.missing) for pair in folder.pairs] == [
        ("a", True, None),
        ("b", False, "labelsTr/b.nii.gz"),
    ]


def test_nnunet_drops_the_channel_number(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr" / "case_7_0000.nii.gz", tmp_path / "labelsTr" / "case_7.nii.gz")
    facts = {"channel_names": {"0": "T2"}, "labels": {"background": 0, "zone": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    folder = read_folder(tmp_path)
    assert (folder.layout, folder.modality, folder.labels) == ("nnunet", "T2", {"background": 0, "zone": 1})
    assert [(pair.id, pair.missing) for pair in folder.pairs] == [("case_7", None)]


def test_further_channels_belong_to_the_case_of_the_first(tmp_path: Path) -> None:
    touch(*(tmp_path / "imagesTr" / f"case_{number:04d}.nii.gz" for number in (0, 1, 2)))
    facts = {"channel_names": {"10": "DWI", "0": "T2", "2": "ADC"}}  # in the order of the numbers, not of the words
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    folder = read_folder(tmp_path)
    assert [(pair.id, pair.image.name) for pair in folder.pairs] == [("case", "case_0000.nii.gz")]
    assert [path.name for path in folder.pairs[0].channels] == ["case_0001.nii.gz", "case_0002.nii.gz"]
    assert folder.channel_names == ("T2", "ADC", "DWI")


@pytest.mark.parametrize("where", ["labels", "masks"])
def test_plain_folders_pair_by_name_whatever_the_ending(where: str, tmp_path: Path) -> None:
    touch(tmp_path / "images" / "x.jpg", tmp_path / where / "x.png", tmp_path / "images" / ".hidden.png")
    (pair,) = read_folder(tmp_path).pairs
    assert pair.label == tmp_path / where / "x.png"


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "x.nii.gz", tmp_path / "images" / "x.nii")
    with pytest.raises(DataError, match="two images are called x"):
        read_folder(tmp_path)


def test_numbers_of_four_digits_are_no_channels_unless_channel_0_is_there(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr" / "patient_0011.nii.gz", tmp_path / "labelsTr" / "patient_0011.nii.gz")
    touch(tmp_path / "imagesTr" / "patient_0012.nii.gz")
    assert [(pair.id, pair.label is not None) for pair in read_folder(tmp_path).pairs] == [
        ("patient_0011", True),
        ("patient_0012", False),
    ]


def test_images_that_dataset_json_leaves_out_are_counted(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr" / "a.nii.gz", tmp_path / "imagesTr" / "b.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [{"image": "./imagesTr/a.nii.gz"}]}))
    assert read_folder(tmp_path).unlisted == 1
