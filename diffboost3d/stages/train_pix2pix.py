"""`train-pix2pix`: a GAN learns to translate the edges of a fold's labelled training cases into their images."""

from __future__ import annotations

import dataclasses
from typing import Any

from diffboost3d.cases.records import Case, Manifest
from diffboost3d.cases.workspace import Workspace, now
from diffboost3d.config import digest
from diffboost3d.schema import Config
from diffboost3d.seeds import seed_of
from diffboost3d.stages.inputs import (
    accelerator_of,
    cases_of,
    control_of,
    prepared,
    slice_axis,
    training_plan,
    without_intervals,
)
from diffboost3d.stages.translators import shape_of_translator, translator_sizes
from diffboost3d.training import fit
from diffboost3d.translation.batches import PairedSlices, PairedVolume, Size
from diffboost3d.translation.learning import TranslationLearner
from diffboost3d.translation.networks import TranslatorPlan, build
from diffboost3d.translation.weights import save_translator


def run(config: Config, workspace: Workspace) -> None:
    """Train one translator a fold; `prepare` must have finished. It sees the labelled training cases only."""
    manifest = workspace.read_manifest()
    accelerator = accelerator_of(config)
    for fold in config.folds:
        _run_fold(config, workspace, manifest, accelerator, fold)


def _run_fold(config: Config, workspace: Workspace, manifest: Manifest, accelerator: Any, fold: int) -> None:
    started, folder, split = now(), workspace.pix2pix(fold), workspace.read_split(fold)
    training, validation = cases_of(manifest, split.training), cases_of(manifest, split.validation)
    wanted, title = config.pix2pix, f"train-pix2pix fold {fold}, {len(training)} labelled cases"
    own = digest(
        {**dataclasses.asdict(wanted), "training": without_intervals(wanted.training)},
        shape_of_translator(config),
        config.diffusion.max_size,
        config.seed,
        config.runtime.precision,
        [case.digest for case in training],
    )
    if workspace.is_current(folder, own):
        workspace.log(f"{title}: done already")
        return
    size, plan = translator_sizes(config, manifest, [case.grid.shape for case in training])
    seed = seed_of(config.seed, "pix2pix", fold)
    learner = _learner(config, workspace, manifest, plan, size, (training, validation or training), seed)
    numbers = training_plan(wanted.training, seed, config.runtime.workers)
    numbers = dataclasses.replace(numbers, betas=(wanted.training.betas[0], wanted.training.betas[1]))
    facts = fit(learner, numbers, folder, own, accelerator, title, workspace.log)
    if accelerator.is_main_process:
        save_translator(folder, learner.translator)
        facts |= {"best_score": None, "training": [case.id for case in training], "slice_size": size}
        facts |= {"shape": shape_of_translator(config), "plan": dataclasses.asdict(plan)}
        workspace.finish(folder, "train-pix2pix", own, started, **facts)
    accelerator.wait_for_everyone()


def _learner(
    config: Config,
    workspace: Workspace,
    manifest: Manifest,
    plan: TranslatorPlan,
    size: Size,
    cases: tuple[list[Case], list[Case]],
    seed: int,
) -> TranslationLearner:
    """Cases: to train on, and to look at."""
    import torch

    def slices(some: list[Case], purpose: str) -> PairedSlices:
        volumes = [
            PairedVolume(
                prepared(workspace, case, "image"), control_of(config, manifest, workspace, case, with_label=True)
            )
            for case in some
        ]
        return PairedSlices(volumes, size, slice_axis(config, manifest), seed, purpose)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "networks"))
        translator, discriminator = build(plan)
    training, still = slices(cases[0], "pix2pix"), slices(cases[1], "pix2pix validation")
    return TranslationLearner(translator, discriminator, training, still, config.pix2pix.l1_weight, seed)
