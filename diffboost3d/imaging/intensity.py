"""One invertible intensity map per volume: scanner units (HU, arbitrary MR units, grey values) to [-1, 1] and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class IntensityMap:
    """Linear from [low, high] to [-1, 1], clipped.

    Attributes:
        kind: ct_window or percentiles; how the bounds were found.
        low, high: in `unit`; low < high.
        unit: "HU" for CT, else "".
    """

    kind: str
    low: float
    high: float
    unit: str = ""

    def forward(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """Units to [-1, 1]."""
        scaled = (array.astype(np.float64) - self.low) * (2.0 / (self.high - self.low)) - 1.0
        return np.clip(scaled, -1.0, 1.0).astype(np.float32)

    def inverse(self, array: NDArray[Any]) -> NDArray[np.float64]:
        """[-1, 1] to units; values outside [-1, 1] are clipped first."""
        clipped = np.clip(array.astype(np.float64), -1.0, 1.0)
        return (clipped + 1.0) * (0.5 * (self.high - self.low)) + self.low

    def lost(self, array: NDArray[Any]) -> NDArray[np.bool_]:
        """Which values the map can't bring back because a window cut them off: air and metal outside a CT window.

        Percentiles cut off only a tail of the same tissue, so nothing counts as lost there.
        """
        below, above = self.cut_off(array)
        return below | above

    def cut_off(self, array: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(below the window, above it), of which `lost` is the union."""
        if self.kind != "ct_window":
            return np.zeros(array.shape, bool), np.zeros(array.shape, bool)
        return np.asarray(array < self.low), np.asarray(array > self.high)


def fit_intensity_map(
    array: NDArray[Any], kind: str, window_hu: tuple[float, float], percentiles: tuple[float, float]
) -> IntensityMap:
    """The map of one volume.

    Args:
        array: any shape, scanner units, finite.
        kind: ct_window (bounds are `window_hu`) or percentiles (bounds are those percentiles of the volume).

    Raises:
        ValueError: the volume is constant between the percentiles and in all, so nothing can be scaled.
    """
    if kind == "ct_window":
        return IntensityMap(kind, float(window_hu[0]), float(window_hu[1]), "HU")
    low, high = (float(x) for x in np.percentile(array, percentiles))
    if low >= high:  # nearly constant, e.g. a small object in an empty field
        low, high = float(array.min()), float(array.max())
    if low >= high:
        raise ValueError(f"every voxel is {low:g}")
    return IntensityMap(kind, low, high)
