"""`train-refiner`: a 3D network learns the fine texture of a fold's training-side images; without labels."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.records import Case, Manifest
from diffboost3d.cases.workspace import Workspace, now
from diffboost3d.config import digest
from diffboost3d.refinement.batches import NoisyPatches
from diffboost3d.refinement.learning import RefinementLearner
from diffboost3d.refinement.networks import Refiner
from diffboost3d.refinement.weights import save_refiner
from diffboost3d.schema import Config
from diffboost3d.seeds import seed_of
from diffboost3d.stages.inputs import accelerator_of, cases_of, prepared, training_plan, without_intervals
from diffboost3d.stages.refine_rule import with_refine
from diffboost3d.stages.refiners import STAGE, new_refiner, shape_of_refiner
from diffboost3d.synthetic_sets import DEFAULT_SET, of_set, refines, synthetic_sets
from diffboost3d.training import fit

Images = list[NDArray[np.float32]]


def run(config: Config, workspace: Workspace) -> None:
    """Train one refiner a fold, on its unlabelled and labelled training images; `prepare` must have finished.

    None is trained where no set of synthetic volumes is refined.
    """
    manifest = workspace.read_manifest()
    known = with_refine(config, manifest)
    if not any(refines(of_set(known, name).synthesize) for name in synthetic_sets(known) or [DEFAULT_SET]):
        workspace.log(f"{STAGE}: none is needed, synthesize.refine is 0 here")
        return
    accelerator = accelerator_of(config)
    for fold in config.folds:
        _run_fold(config, workspace, manifest, accelerator, fold)


def _run_fold(config: Config, workspace: Workspace, manifest: Manifest, accelerator: Any, fold: int) -> None:
    started, folder, split = now(), workspace.refiner(fold), workspace.read_split(fold)
    training = cases_of(manifest, sorted(split.unlabelled + split.training))
    validation, wanted = cases_of(manifest, split.validation), config.refiner
    title = f"{STAGE} fold {fold}, {len(training)} images"
    own = digest(
        shape_of_refiner(config),
        wanted.patch,
        without_intervals(wanted.training),
        config.seed,
        config.runtime.precision,
        [case.digest for case in training],
    )
    if workspace.is_current(folder, own):
        workspace.log(f"{title}: done already")
        return
    images, still = (_images(workspace, cases) for cases in (training, validation or training))
    seed = seed_of(config.seed, "refiner", fold)
    learner = _learner(new_refiner(config, images, seed), config, images, still, seed)
    numbers = training_plan(wanted.training, seed, config.runtime.workers)
    facts = fit(learner, numbers, folder, own, accelerator, title, workspace.log)
    if accelerator.is_main_process:
        save_refiner(folder, learner.refiner)
        facts |= {"best_score": None, "training": [case.id for case in training], "shape": shape_of_refiner(config)}
        workspace.finish(folder, STAGE, own, started, plan=dataclasses.asdict(learner.refiner.plan), **facts)
    accelerator.wait_for_everyone()


def _images(workspace: Workspace, cases: list[Case]) -> Images:
    return [np.asarray(prepared(workspace, case, "image"), np.float32) for case in cases]


def _learner(refiner: Refiner, config: Config, images: Images, still: Images, seed: int) -> RefinementLearner:
    sides = _patch(config, images, refiner.plan.divisor)
    training, unmoved = (
        NoisyPatches(some, sides, refiner.plan.sigma, seed, purpose, mirrors)
        for some, purpose, mirrors in ((images, "refiner", True), (still, "refiner validation", False))
    )
    return RefinementLearner(refiner, training, unmoved)


def _patch(config: Config, images: Images, divisor: int) -> tuple[int, int, int]:
    """Sides of training patches: as configured, but no longer than the longest image, in multiples of the divisor."""
    longest = np.max([image.shape[-3:] for image in images], axis=0)
    i, j, k = (min(config.refiner.patch, math.ceil(int(side) / divisor) * divisor) for side in longest)
    return i, j, k
