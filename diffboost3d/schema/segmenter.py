"""Keys of the segmenters: arms, what they are trained on, network, training, and how they label images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffboost3d.schema.keys import key


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
    partner: str = key(
        "same",
        "Whose synthetic volume a real patch is merged with: one of the same case at the same place, or one of any labelled training "
        "case with the window drawn anew.",
        choices=("same", "any"),
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
    partner: str | None = key(
        None,
        "Whose synthetic volumes, where that is another choice than merge.partner; null: merge.partner.",
        choices=("same", "any"),
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
