"""`export`: real and accepted synthetic volumes as a data set for nnU-Net v2, or in the form of the MSD."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d import __version__
from diffboost3d.cases.accepted import FoldVolumes, read_fold
from diffboost3d.cases.atomic import place, remove_partial, replace_folder, replacing, write_json
from diffboost3d.cases.exports import (
    TEST,
    TRAINING,
    Entry,
    entries_of,
    file_ending,
    label_numbers,
    msd_facts,
    nnunet_facts,
    plain_name,
    provenance,
    renumbering,
    splits_of,
)
from diffboost3d.cases.records import Manifest
from diffboost3d.cases.workspace import Workspace, versions
from diffboost3d.config import digest
from diffboost3d.errors import ConfigError, DataError, WorkspaceError
from diffboost3d.imaging.channels import read_channels
from diffboost3d.imaging.files import (
    PICTURE_ENDINGS,
    ending_of,
    read,
    read_grid,
    write_float_like,
    write_label_like,
    write_like,
)
from diffboost3d.imaging.itk import ITK_ENDINGS
from diffboost3d.schema import Config
from diffboost3d.stages.inputs import source_label

DESCRIPTION, ABOUT, SPLITS = "dataset.json", "diffboost3d.json", "splits_final.json"


def run(config: Config, workspace: Workspace) -> None:
    """Export the folds asked for: nnU-Net's form as one data set, the MSD's as one a fold. A finished one is kept.

    Raises:
        ConfigError, WorkspaceError: the target holds something else, or a link can't be made; see also `read_fold`.
        DataError: a file of the user's has changed since `prepare`, or has a label that it doesn't know.
    """
    if not workspace.main:
        return
    manifest = workspace.read_manifest()
    folds = [read_fold(workspace, manifest, fold, config.export.samples) for fold in config.folds]
    root = Path(config.export.target).expanduser() if config.export.target else workspace.exported(config.export.format)
    name, number = config.export.name or plain_name(manifest.name), config.export.dataset_id
    if config.export.format == "nnunet":
        _refuse_twin(root, f"Dataset{number:03d}", name)
        _export(config, workspace, manifest, folds, root / f"Dataset{number:03d}_{name}")
        return
    for fold in folds:
        _export(config, workspace, manifest, [fold], root / f"Task{number:02d}_{name}_fold{fold.fold}")


def _refuse_twin(root: Path, prefix: str, name: str) -> None:
    """nnU-Net knows a data set by its number alone."""
    for other in sorted(root.glob(f"{prefix}_*")):
        if other.name != f"{prefix}_{name}":
            raise ConfigError(f"{other} has that number already; choose another export.dataset_id")


def _export(
    config: Config, workspace: Workspace, manifest: Manifest, folds: Sequence[FoldVolumes], target: Path
) -> None:
    from tqdm import tqdm

    settings, is_nnunet = config.export, config.export.format == "nnunet"
    entries = entries_of(manifest, folds, apart=not is_nnunet, with_test=settings.test_images)
    ending = file_ending(entries)
    described: dict[str, Any] = {
        DESCRIPTION: (nnunet_facts if is_nnunet else msd_facts)(manifest, entries, ending, __version__)
    }
    splits = splits_of(manifest, folds)
    if is_nnunet:
        described[SPLITS] = splits
    own = digest(described, provenance(entries), [entry.case.digest for entry in entries], settings.files)
    count = manifest.channel_count if is_nnunet else 1  # image files of a case
    places = [_paths(entry, ending, is_nnunet, count) for entry in entries]
    files = sorted([*described, ABOUT, *(str(path) for of_entry in places for path in of_entry)])
    if _is_whole(target, own, files):
        workspace.log(f"export: {target} is done already")
        return
    _refuse_foreign(target)
    unfinished = target.with_name(f".unfinished-{own}-{target.name}")  # hidden: nnU-Net takes any Dataset500_* for it
    for pattern in (f".unfinished-*-{target.name}", f".partial-*-old-{target.name}"):
        for other in target.parent.glob(pattern):
            if other != unfinished:
                shutil.rmtree(other)
    for entry, of_entry in zip(tqdm(entries, desc=f"export {target.name}", unit="image"), places, strict=True):
        paths = [unfinished / path for path in of_entry]
        label = paths[count] if len(paths) > count else None
        _write(workspace, manifest, entry, paths[:count], label, settings.files)
    for name, value in described.items():
        write_json(unfinished / name, value)
    about = {
        "digest": own,
        "diffboost3d": __version__,
        "folds": [fold.fold for fold in folds],
        "labels": label_numbers(manifest),
        "label_values_before": manifest.labels,
        "images": provenance(entries),
        "files": files,
        "versions": versions(),
    }
    write_json(unfinished / ABOUT, about)
    remove_partial(unfinished)  # nnU-Net would take half an image, left by a kill, for a case
    replace_folder(unfinished, target)
    _tell(workspace, target, folds, entries, is_nnunet)


def _paths(entry: Entry, ending: str, is_nnunet: bool, count: int) -> list[Path]:
    """Where an image (`count` files), and its label where it has one there, are put."""
    numbers = [f"_{number:04d}" for number in range(count)] if is_nnunet else [""]
    images = [Path(f"images{entry.part}") / f"{entry.name}{number}{ending}" for number in numbers]
    return images if entry.part == TEST else [*images, Path(f"labels{entry.part}") / f"{entry.name}{ending}"]


def _made(target: Path) -> dict[str, Any]:
    """What an earlier export left written of itself; empty where the folder is another's."""
    try:
        about = json.loads((target / ABOUT).read_text(encoding="utf-8"))
        return about if {"digest", "files"} <= set(about) else {}
    except (OSError, ValueError, TypeError):
        return {}


def _is_whole(target: Path, own: str, files: Sequence[str]) -> bool:
    return _made(target).get("digest") == own and all((target / file).is_file() for file in files)


def _refuse_foreign(target: Path) -> None:
    """Only what an earlier export made is replaced."""
    if not target.exists():
        return
    made = _made(target)
    if not made:
        raise WorkspaceError(
            f"{target} was not made by `export`, so it is left alone; choose another export.target, name or dataset_id"
        )
    for path in sorted(target.rglob("*")):
        if not path.is_dir() and str(path.relative_to(target)) not in made["files"]:
            raise WorkspaceError(
                f"{path} was not put there by `export`, and the export has to be made anew; move it away first"
            )


# --- one image -------------------------------------------------------------------------------------------------------
def _write(
    workspace: Workspace, manifest: Manifest, entry: Entry, images: Sequence[Path], label: Path | None, how: str
) -> None:
    """The image and its label, but for what an interrupted export has left finished."""
    case = entry.case
    own = [workspace.source(manifest, path) for path in case.images]
    sources = [entry.child.image, *entry.child.channels] if entry.child else own
    source = sources[0]
    if not all(image.is_file() for image in images):
        if difference := case.moved_from(read_grid(source)):
            raise DataError(f"{source}: its grid is not that of {case.id} any more ({difference}); run `prepare` again")
        _write_images(sources, images, manifest, how)
    if label is None or label.is_file():
        return
    made = entry.child.label if entry.child else None
    values = read(made).array if made else source_label(workspace, manifest, case)
    write_label_like(
        label, _renumbered(values, renumbering(manifest), made or workspace.source(manifest, str(case.label))), source
    )


def _write_images(sources: Sequence[Path], targets: Sequence[Path], manifest: Manifest, how: str) -> None:
    """A file for each file where the forms agree; else a 4D file is parted into its channels, or files become one (float32).

    Channels that lie on other grids are moved to the first one's, as `prepare` moved them.
    """
    resampled = manifest.preparation is not None and manifest.preparation.resampled
    grids = [read_grid(source) for source in sources]
    if len(sources) == len(targets) and not any(grids[0].apart_from(grid) for grid in grids):
        for source, target in zip(sources, targets, strict=True):
            if not target.is_file():
                _write_image(source, target, how)
        return
    if ending_of(sources[0]) in PICTURE_ENDINGS:
        raise ConfigError("export.format=msd is refused for pictures of several channels; allowed: nnunet")
    array = read_channels(sources, manifest.channel_count, resampled).array
    if len(targets) == 1:
        write_float_like(targets[0], array, sources[0], volumes=len(array))
        return
    for number, target in enumerate(targets):
        template = sources[0]
        if len(sources) == 1:
            write_like(target, array[number], template, volumes=1)
        else:
            write_float_like(target, array[number : number + 1], template)


def _write_image(source: Path, target: Path, how: str) -> None:
    """Unchanged where it can be; else without loss: pictures as grey PNG, .nii packed, other volumes as what is asked for."""
    changes = ending_of(source) != ending_of(target)
    if ending_of(source) in (*PICTURE_ENDINGS, "") or (changes and ending_of(source) in ITK_ENDINGS):
        write_like(target, read(source).array, source)
    elif changes:
        with (
            replacing(target) as temporary,
            source.open("rb") as plain,
            temporary.open("wb") as file,
            gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
        ):
            shutil.copyfileobj(plain, packed)
    else:
        try:
            place(source, target, how)
        except OSError as error:
            raise ConfigError(
                f"export.files={how}: {target.parent} can't have {source} ({error.strerror}); allowed there: copy"
            ) from error


def _renumbered(label: NDArray[Any], numbers: dict[int, int], path: Path) -> NDArray[np.uint16]:
    """A label (I, J, K) of the user's values in the numbers of the exported files."""
    whole = np.round(label).astype(np.int64)
    if unknown := sorted(set(np.unique(whole).tolist()) - set(numbers)):
        raise DataError(f"{path}: label value {unknown[0]} is unknown; known: {', '.join(map(str, sorted(numbers)))}")
    known = sorted(numbers)
    return np.asarray([numbers[value] for value in known], np.uint16)[np.searchsorted(known, whole)]


# --- what is said ----------------------------------------------------------------------------------------------------
def _tell(
    workspace: Workspace, target: Path, folds: Sequence[FoldVolumes], entries: Sequence[Entry], is_nnunet: bool
) -> None:
    made = sum(entry.child is not None for entry in entries)
    test = sum(entry.part == TEST for entry in entries)
    workspace.log(
        f"export: {target}: {len(entries) - made - test} real images with labels, {made} synthetic ones, {test} test images "
        "without labels"
    )
    for number, fold in enumerate(folds):
        split = fold.split
        which = f"nnU-Net's fold {number} is fold {fold.fold}" if is_nnunet else f"fold {fold.fold}"
        workspace.log(
            f"export: {which}: {len(split.training)} real and {len(fold.children)} synthetic to train on, "
            f"{len(split.validation)} real to validate"
        )
        if bare := sorted(set(split.training) - {child.record.case for child in fold.children}) if made else []:
            workspace.log(
                f"! fold {fold.fold}: {len(bare)} training cases have no accepted volume, the first {bare[0]}"
            )
    labelled = {entry.case.id for entry in entries if entry.part == TRAINING and entry.child is None}
    if seen := labelled & {case for fold in folds for case in fold.split.test}:
        workspace.log(
            f"! {len(seen)} test cases of one fold are training cases of another. nnU-Net plans on all of imagesTr; to keep test "
            "cases out of that too, export each fold by itself (folds=[0] export.dataset_id=500, folds=[1] ...)"
        )
