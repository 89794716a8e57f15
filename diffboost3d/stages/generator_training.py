"""One training of the generator; its three kinds differ in what they read, and where they start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from diffboost3d.cases.records import Case, Manifest
from diffboost3d.cases.workspace import Workspace, now
from diffboost3d.config import digest
from diffboost3d.diffusion.batches import SliceDataset, SlicePlan, SliceSource, training_size
from diffboost3d.diffusion.codecs import ChannelsCodec, Codec, PackingCodec, parts_of
from diffboost3d.diffusion.learning import DiffusionLearner
from diffboost3d.diffusion.looks import LOOKS
from diffboost3d.diffusion.lora import LoraPlan, merge_adapters
from diffboost3d.diffusion.text import require_fitting
from diffboost3d.diffusion.weights import save_generator
from diffboost3d.errors import ConfigError
from diffboost3d.schema import Config, DiffusionTrainingConfig
from diffboost3d.seeds import seed_of
from diffboost3d.stages.generator_start import Generator, is_family, mixed_share
from diffboost3d.stages.inputs import (
    control_of,
    prepared,
    second_axis,
    slice_axis,
    training_plan,
    without_intervals,
)
from diffboost3d.training import fit

ADAPTING_SLICES = 256  # that the scales of the codec are measured on


@dataclass(frozen=True)
class Task:
    """A training of the generator.

    Attributes:
        stage: keys its random draws. title: at the progress bar. training, still: samples; see `DiffusionLearner`.
        facts: for the record.
    """

    stage: str
    title: str
    folder: Path
    digest: str
    section: DiffusionTrainingConfig
    training: Any
    still: Any
    validates: bool
    prompt: str
    facts: dict[str, Any]


# --- what it is, for records and digests -----------------------------------------------------------------------------
def shape_of(config: Config, channels: int = 1) -> dict[str, Any]:
    """What a generator of so many image channels is and reads: a later stage must ask for the same."""
    diffusion = config.diffusion
    codec = {
        "name": diffusion.codec.name,
        "factor": diffusion.codec.factor,
        "normalise": diffusion.codec.normalise,
    }  # its weights are in `first_digest`
    asked = {**asdict(diffusion.denoiser), **codec, **asdict(diffusion.schedule)}
    if diffusion.denoiser.stack == 1:
        del asked["stack"]  # without such layers a generator is what it was before there were any
    if is_family(config):  # the rest of the denoiser is as the weights are
        sizes = {one.name for one in fields(diffusion.denoiser)} - {"control", "neighbours", "stack"}
        asked = {key: value for key, value in asked.items() if key not in sizes}
    if share := mixed_share(config, channels):
        asked["decorrelate"] = share  # without, a generator is what it was before channels were mixed
    if diffusion.second_axis is not None:
        asked["second_axis"] = diffusion.second_axis
    return {"family": diffusion.family, "slice_axis": diffusion.slice_axis, **asked}


def task_digest(config: Config, section: DiffusionTrainingConfig, channels: int, *more: Any) -> str:
    """Digest of all that shapes a training of the generator; `more` is what it reads and where it starts."""
    return digest(
        shape_of(config, channels),
        config.diffusion.max_size,
        without_intervals(section),
        _locking(config, section),
        config.seed,
        config.runtime.precision,
        *more,
    )


def _locking(config: Config, section: DiffusionTrainingConfig) -> list[Any]:
    """What else shapes a training of which a part is locked."""
    if section.trained == "all":
        return []
    adapters = [asdict(config.diffusion.lora)] if section.trained == "lora" else []
    return [config.diffusion.weights.precision, *adapters]


def require_generator(config: Config, workspace: Workspace, folder: Path, stage: str, channels: int = 1) -> str:
    """The digest of a trained generator of so many image channels.

    Raises:
        WorkspaceError: not trained yet. ConfigError: trained with another `diffusion` than this command was given.
    """
    record = workspace.require(folder, stage)
    asked = shape_of(config, channels)
    differing = [key for key in {**record["shape"], **asked} if asked.get(key) != record["shape"].get(key)]
    if differing:
        key = differing[0]
        raise ConfigError(
            f"the generator in {workspace.relative(folder)} was trained with diffusion {key}={record['shape'].get(key)}, not "
            f"{asked.get(key)}; give both commands the same overrides (see config.yaml there)"
        )
    return str(record["digest"])


# --- training --------------------------------------------------------------------------------------------------------
def slice_datasets(
    config: Config,
    workspace: Workspace,
    manifest: Manifest,
    generator: Generator,
    section: DiffusionTrainingConfig,
    training: Sequence[Case],
    validation: Sequence[Case],
    with_label: bool,
    stage: str,
    unlabelled: Sequence[Case] = (),
) -> tuple[SliceDataset, SliceDataset]:
    """(training, still) slices of cases; the still ones are of validation cases where there are any.

    Args:
        unlabelled: trained on too, without labels, as often as `diffusion.finetune_unlabelled` says.
    """
    denoiser, _, codec = generator
    axis, second = slice_axis(config, manifest), second_axis(config, manifest)
    if manifest.spatial_dims == 2 and config.diffusion.denoiser.stack > 1:
        raise ConfigError(
            f"diffusion.denoiser.stack={config.diffusion.denoiser.stack} is refused: {manifest.name} has single slices, "
            "which have no neighbours; allowed: 1"
        )
    if second is None:
        _require_neighbours(config, manifest, training, axis)
    for ending in (f", {look}" for look in LOOKS) if section.looks else ("",):
        require_fitting(denoiser.tokenizer, manifest.prompt + ending)

    def source(case: Case, labelled: bool, weight: float) -> SliceSource:
        control = control_of(config, manifest, workspace, case, labelled)
        across = None
        if second is not None and config.diffusion.denoiser.neighbours:
            across = control_of(config, manifest, workspace, case, labelled, second)
        elif second is not None:
            across = control  # without neighbours it is the same along any axis
        return SliceSource(prepared(workspace, case, "image"), control, weight, across)

    def sources(cases: Sequence[Case], labelled: bool, weight: float = 1.0) -> list[SliceSource]:
        return [source(case, labelled, weight) for case in cases]

    def dataset(of: list[SliceSource], plan: SlicePlan) -> SliceDataset:
        return SliceDataset(of, manifest.prompt, denoiser.tokenizer, codec, plan)

    shapes = [case.grid.shape for case in training]
    size = training_size(shapes, axis, denoiser.divisor, config.diffusion.max_size, second)
    plan = slice_plan(config, section, size, axis, stage)
    spacing_mm = manifest.cases[0].grid.spacing_mm
    plan = replace(plan, stack=config.diffusion.denoiser.stack, second_axis=second, spacing_mm=spacing_mm)
    share = config.diffusion.finetune_unlabelled if unlabelled else 0.0
    read = sources(training, with_label, (1.0 - share) / len(training))
    if share:
        read += sources(unlabelled, False, share / len(unlabelled))
    return dataset(read, plan), dataset(sources(validation or training, with_label), plan.still())


def _require_neighbours(config: Config, manifest: Manifest, cases: Sequence[Case], axis: int) -> None:
    """Refuse edges of neighbours that no volume has. In 2D the one slice stands for them."""
    tallest = max(case.grid.shape[axis] for case in cases)
    if manifest.spatial_dims == 3 and config.diffusion.denoiser.neighbours >= tallest:
        raise ConfigError(
            f"diffusion.denoiser.neighbours={config.diffusion.denoiser.neighbours} is refused: no volume has more than {tallest} "
            f"slices along axis {axis}; allowed: 0 to {tallest - 1}"
        )


def slice_plan(
    config: Config, section: DiffusionTrainingConfig, size: tuple[int, int], axis: int, stage: str
) -> SlicePlan:
    """How a training draws its slices."""
    return SlicePlan(
        size=size,
        axis=axis,
        rotation_degrees=section.rotation_degrees,
        scale=(section.scale[0], section.scale[1]),
        drop_text=section.drop_text,
        drop_control=section.drop_control,
        timesteps=config.diffusion.schedule.timesteps,
        seed=config.seed,
        purpose=stage,
        looks=section.looks,
        jitter=section.jitter,
    )


def train_generator(config: Config, workspace: Workspace, accelerator: Any, generator: Generator, task: Task) -> None:
    """Train, save the generator to the task's folder, and write its record."""
    started = now()
    _require_even_shares(task.section, task.stage, task.training.plan.stack, accelerator.num_processes)
    denoiser, scheduler, codec = generator
    lora = config.diffusion.lora
    if config.diffusion.codec.normalise:
        _adapt(codec, task.training, mixed_share(config, codec.image_channels))
    denoiser.spare_memory(config.diffusion.attention_slicing, config.diffusion.gradient_checkpointing)
    learner = DiffusionLearner(
        denoiser,
        scheduler,
        codec,
        task.training,
        task.still,
        task.validates,
        task.prompt,
        trained=task.section.trained,
        min_snr_gamma=config.diffusion.schedule.min_snr_gamma,
        keeps_best=task.section.patience > 0 and task.validates,
        locked_type=_torch_type(config.diffusion.weights.precision),
        lora=LoraPlan(lora.rank, lora.alpha, tuple(lora.targets), seed_of(config.seed, "lora", task.stage)),
    )
    numbers = training_plan(task.section, config.seed, config.runtime.workers)
    numbers = replace(numbers, batch=numbers.batch // task.training.plan.stack)
    facts = fit(learner, numbers, task.folder, task.digest, accelerator, task.title, workspace.log)
    if accelerator.is_main_process:
        adapter = merge_adapters(denoiser.unet)
        save_generator(task.folder, denoiser.float(), scheduler, codec, adapter)
        facts["best_score"] = facts["best_score"] if task.section.patience and task.validates else None
        facts = {**facts, **task.facts, "shape": shape_of(config, codec.image_channels)}
        workspace.finish(task.folder, task.stage, task.digest, started, **facts)
    accelerator.wait_for_everyone()


def _adapt(codec: Codec, dataset: Any, share: float) -> None:
    """Measure, on the first training slices, what an exact codec lacks: scales of each image channel, and how channels mix."""
    import torch

    parts = [part if isinstance(part, PackingCodec) and part.scales is None else None for part in parts_of(codec)]
    mixes = share > 0 and isinstance(codec, ChannelsCodec) and codec.mixing is None
    if not any(parts) and not mixes:
        return
    stack, size = dataset.plan.stack, dataset.plan.size
    read = [dataset[number]["image"].view(stack, -1, *size) for number in range(max(1, ADAPTING_SLICES // stack))]
    images = torch.cat(read)
    for part, channel in zip(parts, torch.split(images, 1, dim=1), strict=True):
        if part is not None:
            part.adapt(channel)
    if mixes:
        codec.adapt(images, share)  # type: ignore[attr-defined]


def _require_even_shares(section: DiffusionTrainingConfig, stage: str, stack: int, processes: int) -> None:
    """Refuse a batch whose stacks of slices the processes can't share; it is counted in slices, as it was given."""
    if stack > 1 and section.batch // stack % processes:
        raise ConfigError(
            f"diffusion.{stage}.batch={section.batch} holds {section.batch // stack} stacks of {stack} slices, which {processes} "
            f"processes can't share; use a multiple of {stack * processes}"
        )


def _torch_type(precision: str) -> Any:
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
