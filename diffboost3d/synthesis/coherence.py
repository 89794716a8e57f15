"""Noise that neighbouring slices share, so that independently denoised slices fit together."""

from __future__ import annotations

import math

import torch

NOISES = ("independent", "shared", "ar1")


def slice_noise(
    kind: str, shape: tuple[int, ...], rho: float, correlation_mm: float, spacing_mm: float, seed: int
) -> torch.Tensor:
    """Noise (S, ...) of the slices of one volume; every voxel is standard normal, whatever the kind.

    Args:
        kind: independent; shared: sqrt(rho) common + sqrt(1 - rho) own, so that any two slices correlate by rho; ar1:
            slices d mm apart correlate by exp(-d / correlation_mm).
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
    raise ValueError(f"noise {kind!r} is unknown; allowed: {', '.join(NOISES)}")
