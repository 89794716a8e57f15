"""Files: headers, types and scaling survive, equal arrays are equal bytes, pictures come back as they went."""

from __future__ import annotations

import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torchio as tio
from PIL import Image

from diffboost3d.errors import DataError
from diffboost3d.imaging.files import ending_of, read, stem_of, write_label_like, write_like, write_prepared
from diffboost3d.imaging.geometry import Grid

AFFINE = np.array([[0, -0.8, 0, 10.5], [0, 0, 3.0, -4.25], [-1.1, 0, 0, 7.0], [0, 0, 0, 1]])


def template(path: Path, dtype: type, slope: float | None = None, intercept: float = 0.0) -> Path:
    raw = np.random.default_rng(0).integers(0, 200, (6, 5, 4)).astype(dtype)
    image = nib.Nifti1Image(raw, AFFINE)
    image.set_sform(AFFINE, code=2)
    image.set_qform(AFFINE, code=1)
    image.header.set_xyzt_units("mm", "sec")
    if slope is not None:
        image.header.set_slope_inter(slope, intercept)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, np.uint16])
def test_what_is_written_like_a_file_has_its_geometry_type_and_header(dtype: type, tmp_path: Path) -> None:
    source = template(tmp_path / "source.nii.gz", dtype)
    before = source.read_bytes()
    array = read(source).array.astype(float) * 0.5 + 3.2
    write_like(tmp_path / "new.nii.gz", array, source)
    old, new = nib.load(source), nib.load(tmp_path / "new.nii.gz")
    assert new.get_data_dtype() == np.dtype(dtype)
    assert np.array_equal(new.affine, old.affine)
    for field in ("sform_code", "qform_code", "xyzt_units", "pixdim", "srow_x", "quatern_b", "dim"):
        assert np.array_equal(new.header[field], old.header[field]), field
    expected = np.round(array) if np.issubdtype(dtype, np.integer) else array.astype(dtype)
    assert np.allclose(np.asarray(new.dataobj), expected)
    itk = [sitk.ReadImage(str(path)) for path in (source, tmp_path / "new.nii.gz")]
    assert itk[0].GetSpacing() == itk[1].GetSpacing()
    assert itk[0].GetOrigin() == itk[1].GetOrigin()
    assert itk[0].GetDirection() == itk[1].GetDirection()
    torchio = [tio.ScalarImage(path) for path in (source, tmp_path / "new.nii.gz")]
    assert np.array_equal(torchio[0].affine, torchio[1].affine)
    assert torchio[0].shape == torchio[1].shape
    assert source.read_bytes() == before


def test_scaled_integers_keep_their_slope_and_values(tmp_path: Path) -> None:
    source = template(tmp_path / "ct.nii.gz", np.int16, slope=0.5, intercept=-1024.0)
    array = read(source).array.astype(float)
    assert array.min() < -900
    write_like(tmp_path / "new.nii.gz", array, source)
    assert np.array_equal(read(tmp_path / "new.nii.gz").array, array)
    assert nib.load(tmp_path / "new.nii.gz").dataobj.slope == 0.5


def test_integers_are_clipped_to_their_type_not_wrapped(tmp_path: Path) -> None:
    source = template(tmp_path / "small.nii.gz", np.uint8)
    write_like(tmp_path / "new.nii.gz", np.linspace(-50, 400, 120).reshape(6, 5, 4), source)
    written = read(tmp_path / "new.nii.gz").array
    assert written.min() == 0
    assert written.max() == 255


def test_equal_arrays_are_equal_bytes_at_any_time(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    grid = Grid.of(array.shape, AFFINE)
    write_prepared(tmp_path / "a.nii.gz", array, grid)
    time.sleep(1.1)
    write_prepared(tmp_path / "b.nii.gz", array, grid)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 1), (7, 5, 3, 1)])
def test_flat_and_padded_nifti_shapes_are_read_as_three_axes_and_written_back(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    source = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), np.eye(4)), source)
    volume = read(source)
    assert volume.array.shape == (*shape, 1, 1)[:3]
    write_like(tmp_path / "new.nii.gz", volume.array, source)
    assert nib.load(tmp_path / "new.nii.gz").shape == shape
    write_label_like(tmp_path / "label.nii.gz", volume.array > 3, source)
    assert nib.load(tmp_path / "label.nii.gz").get_data_dtype() == np.uint8


def test_a_picture_comes_back_as_it_went(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    volume = read(tmp_path / "in.png")
    assert volume.array.shape == (13, 9, 1)
    assert volume.grid.spatial_dims == 2
    write_like(tmp_path / "out.png", volume.array, tmp_path / "in.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), pixels)


def test_grey_saved_as_colour_is_grey_and_true_colour_its_luminance(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (6, 8)).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "grey.png")
    assert np.array_equal(read(tmp_path / "grey.png").array[:, :, 0].T, grey)
    assert read(tmp_path / "grey.png").notes == ()
    coloured = np.stack([grey] * 3, axis=-1)
    coloured[0, :4] = (200, 0, 0)
    Image.fromarray(coloured).save(tmp_path / "colour.png")
    volume = read(tmp_path / "colour.png")
    assert volume.array[:, 0, 0].tolist() == [60] * 4 + grey[0, 4:].tolist()  # 0.299 x 200
    assert volume.coloured == 4 / 48
    assert volume.notes == ("8.33 % of its pixels are coloured; it is read as luminance",)


def test_names_are_split_at_the_known_endings() -> None:
    assert (stem_of("a/b.c.nii.gz"), ending_of("a/b.c.nii.gz")) == ("b.c", ".nii.gz")
    assert (stem_of("x.PNG"), ending_of("x.PNG")) == ("x", ".png")
    assert ending_of("notes.txt") == ""


def test_a_16_bit_picture_stays_16_bit(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 60_000, (6, 8)).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    volume = read(tmp_path / "deep.png")
    assert volume.array.dtype == np.uint16
    write_like(tmp_path / "out.png", volume.array, tmp_path / "deep.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), pixels)


def test_several_frames_and_unknown_modes_are_refused(tmp_path: Path) -> None:
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8)).astype(np.uint8))
    grey.save(tmp_path / "stack.tiff", save_all=True, append_images=[grey])
    grey.convert("F").save(tmp_path / "float.tiff")
    with pytest.raises(DataError, match="2 frames"):
        read(tmp_path / "stack.tiff")
    with pytest.raises(DataError, match="mode F"):
        read(tmp_path / "float.tiff")


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8))
    palette = picture.convert("P")
    palette.putpalette([200, 200, 200, 30, 30, 30])
    palette.putdata([0, 1, 1, 0])
    palette.save(tmp_path / "palette.png")
    assert read(tmp_path / "palette.png").array[:, :, 0].tolist() == [[200, 30], [30, 200]]
