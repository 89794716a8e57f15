"""Keys of the generators: the diffusion model with its codec and trainings, the refiner, and the GAN of the pix2pix arms."""

from __future__ import annotations

from dataclasses import dataclass

from diffboost3d.schema.keys import key, section


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
    decorrelate: float = key(
        0.5,
        "Several image channels of haar and pixel, with normalise: how far what they have in common and what they don't is brought "
        "to the same variance; 0: not at all, 1: wholly. More makes them agree better, and what they have in common grainier.",
        low=0,
        high=1,
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
class RefinerTrainingConfig:
    steps: int = key(3600, "Optimiser steps.", low=1)
    batch: int = key(4, "Patches a step, over all processes.", low=1)
    learning_rate: float = key(1.5e-3, "Peak learning rate (AdamW), decayed by a cosine.", low=0)
    warmup_steps: int = key(50, "Steps of linear warm-up.", low=0)
    weight_decay: float = key(0.01, "Weight decay (AdamW).", low=0)
    clip_norm: float = key(1.0, "Gradient norm is clipped to this; 0: not.", low=0)
    accumulation: int = key(1, "Batches whose gradients are added up before a step.", low=1)
    ema_decay: float = key(0.998, "Decay of the averaged weights; 0: no averaging.", low=0, high=0.99999)
    checkpoint_every: int = key(200, "Steps between checkpoints.", low=1)
    images_every: int = key(500, "Steps between image grids in TensorBoard.", low=1)
    validate_every: int = key(500, "Steps between validation losses.", low=1)


@dataclass
class RefinerConfig:
    channels: list[int] = key(
        [24, 48, 64],
        "Channels of each level of its 3D U-Net; every level after the first halves the sides.",
        low=4,
        length=(2, 3, 4),
    )
    blocks: int = key(2, "Residual blocks a level, on the way down and on the way up.", low=1)
    patch: int = key(
        20, "Side of a training patch in voxels; a multiple of 2 ^ (levels - 1), at least twice that.", low=8
    )
    sigma: list[float] = key(
        [0.01, 0.4],
        "Least and greatest standard deviation of the noise that it learns to take away, in units of [-1, 1]; "
        "synthesize.refine lies between.",
        low=0.0001,
        high=4,
        length=(2,),
    )
    training: RefinerTrainingConfig = section(RefinerTrainingConfig)


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
