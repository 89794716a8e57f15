"""`pretrain`: the generator learns a pool of images, then the look of a fold's training-side images; both without labels."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from diffboost3d.cases.prompts import prompt_of, read_abbreviations
from diffboost3d.cases.records import Manifest
from diffboost3d.cases.workspace import Workspace
from diffboost3d.config import configs_folder
from diffboost3d.diffusion.pool import PoolDataset, PoolPlan
from diffboost3d.diffusion.weights import load_generator
from diffboost3d.schema import Config
from diffboost3d.stages.edge_operator import edge_facts, edge_operator
from diffboost3d.stages.generator_start import Generator, first_digest, first_generator, with_channels
from diffboost3d.stages.generator_training import (
    Task,
    require_generator,
    slice_datasets,
    slice_plan,
    task_digest,
    train_generator,
)
from diffboost3d.stages.inputs import accelerator_of, cases_of, pool_index, second_axis, slice_axis
from diffboost3d.stages.refine_rule import with_refine


def run(config: Config, workspace: Workspace) -> None:
    """Pre-train on the pool where there is one, then one generator a fold on its unlabelled and labelled training images."""
    manifest = workspace.read_manifest()
    second_axis(config, manifest)  # refuses what it can't be, before hours on a pool
    with_refine(config, manifest)  # the same
    accelerator = accelerator_of(config)
    if config.diffusion.pool.root is not None:
        _on_pool(config, workspace, manifest, accelerator)
    for fold in config.folds:
        _on_fold(config, workspace, manifest, accelerator, fold)


def _on_fold(config: Config, workspace: Workspace, manifest: Manifest, accelerator: Any, fold: int) -> None:
    split = workspace.read_split(fold)
    training = cases_of(manifest, sorted(split.unlabelled + split.training))
    validation = cases_of(manifest, split.validation)
    section, folder = config.diffusion.pretrain, workspace.pretrained(fold)
    read = [manifest.prompt, [case.digest for case in training], [case.digest for case in validation]]
    own = task_digest(config, section, manifest.channel_count, "pretrain", *read, _parent(config, workspace, fold))
    if workspace.is_current(folder, own):
        workspace.log(f"pretrain fold {fold}: done already")
        return
    generator = _start(config, workspace, manifest, fold)
    jittered, still = slice_datasets(
        config, workspace, manifest, generator, section, training, validation, with_label=False, stage="pretrain"
    )
    title = f"pretrain fold {fold}, {len(training)} images"
    facts = {"training": [case.id for case in training], "slice_size": jittered.plan.size}
    task = Task("pretrain", title, folder, own, section, jittered, still, bool(validation), manifest.prompt, facts)
    train_generator(config, workspace, accelerator, generator, task)


def _parent(config: Config, workspace: Workspace, fold: int) -> str:
    """Digest of the generator that a fold's pre-training starts from."""
    if config.diffusion.pool.root is None:
        return first_digest(config, workspace, fold)
    return require_generator(config, workspace, workspace.pool_generator(), "pretrain")


def _start(config: Config, workspace: Workspace, manifest: Manifest, fold: int) -> Generator:
    if config.diffusion.pool.root is None:
        return first_generator(config, workspace, manifest, fold)
    return with_channels(config, load_generator(workspace.pool_generator()), manifest.channel_count)


def _on_pool(config: Config, workspace: Workspace, manifest: Manifest, accelerator: Any) -> None:
    pool, folder = config.diffusion.pool, workspace.pool_generator()
    index = pool_index(config, workspace, accelerator)
    words = read_abbreviations(
        Path(pool.abbreviations or configs_folder() / "pool" / "abbreviations.yaml").expanduser()
    )
    read = [words, pool.balance, pool.size, edge_facts(config.prepare.edges), asdict(config.prepare.intensity)]
    own = task_digest(config, pool.training, 1, "pool", index.digest, *read, first_digest(config, workspace, None))
    if workspace.is_current(folder, own):
        workspace.log("pretrain on the pool: done already")
        return
    if accelerator.is_main_process:
        workspace.log(f"pool: {index.summary()}")
    generator = first_generator(config, workspace, manifest, None)
    denoiser, _, codec = generator
    if denoiser.mixer is not None:
        denoiser.mixer.requires_grad_(
            False
        )  # a pool's pictures have no neighbours; several processes refuse idle weights
    plan = slice_plan(config, pool.training, (pool.size[0], pool.size[1]), slice_axis(config, manifest), "pool")
    edge_channels = 2 * config.diffusion.denoiser.neighbours + 1
    intensity = config.prepare.intensity
    kept = PoolPlan(
        edge_channels=edge_channels,
        label_channels=denoiser.control_channels - edge_channels,
        balance=pool.balance,
        window_hu=(intensity.window_hu[0], intensity.window_hu[1]),
        percentiles=(intensity.percentiles[0], intensity.percentiles[1]),
    )
    operator = partial(edge_operator(config.prepare.edges), spacing_mm=(1.0, 1.0, 1.0))
    prompts = (prompt_of(f"{relative}/", words) for relative in index.folders() if relative)
    cut = sorted({prompt for prompt in prompts if not denoiser.tokenizer.fits(prompt)})
    if cut and accelerator.is_main_process:
        workspace.log(
            f"pool: {len(cut)} of its prompts are cut, as {cut[0]!r}: the text encoder reads {denoiser.tokenizer.length} tokens; "
            "abbreviate in diffusion.pool.abbreviations, or raise diffusion.denoiser.text_length"
        )
    shared = (index, words, denoiser.tokenizer, codec)
    part = "held_out" if index.count(part="held_out") else "training"
    training = PoolDataset(*shared, plan, kept, operator)
    still = PoolDataset(*shared, plan.still(), replace(kept, part=part), operator)
    title, facts = f"pretrain on {index.count()} images of the pool", {"images": index.count()}
    shown = training.prompt(index.path(index.modalities[0], 0))
    task = Task("pretrain", title, folder, own, pool.training, training, still, part == "held_out", shown, facts)
    train_generator(config, workspace, accelerator, generator, task)
