"""Noise that neighbouring slices share, so that independently denoised slices fit together."""

from __future__ import annotations

import math

import torch

NOISES = ("independent", "shared", "ar1", "smoothed")


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
