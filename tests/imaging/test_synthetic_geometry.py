"""A synthetic volume lies where its real one lies, to the bit and to every program, in whatever way that one is turned."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torchio as tio
from scipy.spatial.transform import Rotation

from diffboost3d.cases.records import Case
from diffboost3d.imaging.files import read, read_grid, synthetic_note, write_label_like, write_like
from diffboost3d.imaging.geometry import resample
from diffboost3d.imaging.intensity import fit_intensity_map
from diffboost3d.synthesis.units import KeepPlan, in_source_units, real_of_file

AXES = ("RAS", "LPS", "LAS", "RPI", "PIR", "ASR", "SLP")
OBLIQUE = {"oblique": ((0, 0, 17), 1), "doubly oblique, left-handed": ((8, -23, 141), -1)}
SPACINGS = ((0.7, 0.7, 5.0), (1.37, 0.9, 2.5), (3.3, 0.52, 0.8))
SHAPES = ((7, 5, 9), (11, 4, 6), (3, 13, 2))
CODES = ((1, 1), (2, 1), (1, 0), (0, 1))  # of sform and qform
STORED = {
    "HU": (np.int16, None, None),
    "HU, scaled": (np.int16, 0.5, -1024.0),
    "HU, unsigned": (np.uint16, 1.0, -1024.0),
    "float": (np.float32, None, None),
}
FIELDS = (
    *("dim", "pixdim", "sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "xyzt_units", "datatype", "bitpix"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "scl_slope", "scl_inter"),
)


def affine_of(orientation: str, spacing: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
    """An affine of that orientation, off the origin by numbers that no float32 holds exactly."""
    affine = np.diag([*spacing, 1.0])
    if orientation in OBLIQUE:
        angles, hand = OBLIQUE[orientation]
        turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
        affine[:3, :3] = turn @ np.diag([hand * spacing[0], *spacing[1:]])
    else:
        target = nib.orientations.axcodes2ornt(orientation)
        turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), target)
        affine = affine @ nib.orientations.inv_ornt_aff(turn, shape)
    affine[:3, 3] += (-31.1, 12.7, 88.3)
    return affine


def scan(path: Path, orientation: str, spacing: tuple[float, ...], shape: tuple[int, ...], stored: str) -> Path:
    """A CT of -1024 (air) to 1500 HU, in that form on disk."""
    dtype, slope, intercept = STORED[stored]
    values = np.random.default_rng(0).integers(-1024, 1500, shape)
    sform, qform = CODES[sum(shape) % len(CODES)]
    affine = affine_of(orientation, spacing, shape)
    image = nib.Nifti1Image(((values - (intercept or 0)) / (slope or 1)).astype(dtype), affine, dtype=dtype)
    image.set_qform(affine, code=qform)
    image.set_sform(affine, code=sform)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"from the scanner"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"kept"))
    if slope is not None:
        image.header.set_slope_inter(slope, intercept)
    nib.save(image, path)
    return path


def case_of(path: Path, spacing_mm: tuple[float, float, float] | None) -> Case:
    """As `prepare` records it; None: on its own spacing."""
    volume = read(path)
    canonical = volume.grid.canonical()
    intensity = fit_intensity_map(volume.array, "ct_window", (-160.0, 240.0), (0.5, 99.5))
    grid = canonical.with_spacing(spacing_mm) if spacing_mm else canonical
    return Case("a", "a", path.name, None, volume.grid, grid, intensity, "")


def assert_agree(real: Path, synthetic: Path) -> None:
    """Header, affine and shape, as nibabel, SimpleITK and TorchIO each read them."""
    one, other = nib.load(real), nib.load(synthetic)
    assert one.shape == other.shape
    assert one.affine.tobytes() == other.affine.tobytes()
    for field in FIELDS:
        assert one.header[field].tobytes() == other.header[field].tobytes(), field
    assert (one.dataobj.slope, one.dataobj.inter) == (other.dataobj.slope, other.dataobj.inter)
    itk = [sitk.ReadImage(str(path)) for path in (real, synthetic)]
    for property_of in (
        sitk.Image.GetSize, sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection, sitk.Image.GetPixelID
    ):  # fmt: skip
        assert property_of(itk[0]) == property_of(itk[1]), property_of.__name__
    torchio = [tio.ScalarImage(path) for path in (real, synthetic)]
    assert torchio[0].affine.tobytes() == torchio[1].affine.tobytes()
    assert torchio[0].shape == torchio[1].shape
    assert torchio[0].orientation == torchio[1].orientation
    assert torchio[0].data.dtype == torchio[1].data.dtype
    seen = np.asarray(other.dataobj)
    assert np.array_equal(sitk.GetArrayFromImage(itk[1]).T, seen)
    assert np.array_equal(torchio[1].data[0].numpy(), seen)


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("orientation", [*AXES, *OBLIQUE])
def test_real_and_synthetic_agree_in_every_program_and_stay_in_hu(
    orientation: str, spacing: tuple[float, float, float], tmp_path: Path
) -> None:
    """As `synthesize` writes them: from a prepared grid of another spacing, whatever the network made there."""
    first = [*AXES, *OBLIQUE].index(orientation) + SPACINGS.index(spacing)  # every form on disk meets every shape
    for number, shape in enumerate(SHAPES):
        stored = list(STORED)[(first + number) % len(STORED)]
        ending = ".nii" if number % 2 else ".nii.gz"
        source, new = tmp_path / f"real{number}{ending}", tmp_path / f"new{number}{ending}"
        case = case_of(scan(source, orientation, spacing, shape, stored), (1.1, 1.6, 2.3))
        made = np.random.default_rng(number).uniform(-1, 1, case.grid.shape).astype(np.float32)
        real = read(source).array
        write_like(
            new, in_source_units(made, case, real_of_file(case, real, KeepPlan())), source, synthetic_note("a", 1)
        )
        assert_agree(source, new)
        values = read(new).array
        outside = (real < -160) | (real > 240)
        assert np.array_equal(values[outside], real[outside])  # air and metal: nothing is invented there
        assert values[~outside].min() >= -160
        assert values[~outside].max() <= 240
        assert nib.load(new).header["descrip"].item().startswith(b"synthetic")
        label = tmp_path / f"label{number}{ending}"
        write_label_like(label, (values > 0).astype(np.uint8), source)
        assert nib.load(label).affine.tobytes() == nib.load(source).affine.tobytes()
        assert sitk.ReadImage(str(label)).GetDirection() == sitk.ReadImage(str(source)).GetDirection()


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("orientation", [*AXES, *OBLIQUE])
def test_a_volume_that_was_not_changed_comes_back_to_the_bit(orientation: str, stored: str, tmp_path: Path) -> None:
    """Windowed, turned to R, A, S and back: inside the window every HU is met again, outside it stands as it was."""
    source = scan(tmp_path / "real.nii.gz", orientation, (0.7, 0.8, 5.0), (7, 6, 5), stored)
    case, real = case_of(source, None), read(source).array
    prepared = resample(case.intensity.forward(real), case.source_grid, case.grid, "bspline")
    slabs = in_source_units(prepared, case, real_of_file(case, real, KeepPlan()))
    write_like(tmp_path / "new.nii.gz", slabs, source, synthetic_note("a", 1))
    same = read(tmp_path / "new.nii.gz").array
    if np.issubdtype(STORED[stored][0], np.integer):
        assert np.array_equal(same, real)
    else:
        assert np.abs(same - real).max() < 1e-3
    assert read_grid(tmp_path / "new.nii.gz") == case.source_grid
    assert np.abs(nib.load(tmp_path / "new.nii.gz").affine - case.source_grid.matrix).max() < 1e-6
