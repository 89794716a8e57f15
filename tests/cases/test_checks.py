"""Damaged and odd files: whatever stands in a header, reading gives a volume or one line that names the file."""

from __future__ import annotations

import dataclasses
import gzip
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diffboost3d.cases.checks import check_pair, rounded_files
from diffboost3d.cases.layouts import Pair
from diffboost3d.errors import DataError
from diffboost3d.imaging.files import read

HEADER = 352  # bytes, of which 348 are fields
AFFINE = np.diag([1.0, 1.2, 2.5, 1.0])


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """A good image of 6 x 5 x 4 voxels and its label of 0 and 1."""
    image = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    label = (image > 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(image, AFFINE), tmp_path / "image.nii.gz")
    nib.save(nib.Nifti1Image(label, AFFINE), tmp_path / "label.nii.gz")
    return Pair("a", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.dictionaries(st.integers(0, HEADER - 1), st.integers(0, 255), min_size=1, max_size=6))
def test_no_damaged_header_ends_in_a_traceback(ending: str, damage: dict[int, int], pair: Pair) -> None:
    damaged = bytearray(gzip.decompress(pair.image.read_bytes()))
    for position, value in damage.items():
        damaged[position] = value
    path = pair.image.with_name(f"damaged{ending}")
    path.write_bytes(gzip.compress(damaged, 1) if ending == ".nii.gz" else bytes(damaged))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, finding = check_pair(dataclasses.replace(pair, image=path), None)
    assert finding is None or "\n" not in str(finding)
    assert finding is None or "label" in finding.problem or str(path) in finding.problem


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.999))
def test_no_cut_off_file_is_read_as_an_image(share: float, pair: Pair) -> None:
    whole = pair.image.read_bytes()
    path = pair.image.with_name("cut.nii.gz")
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=r"cut\.nii\.gz: can't be read"):
        read(path)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    nib.save(nib.Nifti1Image(array, affine), path)


def test_a_good_pair_has_no_finding_and_keeps_its_values(pair: Pair) -> None:
    checked, finding = check_pair(pair, {0, 1})
    assert finding is None
    assert checked is not None
    assert checked.label is not None
    assert np.array_equal(checked.label, checked.image.array > 0)


def test_colour_and_complex_volumes_are_refused_by_their_type(pair: Pair) -> None:
    colours = np.zeros((6, 5, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for array in (colours, np.ones((6, 5, 4), np.complex64)):
        save(pair.image, array)
        checked, finding = check_pair(pair, None)
        assert checked is None
        assert "image.nii.gz: voxels of type" in str(finding)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_one_voxel_that_is_no_number_is_enough(value: float, pair: Pair) -> None:
    array = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    array[1, 2, 3] = value
    save(pair.image, array)
    assert "1 voxels are NaN or infinite" in str(check_pair(pair, None)[1])


def test_a_sheared_or_flat_affine_is_refused(pair: Pair) -> None:
    array = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    sheared = AFFINE.copy()
    sheared[1, 2] = 0.7
    image = nib.Nifti1Image(array, AFFINE)
    image.set_sform(sheared, code=1)
    nib.save(image, pair.image)
    assert "not at right angles" in str(check_pair(pair, None)[1])
    image.set_sform(np.diag([1.0, 0.0, 2.0, 1.0]), code=1)
    nib.save(image, pair.image)
    assert "its affine has no volume" in str(check_pair(pair, None)[1])


def test_a_label_whose_header_was_rounded_lies_on_its_image_up_to_a_twentieth_of_a_voxel(pair: Pair) -> None:
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("xyz", [12, -8, 20], degrees=True).as_matrix()
    rounded = turned.round(3)  # as of a format that keeps few digits of the directions
    values = {path: np.asarray(nib.load(path).dataobj) for path in (pair.image, pair.label) if path is not None}
    for path, affine in zip(values, (turned @ AFFINE, rounded @ AFFINE), strict=True):
        save(path, values[path], affine)
    checked, finding = check_pair(pair, {0, 1})
    assert finding is None
    assert checked is not None
    assert np.array_equal(np.asarray(checked.label), values[pair.label])
    ((path, what),) = rounded_files(pair, checked.image.grid)
    assert (path, what) == (pair.label, "affine differs by 0.00332 mm at a corner")


@pytest.mark.parametrize(("shift", "is_refused"), [(4.9e-2, False), (5.1e-2, True)])
def test_a_label_further_beside_its_image_is_refused(shift: float, is_refused: bool, pair: Pair) -> None:
    nudged = AFFINE.copy()  # voxels of 1 mm and more
    nudged[2, 3] += shift
    assert pair.label is not None
    save(pair.label, np.asarray(nib.load(pair.label).dataobj), nudged)
    finding = check_pair(pair, {0, 1})[1]
    assert (finding is not None and "affine differs by 0.051 mm" in str(finding)) == is_refused


def test_labels_stored_as_floats_are_read_and_negative_ones_refused(pair: Pair) -> None:
    label = np.asarray(nib.load(pair.label).dataobj)
    save(pair.label, label.astype(np.float32) + 1e-5)  # as after a lossy conversion
    checked, finding = check_pair(pair, {0, 1})
    assert finding is None
    assert checked is not None
    assert np.array_equal(np.asarray(checked.label), label)
    save(pair.label, -label.astype(np.int16))
    assert "label value -1 is negative" in str(check_pair(pair, None)[1])


def test_a_case_with_a_bad_image_and_a_bad_label_is_found_once(pair: Pair) -> None:
    pair.image.write_bytes(b"")
    assert pair.label is not None
    pair.label.write_bytes(b"")
    checked, finding = check_pair(pair, None)
    assert checked is None
    assert "image.nii.gz" in str(finding)
    assert "label.nii.gz" not in str(finding)
