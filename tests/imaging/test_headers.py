"""Files for other programs: notes, units, labels, odd pictures, and the same bytes from any process."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torchio as tio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from diffboost3d.errors import DataError
from diffboost3d.imaging.files import read, synthetic_note, write_label_like, write_like, write_prepared
from diffboost3d.imaging.geometry import Grid

AFFINE = np.eye(4)
AFFINE[:3, :3] = Rotation.from_euler("zx", [8, -5], degrees=True).as_matrix() @ np.diag([-0.8, 1.0, 3.0])
AFFINE[:3, 3] = (10.5, -4.25, 7.0)


def save(path: Path, dtype: type, slope: float | None = None, intercept: float = 0.0, big: bool = False) -> Path:
    """An oblique left-handed image of 6 x 5 x 4 voxels of raw values 0 to 199."""
    raw = np.random.default_rng(0).integers(0, 200, (6, 5, 4)).astype(dtype)
    image = nib.Nifti1Image(raw, AFFINE, dtype=dtype)
    image.header["descrip"] = b"from the scanner"
    image.header.set_xyzt_units("mm", "sec")
    if slope is not None:
        image.header.set_slope_inter(slope, intercept)
    if big:
        image = nib.Nifti1Image(raw, AFFINE, image.header.as_byteswapped(">"))
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept", "big"),
    [
        (np.uint8, None, 0.0, False),
        (np.int16, None, 0.0, True),
        (np.int16, 0.25, -1024.0, False),
        (np.int16, -2.0, 100.0, False),
        (np.uint16, 1e-3, 0.0, False),
        (np.float32, None, 0.0, False),
        (np.float32, 3.0, -7.0, False),
        (np.int64, None, 0.0, False),
    ],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_an_image_written_like_itself_is_the_same_image_to_every_program(
    dtype: type, slope: float | None, intercept: float, big: bool, ending: str, tmp_path: Path
) -> None:
    source, new = save(tmp_path / f"source{ending}", dtype, slope, intercept, big), tmp_path / f"new{ending}"
    write_like(new, read(source).array, source)
    old_header, new_header = nib.load(source).header, nib.load(new).header
    for field in ("dim", "pixdim", "sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "xyzt_units", "datatype"):
        assert np.array_equal(old_header[field], new_header[field]), field
    for field in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "descrip"):
        assert np.array_equal(old_header[field], new_header[field]), field
    assert np.array_equal(nib.load(new).affine, nib.load(source).affine)
    assert np.array_equal(np.asarray(nib.load(new).dataobj), np.asarray(nib.load(source).dataobj))
    one, other = (sitk.ReadImage(str(path)) for path in (source, new))
    assert (one.GetSize(), one.GetSpacing(), one.GetOrigin(), one.GetDirection()) == (
        *(other.GetSize(), other.GetSpacing()),
        *(other.GetOrigin(), other.GetDirection()),
    )
    assert np.array_equal(sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(other))
    assert np.array_equal(tio.ScalarImage(new).affine, tio.ScalarImage(source).affine)
    assert tio.ScalarImage(new).spacing == pytest.approx(tio.ScalarImage(source).spacing)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.floats(-1e5, 1e5), min_size=24, max_size=24), slope=st.sampled_from([0.5, 1.0, -3.0]))
def test_written_values_are_the_nearest_that_the_type_can_hold(
    values: list[float], slope: float, tmp_path: Path
) -> None:
    source = tmp_path / "source.nii"
    image = nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), AFFINE)
    image.header.set_slope_inter(slope, 10.0)
    nib.save(image, source)
    array = np.asarray(values).reshape(4, 3, 2)
    write_like(tmp_path / "new.nii", array, source)
    ends = sorted((10.0 + slope * -32768, 10.0 + slope * 32767))
    assert np.abs(read(tmp_path / "new.nii").array - np.clip(array, *ends)).max() <= abs(slope) / 2 + 1e-6


def test_a_synthetic_volume_says_so_in_its_header_and_a_copy_does_not(tmp_path: Path) -> None:
    source = save(tmp_path / "source.nii.gz", np.int16)
    for case, end in (("case_07", b", of case case_07"), ("c" * 99, b"cc"), ("\u00e4" * 99, "\u00e4".encode())):
        write_like(tmp_path / "new.nii.gz", read(source).array, source, synthetic_note(case, 2**63 - 1))
        said = nib.load(tmp_path / "new.nii.gz").header["descrip"].item()
        assert said.startswith(b"synthetic: diffboost3d, seed 9223372036854775807, of case ")
        assert said.endswith(end)
        assert len(said) <= 79
    write_like(tmp_path / "copy.nii.gz", read(source).array, source)
    assert nib.load(tmp_path / "copy.nii.gz").header["descrip"].item() == b"from the scanner"


@pytest.mark.parametrize(("highest", "dtype"), [(3, np.uint8), (255, np.uint8), (2035, np.uint16)])
def test_a_label_has_the_smallest_type_and_the_geometry_and_none_of_the_scaling_of_its_image(
    highest: int, dtype: type, tmp_path: Path
) -> None:
    source = save(tmp_path / "ct.nii.gz", np.int16, slope=0.5, intercept=-1024.0)
    label = np.zeros((6, 5, 4), np.int64)
    label[2:4, 1:3, 1] = highest
    write_label_like(tmp_path / "label.nii.gz", label, source)
    written = nib.load(tmp_path / "label.nii.gz")
    assert written.get_data_dtype() == np.dtype(dtype)
    assert np.array_equal(np.asarray(written.dataobj), label)
    assert np.array_equal(written.affine, nib.load(source).affine)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "label.nii.gz"))).T, label)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_bytes_do_not_tell_which_process_wrote_them(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    write_prepared(tmp_path / f"a{ending}", array, Grid.of(array.shape, AFFINE))
    monkeypatch.setattr(os, "getpid", lambda: 4321)
    write_prepared(tmp_path / f"b{ending}", array, Grid.of(array.shape, AFFINE))
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


def test_a_failed_write_leaves_the_older_file(tmp_path: Path) -> None:
    source = save(tmp_path / "source.nii.gz", np.int16)
    write_like(tmp_path / "new.nii.gz", read(source).array, source)
    before = (tmp_path / "new.nii.gz").read_bytes()
    with pytest.raises(ValueError, match="the template has"):
        write_like(tmp_path / "new.nii.gz", np.zeros((2, 2, 2)), source)
    assert (tmp_path / "new.nii.gz").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.nii.gz", "source.nii.gz"]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P"])
def test_every_way_to_store_grey_in_a_png_is_read_alike(mode: str, tmp_path: Path) -> None:
    pixels = np.zeros((5, 8), np.uint8)
    pixels[1:3, 2:7] = 255
    grey = Image.fromarray(pixels)
    if mode == "P":
        grey = grey.quantize(2)
        expected = np.asarray(grey.convert("L"))
    else:
        grey = grey.convert(mode)
        expected = pixels
    grey.save(tmp_path / "a.png")
    volume = read(tmp_path / "a.png")
    assert volume.array.shape == (8, 5, 1)
    assert np.array_equal(volume.array[:, :, 0].T, expected)


def test_jpeg_in_grey_keeps_width_and_height_apart(tmp_path: Path) -> None:
    Image.fromarray(np.full((30, 12), 90, np.uint8)).save(tmp_path / "a.JPG")
    volume = read(tmp_path / "a.JPG")
    assert volume.array.shape == (12, 30, 1)
    assert np.abs(volume.array.astype(int) - 90).max() <= 2


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.nii.gz", "a.nii"])
def test_a_missing_empty_or_foreign_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{name}: no such file"):
        read(tmp_path / name)
    for content in (b"", b"this is no image at all" * 40):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}: can't be read") as refusal:
            read(tmp_path / name)
        assert "\n" not in str(refusal.value)


def test_a_cut_off_png_is_named(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:700])
    with pytest.raises(DataError, match=r"a\.png: can't be read"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f4", "u1"])
@pytest.mark.parametrize("shape", [(5, 4, 7), (5, 4, 1), (5, 4), (5, 4, 7, 1)])
def test_a_file_written_slab_by_slab_holds_the_bytes_that_nibabel_writes(tmp_path, ending, dtype, shape) -> None:
    values = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    image = nib.Nifti1Image(values, AFFINE, nib.Nifti1Header(endianness=">" if ">" in dtype else "<"))
    image.header.set_slope_inter(2.0, -7.0)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"kept"))
    source = tmp_path / f"source{ending}"
    nib.save(image, source)
    array = read(source).array
    cuts = [0, 2, 3, array.shape[2]] if array.shape[2] > 3 else [0, array.shape[2]]
    slabs = (array[:, :, a:b] for a, b in itertools.pairwise(cuts))
    write_like(tmp_path / f"new{ending}", slabs, source)
    assert (tmp_path / f"new{ending}").read_bytes() == source.read_bytes()


def test_slabs_that_are_not_the_whole_volume_leave_no_file(tmp_path) -> None:
    source = save(tmp_path / "source.nii.gz", np.int16)
    array = read(source).array
    for wrong in ([array[:, :, :1]], [array, array], [array[:1]]):
        with pytest.raises(ValueError, match="the template has"):
            write_like(tmp_path / "new.nii.gz", iter(wrong), source)
    assert [path.name for path in tmp_path.iterdir()] == ["source.nii.gz"]
