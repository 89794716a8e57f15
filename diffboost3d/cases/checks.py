"""Checking one pair of files before anything is learned from it; what is wrong is said in one line that names the file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.layouts import SKIPPED, Pair
from diffboost3d.cases.masks import read_masks
from diffboost3d.cases.records import Finding
from diffboost3d.errors import DataError
from diffboost3d.imaging.channels import channels_of, read_channels
from diffboost3d.imaging.files import VOLUME_ENDINGS, Volume, ending_of, read_grid
from diffboost3d.imaging.geometry import Grid

KEPT_UNLABELLED = "the image is used unlabelled"
USED = "the case is used"


@dataclass(frozen=True)
class CheckedPair:
    """A readable image and its whole-number label, or None.

    label_notes: what was done to the label in reading, a line each; those of the image it has itself.
    """

    image: Volume
    label: NDArray[np.int64] | None
    label_notes: tuple[str, ...] = ()


def check_pair(
    pair: Pair, known: Collection[int] | None, colour: str = "grey", channels: int = 1, resampled: bool = False
) -> tuple[CheckedPair | None, Finding | None]:
    """Read and check a pair.

    Args:
        known: the label values that may occur; None: any whole number from 0.
        colour: see `check_image`. channels, resampled: see `imaging.channels.read_channels`.

    Returns:
        (None, finding) where the case can't be used; (pair, finding) where only its label can't; (pair, None) else.
    """
    try:
        image = read_channels((pair.image, *pair.channels), channels, resampled)
        check_image(pair.image, image, colour)
    except DataError as error:
        return None, Finding(pair.id, str(error), SKIPPED)
    if pair.missing:
        return CheckedPair(image, None), Finding(pair.id, f"its label {pair.missing} is missing", KEPT_UNLABELLED)
    if pair.label is None:
        return CheckedPair(image, None), None
    try:
        label, notes = _checked_label(pair, image, known)
    except DataError as error:
        return None, Finding(pair.id, str(error), SKIPPED)
    return CheckedPair(image, label, notes), None


def rounded_files(pair: Pair, grid: Grid) -> Iterator[tuple[Path, str]]:
    """Labels and channels of a usable pair that lie beside its image's voxels by so little that they are taken as on them."""
    for path in (*pair.channels, *([] if pair.label is None else [pair.label]), *pair.masks):
        if ending_of(path) in VOLUME_ENDINGS:
            there = read_grid(path)
            if (what := grid.difference(there)) and not grid.apart_from(there):
                yield path, what


def check_image(path: Path, image: Volume, colour: str = "grey") -> None:
    """Refuse what no stage can use. Raises DataError naming `path`: not finite, constant, or on no right-angled grid.

    Args:
        colour: "refuse" refuses pictures with coloured pixels too.
    """
    if colour == "refuse" and image.coloured:
        raise DataError(
            f"{path}: a colour picture ({100 * image.coloured:.3g} % of its pixels); convert it, or allow prepare.colour=grey"
        )
    if not np.isfinite(image.array).all():
        count = int((~np.isfinite(image.array)).sum())
        raise DataError(f"{path}: {count} voxels are NaN or infinite; replace them by real values")
    for number, one in enumerate(channels_of(image.array)):
        if one.min() == one.max():
            which = "" if image.array.ndim == 3 else f"channel {number} is "
            raise DataError(f"{path}: {which}empty, every voxel is {one.flat[0]:g}")
    matrix = image.grid.matrix[:3, :3]
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        raise DataError(f"{path}: its affine has no volume; the header is damaged")
    if image.grid.is_sheared:
        raise DataError(f"{path}: its axes are not at right angles (sheared affine, gantry tilt); resample it first")


def _checked_label(
    pair: Pair, image: Volume, known: Collection[int] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The label of a pair, its masks joined, and what was done to it."""
    assert pair.label is not None
    whole, grid, notes = read_masks((pair.label, *pair.masks), known)
    if difference := image.grid.apart_from(grid):
        raise DataError(f"{pair.label}: the label lies on another grid than its image ({difference})")
    values = np.unique(whole)
    if known is not None and (unknown := sorted(set(values.tolist()) - set(known))):
        raise DataError(
            f"{pair.label}: label value {', '.join(map(str, unknown))} is unknown; known: {', '.join(map(str, sorted(known)))}"
        )
    if values[0] < 0:
        raise DataError(f"{pair.label}: label value {values[0]} is negative")
    return whole, notes
