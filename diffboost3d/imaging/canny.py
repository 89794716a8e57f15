"""Canny's edges in 3D (Canny 1986): thin, binary, with thresholds that follow the volume's own contrast.

SimpleITK finds where the second derivative along the gradient changes its sign. Its filter takes differences between
neighbouring voxels whatever their size, so that in a volume of thick slices all gradients would seem to run across the
slices. Therefore smoothing and thresholds are done here, in mm, and the filter works on (nearly) cubic voxels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffboost3d.imaging.edges import Float, gradient_per_mm, smooth_in_mm

Mask = NDArray[np.bool_]

FAINTEST = 1e-3  # of an image in [-1, 1]: an eighth of a grey step of 8 bits; rounding and ringing lie below
SLAB, MARGIN = 16, 2  # slices filtered at once, which bounds the memory, and slices on both sides that they depend on


def canny_edges(
    image: Float,
    spacing_mm: Sequence[float],
    sigma_mm: float = 1.0,
    quantile: float = 0.98,
    thresholds: Sequence[float] = (0.25, 0.5),
) -> Float:
    """1 on edges, 0 elsewhere, (I, J, K) as `image`.

    Kept are the edges whose gradient reaches the high threshold, and those above the low one that are connected to them
    (by faces, edges or corners).

    Args:
        image: (I, J, K) in [-1, 1]; one with an axis of size 1 is filtered in 2D.
        spacing_mm: voxel size along i, j, k.
        sigma_mm: standard deviation of the Gaussian; one below half a voxel smooths next to nothing.
        quantile: the gradient at this quantile of the volume's edges counts as 1. Of its edges, not of all voxels, so that
            an empty background has no say.
        thresholds: low and high, on that scale.
    """
    smooth = smooth_in_mm(image, spacing_mm, sigma_mm)
    gradient = gradient_per_mm(smooth, spacing_mm)
    strength = sigma_mm * np.sqrt(sum(g * g for g in gradient))
    edges = _sign_changes(smooth, gradient, spacing_mm) & (strength > FAINTEST)
    if not edges.any():
        return np.zeros(image.shape, np.float32)
    low, high = np.quantile(strength[edges], quantile) * np.asarray(thresholds)
    return _linked(edges & (strength >= low), edges & (strength >= high)).astype(np.float32)


def _sign_changes(smooth: Float, gradient: list[Float], spacing_mm: Sequence[float]) -> Mask:
    """Voxels where the gradient has a maximum along its own direction, slab by slab along the coarsest axis."""
    finest = min((space for space, size in zip(spacing_mm, smooth.shape, strict=True) if size > 1), default=1.0)
    parts = [
        max(1, round(space / finest)) if size > 1 else 1 for space, size in zip(spacing_mm, smooth.shape, strict=True)
    ]
    axis = int(np.argmax(parts))
    if parts[axis] == 1:
        return _filtered(smooth)
    steepest = np.argmax(np.abs(gradient), axis=0)
    found = []
    for first in range(0, smooth.shape[axis], SLAB):
        start = max(0, first - MARGIN)
        slices = np.arange(start, min(smooth.shape[axis], first + SLAB + MARGIN))
        slab = _in_cubic_voxels(np.take(smooth, slices, axis), np.take(steepest, slices, axis), parts)
        found.append(np.take(slab, np.arange(first - start, min(first - start + SLAB, len(slices))), axis))
    return np.concatenate(found, axis)


def _in_cubic_voxels(smooth: Float, steepest: NDArray[np.intp], parts: list[int]) -> Mask:
    """`_filtered` with each axis divided into `parts`, on the voxels of `smooth`.

    An edge counts where it meets the middle of a voxel, which keeps slanted surfaces thin in every slice. One that lies
    flat between two slices counts for the nearer.
    """
    from scipy.ndimage import maximum_filter1d, zoom

    sizes = [(size - 1) * part + 1 for size, part in zip(smooth.shape, parts, strict=True)]
    factors = [fine / size for fine, size in zip(sizes, smooth.shape, strict=True)]
    fine = _filtered(zoom(smooth, factors, order=1))
    middles = tuple(slice(None, None, part) for part in parts)
    found = fine[middles]
    for axis, part in enumerate(parts):
        if part > 1:
            found = found | (maximum_filter1d(fine, part | 1, axis=axis)[middles] & (steepest == axis))
    return found


def _filtered(smooth: Float) -> Mask:
    """SimpleITK's Canny filter without its smoothing and thresholds; in 2D where an axis has size 1."""
    import SimpleITK as sitk  # noqa: N813

    flat = next((axis for axis, size in enumerate(smooth.shape) if size == 1), None)
    image = sitk.GetImageFromArray(smooth if flat is None else smooth.squeeze(flat))
    none = [0.0] * image.GetDimension()
    edges = sitk.CannyEdgeDetection(image, lowerThreshold=0.0, upperThreshold=0.0, variance=none)
    return np.asarray(sitk.GetArrayFromImage(edges) > 0).reshape(smooth.shape)


def _linked(weak: Mask, strong: Mask) -> Mask:
    """The connected parts of `weak` that hold a voxel of `strong`."""
    from scipy.ndimage import label

    parts, _ = label(weak, structure=np.ones((3, 3, 3)))
    return np.isin(parts, np.unique(parts[strong]))
