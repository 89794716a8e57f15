"""What a lossy codec keeps: PSNR, SSIM and the mean absolute error by range of intensity, in scanner units where there are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

INF = math.inf
HOUNSFIELD = {
    "air": (-INF, -900.0),
    "lung": (-900.0, -500.0),
    "fat": (-150.0, -30.0),
    "soft tissue": (-30.0, 100.0),
    "bone": (200.0, INF),
}
SSIM_WINDOW = 11


@dataclass(frozen=True)
class IntensityRanges:
    """Ranges of intensity that are judged each by itself.

    Attributes:
        bounds: name -> (low, high) in [-1, 1] units; low counts, high doesn't.
        unit: "HU" or "" for [-1, 1]. scale: how many of the unit are 1 in [-1, 1] units.
    """

    bounds: Mapping[str, tuple[float, float]]
    unit: str = ""
    scale: float = 1.0


THIRDS = IntensityRanges({"dark": (-INF, -1 / 3), "middle": (-1 / 3, 1 / 3), "bright": (1 / 3, INF)})


def tissues_in_window(low: float, high: float) -> IntensityRanges:
    """The tissues of CT whose ranges end inside a window [low, high] HU; what a window cuts off can't be told apart."""
    scale = (high - low) / 2.0
    kept = {
        name: bounds
        for name, bounds in HOUNSFIELD.items()
        if all(math.isinf(bound) or low <= bound <= high for bound in bounds)
    }
    middle = (high + low) / 2.0
    return IntensityRanges(
        {name: ((a - middle) / scale, (b - middle) / scale) for name, (a, b) in kept.items()}, "HU", scale
    )


def reconstruction_scores(real: torch.Tensor, decoded: torch.Tensor, ranges: IntensityRanges) -> dict[str, Any]:
    """Scores of decoded images (N, 1, A, B) against the real ones, both in [-1, 1], as a JSON-able dictionary.

    Returns:
        slices; psnr_db (peak 2, of the mean squared error over all slices; None where nothing differs); ssim (mean over
        slices, Gaussian window of 11 voxels, smaller on smaller slices); mean_absolute_error, in `unit`; ranges: name ->
        {mean_absolute_error (None without voxels), voxels}, a voxel being in the range that its real value is in.
    """
    difference = (decoded - real).double()
    squared, absolute = float(difference.square().mean()), difference.abs()
    return {
        "slices": len(real),
        "psnr_db": 10.0 * math.log10(4.0 / squared) if squared else None,
        "ssim": _ssim(real, decoded),
        "unit": ranges.unit or "of [-1, 1]",
        "mean_absolute_error": float(absolute.mean()) * ranges.scale,
        "ranges": {
            name: _error_inside((real >= low) & (real < high), absolute, ranges.scale)
            for name, (low, high) in ranges.bounds.items()
        },
    }


def reconstruction_table(scores: Mapping[str, Any]) -> list[str]:
    """The scores as lines of text."""
    psnr = "exact" if scores["psnr_db"] is None else f"{scores['psnr_db']:.1f} dB"
    parts = {"all": {"mean_absolute_error": scores["mean_absolute_error"], "voxels": None}, **scores["ranges"]}
    lines = [f"PSNR {psnr}, SSIM {scores['ssim']:.3f}", f"mean absolute error, {scores['unit']}:"]
    for name, part in parts.items():
        error = "-" if part["mean_absolute_error"] is None else f"{part['mean_absolute_error']:.3g}"
        voxels = "" if part["voxels"] is None else f"  ({part['voxels']} voxels)"
        lines.append(f"  {name:<12}{error:>8}{voxels}")
    return lines


def _error_inside(inside: torch.Tensor, absolute: torch.Tensor, scale: float) -> dict[str, Any]:
    voxels = int(inside.sum())
    return {"mean_absolute_error": float(absolute[inside].mean()) * scale if voxels else None, "voxels": voxels}


def _ssim(real: torch.Tensor, decoded: torch.Tensor) -> float:
    from monai.metrics.regression import SSIMMetric

    shortest = min(real.shape[-2:])
    window = min(SSIM_WINDOW, shortest - (shortest + 1) % 2)
    metric = SSIMMetric(spatial_dims=2, data_range=2.0, win_size=window)
    return float(metric(decoded, real).mean())
