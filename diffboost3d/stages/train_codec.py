"""`train-codec`: an autoencoder whose maps are diffused, on the pool, or on a fold's training-side images; without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffboost3d.cases.atomic import replacing_folder, write_json
from diffboost3d.cases.pool import PoolIndex
from diffboost3d.cases.prompts import read_abbreviations
from diffboost3d.cases.records import Case, Manifest
from diffboost3d.cases.workspace import Workspace, now
from diffboost3d.config import configs_folder, digest
from diffboost3d.diffusion.autoencoder import AutoencoderCodec, AutoencoderPlan, build_autoencoder
from diffboost3d.diffusion.batches import SliceDataset, SlicePlan, SliceSource, training_size
from diffboost3d.diffusion.codec_learning import (
    CodecLearner,
    PicturesOnly,
    ReconstructionObjective,
    image_batches,
    measure_scale,
)
from diffboost3d.diffusion.codecs import PackingCodec
from diffboost3d.diffusion.pool import PoolDataset, PoolPlan
from diffboost3d.diffusion.text import ByteTokenizer
from diffboost3d.evaluation.reconstruction import (
    THIRDS,
    IntensityRanges,
    reconstruction_scores,
    reconstruction_table,
    tissues_in_window,
)
from diffboost3d.imaging.channels import channels_of
from diffboost3d.schema import Config
from diffboost3d.seeds import seed_of
from diffboost3d.stages.codecs import WEIGHTS
from diffboost3d.stages.inputs import (
    accelerator_of,
    cases_of,
    pool_index,
    prepared,
    slice_axis,
    training_plan,
    without_intervals,
)
from diffboost3d.training import fit

STAGE, REPORT = "train-codec", "reconstruction.json"
SCALE_SLICES, REPORTED_SLICES = 128, 64
UNREAD = (
    ByteTokenizer(8),
    PackingCodec("haar", 1),
)  # the data sets of the generator ask for them, and only images are used


@dataclass(frozen=True)
class _Task:
    """A training of a codec.

    Attributes:
        title: at the progress bar. training, still: samples with "image".
        held_out: what the still slices are of, where that is not trained on; else "".
        ranges: for the report. facts: for the record.
    """

    title: str
    folder: Path
    digest: str
    training: PicturesOnly
    still: PicturesOnly
    held_out: str
    ranges: IntensityRanges
    facts: dict[str, Any]


def run(config: Config, workspace: Workspace) -> None:
    """One codec for all folds from the pool, which holds no case of the task; without a pool, one a fold."""
    accelerator = accelerator_of(config)
    if config.diffusion.pool.root is not None:
        _on_pool(config, workspace, accelerator)
        return
    manifest = workspace.read_manifest()
    for fold in config.folds:
        _on_fold(config, workspace, manifest, accelerator, fold)


def _on_fold(config: Config, workspace: Workspace, manifest: Manifest, accelerator: Any, fold: int) -> None:
    split, folder = workspace.read_split(fold), workspace.codec(fold)
    training = cases_of(manifest, sorted(split.unlabelled + split.training))
    validation = cases_of(manifest, split.validation)
    own = _digest(config, [case.digest for case in training], [case.digest for case in validation])
    if workspace.is_current(folder, own):
        workspace.log(f"{STAGE} fold {fold}: done already")
        return
    axis = slice_axis(config, manifest)
    factor = _autoencoder_plan(config).factor
    size = training_size([case.grid.shape for case in training], axis, factor, config.diffusion.max_size)
    plan = _slice_plan(config, size, axis)
    task = _Task(
        title=f"{STAGE} fold {fold}, {len(training)} images",
        folder=folder,
        digest=own,
        training=_slices(workspace, training, plan),
        still=_slices(workspace, validation or training, plan.still()),
        held_out="validation cases" if validation else "",
        ranges=_ranges(manifest),
        facts={"training": [case.id for case in training], "slice_size": size},
    )
    _train(config, workspace, accelerator, task)


def _on_pool(config: Config, workspace: Workspace, accelerator: Any) -> None:
    pool, folder = config.diffusion.pool, workspace.codec(None)
    index = pool_index(config, workspace, accelerator)
    own = _digest(config, index.digest, pool.balance, pool.size, asdict(config.prepare.intensity))
    if workspace.is_current(folder, own):
        workspace.log(f"{STAGE} on the pool: done already")
        return
    factor = _autoencoder_plan(config).factor
    size = training_size([(pool.size[0], pool.size[1], 1)], 2, factor, max(pool.size))
    plan = _slice_plan(config, size, axis=2)
    holds_out = index.count(part="held_out") > 0
    task = _Task(
        title=f"{STAGE} on {index.count()} images of the pool",
        folder=folder,
        digest=own,
        training=_pictures(config, index, plan, "training"),
        still=_pictures(config, index, plan.still(), "held_out" if holds_out else "training"),
        held_out="held-out images of the pool" if holds_out else "",
        ranges=THIRDS,
        facts={"images": index.count(), "slice_size": size},
    )
    _train(config, workspace, accelerator, task)


# --- what it is and reads --------------------------------------------------------------------------------------------
def _autoencoder_plan(config: Config) -> AutoencoderPlan:
    sizes = config.diffusion.codec.vae
    return AutoencoderPlan(tuple(sizes.channels), sizes.latent_channels, sizes.layers_per_block)


def _digest(config: Config, *read: Any) -> str:
    """Digest of all that shapes a codec; `read` is what it learns from."""
    codec = config.diffusion.codec
    return digest(
        STAGE,
        codec.vae,
        codec.detail_weight,
        codec.kl_weight,
        without_intervals(codec.training),
        config.diffusion.max_size,
        config.diffusion.slice_axis,
        config.seed,
        config.runtime.precision,
        *read,
    )


def _slice_plan(config: Config, size: tuple[int, int], axis: int) -> SlicePlan:
    """How slices are drawn; what only the generator reads is left at its plainest."""
    section = config.diffusion.codec.training
    return SlicePlan(
        size=size,
        axis=axis,
        rotation_degrees=section.rotation_degrees,
        scale=(section.scale[0], section.scale[1]),
        drop_text=0.0,
        drop_control=0.0,
        timesteps=1,
        seed=config.seed,
        purpose=STAGE,
        looks=section.looks,
        jitter=section.jitter,
    )


def _slices(workspace: Workspace, cases: Sequence[Case], plan: SlicePlan) -> PicturesOnly:
    """Slices of all channels, each an image of its own: one codec serves them all."""
    images = [channel for case in cases for channel in channels_of(prepared(workspace, case, "image"))]
    sources = [SliceSource(image, np.zeros((0, *image.shape), np.float32)) for image in images]
    return PicturesOnly(SliceDataset(sources, "", *UNREAD, plan))


def _pictures(config: Config, index: PoolIndex, plan: SlicePlan, part: str) -> PicturesOnly:
    intensity = config.prepare.intensity
    kept = PoolPlan(
        edge_channels=1,
        balance=config.diffusion.pool.balance,
        part=part,
        window_hu=(intensity.window_hu[0], intensity.window_hu[1]),
        percentiles=(intensity.percentiles[0], intensity.percentiles[1]),
    )
    words = read_abbreviations(configs_folder() / "pool" / "abbreviations.yaml")
    return PicturesOnly(PoolDataset(index, words, *UNREAD, plan, kept, _no_edges))


def _no_edges(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.zeros_like(picture)


def _ranges(manifest: Manifest) -> IntensityRanges:
    """Tissues in HU where the cases share a window, else thirds."""
    intensity = manifest.cases[0].intensity
    return tissues_in_window(intensity.low, intensity.high) if intensity.kind == "ct_window" else THIRDS


# --- training --------------------------------------------------------------------------------------------------------
def _train(config: Config, workspace: Workspace, accelerator: Any, task: _Task) -> None:
    """Train, measure the scale of the maps, judge, save, and write the record."""
    started = now()
    section = config.diffusion.codec
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, "codec"))
        vae = build_autoencoder(_autoencoder_plan(config))
    objective = ReconstructionObjective(vae, section.detail_weight, section.kl_weight)
    learner = CodecLearner(objective, task.training, task.still, bool(task.held_out))
    numbers = training_plan(section.training, config.seed, config.runtime.workers)
    done = fit(learner, numbers, task.folder, task.digest, accelerator, task.title, workspace.log)
    if accelerator.is_main_process:
        measure_scale(vae, image_batches(task.training, SCALE_SLICES))
        codec = AutoencoderCodec(vae)
        scores = _reconstruction(codec, task)
        with replacing_folder(task.folder / WEIGHTS) as temporary:
            codec.save(temporary)
        write_json(task.folder / REPORT, scores)
        workspace.log(f"{STAGE}: {REPORTED_SLICES} slices of {scores['of']}, as decoded")
        for line in reconstruction_table(scores):
            workspace.log(f"  {line}")
        facts = {"steps": done["steps"], **task.facts, "autoencoder": asdict(section.vae), "reconstruction": scores}
        workspace.finish(task.folder, STAGE, task.digest, started, **facts)
    accelerator.wait_for_everyone()


def _reconstruction(codec: AutoencoderCodec, task: _Task) -> dict[str, Any]:
    """Scores of fixed slices that were not trained on, or, where nothing is held out, that were."""
    real, decoded = [], []
    for images in image_batches(task.still, REPORTED_SLICES):
        real.append(images)
        decoded.append(codec.decode(codec.encode(images.to(codec.vae.device))).clamp(-1.0, 1.0).cpu())
    scores = reconstruction_scores(torch.cat(real), torch.cat(decoded), task.ranges)
    return {"of": task.held_out or "training images (nothing is held out)", **scores}
