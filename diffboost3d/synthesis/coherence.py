"""Noise that neighbouring slices share, so that independently denoised slices fit together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

NOISES = ("independent", "shared", "ar1", "smoothed")
FINE = 0.7  # voxels: a Gaussian of this deviation in plane takes away what is texture
PASSED_ON = 0.55  # of a correlation of the noise arrives in the texture: 0.33 of 0.6, hippocampus MRI
LARGEST_RHO = 0.9  # more leaves streaks along the slice axis
_LAGS = 4  # slices that are compared with one, itself included


def slice_noise(
    kind: str, shape: tuple[int, ...], rho: float, correlation_mm: float, spacing_mm: float, seed: int
) -> torch.Tensor:
    """Noise (S, ...) of the slices of one volume; every voxel is standard normal, whatever the kind.

    Args:
        kind: independent; shared: sqrt(rho) common + sqrt(1 - rho) own, so that any two slices correlate by rho; ar1:
            slices d mm apart correlate by exp(-d / correlation_mm), each being a spherical interpolation (slerp) of the
            one before and fresh noise; smoothed: white noise blurred along the axis, slices d mm apart correlate by
            exp(-(d / correlation_mm)^2).
        spacing_mm: distance of neighbouring slices.

    Raises:
        ValueError: an unknown kind.
    """
    random = torch.Generator().manual_seed(seed)
    own = torch.randn(shape, generator=random)
    if kind == "independent":
        return own
    if kind == "shared":
        common = torch.randn(shape[1:], generator=random)
        return math.sqrt(rho) * common + math.sqrt(1.0 - rho) * own
    if kind == "ar1":
        keep = math.exp(-spacing_mm / correlation_mm)
        for position in range(1, shape[0]):
            own[position] = keep * own[position - 1] + math.sqrt(1.0 - keep**2) * own[position]
        return own
    if kind == "smoothed":
        return _smoothed(own, correlation_mm / spacing_mm, random)
    raise ValueError(f"noise {kind!r} is unknown; allowed: {', '.join(NOISES)}")


def _smoothed(own: torch.Tensor, correlation: float, random: torch.Generator) -> torch.Tensor:
    """White noise (S + margins) blurred over S by a Gaussian whose autocorrelation falls to 1/e at `correlation` slices."""
    sigma = correlation / 2.0  # the autocorrelation of a Gaussian of that sigma is exp(-d^2 / (4 sigma^2))
    margin = math.ceil(4.0 * sigma)
    around = torch.randn(2 * margin, *own.shape[1:], generator=random)
    white = torch.cat([around[:margin], own, around[margin:]])
    weights = torch.exp(-0.5 * (torch.arange(-margin, margin + 1) / max(sigma, 1e-6)) ** 2)
    weights /= weights.square().sum().sqrt()  # so that the variance stays 1
    windows = [weights[at] * white[at : at + len(own)] for at in range(len(weights))]
    return torch.stack(windows).sum(dim=0)


def texture_correlation(image: NDArray[np.float32], axis: int) -> float:
    """How much the fine texture of neighbouring slices has in common, in [0, 1]; 0 with fewer than four slices.

    Detail that goes on through many slices is anatomy: its share, and how fast it fades, are told by slices that are two and
    three apart, along a straight line. What neighbours share beyond that is texture, as from interpolation or a slice profile.

    Args:
        image: (I, J, K) in [-1, 1]. axis: of slicing. What is cut off at -1 or 1 is left out.
    """
    from scipy.ndimage import gaussian_filter

    if image.shape[axis] < _LAGS:
        return 0.0
    before: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []
    sums = np.zeros((_LAGS, 3))
    for slice_ in np.moveaxis(image, axis, 0):
        before = [(slice_ - gaussian_filter(slice_, FINE), np.abs(slice_) < 1.0), *before[: _LAGS - 1]]
        detail, inside = before[0]
        for lag, (other, other_inside) in enumerate(before):
            both = inside & other_inside
            one, two = detail[both].astype(np.float64), other[both].astype(np.float64)
            sums[lag] += one @ two, one @ one, two @ two
    _, near, far, farther = sums[:, 0] / np.sqrt(np.maximum(sums[:, 1] * sums[:, 2], 1e-12))
    anatomy_near = min(max(2.0 * far - farther, 0.0), 1.0)
    anatomy = min(max(3.0 * far - 2.0 * farther, 0.0), 1.0)
    return float(np.clip((near - anatomy_near) / max(1.0 - anatomy, 1e-6), 0.0, 1.0))


def measured_rho(images: Sequence[NDArray[np.float32]], axis: int) -> float:
    """The share of noise that slices of such images should have in common, to a tenth.

    The median of their texture's correlation, and as much more as sampling loses of it.

    Args:
        images: (I, J, K) in [-1, 1] each; at least one.
    """
    texture = float(np.median([texture_correlation(image, axis) for image in images]))
    return round(min(texture / PASSED_ON, LARGEST_RHO), 1)
