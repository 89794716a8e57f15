"""The classical stack: nnU-Net's augmentations (Isensee et al. 2021) in MONAI's transforms, all targets moved alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

IMAGES, LABELS = ("image", "other"), ("label", "other_label", "mask")
ANISOTROPIC = 3.0  # nnU-Net's threshold, beyond which turning out of the fine plane would shear the anatomy


@dataclass(frozen=True)
class ClassicalPlan:
    """How strong; see the section `classical` of the configuration. Probabilities of intensity changes are nnU-Net's."""

    rotation_degrees: float
    scale: tuple[float, float]
    spatial_probability: float
    elastic_probability: float
    elastic_magnitude: tuple[float, float]
    mirror_axes: tuple[int, ...]


class ClassicalStack:
    """Rotation and scaling, elastic deformation, noise, blur, brightness, contrast, low resolution, gamma, mirroring.

    Args:
        spacing_mm: of the volumes; thick slices are turned in their plane only.
        spatial_dims: 2 for arrays (C, I, J, 1), else 3.
    """

    def __init__(self, plan: ClassicalPlan, spacing_mm: Sequence[float], spatial_dims: int) -> None:
        from monai.transforms import Compose

        self._dims = spatial_dims
        self._stack = Compose(
            [
                *_spatial(plan, spacing_mm, spatial_dims),
                *_intensity(spatial_dims),
                *_mirrors(plan, spatial_dims),
            ]
        )

    def __call__(self, arrays: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
        """Augment arrays (C, I, J, K): `image`, `label`, and what else of IMAGES and LABELS is there; keyed by `seed`."""
        flat = {name: array.squeeze(-1) if self._dims == 2 else array for name, array in arrays.items()}
        self._stack.set_random_state(seed=seed % 2**32)
        moved = self._stack(flat)
        plain = {
            name: torch.as_tensor(moved[name].as_tensor() if hasattr(moved[name], "as_tensor") else moved[name])
            for name in flat
        }
        return {name: array.unsqueeze(-1) if self._dims == 2 else array for name, array in plain.items()}


def _spatial(plan: ClassicalPlan, spacing_mm: Sequence[float], dims: int) -> list[Any]:
    from monai.transforms import Rand2DElasticd, Rand3DElasticd, RandAffined

    modes = ["bilinear"] * len(IMAGES) + ["nearest"] * len(LABELS)
    turn = math.radians(plan.rotation_degrees)
    if dims == 2:
        turns: Any = turn
    elif max(spacing_mm) / min(spacing_mm) > ANISOTROPIC:
        turns = [turn if axis == int(np.argmax(spacing_mm)) else 0.0 for axis in range(3)]
    else:
        turns = [turn] * 3
    common: dict[str, Any] = {
        "keys": [*IMAGES, *LABELS],
        "mode": modes,
        "padding_mode": "border",
        "allow_missing_keys": True,
    }
    # MONAI scales the sampling grid by 1 + range, so that a factor f of the object is 1 / f here
    scale = [(1 / plan.scale[1] - 1, 1 / plan.scale[0] - 1)] * dims
    affine = RandAffined(prob=plan.spatial_probability, rotate_range=turns, scale_range=scale, **common)
    if plan.elastic_probability == 0:
        return [affine]
    if dims == 2:
        elastic: Any = Rand2DElasticd(
            spacing=(16, 16), magnitude_range=plan.elastic_magnitude, prob=plan.elastic_probability, **common
        )
    else:
        # MONAI smooths white noise of this size by a Gaussian; the factor restores the displacement to voxels
        sigma = 6.0
        gain = (2 * sigma * math.sqrt(math.pi)) ** 1.5
        low, high = plan.elastic_magnitude
        elastic = Rand3DElasticd(
            sigma_range=(sigma, sigma + 2),
            magnitude_range=(low * gain, high * gain),
            prob=plan.elastic_probability,
            **common,
        )
    return [affine, elastic]


def _intensity(dims: int) -> list[Any]:
    from monai.transforms import (
        RandAdjustContrastd,
        RandGaussianNoised,
        RandGaussianSmoothd,
        RandScaleIntensityd,
        RandScaleIntensityFixedMeand,
        RandSimulateLowResolutiond,
    )

    keys: dict[str, Any] = {"keys": list(IMAGES), "allow_missing_keys": True}
    blur = (0.5, 1.0)
    return [
        RandGaussianNoised(prob=0.1, std=0.1, **keys),
        RandGaussianSmoothd(prob=0.2, sigma_x=blur, sigma_y=blur, sigma_z=blur, **keys),
        RandScaleIntensityd(prob=0.15, factors=0.25, **keys),
        RandScaleIntensityFixedMeand(prob=0.15, factors=(-0.25, 0.25), preserve_range=True, **keys),
        RandSimulateLowResolutiond(
            prob=0.25, zoom_range=(0.5, 1.0), upsample_mode="bilinear" if dims == 2 else "trilinear", **keys
        ),
        RandAdjustContrastd(prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True, **keys),
        RandAdjustContrastd(prob=0.3, gamma=(0.7, 1.5), retain_stats=True, **keys),
    ]


def _mirrors(plan: ClassicalPlan, dims: int) -> list[Any]:
    from monai.transforms import RandFlipd

    keys = [*IMAGES, *LABELS]
    return [
        RandFlipd(keys, prob=0.5, spatial_axis=axis, allow_missing_keys=True)
        for axis in plan.mirror_axes
        if axis < dims
    ]
