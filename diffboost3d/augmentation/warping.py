"""Warps: smooth displacements that move image, edges and label of a volume alike, and the measure of their folding.

A warp pulls: the warped volume has at x what the volume had at x + u(x). Beyond its border a volume is mirrored, so that no
stripes appear. Displacements are kept on nodes that may be coarser than the voxels, since they are smooth; memory at full
resolution is that of a few slices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Float = NDArray[np.float32]
Size = tuple[int, int, int]
_SLAB_VOXELS = 2**21


@dataclass(frozen=True)
class Warp:
    """A displacement of a volume's voxels.

    Attributes:
        displacement: (3, i, j, k), in mm along the voxel axes, on nodes spread evenly from the first to the last voxel of
            each axis; an axis of one voxel has one node.
        shape: (I, J, K) of the volume.
        spacing_mm: of its voxels.
    """

    displacement: Float
    shape: Size
    spacing_mm: tuple[float, float, float]

    def positions(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Slabs along the first axis, and the voxel positions (3, slab, J, K) that each pulls from."""
        nodes = torch.from_numpy(np.ascontiguousarray(self.displacement))
        step = max(1, _SLAB_VOXELS // max(1, self.shape[1] * self.shape[2]))
        for first in range(0, self.shape[0], step):
            slab = slice(first, min(first + step, self.shape[0]))
            here = torch.stack(torch.meshgrid(*_axes(self.shape, slab), indexing="ij"))
            ratio = [(n - 1) / max(1, size - 1) for n, size in zip(nodes.shape[1:], self.shape, strict=True)]
            moved = sample_linear(nodes, here * torch.tensor(ratio)[:, None, None, None], "border")
            yield slab, (here + moved / torch.tensor(self.spacing_mm)[:, None, None, None]).numpy()

    def jacobian_range(self) -> tuple[float, float]:
        """Smallest and largest local change of volume (1: none, at or below 0: folded), over all corners of all cells."""
        spacing = node_spacing(self.displacement.shape[1:], self.shape, self.spacing_mm)
        determinants = corner_determinants(self.displacement, spacing)
        return float(determinants.min()), float(determinants.max())


def identity(shape: Size, spacing_mm: Sequence[float]) -> Warp:
    """The warp that moves nothing."""
    i, j, k = (float(space) for space in spacing_mm)
    nodes = [min(2, size) for size in shape]
    return Warp(np.zeros((3, *nodes), np.float32), shape, (i, j, k))


def nodes_for(shape: Sequence[int], spacing_mm: Sequence[float], voxels: int) -> Size:
    """Nodes of a grid over a volume: the finest near isotropic one of at most about `voxels` nodes, and never finer than it."""

    def at(distance: float) -> Size:
        i, j, k = (
            min(size, max(2, math.ceil((size - 1) * space / max(distance, space)) + 1)) if size > 1 else 1
            for size, space in zip(shape, spacing_mm, strict=True)
        )
        return (i, j, k)

    distance = min(space for space, size in zip(spacing_mm, shape, strict=True) if size > 1) if max(shape) > 1 else 1.0
    while math.prod(at(distance)) > voxels and max(at(distance)) > 2:
        distance *= 1.05
    return at(distance)


def node_spacing(nodes: Sequence[int], shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """Distance of neighbouring nodes in mm; that of the voxels on an axis of one voxel."""
    i, j, k = (
        (size - 1) * space / (n - 1) if n > 1 else space
        for n, size, space in zip(nodes, shape, spacing_mm, strict=True)
    )
    return (i, j, k)


def sample_linear(volumes: torch.Tensor, positions: torch.Tensor, padding: str) -> torch.Tensor:
    """Linear interpolation of volumes (C, I, J, K) at voxel positions (3, i, j, k); padding: border or reflection."""
    sizes = torch.tensor(volumes.shape[1:], dtype=positions.dtype).clamp_min(2)[:, None, None, None]
    scaled = (2 * positions / (sizes - 1) - 1).flip(0).permute(1, 2, 3, 0)[None]
    for axis, size in enumerate(reversed(volumes.shape[1:])):
        if size == 1:  # one voxel: wherever one asks, there is no other value
            scaled = torch.cat([scaled[..., :axis], torch.zeros_like(scaled[..., :1]), scaled[..., axis + 1 :]], -1)
    return torch.nn.functional.grid_sample(
        volumes[None], scaled, mode="bilinear", padding_mode=padding, align_corners=True
    )[0]


def to_nodes(volumes: NDArray[Any], nodes: Sequence[int]) -> Float:
    """Volumes (C, I, J, K) at the nodes of a coarser grid, smoothed before, or of a finer one, by linear interpolation."""
    from scipy.ndimage import gaussian_filter

    smooth = volumes.astype(np.float32)
    sigma = [0.5 * max(0.0, size / n - 1) for size, n in zip(volumes.shape[1:], nodes, strict=True)]
    if any(sigma):
        smooth = np.stack([gaussian_filter(volume, sigma, mode="nearest") for volume in smooth])
    moved = torch.nn.functional.interpolate(
        torch.from_numpy(smooth)[None], size=tuple(nodes), mode="trilinear", align_corners=True
    )
    return np.asarray(moved[0].numpy(), dtype=np.float32)


def warp_image(image: Float, warp: Warp) -> Float:
    """The warped image (I, J, K), by cubic splines, which keep it sharp; never outside the range it had."""
    from scipy.ndimage import map_coordinates, spline_filter

    if not warp.displacement.any():
        return image.copy()
    long = [axis for axis, size in enumerate(image.shape) if size > 1]
    squeezed = image[tuple(slice(None) if axis in long else 0 for axis in range(3))]
    splines = spline_filter(squeezed, order=3, output=np.float32, mode="mirror")
    warped = np.empty_like(image)
    for slab, positions in warp.positions():
        within = positions[long].reshape(len(long), *(positions.shape[1 + axis] for axis in range(3)))
        warped[slab] = map_coordinates(splines, within, order=3, mode="mirror", prefilter=False)
    clipped: Float = np.clip(warped, image.min(), image.max())
    return clipped


def warp_label(label: NDArray[np.uint8], warp: Warp) -> NDArray[np.uint8]:
    """The warped label (I, J, K): at each voxel the value whose share is largest there, so that borders are smooth."""
    if not warp.displacement.any():
        return label.copy()
    values = np.unique(label)
    warped = np.empty_like(label)
    for slab, positions in warp.positions():
        places = torch.from_numpy(positions)
        best = torch.full(places.shape[1:], -1.0)
        found = torch.zeros(places.shape[1:], dtype=torch.uint8)
        for value in values:
            share = sample_linear(torch.from_numpy((label == value).astype(np.float32))[None], places, "reflection")[0]
            found = torch.where(share > best, torch.tensor(int(value), dtype=torch.uint8), found)
            best = torch.maximum(best, share)
        warped[slab] = found.numpy()
    return warped


def corner_determinants(displacement: Float, spacing_mm: Sequence[float]) -> Float:
    """Determinant of the Jacobian of x + u(x) at the eight corners of every cell, (8, i - 1, j - 1, k - 1).

    They are those of the interpolated map itself. An axis of one node counts as not moved.
    """
    field = displacement
    for axis in range(3):
        if field.shape[1 + axis] == 1:
            field = np.concatenate([field, field], axis=1 + axis)
    rows = [np.diff(field, axis=1 + axis) / space for axis, space in enumerate(spacing_mm)]
    corners = []
    for number in range(8):
        ends = [(number >> axis) & 1 for axis in range(3)]
        columns = []
        for axis in range(3):
            cut = [
                slice(None) if other == axis else slice(end, size - 1 + end)
                for other, (end, size) in enumerate(zip(ends, field.shape[1:], strict=True))
            ]
            columns.append(rows[axis][(slice(None), *cut)])
        jacobian = np.stack(columns, axis=1) + np.eye(3, dtype=np.float32)[:, :, None, None, None]
        corners.append(np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1))))
    return np.stack(corners).astype(np.float32)


def _axes(shape: Size, slab: slice) -> list[torch.Tensor]:
    return [torch.arange(slab.start, slab.stop).float(), *(torch.arange(size).float() for size in shape[1:])]
