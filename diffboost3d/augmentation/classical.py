"""The classical stack: nnU-Net's augmentations, in the library it takes them from (batchgeneratorsv2), keyed by a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diffboost3d.augmentation.transforms import (
    InUnits,
    Shape,
    Transforms,
    blur,
    moved_first,
    sometimes,
    spatial,
    thick_axis,
)

LONG = 1.5  # ratio of sides beyond which nnU-Net turns a 2D patch by 15 degrees only
MARGIN = 0.85  # of the scale for which nnU-Net reads around the patch, whatever the range of scaling is
Range = tuple[float, float]


@dataclass(frozen=True)
class ClassicalPlan:
    """How strong and how often; see the section `classical` of the configuration.

    The defaults are those of nnU-Net v2 (Isensee et al. 2021; `nnUNetTrainer.get_training_transforms` and
    `configure_rotation_dummyDA_mirroring_and_inital_patch_size`).

    Attributes:
        rotation_degrees: None: nnU-Net's, by the shape (see `ClassicalStack`).
        scale: of coordinates: above 1 the object gets smaller.
        elastic_magnitude, elastic_scale: largest displacement in voxels; its smoothness, as a share of the patch.
        noise_deviation: of images with standard deviation 1.
    """

    rotation_degrees: float | None = None
    rotation_probability: float = 0.2
    scale: Range = (0.7, 1.4)
    scale_probability: float = 0.2
    elastic_probability: float = 0.0
    elastic_magnitude: Range = (0.0, 3.0)
    elastic_scale: Range = (0.1, 0.2)
    mirror_axes: tuple[int, ...] = (0, 1, 2)
    noise_probability: float = 0.1
    noise_deviation: Range = (0.0, 0.1)
    blur_probability: float = 0.2
    blur_sigma: Range = (0.5, 1.0)
    brightness_probability: float = 0.15
    brightness: Range = (0.75, 1.25)
    contrast_probability: float = 0.15
    contrast: Range = (0.75, 1.25)
    low_resolution_probability: float = 0.25
    low_resolution: Range = (0.5, 1.0)
    inverted_gamma_probability: float = 0.1
    gamma_probability: float = 0.3
    gamma: Range = (0.7, 1.5)


class ClassicalStack:
    """Rotation and scaling, noise, blur, brightness, contrast, low resolution, gamma, mirroring; elastic deformation on request.

    Without `rotation_degrees` volumes turn by at most 30 degrees about each axis; those with slices more than three times
    thicker than their pixels by up to 180 degrees in their plane; pictures by up to 180 degrees, long ones by 15.

    Three things differ from nnU-Net: patches are read from around where they lie by as much as nnU-Net does, but what lies
    beyond the volume is -1, the darkest, not the mean; thick slices are told by the spacing, not by the patch; and the algorithm
    of blurring isn't chosen by a stop-watch, so that a seed gives the same bytes every time.

    Args:
        patch: of the result (I, J, K).
        spacing_mm: of the volumes.
        spatial_dims: 2 for arrays (C, I, J, 1), else 3.
    """

    def __init__(
        self, plan: ClassicalPlan, patch: Sequence[int], spacing_mm: Sequence[float], spatial_dims: int
    ) -> None:
        thick = thick_axis(spacing_mm, spatial_dims)
        sides = moved_first(patch, thick, spatial_dims)
        turn = _largest_turn(plan, sides, thick)
        moves = plan.rotation_probability or plan.scale_probability or plan.elastic_probability
        self.reach = _reach(patch, turn, thick, spatial_dims) if moves else tuple(patch)
        blocks = [*_spatial(plan, sides, turn, thick), *_intensity(plan, thick)]
        self._apply = Transforms(blocks, thick, spatial_dims, plan.mirror_axes)

    def __call__(self, arrays: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
        """Augment arrays (C, I, J, K) of the size `reach`, or of another; they become of the size of the patch.

        There may be `image`, `label`, and, for merging at the prediction, `other`, `other_label` and `mask`; all move alike.
        """
        return self._apply(arrays, seed)


def _largest_turn(plan: ClassicalPlan, sides: Shape, thick: int | None) -> float:
    """In radians."""
    if plan.rotation_degrees is not None:
        return math.radians(plan.rotation_degrees)
    if thick is not None:
        return math.pi
    if len(sides) == 3:
        return math.radians(30)
    return math.radians(15) if max(sides) / min(sides) > LONG else math.pi


def _reach(patch: Sequence[int], turn: float, thick: int | None, spatial_dims: int) -> Shape:
    """Size (I, J, K) that a turned and shrunk patch is read from, as nnU-Net reckons it: one turn, about one axis, at a time."""
    turn = min(turn, math.pi / 2)
    turned = [axis for axis in range(spatial_dims) if axis != thick]
    reach = list(patch)
    for axis in turned:
        others = [patch[other] for other in turned if other != axis]
        widest = max([math.cos(turn) * patch[axis] + math.sin(turn) * other for other in others], default=patch[axis])
        wanted = math.ceil(max(patch[axis], widest) / MARGIN)
        reach[axis] = wanted + (wanted - patch[axis]) % 2  # so that the middles lie on each other
    return tuple(reach)


def _spatial(plan: ClassicalPlan, sides: Shape, turn: float, thick: int | None) -> list[Any]:
    return spatial(
        sides,
        thick,
        p_rotation=plan.rotation_probability,
        rotation=(-turn, turn),
        p_scaling=plan.scale_probability,
        scaling=plan.scale,
        p_synchronize_scaling_across_axes=1,
        p_elastic_deform=plan.elastic_probability,
        elastic_deform_magnitude=plan.elastic_magnitude,
        elastic_deform_scale=plan.elastic_scale,
    )


def _intensity(plan: ClassicalPlan, thick: int | None) -> list[Any]:
    """For images in [-1, 1]; noise and brightness, which depend on the unit, are applied in that of nnU-Net."""
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform

    apart = {"synchronize_channels": False}
    fine = None if thick is None else (0,)
    noise = GaussianNoiseTransform(plan.noise_deviation, p_per_channel=1, synchronize_channels=True)
    brightness = MultiplicativeBrightnessTransform(BGContrast(plan.brightness), **apart)
    contrast = ContrastTransform(BGContrast(plan.contrast), preserve_range=True, **apart)
    coarse = SimulateLowResolutionTransform(
        plan.low_resolution, synchronize_axes=True, ignore_axes=fine, p_per_channel=0.5, **apart
    )
    inverted, straight = (
        GammaTransform(BGContrast(plan.gamma), p_invert_image=share, p_per_channel=1, p_retain_stats=1, **apart)
        for share in (1, 0)
    )
    return [
        sometimes(InUnits(noise), plan.noise_probability),
        sometimes(blur(plan.blur_sigma, p_per_channel=0.5, **apart), plan.blur_probability),
        sometimes(InUnits(brightness), plan.brightness_probability),
        sometimes(contrast, plan.contrast_probability),
        sometimes(coarse, plan.low_resolution_probability),
        sometimes(inverted, plan.inverted_gamma_probability),
        sometimes(straight, plan.gamma_probability),
    ]
