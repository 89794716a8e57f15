"""The control image: soft edges of an image in 3D, in mm, and the boundaries of its labels.

The default operator needs no weights: gradient magnitude at several Gaussian scales (Lindeberg 1998, gamma-normalised,
so that scales compare), thinned to its ridges, divided by a high quantile of the volume. Edges of one volume share one
scale, unlike edges that are normalised slice by slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

BOUNDARY_BLUR = 0.7  # voxels
BOUNDARY_REACH = 3  # voxels: how far that Gaussian is summed, four standard deviations


def soft_edges(
    image: Float,
    spacing_mm: Sequence[float],
    sigmas_mm: Sequence[float] = (1.0, 2.0),
    quantile: float = 0.98,
    thin: bool = True,
) -> Float:
    """Edge strength in [0, 1], (I, J, K) as `image`.

    Args:
        image: (I, J, K) in [-1, 1]; an axis of size 1 (2D) has no gradient.
        spacing_mm: voxel size along i, j, k.
        sigmas_mm: Gaussian scales; one smaller than a voxel acts on the axes where it is not.
        quantile: the strength at this quantile of the non-zero edges becomes 1.
        thin: keep ridges only.
    """
    strongest = np.zeros(image.shape, np.float32)
    direction: list[Float] = [np.zeros(image.shape, np.float32) for _ in range(3)]
    for sigma in sigmas_mm:
        gradient = gradient_per_mm(smooth_in_mm(image, spacing_mm, sigma), spacing_mm)
        strength = (sigma * np.sqrt(sum(g * g for g in gradient))).astype(np.float32)
        better = strength > strongest
        strongest = np.where(better, strength, strongest)
        direction = [np.where(better, new, old) for new, old in zip(gradient, direction, strict=True)]
    if thin:
        strongest = _thin(strongest, direction, spacing_mm)
    present = strongest[strongest > 1e-6]
    if present.size == 0:
        return strongest
    scaled: Float = np.clip(strongest / np.quantile(present, quantile), 0.0, 1.0).astype(np.float32)
    return scaled


def smooth_in_mm(image: Float, spacing_mm: Sequence[float], sigma_mm: float) -> Float:
    """`image` (I, J, K) behind a Gaussian of `sigma_mm`; axes of size 1 are left alone."""
    from scipy.ndimage import gaussian_filter

    sigma = [sigma_mm / space if size > 1 else 0.0 for space, size in zip(spacing_mm, image.shape, strict=True)]
    return np.asarray(gaussian_filter(image, sigma, mode="nearest", truncate=3.0), dtype=np.float32)


def gradient_per_mm(image: Float, spacing_mm: Sequence[float]) -> list[Float]:
    """Central differences per mm along i, j, k, each (I, J, K); zero along an axis of size 1."""
    return [
        np.gradient(image, space, axis=axis).astype(np.float32) if image.shape[axis] > 1 else np.zeros_like(image)
        for axis, space in enumerate(spacing_mm)
    ]


def _thin(strength: Float, gradient: list[Float], spacing_mm: Sequence[float]) -> Float:
    """Non-maximum suppression along the gradient (Canny 1986), then a slight blur so that ridges stay soft."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    length = np.sqrt(sum(g * g for g in gradient)) + 1e-12
    finest = min(space for space, size in zip(spacing_mm, strength.shape, strict=True) if size > 1)
    step = [g / length * (finest / space) for g, space in zip(gradient, spacing_mm, strict=True)]
    here = np.indices(strength.shape, dtype=np.float32)
    ridge = np.ones(strength.shape, bool)
    for sign in (-1.0, 1.0):
        there = [position + sign * shift for position, shift in zip(here, step, strict=True)]
        ridge &= strength >= map_coordinates(strength, there, order=1, mode="nearest")
    blur = [0.5 if size > 1 else 0.0 for size in strength.shape]
    return np.asarray(gaussian_filter(strength * ridge, blur, mode="nearest"), dtype=np.float32)


def label_boundaries(label: NDArray[Any], values: Sequence[int]) -> Float:
    """Soft boundaries of each label, (L, I, J, K) in [0, 1]: highest in the voxels on both sides of the border.

    A label that is absent, or fills the volume, has none.
    """
    from scipy.ndimage import gaussian_filter

    blur = [BOUNDARY_BLUR if size > 1 else 0.0 for size in label.shape]
    boundaries = np.zeros((len(values), *label.shape), np.float32)
    for index, value in enumerate(values):
        smooth = gaussian_filter((label == value).astype(np.float32), blur, mode="nearest")
        # 4 s (1 - s) is 1 where the smoothed mask is 1/2 and falls to 0 inside and outside.
        boundaries[index] = np.clip(4.0 * smooth * (1.0 - smooth), 0.0, 1.0)
    return boundaries


def control_channels(label_count: int, neighbours: int, control: str) -> int:
    """How many channels `control_image` makes."""
    return 2 * neighbours + 1 + (label_count if control == "separate" else 0)


class ControlSlices:
    """The control of every slice of a volume, made when it is asked for, so that it is never held whole.

    Channels: the edges of the slice and of `neighbours` slices on each side along `axis` (edge slices repeat), then, with
    `control="separate"`, one boundary channel a label (zero without a label). With `control="added"` the boundaries are
    added to the edges and clipped, as published; with `control="edges"` there are none.

    Args:
        edge: (I, J, K) in [0, 1]. label: (I, J, K), or None. values: of the labels that have boundaries.
        axis: of slicing.
    """

    def __init__(
        self, edge: Float, label: NDArray[Any] | None, values: Sequence[int], axis: int, neighbours: int, control: str
    ) -> None:
        self._edge = np.moveaxis(edge, axis, 0)
        self._label = None if label is None else np.moveaxis(label, axis, 0)
        self._values, self._axis, self._neighbours, self._added = values, axis, neighbours, control == "added"
        self._edges_alone = control == "edges"

    def slices(self, first: int, stop: int) -> Float:
        """Slices `first` to `stop` - 1: (S, C, A, B) in [0, 1]."""
        count, near = len(self._edge), self._neighbours
        low, high = max(0, first - near), min(count, stop + near)
        edge = self._edge[low:high]
        if self._added:
            edge = np.clip(edge + self._boundaries(low, high).sum(axis=0), 0.0, 1.0)
        positions = np.arange(first, stop)
        shifted = [edge[np.clip(positions + shift, 0, count - 1) - low] for shift in range(-near, near + 1)]
        stacked = np.stack(shifted, axis=1).astype(np.float32)
        if self._added or self._edges_alone:
            return stacked
        return np.concatenate([stacked, np.moveaxis(self._boundaries(first, stop), 0, 1)], axis=1)

    def _boundaries(self, first: int, stop: int) -> Float:
        """Of those slices, (L, S, A, B), as they are in the whole volume."""
        if self._label is None:
            return np.zeros((len(self._values), stop - first, *self._edge.shape[1:]), np.float32)
        low, high = max(0, first - BOUNDARY_REACH), min(len(self._label), stop + BOUNDARY_REACH)
        around = label_boundaries(np.moveaxis(self._label[low:high], 0, self._axis), self._values)
        return np.moveaxis(around, self._axis + 1, 1)[:, first - low : stop - low]


def control_image(
    edge: Float, label: NDArray[Any] | None, values: Sequence[int], axis: int, neighbours: int, control: str
) -> Float:
    """The control of every slice, (C, I, J, K) in [0, 1]; see `ControlSlices`."""
    slices = ControlSlices(edge, label, values, axis, neighbours, control).slices(0, edge.shape[axis])
    return np.ascontiguousarray(np.moveaxis(slices, 0, axis + 1))
