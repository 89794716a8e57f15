"""Synthetic volumes on the grid, in the units and in the range of the real file, with its background."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.records import Case
from diffboost3d.imaging.background import background
from diffboost3d.imaging.geometry import resample, resample_slab

SLAB = 16  # slices of the file that are converted at once
CUT = 1.0 - 1e-5  # in [-1, 1]: what a window has cut off, after interpolation


@dataclass(frozen=True)
class KeepPlan:
    """What of a synthetic volume stays real.

    Attributes:
        background: keep what lies outside the body or field of view; see `background.background`.
        air_hu: of CT only; what is below and reaches the border of its axial slice is air around the body.
    """

    background: bool = True
    air_hu: float = -500.0


@dataclass(frozen=True)
class RealVolume:
    """What stands behind a synthetic volume of one channel, on the grid (I, J, K) and in the units of its case's file.

    Attributes:
        values: of the file; of another anatomy, what the file would hold.
        kept: which of them stay.
        low, high: the range of the file, which no synthetic value leaves.
        bias: the shading that the prepared image was corrected by; None: it was not.
    """

    values: NDArray[Any]
    kept: NDArray[np.bool_]
    low: float
    high: float
    bias: NDArray[np.float32] | None = None


def real_of_file(
    case: Case, source: NDArray[Any], keep: KeepPlan, bias: NDArray[np.float32] | None = None
) -> RealVolume:
    """The file of a case of one channel (see `Case.of_channel`).

    Kept are its background and, always, what a CT window cut off: air, table, metal.

    Args:
        source: the array of the file, (I, J, K) of `case.source_grid`. bias: its shading, where the prepared image has none.
    """
    kept = _background(case, source, keep)
    kept |= case.intensity.lost(source)
    return RealVolume(source, kept, float(source.min()), float(source.max()), bias)


def real_of_anatomy(
    case: Case,
    source: NDArray[Any],
    image: NDArray[np.float32],
    keep: KeepPlan,
    bias: NDArray[np.float32] | None = None,
) -> RealVolume:
    """The file as it would be with the shapes of a prepared image.

    Where that image is cut off by a CT window, its real value is unknown. It is the file's where the file is cut off at
    the same end, else the median of all that the file has cut off there.

    Args:
        source, bias: as in `real_of_file`.
        image: (I, J, K) of `case.grid` in [-1, 1], e.g. the warped real one.
    """
    intensity, (least, most) = case.intensity, (source.min(), source.max())
    moved = resample(image, case.grid, case.source_grid, "linear")
    mapped = intensity.inverse(moved)
    values = np.clip(mapped if bias is None else mapped * bias, least, most).astype(np.float32)
    kept = _background(case, values, keep)
    if intensity.kind == "ct_window":
        for cut, lost in ((moved <= -CUT, source < intensity.low), (moved >= CUT, source > intensity.high)):
            if lost.any():
                values[cut] = np.where(lost, source, np.median(source[lost]))[cut]
            kept |= cut & bool(lost.any())
    return RealVolume(values, kept, float(least), float(most), bias)


def in_source_units(volume: NDArray[np.float32], case: Case, real: RealVolume) -> Iterator[NDArray[np.float64]]:
    """A synthetic prepared volume (I, J, K) in [-1, 1] as slabs (I', J', n) of the file, in its units, first slice first."""
    for first in range(0, case.source_grid.shape[2], SLAB):
        part = np.s_[:, :, first : first + SLAB]
        stop = min(first + SLAB, case.source_grid.shape[2])
        moved = case.intensity.inverse(resample_slab(volume, case.grid, case.source_grid, first, stop))
        if real.bias is not None:
            moved *= real.bias[part]
        yield np.where(real.kept[part], real.values[part], np.clip(moved, real.low, real.high))


def _background(case: Case, values: NDArray[Any], keep: KeepPlan) -> NDArray[np.bool_]:
    if not keep.background:
        return np.zeros(values.shape, bool)
    air = None
    if case.intensity.unit == "HU":
        # of an image that a window has cut off, all that is below it has the window's lowest value
        air = max(keep.air_hu, float(np.nextafter(np.float32(case.intensity.low), np.float32(np.inf))))
    return background(values, case.source_grid.axial, air)
