"""One training of the generator; `pretrain` and `finetune` differ in cases, control and where they start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffboost3d.cases.records import Case, Manifest
from diffboost3d.cases.workspace import Workspace, now
from diffboost3d.config import digest
from diffboost3d.diffusion.batches import SlicePlan, SliceSource, training_size
from diffboost3d.diffusion.codecs import Codec
from diffboost3d.diffusion.learning import DiffusionLearner
from diffboost3d.diffusion.networks import ConditionalDenoiser, DenoiserPlan
from diffboost3d.diffusion.schedule import make_scheduler
from diffboost3d.diffusion.weights import save_generator
from diffboost3d.errors import ConfigError
from diffboost3d.imaging.edges import control_channels
from diffboost3d.schema import Config, DiffusionTrainingConfig
from diffboost3d.seeds import seed_of
from diffboost3d.stages.inputs import control_of, prepared, slice_axis, training_plan, without_intervals
from diffboost3d.training import fit

Generator = tuple[ConditionalDenoiser, Any, Codec]


def new_generator(config: Config, manifest: Manifest) -> Generator:
    """An untrained generator as `diffusion` describes it; weights are keyed by the seed."""
    import torch

    denoiser, codec = config.diffusion.denoiser, Codec(config.diffusion.codec.name, config.diffusion.codec.factor)
    plan = DenoiserPlan(
        channels=tuple(denoiser.channels),
        layers_per_level=denoiser.layers_per_level,
        attention_levels=denoiser.attention_levels,
        head_channels=denoiser.head_channels,
        text_width=denoiser.text_width,
        text_layers=denoiser.text_layers,
        text_length=denoiser.text_length,
        latent_channels=codec.channels,
        factor=codec.factor,
        control_channels=control_channels(manifest.label_count, denoiser.neighbours, denoiser.control),
    )
    schedule = config.diffusion.schedule
    try:
        scheduler = make_scheduler(schedule.timesteps, schedule.betas, schedule.prediction, schedule.zero_terminal_snr)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, "generator"))
        return ConditionalDenoiser(plan), scheduler, codec


def generator_digest(
    config: Config,
    manifest: Manifest,
    section: DiffusionTrainingConfig,
    training: Sequence[Case],
    validation: Sequence[Case],
    *more: Any,
) -> str:
    """Digest of all that shapes a training of the generator."""
    return digest(
        shape_of(config),
        config.diffusion.max_size,
        without_intervals(section),
        config.seed,
        config.runtime.precision,
        manifest.prompt,
        [case.digest for case in training],
        [case.digest for case in validation],
        *more,
    )


def shape_of(config: Config) -> dict[str, Any]:
    """What a generator is and reads: a later stage must ask for the same."""
    diffusion = config.diffusion
    parts = (diffusion.denoiser, diffusion.codec, diffusion.schedule)
    return {"slice_axis": diffusion.slice_axis, **{key: value for part in parts for key, value in asdict(part).items()}}


def require_generator(config: Config, workspace: Workspace, folder: Path, stage: str) -> str:
    """The digest of a trained generator.

    Raises:
        WorkspaceError: not trained yet. ConfigError: trained with another `diffusion` than this command was given.
    """
    record = workspace.require(folder, stage)
    asked = shape_of(config)
    differing = [key for key, value in record["shape"].items() if asked[key] != value]
    if differing:
        key = differing[0]
        raise ConfigError(
            f"the generator in {workspace.relative(folder)} was trained with diffusion {key}={record['shape'][key]}, not "
            f"{asked[key]}; give both commands the same overrides (see config.yaml there)"
        )
    return str(record["digest"])


def train_generator(
    config: Config,
    workspace: Workspace,
    manifest: Manifest,
    accelerator: Any,
    generator: Generator,
    section: DiffusionTrainingConfig,
    training: Sequence[Case],
    validation: Sequence[Case],
    with_label: bool,
    folder: Path,
    own_digest: str,
    stage: str,
    title: str,
) -> None:
    """Train, save the generator to `folder`, and write its record."""
    started = now()
    denoiser, scheduler, codec = generator
    axis = slice_axis(config, manifest)

    def sources(cases: Sequence[Case]) -> list[SliceSource]:
        return [
            SliceSource(prepared(workspace, case, "image"), control_of(config, manifest, workspace, case, with_label))
            for case in cases
        ]

    shapes = [case.grid.shape for case in training]
    plan = SlicePlan(
        size=training_size(shapes, axis, denoiser.plan.divisor, config.diffusion.max_size),
        axis=axis,
        rotation_degrees=section.rotation_degrees,
        scale=(section.scale[0], section.scale[1]),
        drop_text=section.drop_text,
        drop_control=section.drop_control,
        timesteps=config.diffusion.schedule.timesteps,
        seed=config.seed,
        purpose=stage,
    )
    learner = DiffusionLearner(
        denoiser,
        scheduler,
        codec,
        manifest.prompt,
        sources(training),
        sources(validation),
        plan,
        base_locked=section.trained == "control",
    )
    numbers = training_plan(section, config.seed, config.runtime.workers)
    facts = fit(learner, numbers, folder, own_digest, accelerator, title, workspace.log)
    if accelerator.is_main_process:
        save_generator(folder, denoiser, scheduler, codec)
        facts = {**facts, "best_score": None, "training": [case.id for case in training], "slice_size": plan.size}
        facts["shape"] = shape_of(config)
        workspace.finish(folder, stage, own_digest, started, **facts)
    accelerator.wait_for_everyone()
