"""Short trials of what the stages will run, on made-up volumes of the planned shape: an image's content costs nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffboost3d.cases.records import Manifest
from diffboost3d.cases.workspace import Workspace
from diffboost3d.diffusion.autoencoder import AutoencoderCodec, AutoencoderPlan, build_autoencoder
from diffboost3d.diffusion.batches import SliceDataset, SliceSource, training_size
from diffboost3d.diffusion.codec_learning import PicturesOnly, ReconstructionObjective
from diffboost3d.diffusion.codecs import for_channels
from diffboost3d.diffusion.learning import DiffusionLearner
from diffboost3d.evaluation.memorisation import DetailIndex, places
from diffboost3d.evaluation.metrics import score_labels
from diffboost3d.planning.trials import Trial, clocked, seconds_each, try_training
from diffboost3d.refinement.batches import NoisyPatches
from diffboost3d.refinement.learning import RefinementObjective
from diffboost3d.refinement.networks import Refiner
from diffboost3d.refinement.sampling import RefinePlan
from diffboost3d.schema import ArmConfig, Config, DiffusionTrainingConfig
from diffboost3d.seeds import generator
from diffboost3d.segmentation.batches import PatchDataset, Size, TrainingCase
from diffboost3d.segmentation.learning import SegmentationLearner
from diffboost3d.stages.arms import augmentations_of
from diffboost3d.stages.generator_start import Generator, first_generator, untrained_generator
from diffboost3d.stages.generator_training import slice_plan
from diffboost3d.stages.inputs import merge_of, merge_plan, slice_axis
from diffboost3d.stages.refiners import new_refiner
from diffboost3d.stages.segmenters import network_spec, new_network, segmenter_loss
from diffboost3d.stages.synthesis_work import sampling_plan
from diffboost3d.stages.translators import translator_sizes
from diffboost3d.synthesis.refining import Refining
from diffboost3d.synthesis.spectrum import with_spectrum_of
from diffboost3d.synthesis.translated import TranslatedVolumes
from diffboost3d.synthesis.volumes import NoisePlan, SlabPlan, VolumeSampler, slow_mm_of
from diffboost3d.synthetic_sets import refines
from diffboost3d.translation.batches import PairedSlices, PairedVolume
from diffboost3d.translation.learning import AdversarialObjective
from diffboost3d.translation.networks import Translator, build

LOADED = (
    "monai.inferers",
    "monai.losses",
    "monai.networks.nets",
    "diffusers",
    "transformers",
    "torch.utils.tensorboard",
)
TRIED_VOXELS = 2e6  # of whole volumes; what larger ones take grows with their voxels
DEPTH = 4  # slices of the volumes that slices are tried on
OVERFULL = 1.25  # sides of the volumes that patches are tried on, as multiples of the patch


@dataclass(frozen=True)
class StepTrial:
    """A training in trial: its network on one sample, the seconds that making a sample takes, and voxels of a sample."""

    network: Trial
    sample_seconds: float
    voxels: int


@dataclass(frozen=True)
class SetTrial:
    """Seconds of a set of synthetic volumes: of making one slice, and of what a whole volume goes through afterwards."""

    slice_seconds: float
    finishing: float


def process_bytes() -> int:
    """Bytes that the process has with the libraries that trainings load, and nothing of theirs yet."""
    from importlib import import_module

    import psutil

    for name in LOADED:
        import_module(name)
    return int(psutil.Process().memory_info().rss)


# --- generator -------------------------------------------------------------------------------------------------------
def new_generator(config: Config, workspace: Workspace, manifest: Manifest) -> Generator:
    """The generator that training begins with; a codec that is not trained yet has random weights, which cost the same."""
    codec = config.diffusion.codec
    scratch = config.diffusion.family == "scratch" and config.diffusion.start_from is None
    if scratch and codec.name == AutoencoderCodec.name and codec.weights is None:
        untrained = for_channels(AutoencoderCodec(_autoencoder(config)), manifest.channel_count)
        made = untrained_generator(config, manifest, untrained)
        if config.diffusion.denoiser.stack > 1:
            made[0].mix_along_slices()
        return made
    return first_generator(config, workspace, manifest, config.folds[0])


def try_generator(
    config: Config, manifest: Manifest, made: Generator, section: DiffusionTrainingConfig, device: torch.device
) -> StepTrial:
    """Of a training of the generator; a sample is a slice, or a stack of them."""
    denoiser, scheduler, codec = made
    axis, stack = slice_axis(config, manifest), config.diffusion.denoiser.stack
    shapes = [case.grid.shape for case in manifest.cases]
    size = training_size(shapes, axis, denoiser.divisor, config.diffusion.max_size)
    plan = replace(slice_plan(config, section, size, axis, "plan"), stack=stack)
    shape = _with_depth(np.max(shapes, axis=0).tolist(), axis, max(DEPTH, stack))
    control = generator(config.seed, "plan", "control").random((denoiser.control_channels, *shape), dtype=np.float32)
    source = SliceSource(_image(config, _with_channels(manifest, shape)), control)
    data = SliceDataset([source], manifest.prompt, denoiser.tokenizer, codec, plan)
    denoiser.spare_memory(config.diffusion.attention_slicing, config.diffusion.gradient_checkpointing)
    learner = DiffusionLearner(
        denoiser,
        scheduler,
        codec,
        data,
        data,
        False,
        manifest.prompt,
        trained="control" if section.trained == "lora" else section.trained,  # adapters are few
    )
    network = try_training(learner.module, _batches(data), max(1, section.batch // stack), device)
    return StepTrial(network, seconds_each(data.__getitem__), stack * size[0] * size[1])


def try_codec(config: Config, manifest: Manifest, device: torch.device) -> StepTrial:
    """Of `train-codec`."""
    section, axis = config.diffusion.codec, slice_axis(config, manifest)
    vae = _autoencoder(config)
    shapes = [case.grid.shape for case in manifest.cases]
    factor = 2 ** (len(section.vae.channels) - 1)
    size = training_size(shapes, axis, factor, config.diffusion.max_size)
    shape = _with_depth(np.max(shapes, axis=0).tolist(), axis, DEPTH)
    still = slice_plan(config, config.diffusion.pretrain, size, axis, "plan")
    plan = replace(still, jitter=section.training.jitter, looks=0.0)
    unread = untrained_generator(config, manifest, AutoencoderCodec(vae))[0].tokenizer
    source = SliceSource(_image(config, shape), np.zeros((0, *shape), np.float32))
    data = PicturesOnly(SliceDataset([source], "", unread, AutoencoderCodec(vae), plan))
    vae.requires_grad_(True)
    objective = ReconstructionObjective(vae, section.detail_weight, section.kl_weight)
    network = try_training(objective, _batches(data), section.training.batch, device)
    return StepTrial(network, seconds_each(data.__getitem__), size[0] * size[1])


def _autoencoder(config: Config) -> Any:
    sizes = config.diffusion.codec.vae
    return build_autoencoder(AutoencoderPlan(tuple(sizes.channels), sizes.latent_channels, sizes.layers_per_block))


def try_translator(config: Config, manifest: Manifest, device: torch.device) -> tuple[StepTrial, Translator]:
    """Of `train-pix2pix`, and the translator; a sample is a slice."""
    axis, shapes = slice_axis(config, manifest), [case.grid.shape for case in manifest.cases]
    size, plan = translator_sizes(config, manifest, shapes)
    shape = _with_depth(np.max(shapes, axis=0).tolist(), axis, DEPTH)
    control = generator(config.seed, "plan", "control").random((plan.control_channels, *shape), dtype=np.float32)
    data = PairedSlices(
        [PairedVolume(_image(config, _with_channels(manifest, shape)), control)], size, axis, config.seed, "plan"
    )
    translator, discriminator = build(plan)
    objective = AdversarialObjective(translator, discriminator, config.pix2pix.l1_weight)
    network = try_training(objective, _batches(data), config.pix2pix.training.batch, device)
    return StepTrial(network, seconds_each(data.__getitem__), size[0] * size[1]), translator


def try_refiner(config: Config, manifest: Manifest, device: torch.device) -> tuple[StepTrial, Refiner]:
    """Of `train-refiner`, and the refiner; a sample is a patch."""
    patch = config.refiner.patch
    images = [_image(config, _with_channels(manifest, (patch,) * 3), number) for number in range(2)]
    refiner = new_refiner(config, images, config.seed)
    data = NoisyPatches(images, (patch,) * 3, refiner.plan.sigma, config.seed, "plan")
    network = try_training(RefinementObjective(refiner), _batches(data), config.refiner.training.batch, device)
    return StepTrial(network, seconds_each(data.__getitem__), patch**3), refiner


def refining_seconds(config: Config, refiner: Refiner, shape: Sequence[int], device: torch.device) -> float:
    """Seconds that `synthesize` takes to go over a volume of all channels."""
    settings = config.synthesize
    plan = RefinePlan(settings.refine or 0.0, settings.refine_steps, settings.batch_voxels)
    return Refining(refiner, plan, device, config.runtime.precision).seconds(shape)


def slice_seconds(config: Config, made: Generator, shape: Sequence[int], axis: int, device: torch.device) -> float:
    """Seconds that `synthesize` takes for a slice of such a volume: its own forecast, without waiting for other work."""
    settings = config.synthesize
    sampler = VolumeSampler(
        *made,
        sampling_plan(settings),
        NoisePlan(settings.noise, settings.rho or 0.0, settings.correlation_mm),
        settings.negative_prompt,
        settings.batch,
        device,
        config.runtime.precision,
        slabs=SlabPlan(settings.slab, settings.slab_overlap, settings.batch_voxels, settings.slab_blend),
    )
    made[0].eval()
    return _said_seconds(sampler, shape, axis, device)


def translated_seconds(
    config: Config, translator: Translator, shape: Sequence[int], axis: int, device: torch.device
) -> float:
    """Seconds that `synthesize` takes for a slice that the GAN makes."""
    volumes = TranslatedVolumes(translator.eval(), device, config.runtime.precision)
    return _said_seconds(volumes, shape, axis, device)


def _said_seconds(
    sampler: VolumeSampler | TranslatedVolumes, shape: Sequence[int], axis: int, device: torch.device
) -> float:
    """What the sampler says of a slice, less the share of its time that other work took."""
    said = list[float]()
    started = time.perf_counter()
    own = clocked(lambda: said.append(sampler.seconds_a_slice(shape, axis)), device)
    share = own / (time.perf_counter() - started)  # its own clock is the wall's
    return share * said[0]


def try_set(
    config: Config,
    manifest: Manifest,
    makers: tuple[Generator | None, Translator | None, Refiner | None],
    shape: Sequence[int],
    device: torch.device,
) -> SetTrial:
    """Of making volumes of such a shape.

    Args:
        config: of the set. makers: the generator, the translator and the refiner, where the run has them.
    """
    generator_, translator, refiner = makers
    axis = slice_axis(config, manifest)
    if config.synthesize.generator == "pix2pix":
        assert translator is not None  # a run with such a set trains it
        return SetTrial(translated_seconds(config, translator, shape, axis, device), 0.0)
    assert generator_ is not None
    finishing = manifest.channel_count * finishing_seconds(config, shape)
    if refines(config.synthesize):
        assert refiner is not None  # a run with such a set trains it
        finishing += refining_seconds(config, refiner, shape, device)
    return SetTrial(slice_seconds(config, generator_, shape, axis, device), finishing)


def finishing_seconds(config: Config, shape: Sequence[int]) -> float:
    """Seconds that a synthetic volume is given the spectrum and the slow waves of its case in."""
    share, slow_mm = config.synthesize.match_spectrum, config.synthesize.keep_slow_mm
    if not share and slow_mm == 0:
        return 0.0
    tried, times = _limited(shape)
    volume, other = _image(config, tried), _image(config, tried, 1)
    return times * clocked(
        lambda: with_spectrum_of(volume, other, share, slow_mm=slow_mm_of((1, 1, 1)) if slow_mm is None else slow_mm),
        torch.device("cpu"),
    )


def search_seconds(config: Config, shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[float, int]:
    """Of the gate: (seconds that one image is searched for copies, bytes that it takes in the index)."""
    gate = config.gate
    shape, _ = _limited(shape)  # blocks are as many and as large in larger volumes
    where = places(shape, gate.block_voxels, gate.blocks, gate.search)
    index = DetailIndex([_image(config, shape), _image(config, shape, 1)], spacing_mm, where)
    volume = _image(config, shape, 2)
    bytes_ = 8 * len(where.offsets) * int(np.prod(where.window))
    return seconds_each(lambda number: index.nearest(volume, [number % 2]), most=4), bytes_


# --- segmenter -------------------------------------------------------------------------------------------------------
def try_segmenter(
    config: Config, manifest: Manifest, patch: Size, arguments: Mapping[str, Any], device: torch.device
) -> Trial:
    """Of a segmenter's training on real patches; a sample is a patch. `arguments` stand for the network's own."""
    network = new_network(replace(network_spec(config, manifest, patch), arguments=arguments), config.seed)
    data = patches(config, manifest, ArmConfig(), patch)
    learner = SegmentationLearner(
        network,
        data,
        [],
        list(manifest.foreground),
        config.train.overlap,
        **segmenter_loss(config.train, manifest),
    )
    return try_training(learner.module, _batches(data), config.train.batch, device)


def patches(config: Config, manifest: Manifest, arm: ArmConfig, patch: Size) -> PatchDataset:
    """The samples of an arm on two made-up cases, each with a synthetic volume."""
    shape = [side if side == 1 else round(OVERFULL * side) for side in patch]
    cases = []
    for number in range(2):
        label = generator(config.seed, "plan", "label", number).integers(0, manifest.label_count + 1, shape)
        whole = _with_channels(manifest, shape)
        images = (_image(config, whole, number), _image(config, whole, number + 2))
        cases.append(TrainingCase(images[0], label.astype(np.uint8), (images[1],)))
    spacing_mm = manifest.cases[0].grid.spacing_mm
    return PatchDataset(
        cases,
        patch,
        spacing_mm,
        merge_plan(merge_of(config, arm), _source(arm), manifest),
        augmentations_of(config, arm, patch, spacing_mm, manifest.spatial_dims),
        config.train.foreground_probability,
        config.seed,
    )


def patch_seconds(config: Config, manifest: Manifest, patch: Size) -> dict[str, float]:
    """Arm -> seconds that making one of its patches takes; arms of the same making are tried once."""
    found: dict[tuple[str, bool, tuple[str, ...]], float] = {}
    seconds = {}
    for name in config.arms:
        arm = config.arm[name]
        making = _source(arm), arm.classical, tuple(arm.augmentations)
        if making not in found:
            found[making] = seconds_each(patches(config, manifest, arm, patch).__getitem__)
        seconds[name] = found[making]
    return seconds


def _source(arm: ArmConfig) -> str:
    """What real patches are merged with, as `merge_plan` calls it."""
    return {"warped": "synthetic", "instead": "none"}.get(arm.merge, arm.merge)


def scoring_seconds(config: Config, manifest: Manifest, shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Seconds that the metrics of one case take: balls, one a label, against the same balls moved by a voxel."""
    shape, times = _limited(shape)
    away = np.sqrt(sum(np.square(at - (side - 1) / 2) for at, side in zip(np.indices(shape), shape, strict=True)))
    radius = min(side for side in shape if side > 1) / 3
    label = np.ceil((1 - away / radius).clip(0) * manifest.label_count).astype(int)
    values = np.asarray([*manifest.labels.values()])
    truth, moved = values[label], values[np.roll(label, 1, 0)]
    tolerance = config.evaluate.tolerance_mm
    return times * clocked(
        lambda: score_labels(moved, truth, manifest.labels, spacing_mm, tolerance), torch.device("cpu")
    )


# --- common ----------------------------------------------------------------------------------------------------------
def _batches(data: Any) -> Callable[[int], dict[str, torch.Tensor]]:
    """Batches of a data set, of samples from the first on."""

    def batch(count: int) -> dict[str, torch.Tensor]:
        items = [data[number] for number in range(count)]
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    return batch


def _image(config: Config, shape: Sequence[int], number: int = 0) -> NDArray[np.float32]:
    """Noise in [-1, 1]."""
    return generator(config.seed, "plan", "image", number).random(tuple(shape), dtype=np.float32) * 2 - 1


def _with_channels(manifest: Manifest, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of images, with their channels where they have several."""
    return tuple(shape) if manifest.channel_count == 1 else (manifest.channel_count, *shape)


def _limited(shape: Sequence[int]) -> tuple[tuple[int, ...], float]:
    """A shape of the same proportions with at most so many voxels as are tried, and how many times larger the volume is."""
    whole = float(np.prod(shape))
    shrink = min(1.0, (TRIED_VOXELS / whole) ** (1 / sum(side > 1 for side in shape)))
    sides = tuple(max(1, round(side * shrink)) for side in shape)
    return sides, whole / float(np.prod(sides))


def _with_depth(shape: Sequence[int], axis: int, depth: int) -> tuple[int, ...]:
    """The shape with at most so many slices."""
    return tuple(min(side, depth) if at == axis else side for at, side in enumerate(shape))
