"""Synthetic volumes on the grid, in the units and in the range of the real file, with its background."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.records import Case
from diffboost3d.imaging.background import background
from diffboost3d.imaging.body import LUNG_ABOVE, outside_body
from diffboost3d.imaging.geometry import resample, resample_slab

SLAB = 16  # slices of the file that are converted at once
CUT = 1.0 - 1e-5  # in [-1, 1]: what a window has cut off, after interpolation


@dataclass(frozen=True)
class KeepPlan:
    """What of a synthetic volume stays real.

    Attributes:
        background: keep what lies outside the field of view, see `background.background`, and in CT outside the body, see
            `body.outside_body`.
        air_hu, table_mm: of CT only; below is air, and what is thinner is no part of the body.
    """

    background: bool = True
    air_hu: float = -500.0
    table_mm: float = 8.0


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
    """The file of a case of one channel (see `Case.of_channel`). Kept are its background and what a CT window cut off.

    That is air and metal, in the body too: a lung at -850 HU is below a window of the abdomen. A generator that has never seen
    such values can't make them, and since shapes are the file's, the file's values belong there.

    Args:
        source: the array of the file, (I, J, K) of `case.source_grid`. bias: its shading, where the prepared image has none.
    """
    filling = background(source, case.source_grid.axial)
    kept = case.intensity.lost(source)
    if keep.background:
        kept |= filling | _outside(case, source, keep)
    return RealVolume(source, kept, *_range(case, source, filling), bias)


def real_of_anatomy(
    case: Case,
    source: NDArray[Any],
    image: NDArray[np.float32],
    keep: KeepPlan,
    bias: NDArray[np.float32] | None = None,
) -> RealVolume:
    """The file as it would be with the shapes of a prepared image.

    Where that image is cut off by a CT window, its real value is unknown. It is the file's where the file is cut off at
    the same end, both inside the body or both outside; else the median of what the file has cut off there: of lungs and gas
    inside, of air outside.

    Args:
        source, bias: as in `real_of_file`.
        image: (I, J, K) of `case.grid` in [-1, 1], e.g. the warped real one.
    """
    intensity = case.intensity
    least, most = _range(case, source, background(source, case.source_grid.axial))
    moved = resample(image, case.grid, case.source_grid, "linear")
    mapped = intensity.inverse(moved)
    values = np.clip(mapped if bias is None else mapped * bias, least, most).astype(np.float32)
    outside = _outside(case, values, keep, cut_off=True)
    kept = np.zeros(values.shape, bool)
    if keep.background:
        kept |= background(values, case.source_grid.axial) | outside
    was_outside = _outside(case, source, keep)
    below, above = intensity.cut_off(source)
    for cut, lost in ((moved <= -CUT, below), (moved >= CUT, above)):
        if lost.any():
            kept |= cut
            for now, before in ((outside, was_outside), (~outside, ~was_outside)):
                known = lost & before if (lost & before).any() else lost
                values[cut & now] = np.where(known, source, np.median(source[known]))[cut & now]
    return RealVolume(values, kept, least, most, bias)


def in_source_units(volume: NDArray[np.float32], case: Case, real: RealVolume) -> Iterator[NDArray[np.float64]]:
    """A synthetic prepared volume (I, J, K) in [-1, 1] as slabs (I', J', n) of the file, in its units, first slice first."""
    for first in range(0, case.source_grid.shape[2], SLAB):
        part = np.s_[:, :, first : first + SLAB]
        stop = min(first + SLAB, case.source_grid.shape[2])
        moved = case.intensity.inverse(resample_slab(volume, case.grid, case.source_grid, first, stop))
        if real.bias is not None:
            moved *= real.bias[part]
        yield np.where(real.kept[part], real.values[part], np.clip(moved, real.low, real.high))


def _outside(case: Case, values: NDArray[Any], keep: KeepPlan, cut_off: bool = False) -> NDArray[np.bool_]:
    """What of a CT is not the patient; of other images nothing.

    Args:
        cut_off: whether a window has cut the values off; then all that is below it has the window's lowest value.
    """
    if case.intensity.unit != "HU":
        return np.zeros(values.shape, bool)
    grid, air = case.source_grid, keep.air_hu
    lung: float | None = LUNG_ABOVE
    if cut_off:
        lowest = float(np.nextafter(np.float32(case.intensity.low), np.float32(np.inf)))
        air, lung = max(air, lowest), None if lowest > LUNG_ABOVE else lung
    return outside_body(values, grid.axial, grid.spacing_mm, air, keep.table_mm, lung)


def _range(case: Case, source: NDArray[Any], filling: NDArray[np.bool_]) -> tuple[float, float]:
    """Between which values a synthetic volume stays: those of the file; of CT, without what fills its borders up.

    A filling of -2000 or -3024 HU is no value that a scanner measures, so nothing may come out as low.
    """
    measured = source[~filling] if case.intensity.unit == "HU" and not filling.all() else source
    return float(measured.min()), float(measured.max())
