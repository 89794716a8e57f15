"""What a plan chooses, and why: the rules of `planning.rules` applied to a prepared data set, a machine and a configuration."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diffboost3d.cases.records import Manifest
from diffboost3d.cases.workspace import Workspace
from diffboost3d.config import compose, with_values
from diffboost3d.diffusion.batches import training_size
from diffboost3d.imaging.geometry import Grid
from diffboost3d.planning import rules
from diffboost3d.planning.machine import Machine
from diffboost3d.planning.trials import Trial
from diffboost3d.schema import Config, TrainConfig
from diffboost3d.segmentation.batches import Size
from diffboost3d.segmentation.topology import Axes, plan_topology
from diffboost3d.stages.plan_trials import StepTrial, new_generator, try_generator, try_segmenter
from diffboost3d.stages.segmenters import training_patch
from diffboost3d.stages.synthesis_work import size_in_words
from diffboost3d.training.loading import loader_workers

PLANNED_UNETS = ("unet", "residual_unet")  # their levels are written; DynUNet plans its own, the others have fixed ones
PROBED = 2**18  # voxels of the patch that a segmenter is tried on at first
BATCH_2D_ON_CPU = 8  # as published
RESERVED = 0.25  # of the memory for networks is left to data and the rest


@dataclass(frozen=True)
class Choice:
    """A key of the configuration, the value chosen and the reason, in one line."""

    key: str
    value: Any
    reason: str


@dataclass
class Plan:
    """A configuration that grows by choices.

    Attributes:
        config: with all choices so far. manifest: with every case on its planned grid. notes: what the user should know.
    """

    config: Config
    manifest: Manifest
    machine: Machine
    choices: list[Choice] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def choose(self, key: str, value: Any, reason: str) -> None:
        """Take a value, which is validated with the whole configuration at the end of a group of choices."""
        self.choices.append(Choice(key, value, reason))

    def settle(self) -> None:
        """Put the choices into the configuration. Raises ConfigError where they don't go together."""
        self.config = with_values(self.config, {choice.key: choice.value for choice in self.choices})

    @property
    def dims(self) -> int:
        """Spatial dimensions: 2 or 3."""
        return self.manifest.spatial_dims

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Of all cases on the planned grid."""
        return [case.grid.shape for case in self.manifest.cases]

    @property
    def middle_shape(self) -> tuple[int, int, int]:
        """Median of each side."""
        i, j, k = (max(1, round(float(side))) for side in np.median(self.shapes, axis=0))
        return (i, j, k)

    @property
    def loader_workers(self) -> int:
        """Loader processes of a training that has this machine for itself."""
        asked = self.config.runtime.workers
        return loader_workers(self.machine.cores, self.machine.device) if asked is None else asked

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of the planned grid."""
        return self.manifest.cases[0].grid.spacing_mm


# --- grid ------------------------------------------------------------------------------------------------------------
def choose_grid(plan: Plan) -> None:
    """Spacing and the axis of slicing; the manifest gets the planned grids."""
    if plan.dims == 3:
        _choose_spacing(plan)
    if plan.config.diffusion.slice_axis is None:
        axis = plan.manifest.cases[0].grid.slice_axis
        spacing = ", ".join(f"{step:g}" for step in plan.spacing_mm)
        tied = ", the last of those that tie" if len({round(step, 3) for step in plan.spacing_mm}) < 3 else ""
        why = f"the coarsest of {spacing} mm{tied}" if plan.dims == 3 else "pictures are one slice"
        plan.choose("diffusion.slice_axis", axis, why)
    plan.settle()


def _choose_spacing(plan: Plan) -> None:
    given = plan.config.prepare.spacing_mm
    canonical = [case.source_grid.canonical() for case in plan.manifest.cases]
    ruled, why = rules.target_spacing([one.spacing_mm for one in canonical], [one.shape for one in canonical])
    if given is None:
        plan.choose("prepare.spacing_mm", list(ruled), why)
    else:
        why = f"as given; by the rule {list(ruled)}, {why}"
        plan.choose("prepare.spacing_mm", list(given), why)
        ruled = (given[0], given[1], given[2])
    known = plan.manifest.preparation
    prepared = known.spacing_mm if known else plan.manifest.cases[0].grid.spacing_mm
    if not np.allclose(prepared, ruled, rtol=0.01):
        words = ",".join(f"{step:g}" for step in ruled)
        plan.notes.append(
            f"the data is prepared at {_listed(prepared)} mm and the plan is for {_listed(ruled)} mm: run `prepare` again with "
            f"plan=FILE or prepare.spacing_mm=[{words}] (`run` does so by itself)"
        )
        plan.manifest = _on_grids(plan.manifest, ruled)


def _on_grids(manifest: Manifest, spacing_mm: tuple[float, float, float]) -> Manifest:
    def grid(source: Grid) -> Grid:
        return source.canonical().with_spacing(spacing_mm)

    cases = tuple(dataclasses.replace(case, grid=grid(case.source_grid)) for case in manifest.cases)
    return dataclasses.replace(manifest, cases=cases)


# --- generator -------------------------------------------------------------------------------------------------------
def choose_generator(plan: Plan, workspace: Workspace, device: torch.device) -> StepTrial:
    """Size of the network, codec, size of slices, batches, noise; a trial of the pre-training."""
    own_weights = plan.config.diffusion.family != "scratch" or plan.config.diffusion.start_from is not None
    base_tried = device.type != "cpu" and not own_weights
    if own_weights:
        plan.notes.append(
            "the generator's sizes and codec are those of the weights it starts from; they are not planned"
        )
    for size in ("base", "small") if base_tried else ("small",):
        before = list(plan.choices), plan.config
        if not own_weights:
            _choose_size(plan, size)
            _choose_codec(plan)
        trial, fits = _choose_slices(plan, workspace, device)
        if fits or size == "small":
            break
        plan.choices, plan.config = before
        plan.notes.append(
            f"diffusion=base does not fit into {size_in_words(plan.machine.network_memory)}; the plan has small"
        )
    _choose_noise(plan)
    _choose_sampling(plan, trial)
    return trial


def _choose_size(plan: Plan, size: str) -> None:
    """The network of a group of configs/diffusion; its learning rates go with it where it isn't what the user has."""
    group = compose([f"diffusion={size}"]).diffusion
    now = plan.config.diffusion.denoiser
    why = {
        "small": "sizes of diffusion=small, for two CPU cores or more",
        "base": "sizes of diffusion=base, as there is a GPU",
    }[size]
    for name in ("channels", "layers_per_level", "attention_levels", "head_channels", "text_width", "text_layers"):
        plan.choose(f"diffusion.denoiser.{name}", getattr(group.denoiser, name), why)
        why = "as above"
    plan.choose("diffusion.denoiser.text_length", max(group.denoiser.text_length, now.text_length), why)
    if list(now.channels) != list(group.denoiser.channels):
        for stage in ("pretrain", "finetune"):
            section = getattr(group, stage)
            plan.choose(f"diffusion.{stage}.learning_rate", section.learning_rate, f"goes with the sizes of {size}")
    plan.settle()


def _choose_codec(plan: Plan) -> None:
    codec, longest = plan.config.diffusion.codec, _longest(plan)
    if codec.name != "haar":
        plan.choose("diffusion.codec.name", codec.name, "as asked for")
    else:
        factor = rules.codec_factor(longest)
        plan.choose("diffusion.codec.name", "haar", "exact, needs no training; vae only where you ask for it")
        sides = math.ceil(longest / factor)
        plan.choose(
            "diffusion.codec.factor", factor, f"slices of up to {longest} voxels become maps of {sides} (128 at most)"
        )
    plan.settle()


def _longest(plan: Plan) -> int:
    """The longest side of a slice."""
    axis = plan.config.diffusion.slice_axis
    return max(side for shape in plan.shapes for at, side in enumerate(shape) if at != axis)


def _choose_slices(plan: Plan, workspace: Workspace, device: torch.device) -> tuple[StepTrial, bool]:
    """Size and batch of slices by a trial on whole slices; whether even the smallest fits."""
    section, stack = plan.config.diffusion, plan.config.diffusion.denoiser.stack
    made = new_generator(plan.config, workspace, plan.manifest)
    divisor = made[0].divisor
    factor = int(made[2].factor)
    levels = int(math.log2(divisor // factor)) + 1
    whole = rules.plan_slices(_longest(plan), factor, levels, section.pretrain.batch, stack, lambda size, batch: True)
    plan.settle()
    tried = with_values(plan.config, {"diffusion.max_size": whole.max_size})
    trial = try_generator(tried, plan.manifest, made, section.pretrain, device)

    def plane(size: int) -> int:
        a, b = training_size(plan.shapes, tried.diffusion.slice_axis or 0, divisor, size)
        return a * b

    def peak(size: int, batch: int) -> int:
        return trial.network.peak(batch / stack * plane(size) / plane(whole.max_size))

    budget = int((1 - RESERVED) * plan.machine.network_memory)
    chosen = rules.plan_slices(
        _longest(plan), factor, levels, section.pretrain.batch, stack, lambda size, batch: peak(size, batch) <= budget
    )
    needed = peak(chosen.max_size, chosen.batch)
    covers = "covers every slice" if chosen.max_size >= _longest(plan) else f"slices of {_longest(plan)} are cropped"
    plan.choose("diffusion.max_size", chosen.max_size, f"{covers}; a multiple of the divisor {divisor}")
    why = f"{size_in_words(needed)} of {size_in_words(budget)} for networks"
    for stage in ("pretrain", "finetune"):
        plan.choose(f"diffusion.{stage}.batch", chosen.batch, why)
        why = "as above"
    plan.settle()
    ratio = plane(chosen.max_size) / plane(whole.max_size)
    return _scaled(trial, ratio, made, plan, device), needed <= budget


def _scaled(trial: StepTrial, ratio: float, made: Any, plan: Plan, device: torch.device) -> StepTrial:
    """The trial of the chosen size: the same, or another one where slices are cropped."""
    if ratio == 1.0:
        return trial
    return try_generator(plan.config, plan.manifest, made, plan.config.diffusion.pretrain, device)


def _choose_noise(plan: Plan) -> None:
    if plan.dims == 2:
        plan.choose("synthesize.noise", "independent", "pictures have no neighbours to share it with")
    elif plan.config.synthesize.noise == "shared" and plan.config.synthesize.rho is None:
        plan.choose("synthesize.noise", "shared", "by a part rho, which `synthesize` measures on the training scans")
    plan.settle()


def _choose_sampling(plan: Plan, trial: StepTrial) -> None:
    settings, axis = plan.config.synthesize, plan.config.diffusion.slice_axis or 0
    plane = max(math.prod(shape) // shape[axis] for shape in plan.shapes)
    budget = int((1 - RESERVED) * plan.machine.network_memory) - 4 * trial.network.parameters
    bytes_a_voxel = trial.network.inference / trial.voxels
    voxels = rules.denoised_voxels(budget, bytes_a_voxel, plane, settings.batch_voxels)
    plan.choose("synthesize.batch_voxels", voxels, f"{size_in_words(round(voxels * bytes_a_voxel))} while denoising")
    volumes = rules.memory_for_volumes(plan.machine.free_memory)
    plan.choose("synthesize.memory_gb", volumes, "a quarter of the free main memory, at most 8")
    plan.settle()


# --- segmenter -------------------------------------------------------------------------------------------------------
def choose_segmenter(plan: Plan, device: torch.device) -> tuple[Trial, float]:
    """Patch, levels and batch; (a trial, patches of the plan that its sample stands for)."""
    if plan.config.train.patch is not None or plan.config.train.whole:
        given = (
            "whole volumes are patches, as train.whole asks" if plan.config.train.whole else "train.patch is as given"
        )
        plan.notes.append(f"{given}; the network's levels and the batch are not planned")
        patch = segmenter_patch(plan)
        return try_segmenter(plan.config, plan.manifest, patch, plan.config.network.arguments, device), 1.0
    median, dims = plan.middle_shape[: plan.dims], plan.dims
    divisor_of = _divisors(plan)
    probed = rules.plan_patch(median, divisor_of, lambda patch: math.prod(patch) <= PROBED)
    probe = _as_size(probed, dims)
    trial = try_segmenter(plan.config, plan.manifest, probe, _arguments(plan, probe), device)
    budget = int((1 - RESERVED) * plan.machine.network_memory)
    most_voxels = plan.config.train.max_patch**3 if plan.machine.device == "cpu" else None

    def patches_of(patch: Sequence[int]) -> float:
        return math.prod(patch) / math.prod(probe)

    def fits(patch: Sequence[int]) -> bool:
        if most_voxels is not None and math.prod(patch) > most_voxels:
            return False
        return trial.peak(rules.LEAST_BATCH * patches_of(patch)) <= budget

    planned = rules.plan_patch(median, divisor_of, fits)
    patch = _as_size(planned, dims)
    _choose_network(plan, patch, divisor_of)
    fitting = int((budget - trial.state) / max(1.0, trial.activations * patches_of(planned)))
    most = (rules.LEAST_BATCH if dims == 3 else BATCH_2D_ON_CPU) if plan.machine.device == "cpu" else 10**6
    batch = rules.plan_batch(fitting, math.prod(planned), sum(math.prod(shape) for shape in plan.shapes), most)
    needed = trial.peak(batch * patches_of(planned))
    limit = " and the time of a CPU" if most_voxels is not None else ""
    covered = math.prod(min(a, b) / b for a, b in zip(planned, median, strict=True))
    reason = f"{covered:.0%} of the median image {_listed(median)}, which memory{limit} allow"
    plan.choose("train.patch", list(patch), reason)
    plan.choose("train.batch", batch, f"{size_in_words(needed)} of {size_in_words(budget)} for networks")
    if plan.config.gate.training.patch is None and not plan.config.gate.training.whole:
        plan.choose("gate.training.patch", list(patch), "the gate's segmenters are of the same network")
    plan.settle()
    if dims == 3 and covered < rules.COVERED:
        plan.notes.append(
            f"a patch covers {covered:.0%} of the median image (nnU-Net plans a second, coarser grid below 25 %); a coarser "
            "prepare.spacing_mm shows the network more of the body"
        )
    if needed > budget:
        plan.notes.append("even the smallest patches of this network do not fit into memory; choose a smaller network")
    return trial, patches_of(planned)


def segmenter_patch(plan: Plan, section: TrainConfig | None = None) -> Size:
    """Patch (I, J, K) of a training as the configuration is now; of the segmenters' where none is named.

    Whole volumes are as large as the largest of all cases, those of other folds included.
    """
    return training_patch(section or plan.config.train, plan.config.network, plan.shapes)


def _divisors(plan: Plan) -> Callable[[Sequence[int]], Axes]:
    """Divisors of the network that a patch would get."""
    dims = plan.dims
    if _has_planned_levels(plan):
        return lambda patch: plan_topology(plan.spacing_mm[:dims], patch).divisor
    return lambda patch: (plan.config.network.divisor,) * dims


def _has_planned_levels(plan: Plan) -> bool:
    """Whether the network's levels follow from the patch; DynUNet plans its own, unless its strides are given."""
    network = plan.config.network
    return network.name in PLANNED_UNETS or (network.name == "dynunet" and "strides" not in network.arguments)


def _arguments(plan: Plan, patch: Sequence[int]) -> dict[str, Any]:
    """The network's arguments with the levels that a patch gets."""
    network = plan.config.network
    if network.name not in PLANNED_UNETS:
        return dict(network.arguments)
    topology = plan_topology(plan.spacing_mm[: plan.dims], patch[: plan.dims])
    width = int(network.arguments.get("channels", [16])[0])
    return {**network.arguments, **rules.planned_unet(topology, width)}


def _choose_network(plan: Plan, patch: Sequence[int], divisor_of: Callable[[Sequence[int]], Axes]) -> None:
    divisors = divisor_of(patch[: plan.dims])
    if plan.config.network.name in PLANNED_UNETS:
        arguments = _arguments(plan, patch)
        levels = len(arguments["channels"])
        plan.choose("network.arguments", arguments, f"{levels} levels, the coarsest maps keep 4 voxels or more")
    if _has_planned_levels(plan):
        plan.choose("network.divisor", min(divisors), f"sides of a patch are multiples of {_listed(divisors)}")


def _as_size(patch: Sequence[int], dims: int) -> tuple[int, int, int]:
    i, j, k = (*patch[:dims], *[1] * (3 - dims))
    return (i, j, k)


def _listed(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)
