"""Reading what earlier stages left, for the stages that learn."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.labels import with_groups
from diffboost3d.cases.masks import read_masks
from diffboost3d.cases.pool import PoolIndex, open_pool
from diffboost3d.cases.records import Case, Manifest
from diffboost3d.cases.workspace import Workspace
from diffboost3d.config import to_plain
from diffboost3d.errors import ConfigError, DataError
from diffboost3d.imaging.channels import channels_of, read_channels
from diffboost3d.imaging.edges import control_image
from diffboost3d.imaging.files import files_of, read, read_prepared
from diffboost3d.imaging.geometry import resample
from diffboost3d.imaging.scratch import IN_MEMORY, Scratch
from diffboost3d.schema import (
    ArmConfig,
    CodecTrainingConfig,
    Config,
    DiffusionTrainingConfig,
    MergeConfig,
    Pix2PixTrainingConfig,
    RefinerTrainingConfig,
    SynthesizeConfig,
    TrainConfig,
)
from diffboost3d.segmentation.batches import MergePlan
from diffboost3d.training import TrainingPlan, make_accelerator

AnyTrainingConfig = (
    DiffusionTrainingConfig | CodecTrainingConfig | TrainConfig | Pix2PixTrainingConfig | RefinerTrainingConfig
)


def accelerator_of(config: Config) -> Any:
    """The Accelerate object that `runtime` asks for."""
    return make_accelerator(config.runtime.device, config.runtime.precision, config.runtime.threads)


def prepared(workspace: Workspace, case: Case, kind: str, scratch: Scratch = IN_MEMORY) -> NDArray[Any]:
    """The prepared image, label or edge map (I, J, K) of a case; an image of several channels is (C, I, J, K)."""
    return read_prepared(workspace.prepared(case.id, kind), scratch)


def bias_of(workspace: Workspace, case: Case) -> NDArray[np.float32] | None:
    """The shading of a case's image, on its own grid, by which its prepared image was corrected; None: it was not."""
    path = workspace.prepared(case.id, "bias")
    return read_prepared(path) if path.is_file() else None


def source_image(workspace: Workspace, manifest: Manifest, case: Case) -> NDArray[Any]:
    """The image of a case in its files' units: (I, J, K), or (C, I, J, K) with several channels."""
    paths = [workspace.source(manifest, path) for path in case.images]
    resampled = manifest.preparation is not None and manifest.preparation.resampled
    return read_channels(paths, len(case.maps), resampled).array


def prepared_again(workspace: Workspace, folder: Path, record: Mapping[str, Any], case: Case) -> NDArray[np.float32]:
    """A synthetic volume, which lies on its case's own grid in its units, on the prepared grid in [-1, 1], as `prepared`.

    Args:
        record: what lies beside it in `folder`, as JSON holds it.
    """
    paths = [folder / name for name in (record["path"], *record.get("channels", ()))]
    image, field = read_channels(paths, len(case.maps)).array, bias_of(workspace, case)
    channels = channels_of(image if field is None else image / field)
    moved = [
        resample(intensity.forward(one), case.source_grid, case.grid, "linear")
        for one, intensity in zip(channels, case.maps, strict=True)
    ]
    clipped = [np.clip(one, -1.0, 1.0).astype(np.float32) for one in moved]
    return clipped[0] if len(clipped) == 1 else np.stack(clipped)


def label_again(path: Path, case: Case, values: Mapping[int, int]) -> NDArray[np.uint8]:
    """The label (I, J, K) of a synthetic volume, which lies on its case's own grid in the user's values, as a prepared one.

    Args:
        values: see `Manifest.values`.
    """
    label = read(path).array.round().astype(np.int64)
    shares = [
        resample((label == own).astype(np.float32), case.source_grid, case.grid, "linear") for own in values.values()
    ]
    found: NDArray[np.uint8] = np.asarray(list(values), dtype=np.uint8)[np.argmax(shares, axis=0)]
    return found


def source_label(workspace: Workspace, manifest: Manifest, case: Case) -> NDArray[np.int64]:
    """The label (I, J, K) of a labelled case on its file's grid, in the user's values, its masks joined and groups merged.

    Raises:
        DataError: a file is not what `prepare` saw.
    """
    assert case.label is not None  # callers ask for labelled cases only
    paths = [workspace.source(manifest, path) for path in (case.label, *case.masks)]
    label, grid, _ = read_masks(paths, {*manifest.values.values(), *manifest.merged})
    if difference := case.moved_from(grid):
        raise DataError(f"{paths[0]}: its grid is not that of {case.id} any more ({difference}); run `prepare` again")
    return with_groups(label, manifest.merged)


def accepted_records(workspace: Workspace, fold: int, case: str, samples: int) -> dict[int, Path]:
    """Of the records of a case's first `samples` synthetic volumes those that may train anything: number -> path."""
    paths = {sample: workspace.synthetic_record(fold, case, sample) for sample in range(samples)}
    return {sample: path for sample, path in paths.items() if path.is_file() and _is_accepted(path)}


def _is_accepted(record: Path) -> bool:
    """By default: earlier versions judged nothing."""
    return bool(json.loads(record.read_text(encoding="utf-8")).get("accepted", True))


def sampling_settings(section: SynthesizeConfig) -> dict[str, Any]:
    """The settings that decide a synthetic volume, for its digest."""
    settings = dataclasses.asdict(section)
    for nothing_about_a_volume in ("samples", "memory_gb", "sets"):
        del settings[nothing_about_a_volume]
    if section.generator == "diffusion":
        del settings["generator"]  # earlier versions had no other
    if not section.refine:
        del settings["refine"], settings["refine_steps"]  # without, a volume is what it was before there were refiners
    return settings


def without_intervals(
    section: AnyTrainingConfig,
) -> dict[str, Any]:
    """A training's settings for its digest: how often it is pictured or saved changes nothing about the result."""
    plain = dataclasses.asdict(section)
    return {key: value for key, value in plain.items() if key not in ("checkpoint_every", "images_every")}


def files_digest(paths: Iterable[Path]) -> str:
    """Digest (16 hex digits) of what files hold, in this order; of a DICOM series all its slices."""
    whole = hashlib.sha256()
    for path in (one for given in paths for one in files_of(given)):
        status = path.stat()
        whole.update(_file_digest(path, status.st_size, status.st_mtime_ns))
    return whole.hexdigest()[:16]


@functools.cache  # gigabytes, asked for once a fold
def _file_digest(path: Path, _size: int, _time: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def pool_index(config: Config, workspace: Workspace, accelerator: Any) -> PoolIndex:
    """The index of the pool; one process makes it, the others wait."""
    pool, folder = config.diffusion.pool, workspace.pool_generator() / "index"
    root = Path(str(pool.root)).expanduser().resolve()
    if accelerator.is_main_process:
        open_pool(root, folder, pool.held_out, pool.patient_pattern)
    accelerator.wait_for_everyone()
    return PoolIndex(root, folder)


def cases_of(manifest: Manifest, ids: Iterable[str]) -> list[Case]:
    """Cases by id, in that order."""
    by_id = {case.id: case for case in manifest.cases}
    return [by_id[identifier] for identifier in ids]


def slice_axis(config: Config, manifest: Manifest) -> int:
    """Axis of slicing: as configured, else the one of coarsest spacing (by the first case; all share one spacing)."""
    if manifest.spatial_dims == 2:
        return 2
    wanted = config.diffusion.slice_axis
    return manifest.cases[0].grid.slice_axis if wanted is None else wanted


def second_axis(config: Config, manifest: Manifest) -> int | None:
    """The axis of a second plane, where there is one.

    Raises:
        ConfigError: in 2D, or where it is the axis of slicing.
    """
    second = config.diffusion.second_axis
    if second is None:
        return None
    if manifest.spatial_dims == 2:
        raise ConfigError(f"diffusion.second_axis={second} is refused with 2D pictures; allowed: null")
    first = slice_axis(config, manifest)
    if second == first:
        others = [axis for axis in range(3) if axis != first]
        raise ConfigError(
            f"diffusion.second_axis={second} is refused, slices are across axis {first} already (diffusion.slice_axis); allowed: "
            f"null, {others[0]}, {others[1]}"
        )
    return second


def control_of(
    config: Config,
    manifest: Manifest,
    workspace: Workspace,
    case: Case,
    with_label: bool,
    axis: int | None = None,
) -> NDArray[np.float32]:
    """The control image (C, I, J, K) of a case, with or without its label boundaries; neighbours are those along `axis`
    (None: that of slicing).
    """
    denoiser = config.diffusion.denoiser
    return control_image(
        prepared(workspace, case, "edge"),
        prepared(workspace, case, "label") if with_label else None,
        list(manifest.foreground.values()),
        slice_axis(config, manifest) if axis is None else axis,
        denoiser.neighbours,
        denoiser.control,
    )


def arm_facts(arm: ArmConfig) -> dict[str, Any]:
    """What an arm is, for digests, but for its partner, which is a fact of how it merges (`merge_of`)."""
    return {name: value for name, value in to_plain(arm).items() if name != "partner"}


def merge_of(config: Config, arm: ArmConfig) -> MergeConfig:
    """How an arm merges: as all do, but with partners of its own choice."""
    return dataclasses.replace(config.merge, partner=arm.partner or config.merge.partner)


def merge_plan(section: MergeConfig, source: str, manifest: Manifest, patches: int = 1) -> MergePlan:
    """How an arm merges with its source (none, real or synthetic). Raises ConfigError on a label that the data set lacks.

    Args:
        patches: that the training takes.
    """
    kept = manifest.label_values(section.mask_foreground_labels, "merge.mask_foreground_labels")
    return MergePlan(
        source,
        section.alpha if section.alpha_range is None else (section.alpha_range[0], section.alpha_range[1]),
        tuple(section.cell),
        section.cell_mm,
        section.feather,
        section.at,
        section.feather_mm,
        kept or section.mask_foreground,
        section.probability,
        section.last_probability,
        patches,
        section.partner,
    )


def training_plan(
    section: AnyTrainingConfig,
    seed: int,
    workers: int | None,
) -> TrainingPlan:
    """The numbers that `training.fit` needs."""
    more: dict[str, Any] = {}
    if isinstance(section, TrainConfig):
        names = ("optimizer", "momentum", "schedule", "poly_power")
        more = {name: getattr(section, name) for name in names}
    return TrainingPlan(
        steps=section.steps,
        batch=section.batch,
        learning_rate=section.learning_rate,
        warmup_steps=section.warmup_steps,
        weight_decay=section.weight_decay,
        clip_norm=section.clip_norm,
        accumulation=section.accumulation,
        ema_decay=section.ema_decay,
        validate_every=section.validate_every,
        checkpoint_every=section.checkpoint_every,
        images_every=section.images_every,
        seed=seed,
        workers=workers,
        patience=section.patience if isinstance(section, DiffusionTrainingConfig | TrainConfig) else 0,
        **more,
    )
