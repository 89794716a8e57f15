"""How fine-grained an image is along each axis: what a refiner is told of the scan whose texture it is to make."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffboost3d.imaging.channels import channels_of

CUT_OFF = 0.98  # values beyond lie at the border of [-1, 1], where detail is cut off
LEAST = 1e-3


def texture_of(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logarithm of the root mean square second difference along each axis, (3 N,); what is cut off at -1 or 1 is left out.

    Args:
        image: (I, J, K) or (N, I, J, K) in [-1, 1].
    """
    found = [_along(channel, axis) for channel in channels_of(image) for axis in range(3)]
    return np.asarray(found, np.float32)


def _along(image: NDArray[np.float32], axis: int) -> float:
    moved = np.moveaxis(image, axis, 0)
    if len(moved) < 3:
        return math.log(LEAST)
    squares, count = 0.0, 0
    for before, own, after in zip(moved[:-2], moved[1:-1], moved[2:], strict=True):
        inside = np.maximum(np.maximum(np.abs(before), np.abs(own)), np.abs(after)) < CUT_OFF
        second = (before - 2 * own + after)[inside]
        squares, count = squares + float(second @ second), count + second.size
    return math.log(math.sqrt(squares / max(count, 1)) + LEAST)


def spread_of(numbers: Sequence[NDArray[np.float32]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, standard deviation) of each number over images, to bring them to about one scale."""
    stacked = np.stack(numbers).astype(np.float64)
    return tuple(stacked.mean(axis=0).tolist()), tuple(np.maximum(stacked.std(axis=0), 0.05).tolist())
