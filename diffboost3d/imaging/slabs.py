"""Slabs: what is written comes in blocks of slices (I, J, n) along k, so that it need not be held whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

SLAB = 16  # slices that are read or written at once


def slabs_of(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """An array (I, J, K) in slabs."""
    for first in range(0, array.shape[2], SLAB):
        yield array[:, :, first : first + SLAB]


def fitting(slabs: Iterable[NDArray[Any]], shape: tuple[int, int, int]) -> Iterator[NDArray[Any]]:
    """The slabs themselves. Raises ValueError where they are not those of a volume of that shape."""
    i, j, k = shape
    seen = 0
    for slab in slabs:
        if slab.shape[:2] != (i, j):
            raise ValueError(f"slices of {slab.shape[:2]} voxels; the template has {(i, j)}")
        seen += slab.shape[2]
        yield slab
    if seen != k:
        raise ValueError(f"{seen} slices; the template has {k}")


def stored(values: NDArray[Any], dtype: Any, slope: float = 1.0, intercept: float = 0.0) -> NDArray[Any]:
    """The numbers that a file of that type and scaling holds for values; integers are rounded and clipped to the type."""
    raw = (values.astype(np.float64) - intercept) / slope
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        raw = np.clip(np.round(raw), limits.min, limits.max)
    return raw.astype(dtype)
