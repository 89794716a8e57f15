"""Grids in space: which voxel lies where, whether two grids agree, and moving arrays between them.

Voxel axes are i, j, k (NIfTI order, as nibabel and TorchIO have them); world axes are R, A, S in mm. SimpleITK's x, y, z
order and LPS world are met in `to_sitk` and `grid_from_lps` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Affine = tuple[tuple[float, ...], ...]
AFFINE_TOLERANCE_MM = 1e-3
ROUNDED = 0.05  # of the smallest voxel size: what files of one case may lie apart, whose headers hold few digits of directions
LPS_RAS = np.diag([-1.0, -1.0, 1.0])  # from either world to the other
_STEP_MM = (
    2.0**-34
)  # of affines: keeps what float32 holds from a micrometre on, and drops the errors of arithmetic in float64


@dataclass(frozen=True)
class Grid:
    """A voxel grid: shape (I, J, K) and the 4x4 affine from voxel indices to R, A, S in mm. K == 1 is a 2D image."""

    shape: tuple[int, int, int]
    affine: Affine

    @classmethod
    def of(cls, shape: Any, affine: Any) -> Grid:
        """From any sequence of three sizes and any 4x4 array."""
        i, j, k = (int(size) for size in shape)
        return cls((i, j, k), tuple(tuple(float(x) for x in row) for row in np.asarray(affine)))

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The affine as an array (4, 4)."""
        return np.asarray(self.affine, dtype=np.float64)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along i, j, k in mm."""
        i, j, k = np.sqrt((self.matrix[:3, :3] ** 2).sum(axis=0))
        return (float(i), float(j), float(k))

    @property
    def spatial_dims(self) -> int:
        """2 for a single slice, else 3."""
        return 2 if self.shape[2] == 1 else 3

    @property
    def slice_axis(self) -> int:
        """The axis of coarsest spacing; the last of those that tie. 2 for a 2D image."""
        if self.spatial_dims == 2:
            return 2
        spacing = np.round(self.spacing_mm, 3)
        return int(2 - np.argmax(spacing[::-1]))

    @property
    def is_sheared(self) -> bool:
        """Whether the axes are not at right angles (cosine above 1e-2), which no voxel size can describe."""
        axes = self.matrix[:3, :3] / np.asarray(self.spacing_mm)
        return bool(np.abs(axes.T @ axes - np.eye(3)).max() > 1e-2)

    def difference(self, other: Grid) -> str:
        """What differs, in words; empty where the grids agree to a micrometre at every corner."""
        return self._difference(other, AFFINE_TOLERANCE_MM)

    def apart_from(self, other: Grid) -> str:
        """As `difference`, between files of one case: what the rounding of a header explains (`ROUNDED`) is none."""
        return self._difference(other, max(AFFINE_TOLERANCE_MM, ROUNDED * min(self.spacing_mm)))

    def _difference(self, other: Grid, tolerance_mm: float) -> str:
        if self.shape != other.shape:
            return f"shape {_sizes(self.shape)} against {_sizes(other.shape)}"
        corners = np.array([[a, b, c, 1] for a in (0, 1) for b in (0, 1) for c in (0, 1)], dtype=float)
        corners[:, :3] *= np.asarray(self.shape) - 1
        gap = float(np.abs((corners @ self.matrix.T - corners @ other.matrix.T)[:, :3]).max())
        return f"affine differs by {gap:.3g} mm at a corner" if not gap <= tolerance_mm else ""

    def canonical(self) -> Grid:
        """The same voxels with axes turned and flipped to be closest to R, A, S; a 2D image stays as it is."""
        if self.spatial_dims == 2:
            return self
        import nibabel as nib

        turn = nib.orientations.io_orientation(self.matrix)
        shape = [0, 0, 0]
        for axis, (target, _) in enumerate(turn):
            shape[int(target)] = self.shape[axis]
        return Grid.of(shape, self.matrix @ nib.orientations.inv_ornt_aff(turn, self.shape))

    def with_pixels(self, spacing_mm: Sequence[float]) -> Grid:
        """The same voxels with these sizes along i and j, for images that have none of their own."""
        affine = self.matrix.copy()
        affine[:3, :2] *= np.asarray(spacing_mm, dtype=float) / np.asarray(self.spacing_mm[:2])
        return Grid.of(self.shape, affine)

    def part(self, first: Sequence[int], stop: Sequence[int]) -> Grid:
        """The grid of the voxels from `first` to before `stop`, each (i, j, k)."""
        affine = self.matrix.copy()
        affine[:3, 3] += self.matrix[:3, :3] @ np.asarray(first, dtype=float)
        return Grid.of(np.asarray(stop) - np.asarray(first), affine)

    @property
    def axial(self) -> int:
        """The voxel axis that runs closest to feet-head; 2 for a 2D image."""
        if self.spatial_dims == 2:
            return 2
        return int(np.argmax(np.abs(self.matrix[2, :3]) / np.asarray(self.spacing_mm)))

    def with_spacing(self, spacing_mm: tuple[float, float, float]) -> Grid:
        """The grid that covers the same space with another spacing; the voxel corners (not centres) stay in place."""
        old = np.asarray(self.spacing_mm)
        new = np.asarray(spacing_mm, dtype=float)
        if np.allclose(old, new, rtol=1e-3):
            return self
        shape = np.maximum(np.round(np.asarray(self.shape) * old / new), 1).astype(int)
        affine = self.matrix.copy()
        affine[:3, :3] = affine[:3, :3] / old * new
        shift = 0.5 * (new / old - 1)  # centre of the first new voxel, in old voxels
        affine[:3, 3] = self.matrix[:3, :3] @ shift + self.matrix[:3, 3]
        return Grid.of(shape, affine)


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def resample(array: NDArray[Any], source: Grid, target: Grid, interpolation: str = "linear") -> NDArray[Any]:
    """Move an array (I, J, K) from one grid to another.

    Grids whose voxels coincide (axes turned or flipped only) are moved without interpolation. Outside the source the value
    of its nearest voxel is taken.

    Args:
        interpolation: nearest, linear, bspline, or gaussian (SimpleITK's label-Gaussian, for labels).

    Returns:
        The array on `target`; float32 for linear and bspline, else of the input's type.
    """
    turned, grid = _turn_towards(array, source, target)
    if not grid.difference(target):
        return np.ascontiguousarray(turned)
    return _interpolate(turned, grid, target, interpolation)


def resample_slab(
    array: NDArray[Any], source: Grid, target: Grid, first: int, stop: int, interpolation: str = "linear"
) -> NDArray[Any]:
    """Slices `first` to `stop` - 1 along k of `resample(array, source, target)`, to rounding; only what lies near is read.

    Args:
        interpolation: nearest or linear.
    """
    turned, grid = _turn_towards(array, source, target)
    if not grid.difference(target):
        return np.ascontiguousarray(turned[:, :, first:stop])
    wanted = target.part((0, 0, first), (*target.shape[:2], stop))
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    corners[:, :3] *= np.asarray(wanted.shape) - 1
    there = (corners @ (np.linalg.inv(grid.matrix) @ wanted.matrix).T)[:, :3]
    last = np.asarray(grid.shape) - 1
    low = np.clip(np.floor(there.min(axis=0)) - 2, 0, last).astype(int)  # beyond its border the nearest voxel counts
    high = np.clip(np.ceil(there.max(axis=0)) + 2, 0, last).astype(int) + 1
    near = turned[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    return _interpolate(near, grid.part(low, high), wanted, interpolation)


def _turn_towards(array: NDArray[Any], source: Grid, target: Grid) -> tuple[NDArray[Any], Grid]:
    """Turn and flip the axes of `source` to be closest to those of `target`; no voxel value changes."""
    import nibabel as nib

    if source.spatial_dims == 2:
        return array, source
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(source.matrix), nib.orientations.io_orientation(target.matrix)
    )
    turned = nib.orientations.apply_orientation(array, turn)
    return turned, Grid.of(turned.shape, source.matrix @ nib.orientations.inv_ornt_aff(turn, source.shape))


def _interpolate(array: NDArray[Any], source: Grid, target: Grid, interpolation: str) -> NDArray[Any]:
    import SimpleITK as sitk  # noqa: N813

    image = to_sitk(array, source)
    if interpolation in ("linear", "bspline"):
        image = sitk.Cast(image, sitk.sitkFloat32)
    filters = {
        "nearest": sitk.sitkNearestNeighbor,
        "linear": sitk.sitkLinear,
        "bspline": sitk.sitkBSpline,
        "gaussian": sitk.sitkLabelGaussian,
    }
    if min(array.shape) < 4 and interpolation == "bspline":
        interpolation = "linear"  # a cubic spline needs four voxels
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(to_sitk(np.zeros(target.shape, np.uint8), target))
    resampler.SetInterpolator(filters[interpolation])
    resampler.SetUseNearestNeighborExtrapolator(True)
    return np.ascontiguousarray(sitk.GetArrayFromImage(resampler.Execute(image)).T)


def settled(affine: NDArray[Any], spacing_mm: Any) -> NDArray[np.float64]:
    """The affine (4, 4) with columns of just these lengths, where they have them but for rounding to float32.

    NIfTI holds voxel sizes and an affine, both in float32; other formats hold voxel sizes and directions. This makes the same
    numbers of the same volume in any of them, to the last bit.
    """
    matrix = np.array(affine, dtype=np.float64)
    sizes, lengths = np.asarray(spacing_mm, dtype=np.float64), np.sqrt((matrix[:3, :3] ** 2).sum(axis=0))
    if np.isfinite(lengths).all() and np.allclose(lengths, sizes, rtol=1e-5, atol=0) and (lengths > 0).all():
        matrix[:3, :3] = matrix[:3, :3] / lengths * sizes
    rounded: NDArray[np.float64] = np.round(matrix / _STEP_MM) * _STEP_MM + 0.0  # no -0
    return rounded


def grid_from_lps(sizes: Sequence[int], spacing: Sequence[float], origin: Sequence[float], direction: Any) -> Grid:
    """The grid of an image as ITK tells it: sizes, spacing and origin of 2 or more axes, directions row by row, LPS world.

    Axes beyond the third are left out; a third one of size 1, a millimetre long, is given to a 2D image.
    """
    count = min(len(sizes), 3)
    rows = np.asarray(direction, dtype=np.float64).reshape(len(sizes), len(sizes))
    axes, lengths, affine = np.eye(3), np.ones(3), np.eye(4)
    axes[:count, :count] = rows[:count, :count]
    lengths[:count] = spacing[:count]
    affine[:3, :3] = LPS_RAS @ axes * lengths
    affine[:count, 3] = (LPS_RAS[:count, :count] @ np.asarray(origin[:count])).tolist()
    return Grid.of((*sizes, 1)[:3], settled(affine, lengths))


def to_sitk(array: NDArray[Any], grid: Grid) -> Any:
    """A SimpleITK image of an array (I, J, K): LPS world, direction made orthonormal against rounding."""
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    lps = LPS_RAS @ grid.matrix[:3]
    left, _, right = np.linalg.svd(lps[:, :3] / np.asarray(grid.spacing_mm))
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin([float(x) for x in lps[:, 3]])
    image.SetDirection([float(x) for x in (left @ right).ravel()])
    return image
