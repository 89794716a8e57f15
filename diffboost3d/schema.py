"""The typed configuration: every key, its type, its default, its bounds and its meaning.

The defaults stand in `configs/`; those given here only serve a Python caller. Bounds and choices travel with the field,
so that the refusal of a value and the reference page are made of the same table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any


def key(
    default: Any,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] | None = None,
    length: tuple[int, ...] | None = None,
) -> Any:
    """A dataclass field with its meaning and its allowed values.

    Args:
        default: plain value, list or dictionary (copied for every instance).
        meaning: one sentence; units where the number has one.
        low, high: inclusive bounds, also of every element of a list.
        choices: the allowed values, also of every element of a list.
        length: the allowed lengths of a list.
    """
    metadata = {"meaning": meaning, "low": low, "high": high, "choices": choices, "length": length}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: default.copy(), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(kind: type, **values: Any) -> Any:
    """A nested section of the configuration; `values` are its defaults where they aren't those of its type."""
    return field(default_factory=partial(kind, **values) if values else kind)


@dataclass
class BidsConfig:
    images: list[str] = key(
        [],
        "Kinds of images, one a channel, in order: suffix after all entities but sub, ses and run, e.g. [T1w] or [T1w, ce-gd_T1w]; []: the only "
        "kind there is.",
    )
    label: str | None = key(
        None,
        "Kind of label, e.g. dseg, label-lesion_mask or manual/dseg (its folder in derivatives first); null: the only kind "
        "there is.",
    )


@dataclass
class DataConfig:
    root: str | None = key(None, "Folder with the images and labels, or a CSV file of their paths.")
    name: str | None = key(None, "Name of the data set; null takes it from dataset.json or the folder.")
    modality: str | None = key(None, "CT, MRI, Ultrasound, ...; null takes it from dataset.json.")
    layout: str = key(
        "auto",
        "How the folder is laid out; auto recognises it.",
        choices=("auto", "msd", "nnunet", "plain", "pictures", "flat", "folder_per_case", "bids", "csv", "dicom"),
    )
    series: list[str] = key(
        [],
        "Layout dicom: which series are used, a pattern (regular expression) on the series description or folder name for each "
        "image channel, in order; a study is one case then; []: every series is a case.",
    )
    bids: BidsConfig = section(BidsConfig)
    labels: dict[str, int] | None = key(
        None, "Label names and values, background 0 included; null: dataset.json, else the values found."
    )
    colours: dict[str, list[int]] | None = key(
        None,
        "Red, green and blue (0 to 255) of labels by name, for viewers and DICOM-SEG; null: a palette, as for labels not named.",
    )
    channels: list[str] | None = key(
        None,
        "Names of the image channels, in the order of the files (or of the volumes of a 4D file); null: dataset.json's. Another "
        "number than the files have is refused. A channel called CT is in HU.",
    )
    label_groups: dict[str, list[str]] | None = key(
        None,
        "Labels that count as one, everywhere: name of the group and names of its labels, e.g. {prostate: [peripheral, "
        "transition]}. The files stay as they are; predictions have the smallest value of the group; null: none.",
    )
    ignore_label: int | None = key(
        None,
        "Value, in the label files, of voxels that nobody labelled: they are in no loss and in no score, e.g. 255; null: none.",
        low=1,
    )
    patients: str = key(
        "case",
        "What makes a patient: 'case' (as the folder tells, as BIDS does, else every case), 'consecutive_numbers' (runs of following "
        "file numbers are one), a regular expression whose first group is the patient, or a CSV file with columns id, patient.",
    )
    near_duplicates: str = key(
        "auto",
        "Images that are nearly the same become one patient, so that no split parts them; auto: keep_together for pictures of which "
        "neither the folder nor `patients` nor `splits` tells who they are of, else none.",
        choices=("auto", "none", "keep_together"),
    )
    similarity: float = key(
        0.95, "Least correlation, averaged to 32 x 32, of images that are nearly the same.", low=0.5, high=1
    )
    detail_similarity: float = key(
        0.4,
        "Least correlation of their detail too, since pictures of one scanner have much else in common.",
        low=-1,
        high=1,
    )
    similarity_flips: bool = key(False, "Find images that are mirrored left-right too.")
    pixel_spacing_mm: list[float] | None = key(
        None,
        "Size of the pixels of pictures in mm, one number or width and height, the same for all: distances are then in mm; null: in "
        "pixels.",
        low=0.0001,
        length=(1, 2),
    )
    folds: int = key(3, "Number of cross-validation folds.", low=2)
    labelled: int | None = key(
        None, "Labelled training cases kept in each fold, the others serve unlabelled; null keeps all.", low=1
    )
    unlabelled: int | None = key(None, "Unlabelled training images kept in each fold; null keeps all.", low=0)
    validation_fraction: float = key(
        0.2, "Validation cases, as a share of the labelled training cases; at least one.", low=0.01, high=0.5
    )
    splits: str | None = key(None, "JSON file that pins the splits of all folds; null draws them by patient.")


@dataclass
class IntensityConfig:
    kind: str = key(
        "auto",
        "How intensities become [-1, 1]; auto: ct_window for CT, else percentiles.",
        choices=("auto", "ct_window", "percentiles"),
    )
    window_hu: list[float] = key([-160.0, 240.0], "CT window, low and high, in HU.", length=(2,))
    percentiles: list[float] = key([0.5, 99.5], "Percentiles of the volume.", low=0, high=100, length=(2,))


@dataclass
class EdgeConfig:
    operator: str = key(
        "soft",
        "What draws the edges: soft (gradient ridges in 3D), canny (thin and binary, in 3D), hed (a trained network, slice "
        "by slice; needs hed_weights).",
        choices=("soft", "canny", "hed"),
    )
    sigmas_mm: list[float] = key([1.0, 2.0], "Scales of the soft edges, in mm.", low=0.01)
    quantile: float = key(
        0.98, "Edge strength at this quantile of the volume becomes 1 (soft, canny).", low=0.5, high=1.0
    )
    thin: bool = key(True, "Thin the edges to their ridges by non-maximum suppression (soft only).")
    canny_sigma_mm: float = key(1.0, "Gaussian before canny, in mm; at least about a voxel.", low=0.01)
    canny_thresholds: list[float] = key(
        [0.25, 0.5],
        "Low and high threshold of canny; 1 is the edge strength at `quantile`.",
        low=0,
        high=1,
        length=(2,),
    )
    hed_weights: str | None = key(
        None, "ControlNetHED.pth, or the same weights as .safetensors, for operator=hed; nothing is downloaded."
    )
    hed_size: int = key(384, "Pixels to which hed enlarges the longer side of a slice on the way.", low=16)
    channels: str = key(
        "maximum",
        "How the edges of several image channels become one map: their maximum or mean at each voxel, or the first channel's.",
        choices=("maximum", "mean", "first"),
    )


@dataclass
class N4Config:
    mask: str = key(
        "otsu",
        "Where n4 looks: what is brighter than Otsu's threshold, or all voxels above 0.",
        choices=("otsu", "positive"),
    )
    shrink: int = key(4, "The image is made coarser by this factor for n4, along axes that are long enough.", low=1)
    iterations: list[int] = key(
        [50, 50, 50, 50], "Iterations of n4 at each level; each level has twice the control points.", low=1
    )
    control_points: int = key(4, "Control points along each axis at the first level.", low=4)
    convergence: float = key(0.001, "n4 ends a level where the field changes less than this.", low=0)
    fwhm: float = key(0.15, "Width of the Gaussian that sharpens the histogram, in its logarithm.", low=0.001)
    wiener_noise: float = key(0.01, "Noise of the Wiener filter in that.", low=0)


@dataclass
class PrepareConfig:
    spacing_mm: list[float] | None = key(
        None,
        "Target spacing in mm along R, A, S; null: the median over the cases; pictures (2D) keep their grid.",
        low=0.01,
        length=(3,),
    )
    image_interpolation: str = key("bspline", "Image resampling.", choices=("linear", "bspline"))
    label_interpolation: str = key("gaussian", "Label resampling.", choices=("nearest", "gaussian"))
    colour: str = key(
        "grey",
        "Pictures with true colours (Doppler, drawn marks): read as their luminance, with a finding, or refused. Grey stored as "
        "colour is grey always.",
        choices=("grey", "refuse"),
    )
    intensity: IntensityConfig = section(IntensityConfig)
    edges: EdgeConfig = section(EdgeConfig)
    bias_field: str = key(
        "none",
        "Correction of the shading of MR images (channels in HU are left): none, or n4. What is synthetic gets its case's shading "
        "again.",
        choices=("none", "n4"),
    )
    n4: N4Config = section(N4Config)
    channel_grids: str = key(
        "same",
        "Image channels on another grid than the first: same: the case is skipped; resample: they are moved to it, linearly.",
        choices=("same", "resample"),
    )
    workers: int = key(0, "Threads that prepare cases at the same time; 0: one for each core.", low=0)


@dataclass
class DenoiserConfig:
    channels: list[int] = key([32, 64, 96], "Channels of each U-Net level.", low=8)
    layers_per_level: int = key(1, "Residual blocks a level.", low=1)
    attention_levels: int = key(1, "How many of the deepest levels attend to the text.", low=1)
    head_channels: int = key(32, "Channels of one attention head.", low=4)
    text_width: int = key(64, "Width of the text encoder.", low=16)
    text_layers: int = key(2, "Layers of the text encoder.", low=1)
    text_length: int = key(48, "Bytes of the prompt that are read.", low=8)
    control: str = key(
        "separate",
        "Label boundaries as control channels of their own, or added to the image edges and clipped (published); edges: without.",
        choices=("separate", "added", "edges"),
    )
    neighbours: int = key(1, "Neighbouring slices on each side whose edges are control channels too.", low=0)
    stack: int = key(
        1,
        "Consecutive slices that layers along the slice axis denoise together (training stacks of that many); 1: no such layers.",
        low=1,
    )


@dataclass
class AutoencoderConfig:
    channels: list[int] = key(
        [32, 64, 64],
        "Channels of each level; every level after the first halves the sides.",
        low=8,
        length=(2, 3, 4, 5),
    )
    latent_channels: int = key(4, "Channels of the map.", low=1)
    layers_per_block: int = key(1, "Residual blocks a level of the encoder; the decoder has one more.", low=1)


@dataclass
class CodecTrainingConfig:
    steps: int = key(2000, "Optimiser steps.", low=0)
    batch: int = key(16, "Slices a step, over all processes.", low=1)
    learning_rate: float = key(1e-3, "Peak learning rate (AdamW).", low=0)
    warmup_steps: int = key(50, "Steps of linear warm-up.", low=0)
    weight_decay: float = key(0.0, "Weight decay (AdamW).", low=0)
    clip_norm: float = key(1.0, "Gradient norm is clipped to this.", low=0)
    accumulation: int = key(1, "Batches whose gradients are added up before a step.", low=1)
    ema_decay: float = key(0.995, "Decay of the averaged weights; 0: no averaging.", low=0, high=0.99999)
    jitter: float = key(0.3, "Share of pictures that are rotated and scaled.", low=0, high=1)
    rotation_degrees: float = key(10.0, "Largest in-plane rotation.", low=0, high=180)
    scale: list[float] = key([0.9, 1.1], "Range of in-plane scaling.", low=0.1, length=(2,))
    looks: float = key(0.0, "Share of slices whose look is altered.", low=0, high=1)
    checkpoint_every: int = key(100, "Steps between checkpoints.", low=1)
    images_every: int = key(250, "Steps between image grids in TensorBoard.", low=1)
    validate_every: int = key(250, "Steps between validation losses.", low=1)


@dataclass
class CodecConfig:
    name: str = key(
        "haar",
        "What is diffused: an exact packing of the image, or (vae) the maps of a trained autoencoder.",
        choices=("haar", "pixel", "vae"),
    )
    factor: int = key(
        2, "Down-sampling factor of haar and pixel; that of vae follows from its levels.", choices=(1, 2, 4, 8)
    )
    normalise: bool = key(
        True, "Bring every band of haar and pixel to the same variance, so that fine detail is learned like the rest."
    )
    weights: str | None = key(
        None, "Folder of a trained AutoencoderKL for name=vae; null: the one of train-codec in this workspace."
    )
    vae: AutoencoderConfig = section(AutoencoderConfig)
    detail_weight: float = key(1.0, "Weight of gradients and wavelet details in the loss of train-codec.", low=0)
    kl_weight: float = key(
        1e-6, "Weight of the divergence of the maps from a standard normal distribution, in nats a voxel.", low=0
    )
    training: CodecTrainingConfig = section(CodecTrainingConfig)


@dataclass
class WeightsConfig:
    base: str | None = key(
        None, "Stable Diffusion 1.x or 2.x on this machine: a diffusers folder, or one file (.safetensors, .ckpt)."
    )
    control: str | None = key(
        None,
        "A ControlNet made for that base: a folder or one file; null: the base's own, else one that starts at no effect.",
    )
    tokenizer: str | None = key(
        None, "Folder of the CLIP vocabulary (vocab.json, merges.txt); null: the one of the base folder."
    )
    precision: str = key(
        "fp32", "In which the locked U-Net and text encoder are kept while training.", choices=("fp32", "fp16", "bf16")
    )


@dataclass
class LoraConfig:
    rank: int = key(8, "Rank of the adapters of trained=lora.", low=1)
    alpha: float = key(8.0, "Their scale is alpha / rank.", low=0.001)
    targets: list[str] = key(
        ["to_q", "to_k", "to_v", "to_out.0"], "Layers of the U-Net that get one, by the end of the name."
    )


@dataclass
class ScheduleConfig:
    timesteps: int = key(1000, "Timesteps of the diffusion process.", low=2)
    betas: str = key("squaredcos_cap_v2", "Noise schedule.", choices=("squaredcos_cap_v2", "scaled_linear", "linear"))
    prediction: str = key("v_prediction", "What the network predicts.", choices=("v_prediction", "epsilon"))
    zero_terminal_snr: bool = key(True, "The last timestep is pure noise (arXiv 2305.08891).")
    min_snr_gamma: float | None = key(
        None, "Min-SNR weighting of the loss (arXiv 2303.09556), usually 5; null: all timesteps alike.", low=0.01
    )


@dataclass
class DiffusionTrainingConfig:
    steps: int = key(2000, "Optimiser steps.", low=0)
    batch: int = key(16, "Slices a step, over all processes.", low=1)
    learning_rate: float = key(2e-4, "Peak learning rate (AdamW).", low=0)
    warmup_steps: int = key(50, "Steps of linear warm-up.", low=0)
    weight_decay: float = key(0.01, "Weight decay (AdamW).", low=0)
    clip_norm: float = key(1.0, "Gradient norm is clipped to this.", low=0)
    accumulation: int = key(1, "Batches whose gradients are added up before a step.", low=1)
    ema_decay: float = key(0.995, "Decay of the averaged weights; 0: no averaging.", low=0, high=0.99999)
    drop_text: float = key(0.1, "Share of slices trained without text.", low=0, high=1)
    drop_control: float = key(0.1, "Share of slices trained without control.", low=0, high=1)
    jitter: float = key(
        0.3, "Share of slices that are rotated and scaled; the others keep their finest detail.", low=0, high=1
    )
    rotation_degrees: float = key(10.0, "Largest in-plane rotation of image and control together.", low=0, high=180)
    scale: list[float] = key([0.9, 1.1], "Range of in-plane scaling of image and control.", low=0.1, length=(2,))
    looks: float = key(0.0, "Share of slices whose look is altered, with the word for it in the prompt.", low=0, high=1)
    trained: str = key(
        "all",
        "What is trained: all; the control branch with the base locked; or adapters on the locked U-Net and the control branch.",
        choices=("all", "control", "lora"),
    )
    patience: int = key(
        0, "Validations without a better loss before training stops, the best weights kept; 0: never.", low=0
    )
    checkpoint_every: int = key(100, "Steps between checkpoints.", low=1)
    images_every: int = key(250, "Steps between image grids in TensorBoard.", low=1)
    validate_every: int = key(250, "Steps between validation losses.", low=1)


@dataclass
class PoolConfig:
    root: str | None = key(
        None, "Folder tree modality/anatomy/finding/... of images to pre-train on before the task's own; null: none."
    )
    balance: str = key("modality", "Each modality, or each file, is drawn equally often.", choices=("modality", "file"))
    held_out: float = key(
        0.02, "Share of the patients (files, without a pattern) kept for the validation loss.", low=0, high=0.5
    )
    patient_pattern: str | None = key(
        None,
        "Regular expression: what it finds in a file's path names the patient (its first group, or all of it), whose files are all "
        "held out or all trained on; null, or no match: each file is a patient of its own.",
    )
    size: list[int] = key([128, 128], "Size of a training picture in pixels.", low=16, length=(2,))
    abbreviations: str | None = key(
        None, "YAML file of what folder names stand for; null: configs/pool/abbreviations.yaml."
    )
    training: DiffusionTrainingConfig = section(DiffusionTrainingConfig, steps=4000, learning_rate=5e-4)


@dataclass
class DiffusionConfig:
    family: str = key(
        "scratch",
        "scratch: a small generator as described here; stable_diffusion: one from diffusion.weights.",
        choices=("scratch", "stable_diffusion"),
    )
    weights: WeightsConfig = section(WeightsConfig)
    lora: LoraConfig = section(LoraConfig)
    denoiser: DenoiserConfig = section(DenoiserConfig)
    codec: CodecConfig = section(CodecConfig)
    schedule: ScheduleConfig = section(ScheduleConfig)
    start_from: str | None = key(
        None, "Folder of a trained generator (such as diffusion/pool of another workspace) to begin with; null: none."
    )
    pool: PoolConfig = section(PoolConfig)
    pretrain: DiffusionTrainingConfig = section(
        DiffusionTrainingConfig, steps=4000, learning_rate=8e-4, ema_decay=0.997
    )
    finetune: DiffusionTrainingConfig = section(DiffusionTrainingConfig)
    finetune_unlabelled: float = key(
        0.5,
        "Share of fine-tuning slices that are of unlabelled training images, so that their looks aren't forgotten.",
        low=0,
        high=0.95,
    )
    slice_axis: int | None = key(
        None, "Axis of slicing in the prepared volume (0 R, 1 A, 2 S); null: the coarsest.", choices=(0, 1, 2)
    )
    second_axis: int | None = key(
        None,
        "Half of the training slices are across this axis too, so that synthesize.second_plane_every can alternate; null: none.",
        choices=(0, 1, 2),
    )
    max_size: int = key(256, "Largest side of a training slice in voxels; larger slices are cropped.", low=16)
    attention_slicing: bool = key(False, "Attention by slices of heads: less memory, slower.")
    gradient_checkpointing: bool = key(False, "Compute activations again for the gradients: less memory, slower.")


@dataclass
class Pix2PixTrainingConfig:
    steps: int = key(4000, "Steps, each of the generator and of the discriminator.", low=1)
    batch: int = key(4, "Slices a step, over all processes.", low=1)
    learning_rate: float = key(2e-4, "Peak learning rate (Adam), decayed by a cosine.", low=0)
    betas: list[float] = key([0.5, 0.999], "Decays of Adam's two averages.", low=0, high=0.99999, length=(2,))
    warmup_steps: int = key(0, "Steps of linear warm-up.", low=0)
    weight_decay: float = key(0.0, "Weight decay (AdamW).", low=0)
    clip_norm: float = key(0.0, "Gradient norm of both networks together is clipped to this; 0: not.", low=0)
    accumulation: int = key(1, "Batches whose gradients are added up before a step.", low=1)
    ema_decay: float = key(0.0, "Decay of the averaged weights; 0: no averaging.", low=0, high=0.99999)
    checkpoint_every: int = key(200, "Steps between checkpoints.", low=1)
    images_every: int = key(500, "Steps between image grids in TensorBoard.", low=1)
    validate_every: int = key(500, "Steps between validation errors.", low=1)


@dataclass
class Pix2PixConfig:
    channels: int = key(
        32, "Channels of the first level of both networks; each further one has twice as many, at most 8 times.", low=4
    )
    depth: int = key(
        8, "Levels of the generator at most, each of half the sides; as many as the slices allow.", low=2, high=10
    )
    dropout: float = key(
        0.5, "Dropout of its three deepest decoder levels, at synthesis too: the only noise.", low=0, high=0.9
    )
    discriminator_levels: int = key(
        3, "Halvings of the discriminator: 3 judges patches of 70 pixels, 2 of 34, 1 of 16.", low=1, high=6
    )
    l1_weight: float = key(100.0, "Weight of the absolute difference, beside that of the discriminator.", low=0)
    training: Pix2PixTrainingConfig = section(Pix2PixTrainingConfig)


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
        "before, over correlation_mm), smoothed (blurred over correlation_mm).",
        choices=("independent", "shared", "ar1", "smoothed"),
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
class MergeConfig:
    alpha: float = key(0.6, "Probability that a cuboid is real.", low=0, high=1)
    alpha_range: list[float] | None = key(
        None, "Range that alpha is drawn from for every patch; null: alpha as given.", low=0, high=1, length=(2,)
    )
    cell_mm: float | None = key(None, "Edge of the cuboids in mm, on every axis.", low=0.01)
    cell: list[int] = key([16], "Edge of the cuboids in voxels, one number or one an axis.", low=1, length=(1, 3))
    feather: float = key(
        0.0,
        "Standard deviation in voxels over which cuboid borders blend; labels stay hard; with at=image only.",
        low=0,
    )
    feather_mm: float | None = key(None, "The same in mm, alike along every axis; goes before feather.", low=0)
    mask_foreground: bool = key(False, "Voxels inside a label of the real case stay real.")
    mask_foreground_labels: list[str] = key([], "Names of the labels that mask_foreground keeps; []: all of them.")
    probability: float = key(1.0, "Share of the patches that are merged; the others are real.", low=0, high=1)
    last_probability: float | None = key(
        None, "What that share has become, evenly, at the end of the training; null: it stays.", low=0, high=1
    )
    at: str = key(
        "image", "What is merged: the images, or (published code) the predictions.", choices=("image", "prediction")
    )


@dataclass
class ArmConfig:
    merge: str = key(
        "none",
        "What real volumes are merged with; warped: with themselves in the anatomy of synthetic ones, which needs no generator. "
        "instead: nothing, synthetic volumes alone are trained on, and no real image is seen.",
        choices=("none", "real", "synthetic", "warped", "instead"),
    )
    classical: bool = key(False, "The classical stack, after the merge.")
    synthetic_set: str = key(
        "default", "Which set of synthetic volumes, or of their warps: default, or a name in synthesize.sets."
    )
    augmentations: list[str] = key(
        [],
        "Single augmentations, after the merge.",
        choices=("contrast", "gamma", "brightness", "noise", "blur", "mirror", "rotate", "scale"),
    )


@dataclass
class AugmentationsConfig:
    probability: float = key(0.5, "Share of the patches that each single augmentation changes.", low=0, high=1)
    contrast: list[float] = key([0.75, 1.25], "Range of the factor on the distance from the mean.", low=0, length=(2,))
    gamma: list[float] = key([0.7, 1.5], "Range of the exponent.", low=0.01, length=(2,))
    brightness: float = key(0.5, "Standard deviation of what is added to images in [-1, 1].", low=0)
    noise_variance: list[float] = key(
        [0.0, 0.05], "Range of the variance of Gaussian noise on images in [-1, 1].", low=0, length=(2,)
    )
    blur_sigma: list[float] = key(
        [0.5, 1.5], "Range of the Gaussian's standard deviation in voxels, along each axis.", low=0.1, length=(2,)
    )
    mirror_axes: list[int] = key([0, 1, 2], "Axes of mirror, each in half of the patches.", choices=(0, 1, 2))
    rotation_degrees: float = key(5.0, "Largest rotation about each axis.", low=0, high=180)
    scale: list[float] = key(
        [0.95, 1.05], "Range of the factor on coordinates: above 1, objects get smaller.", low=0.1, length=(2,)
    )


@dataclass
class ClassicalConfig:
    rotation_degrees: float | None = key(
        None,
        "Largest rotation about each axis; null: as nnU-Net, 30, with thick slices 180 in their plane, in 2D 180 (15 if long).",
        low=0,
        high=180,
    )
    rotation_probability: float = key(0.2, "How often a patch is rotated.", low=0, high=1)
    scale: list[float] = key(
        [0.7, 1.4], "Range of the factor on coordinates: above 1, objects get smaller.", low=0.1, length=(2,)
    )
    scale_probability: float = key(0.2, "How often it is scaled, on all axes alike.", low=0, high=1)
    elastic_probability: float = key(0.0, "How often it is deformed elastically; nnU-Net: never.", low=0, high=1)
    elastic_magnitude: list[float] = key([0.0, 3.0], "Range of the largest displacement in voxels.", low=0, length=(2,))
    elastic_scale: list[float] = key(
        [0.1, 0.2],
        "Range of the Gaussian that makes it smooth, as a share of the patch's sides.",
        low=0.01,
        length=(2,),
    )
    mirror_axes: list[int] = key(
        [0], "Axes that are mirrored in half of the patches; 0 is left-right in 3D.", choices=(0, 1, 2)
    )
    noise_probability: float = key(0.1, "How often Gaussian noise is added.", low=0, high=1)
    noise_deviation: list[float] = key(
        [0.0, 0.1], "Range of its standard deviation, where that of the patch is 1.", low=0, length=(2,)
    )
    blur_probability: float = key(
        0.2, "How often a patch is taken for blurring, which then blurs half of them.", low=0, high=1
    )
    blur_sigma: list[float] = key([0.5, 1.0], "Range of the Gaussian in voxels.", low=0.1, length=(2,))
    brightness_probability: float = key(0.15, "How often brightness changes.", low=0, high=1)
    brightness: list[float] = key([0.75, 1.25], "Range of the factor, where the patch's mean is 0.", low=0, length=(2,))
    contrast_probability: float = key(0.15, "How often contrast changes, within the patch's range.", low=0, high=1)
    contrast: list[float] = key([0.75, 1.25], "Range of the factor on the distance from the mean.", low=0, length=(2,))
    low_resolution_probability: float = key(
        0.25, "How often a patch is taken for a coarser grid, which half of them then go through.", low=0, high=1
    )
    low_resolution: list[float] = key(
        [0.5, 1.0], "Range of that grid's size, as a share.", low=0.05, high=1, length=(2,)
    )
    inverted_gamma_probability: float = key(0.1, "How often gamma acts on the inverted patch.", low=0, high=1)
    gamma_probability: float = key(0.3, "How often gamma acts on the patch.", low=0, high=1)
    gamma: list[float] = key([0.7, 1.5], "Range of the exponent; mean and deviation stay.", low=0.01, length=(2,))


@dataclass
class NetworkConfig:
    name: str = key(
        "unet",
        "Segmentation network; monai: the class that _target_ names.",
        choices=("unet", "residual_unet", "attention_unet", "dynunet", "unetr", "swin_unetr", "monai"),
    )
    _target_: str | None = key(
        None,
        "With name=monai: any network class of MONAI that takes spatial_dims, in_channels and out_channels, as "
        "monai.networks.nets.CLASS.",
    )
    arguments: dict[str, Any] = key(
        {},
        "Constructor arguments of the network by MONAI's names, besides channels of images and labels and dimensions.",
    )
    divisor: int = key(
        8,
        "Planned patches are multiples of this; with name=monai inputs are padded to it inside the network, the others know theirs.",
        low=1,
    )


@dataclass
class TrainConfig:
    steps: int = key(2000, "Optimiser steps.", low=1)
    batch: int = key(2, "Volumes (patches) a step, over all processes.", low=1)
    patch: list[int] | None = key(
        None,
        "Patch in voxels; null: patch_share of the largest training volume, at most max_patch.",
        low=1,
        length=(3,),
    )
    patch_share: float = key(
        0.7,
        "Share of the volume's sides that an automatic patch covers; below 1 so that windows shift.",
        low=0.05,
        high=1,
    )
    max_patch: int = key(96, "Largest side of an automatic patch.", low=8)
    foreground_probability: float = key(0.5, "How often a patch is centred on a labelled voxel.", low=0, high=1)
    whole: bool = key(
        False,
        "Whole volumes in place of patches, padded with air to the largest side of the training cases; patch is null then.",
    )
    loss: str = key(
        "dice_ce",
        "Loss of MONAI; under deep supervision of every output, with weights 1, 1/2, 1/4, ...",
        choices=(
            "dice_ce",
            "dice",
            "dice_focal",
            "focal",
            "generalized_dice",
            "generalized_dice_focal",
            "tversky",
            "hausdorff_dt",
            "log_hausdorff_dt",
        ),
    )
    loss_arguments: dict[str, Any] = key(
        {},
        "More constructor arguments of the loss by MONAI's names, such as lambda_ce, gamma or alpha and beta (tversky).",
    )
    optimizer: str = key("adamw", "AdamW, or SGD with Nesterov momentum.", choices=("adamw", "sgd"))
    momentum: float = key(0.99, "Nesterov momentum (sgd).", low=0, high=0.9999)
    learning_rate: float = key(2e-3, "Peak learning rate, which falls to zero by the schedule.", low=0)
    schedule: str = key(
        "cosine", "Half a cosine, or a power of the share of steps that is left.", choices=("cosine", "poly")
    )
    poly_power: float = key(0.9, "Power of schedule=poly.", low=0.01)
    warmup_steps: int = key(20, "Steps of linear warm-up.", low=0)
    weight_decay: float = key(1e-4, "Weight decay.", low=0)
    clip_norm: float = key(1.0, "Gradient norm is clipped to this.", low=0)
    accumulation: int = key(1, "Batches whose gradients are added up before a step.", low=1)
    ema_decay: float = key(0.99, "Decay of the averaged weights; 0: no averaging.", low=0, high=0.99999)
    include_background: bool = key(False, "Background counts in the Dice loss.")
    patience: int = key(
        0, "Validations without a better Dice before training stops, the best weights kept; 0: never.", low=0
    )
    validate_every: int = key(100, "Steps between validations.", low=1)
    checkpoint_every: int = key(100, "Steps between checkpoints.", low=1)
    images_every: int = key(500, "Steps between image grids in TensorBoard.", low=1)
    overlap: float = key(0.5, "Overlap of the sliding window.", low=0, high=0.95)


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


@dataclass
class InferenceConfig:
    """How volumes are segmented; `evaluate` and `predict` have each their own."""

    overlap: float | None = key(None, "Overlap of the sliding window; null: train.overlap.", low=0, high=0.95)
    mirror_axes: list[int] = key(
        [],
        "Axes of the prepared volume along which each window is segmented mirrored too, logits averaged (test-time augmentation); "
        "best only those that training mirrored.",
        choices=(0, 1, 2),
    )
    window_batch: int = key(4, "Windows that go through the network at once.", low=1)
    precision: str = key(
        "no", "Mixed precision of the network's passes; sums are float32 always.", choices=("no", "bf16", "fp16")
    )
    postprocessing: str = key(
        "none",
        "validated: keep the largest component of each label for which that raised the mean Dice of the fold's validation cases.",
        choices=("none", "validated"),
    )


@dataclass
class EvaluateConfig(InferenceConfig):
    tolerance_mm: float = key(
        1.0, "Tolerance of the normalised surface Dice, in mm (pixels in 2D without spacing).", low=0
    )
    reference: str = key("none", "Arm that the gains are measured against.")
    connectivity: str = key(
        "corners",
        "Voxels of one component share a corner (26 neighbours in 3D, 8 in 2D) or a face (6, 4); for postprocessing=validated.",
        choices=("corners", "faces"),
    )


@dataclass
class PredictConfig(InferenceConfig):
    input: str | None = key(None, "Folder of new images, or one file.")
    output: str | None = key(None, "Folder for their label maps; made where it is missing.")
    arm: str = key("diffboost_classical", "Arm whose segmenters predict.")
    folds: list[int] = key([0], "Folds whose segmenters predict together.", low=0)
    seeds: list[int] = key([0], "Seeds of these segmenters.", low=0)
    probabilities: bool = key(False, "Write a probability map for every label but the background too.")
    dicom: str = key(
        "nifti",
        "What is written for DICOM series: nifti, dicom_seg (DICOM-SEG that refers to their slices), or both.",
        choices=("nifti", "dicom_seg", "both"),
    )


@dataclass
class CompareConfig:
    sizes: list[int] = key(
        [],
        "Labelled training cases; one part of the study each. The cases of a smaller size are among those of a larger one, and the "
        "test cases are the same; []: data.labelled alone.",
        low=1,
    )
    validation: int | None = key(
        None,
        "Validation cases of every size; null: data.validation_fraction of each. One number for all lets sizes share one pre-training.",
        low=1,
    )
    variants: dict[str, list[str]] = key(
        {},
        "Variants by name, each a list of overrides such as [merge.alpha=0.25]; the first is what the others are compared with; {}: "
        "the configuration as it is.",
    )
    references: list[str] = key(["none", "classical"], "Arms that every other arm is compared with.")
    launcher: str = key(
        "local",
        "local: processes on this machine; else an installed launcher plugin of Hydra by name, such as submitit_slurm.",
    )
    launcher_options: dict[str, Any] = key({}, "Options of that plugin, such as {partition: gpu, timeout_min: 240}.")
    processes: int = key(
        1, "local: cells that run at the same time, each in a process of its own; 0: in this one.", low=0
    )
    status: bool = key(False, "Only list the cells and what has become of each; nothing runs.")


@dataclass
class ExportConfig:
    format: str = key("nnunet", "What the folder is for: nnU-Net v2, or readers of MSD.", choices=("nnunet", "msd"))
    target: str | None = key(
        None, "Folder in which the data set's own folder is made, such as nnUNet_raw; null: in the workspace."
    )
    dataset_id: int = key(500, "Number of the data set: Dataset500_NAME, Task500_NAME_fold0.", low=1, high=999)
    name: str | None = key(None, "Name of the data set (letters, digits, - and _); null: that of `prepare`.")
    samples: int | None = key(
        None, "Synthetic volumes of each training case, at most; null: all accepted ones; 0: real ones only.", low=0
    )
    files: str = key(
        "copy",
        "How images come there: copied, or linked to where they lie. Labels and pictures are always written anew.",
        choices=("copy", "hardlink", "symlink"),
    )
    test_images: bool = key(True, "Put the images of test cases into imagesTs, without labels.")


@dataclass
class InspectConfig:
    json: str | None = key(None, "File for all that was seen, as JSON; null: only the table on screen.")
    strict: bool = key(False, "Exit status 1 where there are problems; else 0.")
    workers: int = key(0, "Threads that read cases, one case at a time each; 0: one for each core.", low=0)
    listed: int = key(5, "Lines that the table shows of each kind of problem or note.", low=1)
    label_fit: bool = key(
        True,
        "Read the labelled cases a second time, to see whether labels are mirrored or shifted against their images.",
    )
    least_cases: int = key(6, "Labelled cases that this needs; a label is judged by the other cases.", low=3)
    fit_voxels: int = key(1000000, "Larger images are made smaller for it, by means, to at most this.", low=1000)
    flip_gain: float = key(
        0.1,
        "Mirrored labels: least gain in mean log probability, in nats a voxel; also at least the deviation of that number in the set.",
        low=0,
    )
    shift_gain: float = key(0.15, "Shifted labels: least gain, alike; also at least three times that deviation.", low=0)
    shift_voxels: int = key(3, "Shifts of fewer voxels along every axis don't count.", low=1)
    shift_reach: int = key(
        12, "Shifts of more voxels along an axis are not tried (at most a quarter of the image).", low=1
    )
    outlier: float = key(4.0, "A gain must be so many robust deviations above the median of the set.", low=0)
    spacing_ratio: float = key(
        1.5, "Times as fine or coarse as the median along an axis, from which a spacing is another one.", low=1
    )
    few: float = key(
        0.25,
        "Up to this share of the cases an odd spacing or a missing label is a problem; of more it is the nature of the set.",
        low=0,
        high=1,
    )
    anisotropy: float = key(3.0, "Slice thickness over pixel width from which slices are called thick.", low=1)
    near_duplicate: float = key(
        0.98, "Correlation of images made small (16 a side) from which they are called alike.", low=0, high=1
    )


@dataclass
class RuntimeConfig:
    device: str = key("auto", "auto, cpu, cuda or mps.", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = key("no", "Mixed precision.", choices=("no", "bf16", "fp16"))
    workers: int = key(0, "Loader processes of each training; 0: in the training process.", low=0)
    threads: int = key(0, "CPU threads; 0: as torch chooses.", low=0)
    compile: bool = key(False, "Compile the denoiser for sampling (torch.compile); pays in long runs on a GPU.")


@dataclass
class Config:
    workspace: str = key("ws", "Folder that holds every result.")
    prompt: str | None = key(None, "Text of the data set, e.g. 'Hippocampus, MRI'; null: name and modality.")
    preset: str = key("standard", "The preset that was composed.")
    plan: str | None = key(
        None, "File of values that `diffboost3d plan` wrote, or one like it; it goes after the preset; null: none."
    )
    cohort: str = key("mr", "Built-in cohort of `demo`.", choices=("mr", "ct", "ultrasound"))
    seed: int = key(0, "Seed of splits, generator and synthetic volumes.", low=0)
    seeds: list[int] = key([0], "Seeds of the segmenters; one training each.", low=0)
    folds: list[int] = key([0], "Folds that run.", low=0)
    arms: list[str] = key(
        ["none", "classical", "cutmix", "cutmix_classical", "diffboost", "diffboost_classical"],
        "Arms that are trained and compared.",
    )
    data: DataConfig = section(DataConfig)
    prepare: PrepareConfig = section(PrepareConfig)
    diffusion: DiffusionConfig = section(DiffusionConfig)
    pix2pix: Pix2PixConfig = section(Pix2PixConfig)
    synthesize: SynthesizeConfig = section(SynthesizeConfig)
    merge: MergeConfig = section(MergeConfig)
    classical: ClassicalConfig = section(ClassicalConfig)
    augmentations: AugmentationsConfig = section(AugmentationsConfig)
    network: NetworkConfig = section(NetworkConfig)
    train: TrainConfig = section(TrainConfig)
    gate: GateConfig = section(GateConfig)
    evaluate: EvaluateConfig = section(EvaluateConfig)
    predict: PredictConfig = section(PredictConfig)
    compare: CompareConfig = section(CompareConfig)
    export: ExportConfig = section(ExportConfig)
    inspect: InspectConfig = section(InspectConfig)
    arm: dict[str, ArmConfig] = field(default_factory=dict, metadata={"meaning": "Definition of every arm."})
    runtime: RuntimeConfig = section(RuntimeConfig)
