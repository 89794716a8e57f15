"""Whether a synthetic CT keeps its Hounsfield units: organs, air, and what lies outside the body, each against the real scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
AIR_HU = -900.0  # air is below it, in lungs only emphysema


@dataclass(frozen=True)
class OrganUnits:
    """HU inside one label of a synthetic scan and of the real one that it was made from.

    Attributes:
        voxels: of the label. median: of the synthetic scan. real_median, low, high: the real median and quartiles.
    """

    voxels: int
    median: float
    real_median: float
    low: float
    high: float

    @property
    def inside(self) -> bool:
        """Whether the synthetic median lies within the real interquartile range."""
        return self.low <= self.median <= self.high


@dataclass(frozen=True)
class UnitsCheck:
    """What `check_units` found.

    Attributes:
        organs: by name. air: share of real air (below `AIR_HU`, wherever it is) that is still below it; NaN without any.
        changed: voxels outside the body whose value isn't the real one. outside: how many there are.
        lowest, real_lowest: smallest value of both scans.
    """

    organs: Mapping[str, OrganUnits]
    air: float
    changed: int
    outside: int
    lowest: float
    real_lowest: float

    @property
    def problems(self) -> tuple[str, ...]:
        """What is not as it should be, a line each; none: the units are kept."""
        found = [
            f"{name}: median {one.median:.0f} HU is outside the real quartiles {one.low:.0f} to {one.high:.0f}"
            for name, one in self.organs.items()
            if not one.inside
        ]
        if self.air < 1:
            found.append(f"air: {1 - self.air:.2%} of it is no longer below {AIR_HU:.0f} HU")
        if self.changed:
            found.append(f"outside the body {self.changed} of {self.outside} voxels have another value")
        if self.lowest < self.real_lowest:
            found.append(f"lowest value {self.lowest:.0f} HU, of the real scan {self.real_lowest:.0f}")
        return tuple(found)


def organ_units(real: Array, synthetic: Array, label: NDArray[Any], labels: Mapping[str, int]) -> dict[str, OrganUnits]:
    """HU inside each label that has a voxel.

    Args:
        real, synthetic, label: (I, J, K), on one grid; HU. labels: name -> value in `label`.

    Raises:
        ValueError: shapes differ.
    """
    if not real.shape == synthetic.shape == label.shape:
        raise ValueError(f"shapes differ: {real.shape}, {synthetic.shape}, {label.shape}")
    found = {}
    for name, value in labels.items():
        inside = label == value
        if inside.any():
            low, middle, high = (float(x) for x in np.percentile(real[inside], (25, 50, 75)))
            found[name] = OrganUnits(int(inside.sum()), float(np.median(synthetic[inside])), middle, low, high)
    return found


def check_units(
    real: Array, synthetic: Array, label: NDArray[Any], labels: Mapping[str, int], outside: NDArray[np.bool_]
) -> UnitsCheck:
    """Hold a synthetic CT of the same anatomy against the real scan that it was made from.

    Args:
        real, synthetic, label, labels: as in `organ_units`. outside: (I, J, K), what is not the patient; see
            `imaging.body.outside_body`.

    Raises:
        ValueError: shapes differ.
    """
    organs = organ_units(real, synthetic, label, labels)
    if outside.shape != real.shape:
        raise ValueError(f"shapes differ: {real.shape}, {outside.shape}")
    air = real < AIR_HU
    return UnitsCheck(
        organs,
        float((synthetic[air] < AIR_HU).mean()) if air.any() else float("nan"),
        int((real[outside] != synthetic[outside]).sum()),
        int(outside.sum()),
        float(synthetic.min()),
        float(real.min()),
    )
