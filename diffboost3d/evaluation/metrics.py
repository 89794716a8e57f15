"""Overlap and surface metrics between two label maps, in physical units, computed by MONAI on the joint box."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Metric:
    """A metric's name, its unit ("" for a fraction) and whether a larger value is better."""

    name: str
    unit: str
    higher_is_better: bool


METRICS: tuple[Metric, ...] = (
    Metric("dice", "", higher_is_better=True),
    Metric("hd95", "mm", higher_is_better=False),
    Metric("assd", "mm", higher_is_better=False),
    Metric("nsd", "", higher_is_better=True),
)


def metrics_in(unit: str) -> tuple[Metric, ...]:
    """Return `METRICS` with distances in `unit`, for instance "px" for images without a physical spacing."""
    return tuple(replace(metric, unit=unit) if metric.unit else metric for metric in METRICS)


def score_labels(
    prediction: NDArray[Any],
    truth: NDArray[Any],
    labels: Mapping[str, int],
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    ignored: int | None = None,
) -> dict[str, dict[str, float]]:
    """Score every label of a case: `{label name: {metric name: value}}`, in the order of `labels` and `METRICS`.

    `prediction` and `truth` are integer label maps of shape (I, J, K) on one grid; K == 1 is a 2D image, scored in 2D
    with the first two spacings. `labels` names the values to score; the value 0 is background and is left out. For
    images without a physical spacing pass spacings of 1: distances and the tolerance are then in pixels.

    Voxels whose truth is `ignored` count as background in both, so a prediction is cut off where it enters them.

    What each metric means, and what it is for empty masks, is said in `score_masks`.

    Raises ValueError for differing shapes, arrays that aren't (I, J, K), spacings that aren't positive numbers (one
    for each axis scored), or a tolerance that is negative or not finite.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction and truth differ in shape: {prediction.shape} and {truth.shape}")
    if truth.ndim != 3:
        raise ValueError(f"label maps must have the shape (I, J, K), got {truth.shape}")
    if truth.shape[2] == 1:
        prediction, truth = prediction[:, :, 0], truth[:, :, 0]
    if ignored is not None:
        prediction = np.where(truth == ignored, 0, prediction)
    spacing = _checked_spacing(spacing_mm, truth.ndim)
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise ValueError(f"the tolerance must be a finite number of mm, 0 or more, got {tolerance_mm}")
    return {
        name: score_masks(prediction == value, truth == value, spacing, tolerance_mm)
        for name, value in labels.items()
        if value not in (0, ignored)
    }


def score_masks(
    prediction: BoolArray, truth: BoolArray, spacing_mm: Sequence[float], tolerance_mm: float
) -> dict[str, float]:
    """Score one mask of shape (I, J, K) or (I, J) against another: `{metric name: value}`.

    The surface of a mask is the set of its voxels that have a background voxel, or the border of the image, across a
    face; distances run between centres of such voxels. With P and T the distances from each surface voxel of the
    prediction to the nearest one of the truth, and the reverse:

    - dice: 2 |A and B| / (|A| + |B|) over all voxels.
    - hd95: the larger of the 95th percentiles (linear interpolation) of P and of T. Not the percentile of both pooled,
      which some other packages report and which is mostly smaller.
    - assd: the mean of P and T pooled, so each surface voxel weighs the same. Not the mean of the two means.
    - nsd: the fraction of P and T pooled within `tolerance_mm`, bounds included; surface voxels are counted, not
      weighted by area (arXiv:2111.05408 as in MONAI without subvoxels; Nikolov et al. arXiv:1809.04430 weigh by area).

    Empty masks: both empty gives dice 1, nsd 1, hd95 0, assd 0. One empty gives dice 0, nsd 0, and hd95 and assd the
    diagonal of the image in mm, a finite worst case, so that a missed organ stays in the paired tests.
    """
    in_prediction, in_truth = bool(prediction.any()), bool(truth.any())
    if not in_prediction and not in_truth:
        return {"dice": 1.0, "hd95": 0.0, "assd": 0.0, "nsd": 1.0}
    if not in_prediction or not in_truth:
        diagonal = math.hypot(*(size * step for size, step in zip(truth.shape, spacing_mm, strict=True)))
        return {"dice": 0.0, "hd95": diagonal, "assd": diagonal, "nsd": 0.0}
    return _score_present(*crop_to_joint_box(prediction, truth), spacing_mm, tolerance_mm)


def crop_to_joint_box(first: BoolArray, second: BoolArray, margin: int = 1) -> tuple[BoolArray, BoolArray]:
    """Cut two masks of one shape to the box that holds both, with `margin` voxels of background on each side.

    The margin is background even where the box meets the border of the image: the border counts as surface. Two empty
    masks are returned as they are.
    """
    either = first | second
    if not either.any():
        return first, second
    window = []
    for axis in range(either.ndim):
        others = tuple(other for other in range(either.ndim) if other != axis)
        occupied = np.flatnonzero(either.any(axis=others))
        window.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    box = tuple(window)
    return np.pad(first[box], margin), np.pad(second[box], margin)


def _score_present(
    prediction: BoolArray, truth: BoolArray, spacing_mm: Sequence[float], tolerance_mm: float
) -> dict[str, float]:
    """Score two masks that each have at least one voxel."""
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_dice,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    # (B, C, I, J, K) with one channel, so the foreground sits where MONAI expects the background
    a = torch.from_numpy(np.ascontiguousarray(prediction))[None, None]
    b = torch.from_numpy(np.ascontiguousarray(truth))[None, None]
    spacing = [float(step) for step in spacing_mm]
    with warnings.catch_warnings():  # MONAI 1.6 warns of its own use of an option it has deprecated
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        values = {
            "dice": compute_dice(a, b, include_background=True),
            "hd95": compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing),
            "assd": compute_average_surface_distance(a, b, include_background=True, symmetric=True, spacing=spacing),
            "nsd": compute_surface_dice(a, b, [float(tolerance_mm)], include_background=True, spacing=spacing),
        }
    return {name: float(value.item()) for name, value in values.items()}


def _checked_spacing(spacing_mm: Sequence[float], axes: int) -> tuple[float, ...]:
    spacing = tuple(float(step) for step in spacing_mm)
    if not (len(spacing) == 3 or len(spacing) == axes) or not all(math.isfinite(s) and s > 0 for s in spacing):
        raise ValueError(f"spacing must be {axes} positive numbers of mm, one for each axis, got {spacing}")
    return spacing[:axes]
