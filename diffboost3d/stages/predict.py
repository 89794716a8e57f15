"""`predict`: label maps of new images by trained segmenters, on the images' own grids and with the user's label values.

It needs `manifest.json` and the segmenters' folders alone, so that both can be copied to another machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.atomic import remove_partial, write_json, write_text
from diffboost3d.cases.checks import check_image
from diffboost3d.cases.layouts import Pair
from diffboost3d.cases.preparation import Preparation
from diffboost3d.cases.records import Manifest
from diffboost3d.cases.workspace import RECORD, SEGMENTER, Workspace, versions
from diffboost3d.config import digest
from diffboost3d.errors import DataError, WorkspaceError
from diffboost3d.imaging.channels import read_channels
from diffboost3d.imaging.colours import Colour, itk_snap_text, label_colours, slicer_text
from diffboost3d.imaging.dicom import is_dicom
from diffboost3d.imaging.dicom_segments import Algorithm, segment_names, write_segments
from diffboost3d.imaging.files import (
    Volume,
    ending_like,
    write_label_like,
    write_probability_like,
)
from diffboost3d.imaging.geometry import Grid
from diffboost3d.imaging.intensity import IntensityMap
from diffboost3d.imaging.itk import parts_of
from diffboost3d.schema import Config, PredictConfig
from diffboost3d.segmentation.inference import (
    Member,
    WindowPlan,
    classes_in_source,
    mean_probabilities,
    slabs_in_source,
)
from diffboost3d.segmentation.postprocessing import choose_together, keep_largest
from diffboost3d.stages.images_asked import cases_of_images, images_of
from diffboost3d.stages.inputs import accelerator_of, files_digest
from diffboost3d.stages.segmenting import in_values, load_member, read_decision, window_facts, window_plan

ABOUT = "diffboost3d.json"  # in the output folder: what made it
ITK_SNAP, SLICER = "labels.label", "labels.ctbl"  # label names and colours for these viewers
SEGMENTS = ".dcm"  # DICOM-SEG


@dataclass(frozen=True)
class _Task:
    """What all images share.

    Attributes:
        about: what made the label maps, as `ABOUT` says it. keep: labels whose largest component alone is kept.
        dicom: what is written for DICOM series: nifti, dicom_seg or both.
    """

    manifest: Manifest
    preparation: Preparation
    members: list[Member]
    plan: WindowPlan
    keep: tuple[str, ...]
    connectivity: str
    wants_probabilities: bool
    output: Path
    about: dict[str, Any]
    device: Any
    colours: dict[str, Colour]
    dicom: str


def run(config: Config, workspace: Workspace) -> None:
    """Predict every image of `predict.input` that isn't predicted yet; what can't be is named, and the others are done.

    Raises:
        ConfigError: no input or output. WorkspaceError: no such segmenter, or an output folder of other files. DataError: in
            the end, where any image could not be predicted.
    """
    from accelerate.utils import gather_object
    from tqdm import tqdm

    manifest = workspace.read_manifest() if workspace.manifest_path.is_file() else None
    patterns, volumes = ((), False) if manifest is None else (manifest.series, manifest.spatial_dims == 3)
    images, twins, notes = images_of(config, patterns, volumes)
    accelerator = accelerator_of(config)
    task = _task(config, workspace, accelerator.device)
    if task.dicom != "nifti" and any(is_dicom(one.image) for one in images):
        segment_names(task.manifest.labels)  # now, not after every prediction
    cases, more = cases_of_images(images, task.manifest.channel_count)
    twins += more
    rank, processes = accelerator.process_index, accelerator.num_processes
    if accelerator.is_main_process:
        _open_output(task)
    accelerator.wait_for_everyone()
    failed: list[str] = list(twins) if rank == 0 else []
    made = 0
    for line in (*notes, *failed) if rank == 0 else ():
        workspace.log(f"! {line}")
    for pair in tqdm(cases[rank::processes], desc="predict", unit="image", disable=rank > 0):
        try:
            made += _predict(task, pair)
        except DataError as error:
            failed.append(str(error))
            workspace.log(f"! {error}")
    own, failed = len(failed), gather_object(failed)
    made = sum(gather_object([made]))
    for line in failed[own:]:  # those of other processes
        workspace.log(f"! {line}")
    total = len(cases) + len(twins)
    workspace.log(f"predict: {total - len(failed)} label maps in {task.output}, {made} of them made now")
    if failed:
        raise DataError(f"predict: {len(failed)} of {total} images could not be predicted; the lines above say why")


# --- what all images share -----------------------------------------------------------------------------------------
def _task(config: Config, workspace: Workspace, device: Any) -> _Task:
    section, manifest = config.predict, workspace.read_manifest()
    if manifest.preparation is None:
        raise WorkspaceError(
            f"{workspace.manifest_path} is of an earlier version and does not say how images were prepared; run `prepare` again "
            "with the same settings (what is finished is kept)"
        )
    plan = window_plan(section, config.train.overlap)
    cells = [(fold, seed) for fold in section.folds for seed in section.seeds]
    models = [_model(workspace, manifest, fold, section.arm, seed) for fold, seed in cells]
    keep: tuple[str, ...] = ()
    connectivity = "corners"
    if section.postprocessing == "validated":
        keep, connectivity = _kept(workspace, section, plan, cells)
    about = {
        "arm": section.arm,
        "models": models,
        "labels": manifest.labels,
        "settings": window_facts(plan),
        "postprocessing": {
            "choice": section.postprocessing,
            "keep_largest": list(keep),
            "connectivity": connectivity if keep else None,
        },
        "preparation": manifest.preparation.facts(),
    }
    members = [load_member(workspace, fold, section.arm, seed, device) for fold, seed in cells]
    output = Path(str(section.output)).expanduser()
    return _Task(
        manifest,
        manifest.preparation,
        members,
        plan,
        keep,
        connectivity,
        section.probabilities,
        output,
        about,
        device,
        label_colours(manifest.labels, {**manifest.colours, **(config.data.colours or {})}),
        section.dicom,
    )


def _model(workspace: Workspace, manifest: Manifest, fold: int, arm: str, seed: int) -> dict[str, Any]:
    """What a record says of a segmenter: fold, seed, file and its digest. Raises WorkspaceError where it is of no use."""
    folder = workspace.segmenter(fold, arm, seed)
    weights = folder / SEGMENTER
    if not (folder / RECORD).is_file() or not weights.is_file():
        there = sorted(path.parent for path in workspace.root.glob(f"segmentation/fold*/*/seed*/{SEGMENTER}"))
        names = ", ".join(workspace.relative(path) for path in there) or "none"
        raise WorkspaceError(
            f"{folder}: no trained segmenter (predict.arm={arm}, fold {fold}, seed {seed}); trained in this workspace: {names}"
        )
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    told = record.get("preparation")  # earlier versions did not say
    preparation = None if manifest.preparation is None else manifest.preparation.facts()
    if (told and told != digest(preparation)) or record["classes"] != len(manifest.labels):
        raise WorkspaceError(
            f"{folder}: trained on images prepared in another way than {workspace.manifest_path} says; run `train` again"
        )
    return {"fold": fold, "seed": seed, "path": workspace.relative(weights), "digest": files_digest([weights])}


def _kept(
    workspace: Workspace, section: PredictConfig, plan: WindowPlan, cells: list[tuple[int, int]]
) -> tuple[tuple[str, ...], str]:
    """Labels whose largest component is kept, by the validation cases of all members together; and the connectivity."""
    decisions = []
    for fold, seed in cells:
        path = workspace.postprocessing(fold, section.arm, seed)
        if not path.is_file():
            raise WorkspaceError(
                f"{path} is missing: run `diffboost3d evaluate evaluate.postprocessing=validated` where the data is"
            )
        decisions.append(read_decision(path))
        if decisions[-1]["model"] != workspace.require(path.parent, "train")["digest"]:
            raise WorkspaceError(
                f"{path}: chosen for another training of the segmenter; run `evaluate` again where the data is"
            )
        if decisions[-1]["settings"] != window_facts(plan):
            workspace.log(
                f"! {path}: chosen with other settings ({decisions[-1]['settings']}); it is used all the same"
            )
    connectivity = {decision["connectivity"] for decision in decisions}
    if len(connectivity) > 1:
        raise WorkspaceError(
            "the segmenters' postprocessing.json are of different evaluate.connectivity; run `evaluate` for all with one"
        )
    return choose_together([decision["labels"] for decision in decisions]), connectivity.pop()


def _open_output(task: _Task) -> None:
    """Make the folder, or go on in one that `predict` made: files of others are never replaced."""
    about = task.output / ABOUT
    try:
        if task.output.exists() and not about.is_file() and any(task.output.iterdir()):
            raise WorkspaceError(
                f"predict.output={task.output} has files that `predict` did not write; choose a new or empty folder"
            )
        remove_partial(task.output)
        write_json(about, {"stage": "predict", **task.about, "colours": task.colours, "versions": versions()})
        write_text(task.output / ITK_SNAP, itk_snap_text(task.manifest.labels, task.colours))
        write_text(task.output / SLICER, slicer_text(task.manifest.labels, task.colours))
    except OSError as error:
        raise WorkspaceError(f"predict.output={task.output} can't be written ({error.strerror})") from error


# --- one image -------------------------------------------------------------------------------------------------------
def _predict(task: _Task, pair: Pair) -> bool:
    """Predict one image, the record last; False where that was done before. Raises DataError naming the image."""
    path, stem, paths = pair.image, pair.id, (pair.image, *pair.channels)
    ending, wanted = ending_like(path), task.dicom if is_dicom(path) else "nifti"
    label, record = task.output / f"{stem}{SEGMENTS if wanted == 'dicom_seg' else ending}", task.output / f"{stem}.json"
    also = [label.with_name(f"{stem}{SEGMENTS}")] if wanted == "both" else []
    values = [task.manifest.labels[name] for name in task.manifest.foreground]
    maps = [task.output / "probabilities" / f"{stem}_label{value}{ending}" for value in values]
    maps = maps if task.wants_probabilities else []
    source = files_digest([part for one in paths for part in _parts(one)])
    own = digest(
        source, task.about | {"models": [model["digest"] for model in task.about["models"]]}, *_look(task, wanted)
    )
    before = _read_record(record)
    if before and before["digest"] == own and all(one.is_file() for one in (label, *also, *maps)):
        return False
    for one in (label, *also):
        _refuse_changed(one, before)
    image, intensities, grid, source_grid = _prepared(task, paths)
    classes = mean_probabilities(task.members, image, task.plan, task.device)
    record.unlink(missing_ok=True)  # first, so that a half-made result never passes for the one before
    found = _written(task, path, (label, *also), classes, grid, source_grid)
    for one, probability in zip(maps, classes[1:], strict=False):
        write_probability_like(one, slabs_in_source(probability, grid, source_grid), path)
    facts: dict[str, Any] = {
        "digest": own,
        "image": {"path": os.path.relpath(path.resolve(), task.output.resolve()), "digest": source},
        "label": {"path": label.name, "digest": _digest_of(label)},
        **({"dicom_seg": {"path": also[0].name, "digest": _digest_of(also[0])}} if also else {}),
        "probabilities": [one.relative_to(task.output).as_posix() for one in maps],
        "voxels": {name: int((found == value).sum()) for name, value in task.manifest.labels.items()},
        "intensity": dataclasses.asdict(intensities[0]),
    }
    if len(intensities) > 1:
        facts["channels"] = [os.path.relpath(one.resolve(), task.output.resolve()) for one in paths[1:]]
        facts["channel_intensities"] = [dataclasses.asdict(one) for one in intensities[1:]]
    write_json(record, {**facts, **{name: told for name, told in task.about.items() if name != "preparation"}})
    return True


def _parts(path: Path) -> list[Path]:
    """The image's files, or its DICOM series. Raises DataError where one is missing."""
    if is_dicom(path):
        return [path]
    for part in (parts := parts_of(path)):
        if not part.is_file():
            raise DataError(f"{path}: its voxels' file {part.name} is missing")
    return parts


def _prepared(task: _Task, paths: tuple[Path, ...]) -> tuple[NDArray[np.float32], tuple[IntensityMap, ...], Grid, Grid]:
    """The prepared image, the intensity maps of its channels, its grid, and that of the file."""
    volume = _read(task, paths)
    array, field = volume.array, task.preparation.field(volume.array, volume.grid)
    array = array if field is None else array / field
    grid = task.preparation.grid(volume.grid)
    try:
        maps = task.preparation.maps(array)
    except ValueError as error:
        raise DataError(f"{paths[0]}: {error}; nothing can be scaled") from error
    return task.preparation.image(array, volume.grid, grid, *maps), maps, grid, volume.grid


def _read(task: _Task, paths: tuple[Path, ...]) -> Volume:
    path = paths[0]
    volume = read_channels(paths, task.manifest.channel_count, task.preparation.resampled)
    check_image(path, volume, task.preparation.colour)
    if volume.grid.spatial_dims != task.manifest.spatial_dims:
        told, trained = (
            ("a single slice", "volumes") if volume.grid.spatial_dims == 2 else ("a volume", "single slices")
        )
        raise DataError(f"{path}: {told}, but the segmenter was trained on {trained}")
    return volume


def _written(
    task: _Task, path: Path, targets: tuple[Path, ...], classes: NDArray[np.float32], grid: Grid, source: Grid
) -> NDArray[Any]:
    """Write the label map in the user's values, in the form of the image or as DICOM-SEG; returns it."""
    found = classes_in_source(classes, grid, source)
    if task.keep:
        found = keep_largest(found, [task.manifest.foreground[name] for name in task.keep], task.connectivity)
    values = in_values(found, task.manifest)
    for target in targets:
        if target.name.endswith(SEGMENTS):
            about = Algorithm("diffboost3d", str(versions()["diffboost3d"]), digest(task.about)[:16])
            write_segments(target, values, path, task.manifest.labels, task.colours, about)
        else:
            write_label_like(target, values, path)
    return values


def _look(task: _Task, wanted: str) -> list[Any]:
    """What a digest takes in of DICOM-SEG, which holds colours; [] where none is written."""
    return [] if wanted == "nifti" else [wanted, task.colours]


def _read_record(path: Path) -> dict[str, Any]:
    """What an earlier run left; empty where there is none."""
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return told
    except FileNotFoundError:
        return {}


def _refuse_changed(label: Path, before: dict[str, Any]) -> None:
    """A label map that someone has corrected is never replaced."""
    written = {told["path"]: told["digest"] for told in (before.get("label"), before.get("dicom_seg")) if told}
    if label.is_file() and label.name in written and _digest_of(label) != written[label.name]:
        raise DataError(
            f"{label}: was changed since `predict` wrote it, so it is left alone; move it away to have it made anew"
        )


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
