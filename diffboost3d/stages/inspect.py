"""`inspect`: what a data folder holds and what is wrong with it. Nothing is written but the JSON asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from operator import add
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.atomic import write_json
from diffboost3d.cases.inspection import CaseFacts, Reading, look
from diffboost3d.cases.inspection_rules import Limits, label_fits, missing_labels, not_told, set_observations
from diffboost3d.cases.layouts import BidsChoice, Choice, Folder, Pair, read_folder
from diffboost3d.cases.masks import why_colours_are_refused
from diffboost3d.cases.observations import NOTE, PROBLEM, Observation, observation
from diffboost3d.cases.splits import patients_of
from diffboost3d.cases.workspace import Workspace
from diffboost3d.errors import ConfigError, DataError
from diffboost3d.imaging.channels import first_channel
from diffboost3d.imaging.files import Volume
from diffboost3d.imaging.geometry import resample
from diffboost3d.imaging.label_fit import LabelFit, LabelModel, Moments, features, label_fit, reduced, region
from diffboost3d.report.inspection import lines_of, summary
from diffboost3d.schema import Config
from diffboost3d.stages.dicom_labels import with_label_files
from diffboost3d.stages.survey import channel_names, told_values

Item = TypeVar("Item")
Result = TypeVar("Result")


def start(config: Config) -> int:
    """Look at `data.root`, print a table, write `inspect.json`. Returns the exit status: 1 for problems with `inspect.strict`.

    Raises:
        ConfigError: no data.root, or a JSON file inside it. DataError: no such folder, or nothing in it that is recognised.
    """
    if config.data.root is None:
        raise ConfigError(
            "data.root is missing: give the folder with the images, e.g. diffboost3d inspect PATH/hippocampus"
        )
    root = Path(config.data.root)
    _refuse_json_inside(config.inspect.json, root)
    found = inspect_folder(config, root)
    for line in lines_of(found, config.inspect.listed):
        print(line)
    if config.inspect.json is not None:
        target = Path(config.inspect.json)
        beside = os.path.relpath(root.resolve(), target.resolve().parent)
        write_json(target, {**found, "folder": beside})
    return int(config.inspect.strict and found["problems"] > 0)


def inspect_folder(config: Config, root: Path) -> dict[str, Any]:
    """All that is seen of a folder, as JSON has it; see the page "Look at your data first".

    Raises:
        DataError: as `read_folder`, unless DICOM series in it tell why.
    """
    bids = BidsChoice(tuple(config.data.bids.images), config.data.bids.label)
    choice = Choice(bids, tuple(config.data.series), labels_named=bool(config.data.labels))
    try:
        folder = read_folder(root, config.data.layout, choice)
    except DataError as error:
        series = [] if config.data.series else series_observations(root)
        if not series:
            raise
        level = NOTE if any(one.level == PROBLEM for one in series) else PROBLEM
        return summary(str(root), None, (), {}, "", [*series, observation("folder", "", "", str(error), level)])
    with TemporaryDirectory() as scratch:  # for labels that are no label maps, such as DICOM-SEG
        labels = config.data.labels or folder.labels
        return _inspected(config, root, with_label_files(Workspace(scratch), folder, labels or {}), labels)


def _inspected(config: Config, root: Path, folder: Folder, labels: dict[str, int] | None) -> dict[str, Any]:
    labels, ignored, known = told_values(config, folder, labels)
    patients = _patients(folder, config.data.patients)
    reading = _reading(config, folder)
    seen = _in_parallel(config, lambda pair: look(pair, root, known, patients[pair.id], reading), folder.pairs, "read")
    facts = missing_labels(seen, config.inspect.few)
    if labels is None:
        values = sorted({value for one in facts for value in one.label_voxels or {}} - {0, ignored})
        labels = {"background": 0, **{f"label_{value}": value for value in values}}
    modality = config.data.modality or folder.modality
    settings = config.inspect
    limits = Limits(
        settings.spacing_ratio, settings.few, settings.anisotropy, settings.near_duplicate, settings.flip_gain,
        settings.shift_gain, settings.outlier, settings.least_cases,
    )  # fmt: skip
    is_ct = _channels_in_hu(config, reading.names, modality)
    series = series_observations(root) if folder.layout == "dicom" and not config.data.series else []
    observations = [
        *_of_folder(folder, series),
        *_of_colours(facts if known is None else ()),
        *_not_of_cases(series, facts),
        *(one for case in facts for one in case.observations),
        *set_observations(facts, labels, is_ct, limits),
        *_of_label_fit(
            config, folder, reading, facts, tuple(v for v in labels.values() if v not in (0, ignored)), known, limits
        ),
    ]
    units = {name: "HU" if hounsfield else "" for name, hounsfield in is_ct.items()}
    return summary(str(root), folder, facts, labels, modality, observations, units)


def _of_colours(facts: Sequence[CaseFacts]) -> Iterator[Observation]:
    """Masks of several colours, where labels aren't named."""
    told = {one.case: [seen.what for seen in one.observations if seen.code == "read-as"] for one in facts}
    if refused := why_colours_are_refused(told):
        yield observation("mask-colours", "", "", refused)


def _channels_in_hu(config: Config, names: Sequence[str], modality: str) -> dict[str, bool]:
    """Name of each channel, and whether it holds HU, as `prepare` takes it: one channel by the modality, several by name."""
    kind = config.prepare.intensity.kind
    kinds = {name: name if len(names) > 1 else modality for name in names}
    return {
        name: kind == "ct_window" or (kind == "auto" and told.strip().upper() == "CT") for name, told in kinds.items()
    }


def _refuse_json_inside(path: str | None, root: Path) -> None:
    if path is not None and root.resolve() in Path(path).resolve().parents:
        raise ConfigError(f"inspect.json={path} is refused: it lies in the data folder, into which nothing is written")


def _reading(config: Config, folder: Folder) -> Reading:
    """As `prepare` reads them. Raises DataError for two channels of one name."""
    return Reading(channel_names(config, folder), config.prepare.channel_grids == "resample", config.prepare.colour)


def _patients(folder: Folder, rule: str) -> dict[str, str]:
    """As configured; what the layout tells goes before the rule "case"."""
    patients = patients_of([pair.id for pair in folder.pairs], rule)
    if rule == "case":
        patients |= {pair.id: told for pair in folder.pairs if (told := pair.patient)}
    return patients


def _of_folder(folder: Folder, series: Sequence[Observation]) -> list[Observation]:
    """What the reader said, as `prepare` says it, but for what stands among `series` already."""
    said = {one.case for one in series if one.level == PROBLEM}
    found = [observation("folder", "", "", line) for line in folder.notes]
    found += [
        observation("folder", one.case, "", one.problem, PROBLEM, "see the line; `prepare` leaves it out")
        for one in folder.findings
        if one.case not in said
    ]
    if folder.unlisted:
        what = f"{folder.unlisted} images in imagesTr are not listed in dataset.json; they are left out"
        found.append(observation("unlisted-image", "", "", what))
    return found


def series_observations(root: Path) -> list[Observation]:
    """Folders that hold several DICOM series, and series that can't be read as a volume.

    A series that can't be read is a note where there is one beside it that is taken.
    """
    from diffboost3d.imaging.dicom import Series, series_in

    images: dict[Path, list[Series]] = {}
    for one in series_in(root):
        if one.kind == "image":
            images.setdefault(Path(os.path.commonpath([path.parent for path in one.files])), []).append(one)
    found = []
    for parent, series in sorted(images.items()):
        name = os.path.relpath(parent, root)
        is_clear = sum(one.problem is None for one in series) == 1
        level, advice = (NOTE, "nothing: the one that can be read is taken") if is_clear else (None, None)
        if len(series) > 1:
            listed = "; ".join(map(str, series))
            what = f"{len(series)} DICOM series in one folder: {listed}"
            found.append(observation("two-series", name, name, what, level, advice))
        found += [
            observation("unreadable", name, name, str(one.problem), level, advice) for one in series if one.problem
        ]
    return found


def _not_of_cases(series: Sequence[Observation], facts: Sequence[CaseFacts]) -> list[Observation]:
    """Without those that a case that can't be used tells itself."""
    told = {one.image for one in facts if not one.usable}
    return [one for one in series if one.code != "unreadable" or one.file not in told]


# --- do labels lie where their images say? ---------------------------------------------------------------------------
def _of_label_fit(
    config: Config,
    folder: Folder,
    reading: Reading,
    facts: Sequence[CaseFacts],
    values: tuple[int, ...],
    known: set[int] | None,
    limits: Limits,
) -> list[Observation]:
    """Two readings: the first adds up what labels look like, the second tries each label by a model of the other cases."""
    settings = config.inspect
    by_case = {one.case: one for one in facts}
    dims = 2 if sum(_is_flat(one) for one in facts) * 2 > len(facts) else 3
    pairs = [
        pair
        for pair in folder.pairs
        if _can_be_tried(by_case[pair.id], values) and _is_flat(by_case[pair.id]) == (dims == 2)
    ]
    if not settings.label_fit or not any(one.label_voxels for one in facts):
        return []
    if len(pairs) < settings.least_cases:
        return list(not_told({}, len(pairs), limits))

    def add_up(pair: Pair) -> Moments:
        maps, at, classes, _ = _features_of(reading.labelled(pair, known), values, settings.fit_voxels)
        return Moments.of(maps, at, classes, len(values) + 1)

    moments = dict(zip((pair.id for pair in pairs), _in_parallel(config, add_up, pairs, "labels"), strict=True))
    total = reduce(add, moments.values())
    factors: dict[str, tuple[int, int, int]] = {}

    def judge(pair: Pair) -> LabelFit | None:
        maps, at, classes, factors[pair.id] = _features_of(reading.labelled(pair, known), values, settings.fit_voxels)
        model = LabelModel.fit(total - moments[pair.id])
        return label_fit(model, maps, at, classes, settings.shift_reach, settings.shift_voxels)

    tried = dict(zip((pair.id for pair in pairs), _in_parallel(config, judge, pairs, "fit"), strict=True))
    fits = {case: fit for case, fit in tried.items() if fit is not None}
    return [*label_fits(fits, by_case, factors, limits), *not_told(fits, len(pairs), limits)]


def _can_be_tried(one: CaseFacts, values: Sequence[int]) -> bool:
    return one.usable and one.label_voxels is not None and any(value in one.label_voxels for value in values)


def _is_flat(one: CaseFacts) -> bool:
    return one.grid is not None and one.grid.spatial_dims == 2


def _features_of(
    read: tuple[Volume, NDArray[np.int64]], values: tuple[int, ...], voxels: int
) -> tuple[Any, Any, Any, tuple[int, int, int]]:
    """Features (F, I, J, K) of a case turned to R, A, S, voxels (n, 3) and classes (n,) of its label, and its factors."""
    stored, drawn = read
    grid = stored.grid.canonical()
    image = resample(first_channel(stored.array), stored.grid, grid, "nearest")
    label = resample(drawn.astype(np.int32), stored.grid, grid, "nearest")
    image, label, spacing, factors = reduced(image, label, grid.spacing_mm, voxels)
    at, classes = region(label, spacing, values)
    return features(image, spacing), at, classes, factors


def _in_parallel(config: Config, function: Callable[[Item], Result], items: Sequence[Item], title: str) -> list[Result]:
    """Results in order, by threads (NumPy, SciPy and zlib let each other run), each with one case in memory."""
    from tqdm import tqdm

    with ThreadPoolExecutor(config.inspect.workers or os.cpu_count() or 1) as pool:
        return list(tqdm(pool.map(function, items), total=len(items), desc=title, unit="case"))
