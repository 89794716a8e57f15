"""Segment names in NRRD files of 3D Slicer: they name the labels, and files that contradict each other are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from diffboost3d.cases.layouts import Choice, read_folder
from diffboost3d.errors import DataError
from diffboost3d.imaging.slicer_segments import slicer_segments


def write(folder: Path, case: str, segments: dict[str, int]) -> Path:
    """An image, and a label as Slicer writes it."""
    array = np.zeros((6, 8, 8), np.uint8)
    for value in segments.values():
        array[:, value] = value
    sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.float32)), str(folder / f"{case}.nrrd"))
    label = sitk.GetImageFromArray(array)
    for number, (name, value) in enumerate(segments.items()):
        label.SetMetaData(f"Segment{number}_Name", name)
        label.SetMetaData(f"Segment{number}_LabelValue", str(value))
    path = folder / f"{case}.seg.nrrd"
    sitk.WriteImage(label, str(path), useCompression=True)
    return path


def test_segments_name_the_labels(tmp_path: Path) -> None:
    first = write(tmp_path, "a", {"liver": 1, "tumour of liver": 2})
    write(tmp_path, "b", {"tumour of liver": 2})
    assert slicer_segments(first) == {1: "liver", 2: "tumour of liver"}
    folder = read_folder(tmp_path)
    assert [(pair.id, pair.label and pair.label.name) for pair in folder.pairs] == [
        ("a", "a.seg.nrrd"), ("b", "b.seg.nrrd"),
    ]  # fmt: skip
    assert folder.labels == {"background": 0, "liver": 1, "tumour of liver": 2}


@pytest.mark.parametrize("second", [{"tumour": 1, "liver": 2}, {"liver": 2}, {"spleen": 1}])
def test_files_that_number_segments_otherwise_are_refused(tmp_path: Path, second: dict[str, int]) -> None:
    write(tmp_path, "a", {"liver": 1, "tumour": 3})
    write(tmp_path, "b", second)
    with pytest.raises(DataError, match=r"b\.seg\.nrrd has .* as label .*a\.seg\.nrrd has .*number the segments alike"):
        read_folder(tmp_path)


def test_capitals_make_no_other_name(tmp_path: Path) -> None:
    write(tmp_path, "a", {"Liver": 1})
    write(tmp_path, "b", {"liver": 1})
    assert read_folder(tmp_path).labels == {"background": 0, "Liver": 1}


def test_names_in_files_dont_count_where_the_user_names_the_labels(tmp_path: Path) -> None:
    write(tmp_path, "a", {"liver": 1, "tumour": 3})
    write(tmp_path, "b", {"tumour": 1})
    assert read_folder(tmp_path, choice=Choice(labels_named=True)).labels is None


def test_a_segment_called_background_that_is_none_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a", {"Background": 1, "liver": 2})
    with pytest.raises(DataError, match=r"a\.seg\.nrrd has a segment called background as label 1, .*data\.labels="):
        read_folder(tmp_path)


def test_files_without_such_names_are_as_before(tmp_path: Path) -> None:
    write(tmp_path, "a", {})
    assert slicer_segments(tmp_path / "a.seg.nrrd") == {}
    assert slicer_segments(tmp_path / "nothing.nrrd") == {}
    assert read_folder(tmp_path).labels is None
