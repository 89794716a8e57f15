"""Do the slices of a synthetic volume hold together as those of the real volume it was made from?

All measures compare a synthetic volume (I, J, K) with its real source on one grid, along the slice axis, inside the body.
Real neighbouring slices differ too, so the goal is always the value of the real volume, not the smoothest one: a
difference ratio below 1 means slices too alike, above 1 slices that flicker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Double = NDArray[np.float64]

BACKGROUND = -0.95
SSIM_SIGMA = 1.5
_TINY = 1e-12


@dataclass(frozen=True)
class Coherence:
    """How neighbouring slices of a synthetic volume fit, against the real one.

    Attributes:
        difference_ratio: mean absolute difference of neighbouring slices, synthetic / real; 1 is best.
        ssim_gap, ncc_gap: structural similarity and normalised correlation of neighbouring slices, synthetic - real; 0 is best,
            below 0 the slices fit worse than real ones.
        jump_ratio: mean absolute step of the slices' mean intensity, synthetic / real; 1 is best.
        anisotropy_gap: log10 of the power of fine detail along the slice axis against that in plane, synthetic - real; 0 is
            best, above 0 there are streaks or flicker along the axis that the real volume hasn't.
    """

    difference_ratio: float
    ssim_gap: float
    ncc_gap: float
    jump_ratio: float
    anisotropy_gap: float


def body(image: Array) -> Mask:
    """Where a prepared real volume in [-1, 1] shows more than background; all of it where that is less than a hundredth."""
    inside: Mask = image > BACKGROUND
    return inside if inside.mean() >= 0.01 else np.ones_like(inside)


def coherence(real: Array, synthetic: Array, mask: Mask, axis: int) -> Coherence:
    """Measure a synthetic volume against its source.

    Args:
        real, synthetic: (I, J, K). mask: the body, (I, J, K). axis: of slicing.

    Raises:
        ValueError: differing shapes, or fewer than two slices.
    """
    if not real.shape == synthetic.shape == mask.shape or real.ndim != 3:
        raise ValueError(f"shapes differ: real {real.shape}, synthetic {synthetic.shape}, mask {mask.shape}")
    if real.shape[axis] < 2:
        raise ValueError(f"coherence needs two slices or more along axis {axis}, got {real.shape}")
    inside = np.moveaxis(mask, axis, 0)
    one, other = (np.moveaxis(volume, axis, 0).astype(np.float64) for volume in (real, synthetic))
    return Coherence(
        difference_ratio=_ratio(slice_difference(other, inside), slice_difference(one, inside)),
        ssim_gap=neighbour_ssim(other, inside) - neighbour_ssim(one, inside),
        ncc_gap=neighbour_ncc(other, inside) - neighbour_ncc(one, inside),
        jump_ratio=_ratio(mean_jump(other, inside), mean_jump(one, inside)),
        anisotropy_gap=detail_anisotropy(other, inside) - detail_anisotropy(one, inside),
    )


def slice_difference(volume: Array, mask: Mask) -> float:
    """Mean |v[s + 1] - v[s]| of a volume (S, A, B) where both voxels are in the mask; NaN where there are none."""
    both = mask[1:] & mask[:-1]
    return float(np.abs(np.diff(volume, axis=0))[both].mean()) if both.any() else float("nan")


def neighbour_ncc(volume: Array, mask: Mask) -> float:
    """Mean Pearson correlation of neighbouring slices (S, A, B) inside the mask; slices of one value are left out."""
    found = []
    for first, second, inside in zip(volume[:-1], volume[1:], mask[1:] & mask[:-1], strict=True):
        a, b = first[inside], second[inside]
        if len(a) > 1 and a.std() > _TINY and b.std() > _TINY:
            found.append(float(np.corrcoef(a, b)[0, 1]))
    return float(np.mean(found)) if found else float("nan")


def neighbour_ssim(volume: Array, mask: Mask, data_range: float = 2.0) -> float:
    """Mean SSIM (Wang et al. 2004, Gaussian window of 1.5 voxels) of neighbouring slices (S, A, B) inside the mask."""
    from scipy.ndimage import gaussian_filter

    def smooth(stack: Double) -> Double:
        blurred: Double = gaussian_filter(stack, (0.0, SSIM_SIGMA, SSIM_SIGMA), truncate=3.5)
        return blurred

    a, b = np.asarray(volume[:-1], np.float64), np.asarray(volume[1:], np.float64)
    both = mask[1:] & mask[:-1]
    if not both.any():
        return float("nan")
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_a, mean_b = smooth(a), smooth(b)
    variance_a, variance_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    return float(similarity[both].mean())


def mean_jump(volume: Array, mask: Mask) -> float:
    """Mean absolute step of the mean intensity from a slice to the next, over the voxels that are in the mask in both."""
    both = mask[1:] & mask[:-1]
    steps = [abs(float(step[inside].mean())) for step, inside in zip(np.diff(volume, axis=0), both, strict=True)
             if inside.any()]  # fmt: skip
    return float(np.mean(steps)) if steps else float("nan")


def detail_anisotropy(volume: Array, mask: Mask) -> float:
    """log10 of the mean square second difference along axis 0 over that along the other two, inside the mask.

    The second difference is a high-pass filter, so this compares the finest detail through the plane with that in plane.
    """
    along = [_second_difference(volume, mask, axis) for axis in range(3)]
    in_plane = float(np.nanmean(along[1:])) if not np.isnan(along[1:]).all() else float("nan")
    return float(np.log10((along[0] + _TINY) / (in_plane + _TINY)))


def reslices(volumes: Sequence[Array], axis: int, size: tuple[int, int], every: int = 2) -> tuple[Array, list[int]]:
    """Planes along the slice axis (coronal and sagittal ones of axial slices), for a two-sample test.

    Args:
        volumes: (I, J, K) each. axis: of slicing. size: of the planes, (in-plane side, slices), cropped about the centre.

    Returns:
        (planes (N, *size), number of the volume each comes from).
    """
    planes, groups = [], []
    for number, volume in enumerate(volumes):
        for across in (index for index in range(3) if index != axis):
            in_plane = 3 - axis - across
            moved = volume.transpose(across, in_plane, axis)[::every]
            first = [(side - wanted) // 2 for side, wanted in zip(moved.shape[1:], size, strict=True)]
            if min(first) < 0:
                raise ValueError(f"planes of {moved.shape[1:]} can't be cropped to {size}")
            planes.append(moved[:, first[0] : first[0] + size[0], first[1] : first[1] + size[1]])
            groups += [number] * len(moved)
    return np.concatenate(planes), groups


def _second_difference(volume: Array, mask: Mask, axis: int) -> float:
    moved, inside = np.moveaxis(volume, axis, 0), np.moveaxis(mask, axis, 0)
    if len(moved) < 3:
        return float("nan")
    there = inside[2:] & inside[1:-1] & inside[:-2]
    return float((np.diff(moved, n=2, axis=0)[there] ** 2).mean()) if there.any() else float("nan")


def _ratio(synthetic: float, real: float) -> float:
    return synthetic / max(real, _TINY)
