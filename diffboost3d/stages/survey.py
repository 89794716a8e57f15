"""What `prepare` asks of a folder before it makes anything: which cases can be used, their channels, labels and grids."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffboost3d.cases.checks import USED, check_pair
from diffboost3d.cases.layouts import Folder, Pair
from diffboost3d.cases.masks import why_colours_are_refused
from diffboost3d.cases.records import IGNORED, Finding
from diffboost3d.errors import DataError
from diffboost3d.imaging.files import PICTURE_ENDINGS, Volume, ending_of
from diffboost3d.imaging.geometry import Grid
from diffboost3d.schema import Config


@dataclass(frozen=True)
class Surveyed:
    """A usable pair (its label left away where that is missing), its grid and the label values in it."""

    pair: Pair
    grid: Grid
    label_values: frozenset[int]


def labels_of(config: Config, folder: Folder) -> tuple[dict[str, int], bool]:
    """Label names and values, background first, and whether they still have to be found in the files.

    Raises:
        DataError: no background, no other label, or a value twice.
    """
    named = config.data.labels or folder.labels
    if named is None:
        return {"background": 0}, True
    if 0 not in named.values() or len(set(named.values())) != len(named) or len(named) < 2:
        raise DataError(f"labels {named}: need a background of value 0 and other labels, each value once")
    return dict(sorted(named.items(), key=lambda pair: pair[1])), False


def told_values(
    config: Config, folder: Folder, labels: Mapping[str, int] | None
) -> tuple[dict[str, int] | None, int | None, set[int] | None]:
    """Labels without the one to ignore, the value to ignore, and every value that the files may have.

    Args:
        labels: name -> value; None: the files have to tell, and may have any value.
    """
    ignored = folder.ignore_label if config.data.ignore_label is None else config.data.ignore_label
    if labels is None:
        return None, ignored, None
    kept = {name: value for name, value in labels.items() if value != ignored}
    return kept, ignored, {*labels.values(), *([] if ignored is None else [ignored])}


def channel_names(config: Config, folder: Folder) -> tuple[str, ...]:
    """As configured, else as the folder says, else numbered by the files. Raises DataError for two of one name."""
    named = tuple(config.data.channels or folder.channel_names)
    if len(set(named)) != len(named):
        raise DataError(f"channels {', '.join(named)}: two have one name; give data.channels=[...]")
    if named:
        return named
    count = 1 + max(len(pair.channels) for pair in folder.pairs)
    return ("image",) if count == 1 else tuple(f"image_{number}" for number in range(count))


def survey(
    config: Config, folder: Folder, known: set[int] | None, channels: int
) -> tuple[list[Surveyed], list[Finding]]:
    """Check every pair; the usable ones and what was found. Raises DataError where none can be used."""
    resampled = config.prepare.channel_grids == "resample"

    def one(pair: Pair) -> tuple[Surveyed | None, list[Finding]]:
        checked, finding = check_pair(pair, known, config.prepare.colour, channels, resampled)
        findings = [finding] if finding else []
        if checked is None:
            return None, findings
        notes = [*(f"{pair.image} {note}" for note in checked.image.notes), *checked.label_notes]
        findings += [Finding(pair.id, note, USED) for note in notes]
        values = frozenset() if checked.label is None else frozenset(np.unique(checked.label).tolist())
        kept = pair if checked.label is not None else dataclasses.replace(pair, label=None, masks=())
        return Surveyed(kept, grid_of(checked.image, pair, config.data.pixel_spacing_mm), values), findings

    results = list(in_parallel(config, one, folder.pairs, "check"))
    usable = [surveyed for surveyed, _ in results if surveyed is not None]
    findings = [finding for _, found in results for finding in found]
    told: dict[str, list[str]] = {}
    for finding in findings:
        told.setdefault(finding.case, []).append(finding.problem)
    if known is None and (refused := why_colours_are_refused(told)):
        raise DataError(f"{folder.root}: {refused}")
    if not usable:
        first = f"; the first: {findings[0]}" if findings else ""
        raise DataError(f"{folder.name}: none of {len(folder.pairs)} cases can be used{first}")
    return usable, findings


def grid_of(image: Volume, pair: Pair, pixel_spacing_mm: list[float] | None) -> Grid:
    """The grid of an image; pixels of a picture, which knows no size, have the one that is given."""
    if pixel_spacing_mm is None or ending_of(pair.image) not in PICTURE_ENDINGS:
        return image.grid
    return image.grid.with_pixels(pixel_spacing_mm)


def found_labels(surveyed: list[Surveyed], ignored: int | None) -> dict[str, int]:
    """Names for the label values that the files have. Raises DataError where they have none, or too many."""
    foreground = sorted(set().union(*(one.label_values for one in surveyed)) - {0, ignored})
    if not any(one.pair.label for one in surveyed):
        raise DataError(
            "no case has a label file; `diffboost3d inspect FOLDER` tells what was recognised and what is missing"
        )
    if not foreground:
        raise DataError("no label file has any foreground; nothing can be learned")
    if len(foreground) > IGNORED - 1:
        raise DataError(
            f"the label files have {len(foreground)} labels, at most {IGNORED - 1} are supported; are they images?"
        )
    return {"background": 0, **{f"label_{value}": value for value in foreground}}


def in_parallel(config: Config, function: Any, items: Any, title: str) -> Iterable[Any]:
    """Results in order, by threads (NumPy, SciPy, SimpleITK and zlib let each other run), with a progress bar."""
    from tqdm import tqdm

    with ThreadPoolExecutor(workers_of(config)) as pool:
        return list(tqdm(pool.map(function, items), total=len(items), desc=title, unit="case"))


def workers_of(config: Config) -> int:
    """Threads that cases are checked and prepared by."""
    hed = config.prepare.edges.operator == "hed"  # the network alone keeps all cores busy
    return 1 if hed else config.prepare.workers or os.cpu_count() or 1
