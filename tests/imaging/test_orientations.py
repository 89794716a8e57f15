"""Any grid, however turned: canonical axes, voxels in their place, values to the bit; and flat images left alone."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from diffboost3d.imaging.geometry import Grid, resample

ANGLES = st.tuples(*[st.floats(-180, 180, allow_nan=False)] * 3)
SPACINGS = st.tuples(*[st.floats(0.3, 8.0)] * 3)
SHAPES = st.tuples(*[st.integers(2, 7)] * 3)


def turned(shape: tuple[int, ...], spacing: tuple[float, ...], angles: tuple[float, ...], mirrored: bool) -> Grid:
    """A grid turned by three angles in degrees, left-handed where `mirrored`, off the origin."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(spacing)
    affine[:3, 0] *= -1 if mirrored else 1
    affine[:3, 3] = (-31.0, 12.5, 88.0)
    return Grid.of(shape, affine)


@settings(max_examples=80, deadline=None)
@given(SHAPES, SPACINGS, ANGLES, st.booleans())
def test_turning_to_canonical_moves_no_voxel_in_the_world_and_comes_back_to_the_bit(
    shape: tuple[int, ...], spacing: tuple[float, ...], angles: tuple[float, ...], mirrored: bool
) -> None:
    grid = turned(shape, spacing, angles, mirrored)
    canonical = grid.canonical()
    values = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    moved = resample(values, grid, canonical)
    assert moved.dtype == values.dtype
    assert sorted(moved.ravel()) == sorted(values.ravel())
    for value in (0, int(values.max()) // 2, int(values.max())):
        before = nib.affines.apply_affine(grid.matrix, np.argwhere(values == value)[0])
        after = nib.affines.apply_affine(canonical.matrix, np.argwhere(moved == value)[0])
        assert np.allclose(before, after, atol=1e-6)
    assert np.array_equal(resample(moved, canonical, grid), values)
    assert sorted(canonical.spacing_mm) == pytest.approx(sorted(spacing))
    assert canonical.canonical() == canonical


@settings(max_examples=60, deadline=None)
@given(SHAPES, SPACINGS, ANGLES, st.booleans())
def test_no_other_order_or_flip_of_the_axes_is_closer_to_ras(
    shape: tuple[int, ...], spacing: tuple[float, ...], angles: tuple[float, ...], mirrored: bool
) -> None:
    """Each axis in turn, steepest first, must lie along its own world axis, in its positive direction."""
    canonical = turned(shape, spacing, angles, mirrored).canonical()
    axes = canonical.matrix[:3, :3] / np.asarray(canonical.spacing_mm)
    assert (np.diag(axes) > -1e-6).all()
    steepest = np.unravel_index(np.abs(axes).argmax(), axes.shape)
    assert axes[steepest] == pytest.approx(np.diag(axes).max())


@pytest.mark.parametrize("interpolation", ["nearest", "linear", "bspline", "gaussian"])
def test_the_same_grid_needs_no_interpolation(interpolation: str) -> None:
    grid = turned((6, 5, 7), (0.9, 2.0, 1.1), (20, -35, 70), True)
    values = np.random.default_rng(0).integers(-500, 500, grid.shape).astype(np.int16)
    assert np.array_equal(resample(values, grid, grid, interpolation), values)


@pytest.mark.parametrize(("interpolation", "order"), [("linear", 1), ("nearest", 0)])
@pytest.mark.parametrize("angles", [(0, 0, 0), (14, -9, 25), (170, 5, -100)])
def test_moving_between_two_oblique_grids_agrees_with_scipy_in_world_coordinates(
    interpolation: str, order: int, angles: tuple[float, float, float]
) -> None:
    source = turned((15, 11, 9), (1.0, 1.3, 2.2), angles, True)
    target = Grid.of(
        (8, 9, 7), np.vstack([turned((8, 9, 7), (1.1, 0.9, 1.7), (5, 60, -20), False).matrix[:3], [0, 0, 0, 1]])
    )
    shift = source.matrix @ (7, 5, 4, 1) - target.matrix @ (3.6, 4.1, 3.2, 0)  # so that the middles lie together
    affine = target.matrix
    affine[:3, 3] = shift[:3]
    target = Grid.of(target.shape, affine)
    values = np.random.default_rng(1).random(source.shape).astype(np.float32)
    voxels = np.einsum(
        "ab,b...->a...",
        (np.linalg.inv(source.matrix) @ target.matrix),
        np.concatenate([np.indices(target.shape), np.ones((1, *target.shape))]),
    )[:3]
    theirs = map_coordinates(values, voxels, order=order, mode="nearest")
    limits = (np.asarray(source.shape) - 1)[:, None, None, None]
    inside = ((voxels >= 0) & (voxels <= limits)).all(axis=0)
    halves = (np.abs(voxels % 1 - 0.5) < 1e-3).any(axis=0) if order == 0 else np.zeros(target.shape, bool)
    ours = resample(values, source, target, interpolation)
    assert inside.sum() > 100
    assert np.abs(ours - theirs)[inside & ~halves].max() < 1e-4


def test_outside_the_source_stands_the_nearest_value() -> None:
    source = Grid.of((4, 4, 4), np.eye(4))
    wide = np.diag([1.5, 1.5, 1.5, 1.0])
    wide[:3, 3] = -4
    values = np.full((4, 4, 4), 7.0, np.float32)
    assert np.allclose(resample(values, source, Grid.of((8, 8, 8), wide), "linear"), 7.0)


@pytest.mark.parametrize("interpolation", ["linear", "bspline"])
def test_a_plane_of_grey_values_is_resampled_exactly(interpolation: str) -> None:
    """Linear and cubic interpolation both reproduce a linear ramp, here of the world's own coordinates."""
    source = turned((16, 14, 12), (1.0, 1.2, 1.5), (8, -6, 10), False)
    target = source.with_spacing((1.3, 0.8, 1.9))
    slope = np.array([0.5, -1.0, 2.0])

    def ramp(grid: Grid) -> np.ndarray:
        world = nib.affines.apply_affine(grid.matrix, np.moveaxis(np.indices(grid.shape), 0, -1))
        return (world @ slope).astype(np.float32)

    inner = (slice(3, -3),) * 3
    assert np.allclose(resample(ramp(source), source, target, interpolation)[inner], ramp(target)[inner], atol=0.05)


def test_a_flat_image_stays_as_it_is_whatever_its_affine() -> None:
    grid = Grid.of((6, 5, 1), np.diag([-0.5, -0.5, 3.0, 1.0]))
    assert grid.spatial_dims == 2
    assert grid.canonical() is grid
    values = np.random.default_rng(0).random((6, 5, 1)).astype(np.float32)
    assert np.array_equal(resample(values, grid, grid, "bspline"), values)


@given(SHAPES, SPACINGS, SPACINGS)
def test_another_spacing_keeps_the_outer_corner_and_the_axes(
    shape: tuple[int, int, int], old: tuple[float, float, float], new: tuple[float, float, float]
) -> None:
    grid = turned(shape, old, (10, 20, 30), True)
    other = grid.with_spacing(new)
    corner = (-0.5, -0.5, -0.5)
    assert np.allclose(nib.affines.apply_affine(grid.matrix, corner), nib.affines.apply_affine(other.matrix, corner))
    assert all(size >= 1 for size in other.shape)
    for extent, size, space in zip(np.asarray(shape) * old, other.shape, other.spacing_mm, strict=True):
        assert size == 1 or abs(size * space - extent) <= space / 2 + 1e-9 + 1e-3 * extent


def test_a_spacing_that_differs_by_rounding_only_is_the_same_grid() -> None:
    grid = turned((5, 6, 7), (0.9999998, 1.2, 2.5), (0, 0, 0), False)
    assert grid.with_spacing((1.0, 1.2, 2.5)) is grid


def test_a_grid_survives_json() -> None:
    import json

    grid = turned((5, 6, 7), (0.7, 1.2, 2.5), (3, 4, 5), True)
    back = json.loads(json.dumps({"shape": grid.shape, "affine": grid.affine}))
    assert Grid.of(back["shape"], back["affine"]) == grid
