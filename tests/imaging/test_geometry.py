"""Grids: any orientation is moved without loss, world coordinates stay, and resampling agrees with an independent account."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from diffboost3d.imaging.geometry import Grid, resample, to_sitk

ORIENTATIONS = [
    "".join(letters) for order in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*order)
]
SHAPE, SPACING = (5, 7, 4), (0.7, 1.3, 4.0)


def grid_of(codes: str, shape: tuple[int, int, int] = SHAPE) -> Grid:
    """Axes along `codes`, anisotropic, off the origin."""
    directions = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    affine = np.zeros((4, 4))
    for axis, code in enumerate(codes):
        row, sign = directions[code]
        affine[row, axis] = sign * SPACING[axis]
    affine[:, 3] = (-12.5, 30.25, 7.0, 1.0)
    return Grid.of(shape, affine)


def oblique(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [12, -8, 20], degrees=True).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = (3.0, -5.0, 9.0)
    return Grid.of(shape, affine)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_any_orientation_becomes_ras_and_back_to_the_bit(codes: str) -> None:
    grid = grid_of(codes)
    canonical = grid.canonical()
    assert nib.aff2axcodes(canonical.matrix) == ("R", "A", "S")
    values = np.random.default_rng(0).random(grid.shape).astype(np.float32)
    moved = resample(values, grid, canonical)
    reference = nib.as_closest_canonical(nib.Nifti1Image(values, grid.matrix))
    assert np.array_equal(moved, np.asarray(reference.dataobj))
    assert np.allclose(canonical.matrix, reference.affine)
    assert np.array_equal(resample(moved, canonical, grid), values)


@pytest.mark.parametrize("grid", [grid_of("LPS"), oblique((9, 6, 5), (1.0, 1.5, 3.0))], ids=["LPS", "oblique"])
def test_simpleitk_puts_every_voxel_where_nibabel_does(grid: Grid) -> None:
    image = to_sitk(np.zeros(grid.shape, np.float32), grid)
    assert image.GetSize() == grid.shape
    for index in [(0, 0, 0), (4, 2, 1), tuple(size - 1 for size in grid.shape)]:
        lps = np.asarray(image.TransformIndexToPhysicalPoint(index))
        assert np.allclose(lps * (-1, -1, 1), (grid.matrix @ (*index, 1))[:3], atol=1e-6)


def test_resampling_agrees_with_world_coordinates_worked_out_apart() -> None:
    source = oblique((14, 12, 10), (1.0, 1.2, 2.0))
    target = source.canonical().with_spacing((1.4, 1.1, 1.7))
    values = np.random.default_rng(1).random(source.shape).astype(np.float32)
    ours = resample(values, source, target, "linear")
    indices = np.indices(target.shape).reshape(3, -1)
    world = target.matrix @ np.vstack([indices, np.ones(indices.shape[1])])
    voxels = (np.linalg.inv(source.matrix) @ world)[:3]
    theirs = map_coordinates(values, voxels, order=1, mode="nearest").reshape(target.shape)
    inside = np.all((voxels >= 0) & (voxels <= np.asarray(source.shape)[:, None] - 1), axis=0).reshape(target.shape)
    assert inside.mean() > 0.5
    assert np.abs(ours - theirs)[inside].max() < 1e-4


def test_label_resampling_makes_no_new_values() -> None:
    source = oblique((14, 12, 10), (1.0, 1.2, 2.0))
    label = (np.indices(source.shape).sum(axis=0) // 9).astype(np.uint8)
    for interpolation in ("nearest", "gaussian"):
        moved = resample(label, source, source.with_spacing((1.5, 1.5, 1.5)), interpolation)
        assert set(np.unique(moved)) <= set(np.unique(label))
        assert moved.dtype == label.dtype


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.35, 2.6, 8.0), (2.0, 0.9, 4.0)])
def test_a_new_spacing_covers_the_same_space(spacing: tuple[float, float, float]) -> None:
    grid = oblique((20, 16, 12), (1.0, 1.2, 2.0))
    new = grid.with_spacing(spacing)
    assert np.allclose(new.spacing_mm, spacing)
    first = (grid.matrix @ (-0.5, -0.5, -0.5, 1))[:3]
    assert np.allclose((new.matrix @ (-0.5, -0.5, -0.5, 1))[:3], first)
    extent = np.asarray(grid.shape) * grid.spacing_mm
    assert (np.abs(np.asarray(new.shape) * spacing - extent) <= np.asarray(spacing) / 2 + 1e-9).all()


def test_differences_are_said_in_words() -> None:
    grid = grid_of("RAS")
    assert grid.difference(grid) == ""
    assert grid.difference(grid_of("RAS", (5, 7, 5))) == "shape 5x7x4 against 5x7x5"
    assert "mm at a corner" in grid.difference(grid_of("LAS"))
    nudged = grid.matrix.copy()
    nudged[0, 3] += 1e-5  # rounding of a header is no difference
    assert grid.difference(Grid.of(grid.shape, nudged)) == ""


def test_slices_are_cut_across_the_coarsest_axis() -> None:
    assert Grid.of((9, 9, 9), np.diag([1, 1, 5, 1])).slice_axis == 2
    assert Grid.of((9, 9, 9), np.diag([6, 1, 5, 1])).slice_axis == 0
    assert Grid.of((9, 9, 9), np.eye(4)).slice_axis == 2
    assert Grid.of((9, 9, 1), np.diag([9, 1, 1, 1])).slice_axis == 2


def test_a_sheared_affine_is_recognised() -> None:
    affine = np.eye(4)
    affine[1, 2] = 0.3
    assert Grid.of((4, 4, 4), affine).is_sheared
    assert not oblique((4, 4, 4), SPACING).is_sheared


def test_simpleitk_reads_the_size_and_spacing_of_a_grid() -> None:
    image = to_sitk(np.zeros(SHAPE, np.uint8), grid_of("PIR"))
    assert image.GetSpacing() == pytest.approx(SPACING)
    assert isinstance(image, sitk.Image)
