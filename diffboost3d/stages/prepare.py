"""`prepare`: a data folder becomes checked, canonical, resampled cases with one intensity map each, edges and splits."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.atomic import write_json
from diffboost3d.cases.checks import USED
from diffboost3d.cases.labels import grouped, with_groups
from diffboost3d.cases.layouts import SKIPPED, BidsChoice, Choice, Folder, Pair, read_folder
from diffboost3d.cases.masks import read_masks
from diffboost3d.cases.preparation import Preparation
from diffboost3d.cases.records import IGNORED, Case, Finding, Manifest
from diffboost3d.cases.splits import draw_splits, folds_of, patients_of, read_splits
from diffboost3d.cases.workspace import RECORD, Workspace
from diffboost3d.config import digest
from diffboost3d.errors import ConfigError, DataError
from diffboost3d.imaging.channels import read_channels
from diffboost3d.imaging.colours import label_colours
from diffboost3d.imaging.files import PICTURE_ENDINGS, ending_of, write_prepared
from diffboost3d.imaging.geometry import Grid, resample
from diffboost3d.imaging.intensity import IntensityMap
from diffboost3d.schema import Config, PrepareConfig
from diffboost3d.stages.dicom_labels import with_label_files
from diffboost3d.stages.edge_operator import device_of_prepare, edge_facts, edge_operator
from diffboost3d.stages.near_duplicates import kept_together
from diffboost3d.stages.shading import bias_plan, corrected, file_digest, image_digests
from diffboost3d.stages.survey import (
    Surveyed,
    channel_names,
    found_labels,
    grid_of,
    in_parallel,
    labels_of,
    survey,
    told_values,
    workers_of,
)

SHOWN = 5  # findings of cases that are used, in the log


@dataclass(frozen=True)
class _Task:
    """What all cases share. merged: see `Manifest.merged`."""

    settings: PrepareConfig
    values: tuple[int, ...]
    merged: dict[int, int]
    ignored: int | None
    preparation: Preparation
    slice_axis: int | None
    pixel_spacing_mm: list[float] | None
    edge_operator: Callable[..., NDArray[np.float32]]
    edge_facts: dict[str, Any]


def run(config: Config, workspace: Workspace) -> None:
    """Prepare every usable case of `data.root`, then draw the splits.

    Raises:
        ConfigError: no data.root, or no usable weights for operator=hed. DataError: no usable case, or too few for the
            folds.
    """
    if not workspace.main:
        return
    if config.data.root is None:
        raise ConfigError("data.root is missing: give the folder with the images, e.g. data.root=PATH/hippocampus")
    if config.data.splits is not None:
        folds_of(Path(config.data.splits))  # now, not after an hour of preparing
    edges = edge_operator(config.prepare.edges, device_of_prepare(config))  # first: a wrong file of weights is refused
    bids = BidsChoice(tuple(config.data.bids.images), config.data.bids.label)
    choice = Choice(bids, tuple(config.data.series), labels_named=bool(config.data.labels))
    folder = read_folder(Path(config.data.root).expanduser(), config.data.layout, choice)
    root = folder.root
    _tell(folder, root, workspace)
    labels, from_files = labels_of(config, folder)
    folder = with_label_files(workspace, folder, labels)
    named, ignored, known = told_values(config, folder, None if from_files else labels)
    channels = channel_names(config, folder)
    surveyed, findings = survey(config, folder, known, len(channels))
    labels = found_labels(surveyed, ignored) if named is None else named
    labels, merged = grouped(labels, config.data.label_groups or {})
    task = _Task(
        config.prepare,
        tuple(labels.values()),
        merged,
        ignored,
        _preparation(config, surveyed, _modality(config, folder), channels),
        config.diffusion.slice_axis,
        config.data.pixel_spacing_mm,
        edges,
        _edge_facts(config),
    )
    pairs = [one.pair for one in surveyed]
    told = {pair.id: pair.patient for pair in folder.pairs if pair.patient is not None}
    patients = patients_of([pair.id for pair in folder.pairs], config.data.patients, told)  # skipped ones join runs too
    cases, more = _prepare_all(config, workspace, root, pairs, patients, task)
    _report_findings(workspace, [*folder.findings, *findings, *more], len(cases))
    cases = kept_together(config.data, workspace, folder, cases, workers_of(config))
    manifest = _manifest(config, workspace, folder, cases, labels, channels, task)
    _refuse_mixed_dimensions(manifest)
    manifest.label_values(config.merge.mask_foreground_labels, "merge.mask_foreground_labels")  # now, not in hours
    workspace.write_manifest(manifest)
    _split(config, workspace, manifest)


def _modality(config: Config, folder: Folder) -> str:
    return config.data.modality or folder.modality or "image"


def _manifest(
    config: Config,
    workspace: Workspace,
    folder: Folder,
    cases: list[Case],
    labels: dict[str, int],
    channels: tuple[str, ...],
    task: _Task,
) -> Manifest:
    name, modality = config.data.name or folder.name, _modality(config, folder)
    return Manifest(
        name=name,
        modality=modality,
        prompt=config.prompt if config.prompt is not None else f"{name}, {modality}",
        labels=labels,
        source=os.path.relpath(folder.root.resolve(), workspace.root.resolve()),
        spatial_dims=2 if all(case.grid.spatial_dims == 2 for case in cases) else 3,
        physical=all(config.data.pixel_spacing_mm or ending_of(case.image) not in PICTURE_ENDINGS for case in cases),
        licence=folder.licence,
        cases=tuple(cases),
        preparation=task.preparation,
        ignore_label=task.ignored,
        colours=label_colours(labels, config.data.colours),
        channels=channels,
        merged=task.merged,
        series=tuple(config.data.series),
    )


def _tell(folder: Folder, root: Path, workspace: Workspace) -> None:
    if folder.unlisted:
        workspace.log(
            f"! {folder.unlisted} images in {root / 'imagesTr'} are not listed in dataset.json; they are left out"
        )
    for note in folder.notes:
        workspace.log(f"! {note}")


# --- how images become what a network sees ----------------------------------------------------------------------------
def _target_spacing(config: Config, surveyed: list[Surveyed]) -> tuple[float, float, float]:
    """As configured, else the median over the cases, rounded to a micrometre; only headers enter, of all cases alike."""
    if config.prepare.spacing_mm is not None:
        i, j, k = config.prepare.spacing_mm
    else:
        spacings = [one.grid.canonical().spacing_mm for one in surveyed]
        i, j, k = (round(float(x), 3) for x in np.median(spacings, axis=0))
    return (i, j, k)


def _preparation(config: Config, surveyed: list[Surveyed], modality: str, channels: tuple[str, ...]) -> Preparation:
    bounds = config.prepare.intensity
    kinds = tuple(_intensity_kind(config, name) for name in channels) if len(channels) > 1 else ()
    return Preparation(
        _target_spacing(config, surveyed),
        _intensity_kind(config, modality),
        _pair_of(bounds.window_hu),
        _pair_of(bounds.percentiles),
        config.prepare.image_interpolation,
        config.prepare.colour,
        kinds,
        bias_plan(config),
        config.prepare.channel_grids == "resample",
        config.prepare.spacing_mm is not None and all(one.grid.spatial_dims == 2 for one in surveyed),
    )


def _intensity_kind(config: Config, modality: str) -> str:
    kind = config.prepare.intensity.kind
    if kind != "auto":
        return kind
    return "ct_window" if modality.strip().upper() == "CT" else "percentiles"


def _refuse_mixed_dimensions(manifest: Manifest) -> None:
    if manifest.spatial_dims == 3 and (flat := [case.id for case in manifest.cases if case.grid.spatial_dims == 2]):
        raise DataError(f"{flat[0]} is a single slice among volumes; keep 2D and 3D cases in folders of their own")


# --- preparing -------------------------------------------------------------------------------------------------------
def _prepare_all(
    config: Config, workspace: Workspace, root: Path, pairs: list[Pair], patients: dict[str, str], task: _Task
) -> tuple[list[Case], list[Finding]]:
    def one(pair: Pair) -> Case | Finding:
        try:
            return _prepare(workspace, root, pair, patients[pair.id], task)
        except (DataError, ValueError) as error:
            return Finding(pair.id, f"{pair.image}: {error}", SKIPPED)

    results = list(in_parallel(config, one, pairs, "prepare"))
    cases = [result for result in results if isinstance(result, Case)]
    if not cases:
        raise DataError(f"{root}: no case could be prepared; the first: {results[0]}")
    return cases, [result for result in results if isinstance(result, Finding)]


def _prepare(workspace: Workspace, root: Path, pair: Pair, patient: str, task: _Task) -> Case:
    """Prepare one case, or keep what an earlier run made of the same files and settings."""
    preparation, settings = task.preparation, task.settings
    files = (pair.image, *pair.channels)
    image = read_channels(files, len(preparation.kinds), preparation.resampled)
    source_grid = grid_of(image, pair, task.pixel_spacing_mm)
    grid = preparation.grid(source_grid)
    array = corrected(workspace, pair, image, preparation)
    intensity, *more = preparation.maps(array)
    own = digest(
        *image_digests(pair.image),
        *([None] if pair.label is None else image_digests(pair.label)),
        settings.image_interpolation,
        settings.label_interpolation,
        task.edge_facts,
        _slice_axis(task, grid) if settings.edges.operator == "hed" else None,
        task.values if task.ignored is None else (*task.values, "ignored", task.ignored),
        task.preparation.spacing_mm,
        dataclasses.asdict(intensity),
        *([[file_digest(mask) for mask in pair.masks]] if pair.masks else []),
        *_more_facts(pair, task, more),
    )
    case = Case(
        id=pair.id,
        patient=patient,
        image=os.path.relpath(pair.image, root),
        label=None if pair.label is None else _relative(pair.label, root),
        source_grid=source_grid,
        grid=grid,
        intensity=intensity,
        digest=own,
        masks=tuple(os.path.relpath(mask, root) for mask in pair.masks),
        stratum=pair.stratum or "",
        channels=tuple(os.path.relpath(path, root) for path in pair.channels),
        channel_maps=tuple(more),
    )
    record = workspace.prepared_folder / pair.id / RECORD
    kinds = ("image", "edge") if pair.label is None else ("image", "edge", "label")
    complete = all(workspace.prepared(case.id, kind).is_file() for kind in kinds)
    if not (complete and record.is_file() and f'"{own}"' in record.read_text(encoding="utf-8")):
        record.unlink(missing_ok=True)  # first, so that a half-made case never passes for the one before
        _write_prepared(workspace, pair, array, case, task)
        write_json(record, {"digest": own})
    return case


def _more_facts(pair: Pair, task: _Task, maps: list[IntensityMap]) -> list[Any]:
    """What else decides a prepared case: empty with one channel, no groups and no correction, as before there were any."""
    facts: list[Any] = []
    if maps:
        files = [one for path in pair.channels for one in image_digests(path)]
        shared = [task.preparation.resampled, task.settings.edges.channels]
        facts.append(["channels", files, shared, [dataclasses.asdict(one) for one in maps]])
    if task.pixel_spacing_mm:
        facts.append(["pixel spacing", task.pixel_spacing_mm])
    if task.preparation.pictures_resampled:
        facts.append(["pictures resampled"])
    if task.merged:
        facts.append(["merged", sorted(task.merged.items())])
    if task.preparation.bias_field is not None:
        facts.append(["bias field", dataclasses.asdict(task.preparation.bias_field)])
    return facts


def _write_prepared(workspace: Workspace, pair: Pair, array: NDArray[Any], case: Case, task: _Task) -> None:
    settings = task.settings
    image = task.preparation.image(array, case.source_grid, case.grid, *case.maps)
    edges = task.edge_operator(image, case.grid.spacing_mm, slice_axis=_slice_axis(task, case.grid))
    write_prepared(workspace.prepared(case.id, "image"), image, case.grid)
    write_prepared(workspace.prepared(case.id, "edge"), edges, case.grid)
    workspace.prepared(case.id, "label").unlink(missing_ok=True)  # the file may have gone since an earlier run
    if pair.label is not None:
        joined, _, _ = read_masks((pair.label, *pair.masks), _known(task))
        label = _indexed(with_groups(joined, task.merged), task.values, task.ignored)
        label = resample(label, case.source_grid, case.grid, settings.label_interpolation)
        write_prepared(workspace.prepared(case.id, "label"), label.astype(np.uint8), case.grid)


def _known(task: _Task) -> set[int]:
    """The label values that files may have."""
    return {*task.values, *task.merged, *([] if task.ignored is None else [task.ignored])}


def _slice_axis(task: _Task, grid: Grid) -> int:
    """As configured for the generator, else the coarsest."""
    return grid.slice_axis if task.slice_axis is None or grid.spatial_dims == 2 else task.slice_axis


def _edge_facts(config: Config) -> dict[str, Any]:
    """What decides the edges; of the weights, what is in the file and not where it lies."""
    edges = config.prepare.edges
    used = edges.hed_weights if edges.operator == "hed" else None
    return {**edge_facts(edges), "hed_weights": None if used is None else file_digest(Path(used))}


def _indexed(label: NDArray[np.int64], values: tuple[int, ...], ignored: int | None) -> NDArray[np.uint8]:
    """The user's label values as 0, 1, 2, ... in the order of the manifest, and `IGNORED` for those to ignore."""
    indexed = np.searchsorted(np.asarray(values), label).astype(np.uint8)
    return indexed if ignored is None else np.where(label == ignored, np.uint8(IGNORED), indexed)


def _pair_of(values: list[float]) -> tuple[float, float]:
    return (values[0], values[1])


def _relative(path: Path, root: Path) -> str:
    """As `Workspace.source` takes it; a label may lie in the workspace, and either be reached by a link."""
    inside = path.is_relative_to(root)
    return os.path.relpath(path, root) if inside else os.path.relpath(path.resolve(), root.resolve())


# --- what is said and split ------------------------------------------------------------------------------------------
def _report_findings(workspace: Workspace, findings: list[Finding], usable: int) -> None:
    """One line a finding in findings.json, on screen and in the log, there but few of cases that are used; of the last run."""
    used = [finding for finding in findings if finding.outcome == USED]
    for finding in [*(one for one in findings if one.outcome != USED), *used[:SHOWN]]:
        workspace.log(f"! {finding}")
    if len(used) > SHOWN:
        workspace.log(
            f"! {len(used) - SHOWN} more cases are used after such changes; {workspace.findings_path} lists all"
        )
    write_json(
        workspace.findings_path,
        [{"case": one.case, "problem": one.problem, "outcome": one.outcome} for one in findings],
    )
    skipped = sum(finding.outcome == SKIPPED for finding in findings)
    workspace.log(f"prepare: {usable} cases ready, {skipped} skipped; `diffboost3d inspect FOLDER` looks for more")


def _split(config: Config, workspace: Workspace, manifest: Manifest) -> None:
    data = config.data
    if data.splits is not None:
        splits, lines = read_splits(Path(data.splits), manifest.cases)
        for line in lines:
            workspace.log(f"! {line}")
    else:
        splits = draw_splits(
            manifest.cases, data.folds, data.labelled, data.unlabelled, data.validation_fraction, config.seed
        )
    for fold in config.folds:
        if fold >= len(splits):
            raise ConfigError(
                f"folds={config.folds}: there is no fold {fold}; {data.splits} has 0 to {len(splits) - 1}"
            )
    workspace.write_splits(splits)
    for fold in config.folds:
        split = splits[fold]
        workspace.log(
            f"fold {fold}: {len(split.training)} labelled training, {len(split.unlabelled)} unlabelled, "
            f"{len(split.validation)} validation, {len(split.test)} test cases"
        )
