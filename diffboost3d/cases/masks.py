"""Labels as people store them: several mask files of an image joined, and grey-level masks (JPEG, smoothed) made hard."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.errors import DataError
from diffboost3d.imaging.files import PICTURE_ENDINGS, ending_of, read_label
from diffboost3d.imaging.geometry import Grid
from diffboost3d.imaging.pictures import colours_told

LOSSY_ENDINGS = (".jpg", ".jpeg")
WHITE = 255
HALF = 128  # from here on a grey-level mask is foreground
FAINT = 32  # what JPEG adds to black at most
BETWEEN = (64, 192)  # neither black nor white
MOST_LEVELS = 16  # in a lossless picture of unknown labels; above it they are grey levels rather than labels
MOST_BETWEEN = 0.1  # share of the pixels; above it the file is an image and no mask


def read_masks(paths: Sequence[Path], known: Collection[int] | None) -> tuple[NDArray[np.int64], Grid, tuple[str, ...]]:
    """One label of one or several files: (whole numbers (I, J, K), its grid, what was done to it, a line each).

    Where files overlap, the first that has a label there counts. The values of lossless files are checked by the caller.

    Args:
        known: the label values that may occur; None: not known yet.

    Raises:
        DataError: a file can't be read, has values that are not finite or no whole numbers, is an image rather than a mask or
            a smoothed mask of labels not known, or lies on another grid than the first.
    """
    joined, grid, notes = _read_mask(paths[0], known)
    for path in paths[1:]:
        label, other, more = _read_mask(path, known)
        if difference := grid.apart_from(other):
            raise DataError(f"{path}: the mask lies on another grid than {paths[0].name} ({difference})")
        joined = np.where(joined == 0, label, joined)
        notes += more
    return joined, grid, notes


def _read_mask(path: Path, known: Collection[int] | None) -> tuple[NDArray[np.int64], Grid, tuple[str, ...]]:
    volume = read_label(path)
    if not np.isfinite(volume.array).all():
        raise DataError(f"{path}: the label has NaN or infinite voxels")
    whole = np.round(volume.array).astype(np.int64)
    if np.abs(whole - volume.array).max() > 1e-3:
        raise DataError(f"{path}: the label has values that are no whole numbers, e.g. {_fraction(volume.array):g}")
    notes = tuple(f"the mask {path.name} {note}" for note in volume.notes)
    if ending_of(path) in PICTURE_ENDINGS:
        hard = _hard(path, whole, known)
        if hard is not whole:
            notes += (f"the mask {path.name} has {len(np.unique(whole))} grey levels; from {HALF} on it is foreground",)
        elif (only := _only_label(known)) and set(np.unique(whole).tolist()) == {0, 1} and only != 1:
            hard = only * whole
            notes += (f"the mask {path.name} has 0 and 1; its 1 is taken for the one label, {only}",)
        whole = hard
    return whole, volume.grid, notes


def _only_label(known: Collection[int] | None) -> int | None:
    """The value of the one label that is known; None where there are none or several."""
    labels = set(known or ()) - {0}
    return labels.pop() if len(labels) == 1 else None


def _hard(path: Path, levels: NDArray[np.int64], known: Collection[int] | None) -> NDArray[np.int64]:
    """A grey-level mask as 0 and the one label's value; the same array where it is none, or where that can't be told.

    A JPEG is always taken for one. Another file is, where just one label is known, its values are others, and it has white.
    """
    lossy = ending_of(path) in LOSSY_ENDINGS
    if known is None and not lossy and (count := len(np.unique(levels))) > MOST_LEVELS:
        raise DataError(
            f"{path}: has {count} grey levels; is it a smoothed mask? Name its one label: "
            "data.labels={background: 0, lesion: 255}; if these are labels, name them in dataset.json or data.labels"
        )
    labels = [WHITE] if known is None else sorted(set(known) - {0})
    if len(labels) != 1 or not (lossy or known):
        return levels
    if set(np.unique(levels).tolist()) <= {0, labels[0]}:
        return levels
    top = levels.max()
    if top > WHITE or not (top >= HALF or (lossy and top <= FAINT)):
        return levels
    if np.mean((levels > BETWEEN[0]) & (levels < BETWEEN[1])) > MOST_BETWEEN:
        raise DataError(
            f"{path}: has {len(np.unique(levels))} grey levels, most of them neither black nor white; is it an image?"
        )
    return np.where(levels >= HALF, labels[0], 0)


def why_colours_are_refused(notes: Mapping[str, Sequence[str]]) -> str:
    """Why masks whose labels aren't named can't be used: they have several colours; "" where they haven't.

    Args:
        notes: of each case, what reading did to its masks.
    """
    cases: dict[str, list[str]] = {}
    for case, told in notes.items():
        for colour in colours_told(told):
            cases.setdefault(colour, []).append(case)
    if len(cases) < 2:
        return ""
    told_of = ", ".join(f"{colour} in {len(of)} (such as {of[0]})" for colour, of in sorted(cases.items()))
    return (
        f"masks of {len(cases)} colours: {told_of}; where these are different labels, store their numbers; where they are one, "
        "name it: data.labels={background: 0, lesion: 255}"
    )


def _fraction(array: NDArray[Any]) -> float:
    return float(array[np.abs(np.round(array) - array) > 1e-3].flat[0])
