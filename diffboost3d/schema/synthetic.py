"""Keys of the synthetic volumes: anatomy, sampling, and the gate that they have to pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffboost3d.schema.keys import key, section
from diffboost3d.schema.segmenter import TrainConfig


@dataclass
class AnatomyConfig:
    same: float = key(1.0, "Share of samples that have the shapes of their case.", low=0, high=1)
    warped: float = key(
        0.0, "Share with those shapes warped at random: affine, elastic, and labels that grow or shrink.", low=0, high=1
    )
    registered: float = key(
        0.0,
        "Share with those shapes carried towards another training image (an unlabelled one if there are any), by registration.",
        low=0,
        high=1,
    )
    between: float = key(0.0, "Share with shapes between those of two labelled training cases.", low=0, high=1)
    rotation_degrees: float = key(10.0, "warped: largest rotation about each axis.", low=0, high=180)
    scale: list[float] = key([0.9, 1.1], "warped: range of scaling.", low=0.1, high=10, length=(2,))
    shear: float = key(0.1, "warped: largest shear, as a tangent.", low=0, high=1)
    elastic_mm: float | None = key(
        None,
        "warped: root mean square of the elastic displacement along an axis, in mm (pixels in 2D); null: 4 % of the diameter of a "
        "ball with the labels' volume.",
        low=0,
    )
    elastic_smoothness_mm: float | None = key(
        None,
        "warped: Gaussian that makes the elastic displacement smooth, in mm; null: 35 % of that diameter.",
        low=0.01,
    )
    label_volume: list[float] = key(
        [0.8, 1.25], "warped: range of the factor by which each label's volume changes.", low=0.1, high=10, length=(2,)
    )
    registered_share: list[float] = key(
        [0.4, 1.0], "registered: how far on the way to the other image, from and to.", low=0, high=1, length=(2,)
    )
    between_share: list[float] = key(
        [0.2, 0.8], "between: how far on the way to the other label, from and to.", low=0, high=1, length=(2,)
    )
    rigid_iterations: int = key(60, "Steps that turn the other case to lie like the one.", low=0)
    registration_iterations: list[int] = key(
        [30, 30, 15],
        "Steps of the deformable registration, on a quarter, half and all of the nodes.",
        low=0,
        length=(3,),
    )
    registration_smoothness_mm: float | None = key(
        None, "Gaussian that smooths each of those steps, in mm; null: 12 % of the diameter named above.", low=0.01
    )
    nodes: int = key(
        60000, "Nodes of the grid on which deformations are found, at most; in between they are smooth.", low=64
    )
    jacobian_floor: float = key(
        0.2,
        "Anatomy whose local change of volume falls to this anywhere is drawn again; 0: only what folds.",
        low=0,
        high=0.99,
    )
    volume_factors: list[float] = key(
        [0.5, 2.0], "Range of each label's volume, as a factor of what it was; else drawn again.", low=0.01, length=(2,)
    )
    redraws: int = key(5, "How often anatomy is drawn again before a sample keeps that of its case.", low=0)


@dataclass
class SynthesizeConfig:
    generator: str = key(
        "diffusion",
        "What makes the volumes: diffusion, or pix2pix, the GAN of train-pix2pix, which only reads samples, keep_background, "
        "air_hu, table_mm, memory_gb and anatomy of this section.",
        choices=("diffusion", "pix2pix"),
    )
    sets: dict[str, Any] = key(
        {},
        "Further sets of synthetic volumes beside the default one, for arms that name them (synthetic_set): name and what differs "
        "in this section. Sets that no arm uses are not made.",
    )
    samples: int = key(4, "Synthetic volumes for each labelled training case (K).", low=1)
    text: list[str] = key(
        ["{prompt}, {look}"],
        "Prompts whose embeddings are mixed; {prompt} is the task's, {look} one of the appearance words or nothing.",
    )
    text_weights: list[float] = key([1.0], "Weight of each prompt in the mixture.")
    negative_prompt: str = key("", "What guidance leads away from.")
    looks: float = key(0.0, "Share of samples that are asked for with an appearance word.", low=0, high=1)
    sampler: str = key(
        "dpmsolver++", "How noise is taken away.", choices=("ddim", "dpmsolver++", "sde-dpmsolver++", "unipc")
    )
    steps: int = key(20, "Denoising steps of the whole noise range; `strength` takes its share of them.", low=1)
    step_power: float = key(
        2.0, "Above 1, steps crowd where little noise is left and fine detail is decided; not with ddim.", low=1, high=5
    )
    eta: float = key(0.0, "Noise added on the way (ddim only).", low=0, high=1)
    guidance_scale: float = key(
        1.0, "Guidance by the text, away from the negative prompt; 1: none, and half the cost.", low=0
    )
    control_guidance_scale: float = key(
        1.0, "Guidance by the control image, away from none; 1: none, and no cost.", low=0
    )
    guidance_rescale: float = key(
        0.0, "Share of the correction of the contrast that guidance adds (arXiv 2305.08891).", low=0, high=1
    )
    guidance_range: list[float] = key(
        [0.0, 1.0], "Part of the way from noise (0) to image (1) on which guidance acts.", low=0, high=1, length=(2,)
    )
    control_strength: float = key(1.0, "Scale of the control residuals.", low=0)
    guess_mode: bool = key(
        False, "Control residuals fade to 0.1 at the shallowest level, and the negative half has no control."
    )
    strength: float = key(
        0.5, "1: from pure noise; below: from the real volume with this share of the noise range.", low=0.01, high=1
    )
    noise: str = key(
        "shared",
        "Noise along the slice axis: independent, shared (a part rho is common), ar1 (each slice's goes on from the one "
        "before, over correlation_mm), smoothed (blurred over correlation_mm), spectrum (every wave in plane goes along the slices "
        "as in the real volume).",
        choices=("independent", "shared", "ar1", "smoothed", "spectrum"),
    )
    rho: float | None = key(
        None,
        "Share of the noise variance that all slices of a volume have in common; null: measured on the training scans.",
        low=0,
        high=1,
    )
    correlation_mm: float = key(
        4.0, "Distance in mm over which the correlation of ar1 and smoothed noise falls to 1/e.", low=0.01
    )
    match_spectrum: float = key(
        1.0,
        "How far the noise and sharpness of a volume (the fine part of its power spectrum) are brought to those of its real one.",
        low=0,
        high=1,
    )
    keep_slow_mm: float | None = key(
        None,
        "Waves of so many mm and more (shading, the mean of an organ) are the real volume's own; null: of 10 voxels of the finest "
        "spacing, or none where looks are asked for (looks above 0), which they would undo; 0: none.",
        low=0,
    )
    batch: int = key(64, "Slices denoised at once at most.", low=1)
    batch_voxels: int = key(
        1048576,
        "Voxels denoised at once at most, so that large slices go in smaller batches; a slab is never cut.",
        low=1,
    )
    slab: int | None = key(
        None,
        "Neighbouring slices that are denoised as a group; null: as many as go at once (batch, batch_voxels) where the generator "
        "has layers along the slices (diffusion.denoiser.stack), else 1.",
        low=1,
    )
    slab_overlap: int = key(
        0, "Slices that neighbouring slabs share, blended by a Hann window along the axis; even, below slab.", low=0
    )
    slab_blend: str = key(
        "end",
        "Where slabs overlap, end: finished slabs are blended; step: predictions are, at every denoising step, and a volume is "
        "denoised whole.",
        choices=("end", "step"),
    )
    second_plane_every: int = key(
        0,
        "At every so many steps slices across diffusion.second_axis predict the volume, which doubles the cost of the step; 0: "
        "never.",
        low=0,
    )
    refine: float | None = key(
        None,
        "Standard deviation, in units of [-1, 1], of noise that is put on a volume and taken away again in 3D by the refiner of "
        "train-refiner, so that fine texture is of one piece along all axes; null: 0.2, but none in pictures and where slices are more "
        "than 3 times as thick as the finest spacing; 0: none, and no refiner is trained.",
        low=0,
        high=4,
    )
    refine_steps: int = key(10, "Steps in which that noise is taken away.", low=1)
    keep_background: bool = key(
        True,
        "Keep the real values outside the body or field of view: constant filling, masked background, in CT also air around the "
        "body and the table.",
    )
    air_hu: float = key(-500.0, "CT: the body is the largest part of what is denser, in HU, with all that it encloses.")
    table_mm: float = key(
        8.0,
        "CT: what is thinner in its axial slice (mm), as the shells of a table or a cloth, is no part of the body.",
        low=0,
    )
    memory_gb: float = key(
        8.0, "Arrays of a volume that together need more memory (GB) lie in temporary files in the workspace.", low=0
    )
    anatomy: AnatomyConfig = section(AnatomyConfig)


@dataclass
class GateConfig:
    enabled: bool = key(True, "Every synthetic volume is judged before it may train anything; false: none is.")
    attempts: int = key(3, "Draws of a sample, each with a seed of its own, until one is accepted.", low=1)
    parts: int = key(
        2, "Parts of the training patients; the segmenter that judges a part learns from the others.", low=2
    )
    leave_one_out: int = key(4, "Up to so many training patients, each is a part of its own.", low=2)
    percentile: float = key(
        10.0, "Of the Dice of real held-out cases: a volume's must not be below it.", low=0, high=50
    )
    range_margin: float = key(
        0.5, "How far the range of the real medians of a label is widened on each side, as a share of its width.", low=0
    )
    range_least: float = key(0.05, "The width of that range counts as this at least, in units of [-1, 1].", low=0)
    false_alarms: float = key(
        0.01, "Share of innocent volumes that a limit of similarity may flag.", low=0.0001, high=0.5
    )
    copy_similarity: float = key(
        0.9, "A correlation of fine detail above this is a copy, whatever the references say.", low=0.1, high=1
    )
    block_voxels: int = key(4096, "Voxels of the blocks in which fine detail is compared, about.", low=27)
    blocks: int = key(16, "Blocks of a volume that are compared, at most, spread evenly.", low=1)
    search: int = key(8, "By how many voxels a block is moved on each axis, both ways, to find its like.", low=0)
    images: int = key(400, "Training images, unlabelled ones too, that a volume is compared with, at most.", low=1)
    references: int = key(
        40, "Real images that are compared with those of other patients, at most, for the limit of copies.", low=2
    )
    reference_cases: int = key(
        20, "Validation cases that are sampled, at most, for the limit of likeness to the source.", low=0
    )
    reference_samples: int = key(2, "Samples of each of them; the most similar counts.", low=1)
    training: TrainConfig = section(TrainConfig, steps=600)
