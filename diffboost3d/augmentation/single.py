"""Single augmentations, each of which really changes what the network sees: they act on prepared images, after normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diffboost3d.augmentation.transforms import Shape, Transforms, blur, moved_first, sometimes, spatial, thick_axis

SPATIAL = ("mirror", "rotate", "scale")
INTENSITY = ("contrast", "gamma", "brightness", "noise", "blur")
Range = tuple[float, float]


@dataclass(frozen=True)
class SinglePlan:
    """How strong; the defaults are those that the paper compares with. See the section `augmentations` of the configuration.

    Attributes:
        probability: share of the patches that each of them changes; a mirrored axis is so in half of the patches.
        brightness: standard deviation of what is added to an image in [-1, 1].
        noise_variance: of an image in [-1, 1].
        scale: of coordinates: above 1 the object gets smaller.
    """

    probability: float = 0.5
    contrast: Range = (0.75, 1.25)
    gamma: Range = (0.7, 1.5)
    brightness: float = 0.5
    noise_variance: Range = (0.0, 0.05)
    blur_sigma: Range = (0.5, 1.5)
    mirror_axes: tuple[int, ...] = (0, 1, 2)
    rotation_degrees: float = 5.0
    scale: Range = (0.95, 1.05)


class SingleAugmentations:
    """The named ones, spatial ones first; see `ClassicalStack` for the arguments and the arrays.

    Prepared images lie in [-1, 1], and so do augmented ones: what contrast, brightness and noise carry beyond is cut off, as a
    narrower window would. Augmenting before the normalisation, which is how the published comparison was run, makes brightness
    and a lower contrast undone by it.

    Raises:
        ValueError: an unknown name.
    """

    def __init__(
        self,
        names: Sequence[str],
        plan: SinglePlan,
        patch: Sequence[int],
        spacing_mm: Sequence[float],
        spatial_dims: int,
    ) -> None:
        if unknown := set(names) - {*SPATIAL, *INTENSITY}:
            raise ValueError(f"no augmentation is named {', '.join(sorted(unknown))}")
        thick = thick_axis(spacing_mm, spatial_dims)
        sides = moved_first(patch, thick, spatial_dims)
        self.reach = tuple(patch)
        made = [_MAKERS[name](plan) for name in INTENSITY if name in names]
        blocks = [
            *_spatial(names, plan, sides, thick),
            *(sometimes(one, plan.probability) for one in made),
            *([_within] if made else []),
        ]
        self._apply = Transforms(blocks, thick, spatial_dims, plan.mirror_axes if "mirror" in names else ())

    def __call__(self, arrays: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
        """Augment; see `ClassicalStack`."""
        return self._apply(arrays, seed)


def _within(**data: Any) -> dict[str, Any]:
    return {**data, "image": data["image"].clamp(-1.0, 1.0)}


def _spatial(names: Sequence[str], plan: SinglePlan, sides: Shape, thick: int | None) -> list[Any]:
    if not {"rotate", "scale"} & set(names):
        return []
    turn = math.radians(plan.rotation_degrees)
    return spatial(
        sides,
        thick,
        p_rotation=plan.probability if "rotate" in names else 0,
        rotation=(-turn, turn),
        p_scaling=plan.probability if "scale" in names else 0,
        scaling=plan.scale,
        p_synchronize_scaling_across_axes=1,
    )


def _contrast(plan: SinglePlan) -> Any:
    from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform

    return ContrastTransform(plan.contrast, preserve_range=False, synchronize_channels=False)


def _gamma(plan: SinglePlan) -> Any:
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform

    return GammaTransform(plan.gamma, p_invert_image=0, synchronize_channels=False, p_per_channel=1, p_retain_stats=0)


def _brightness(plan: SinglePlan) -> Any:
    from batchgeneratorsv2.transforms.intensity.brightness import BrightnessAdditiveTransform

    return BrightnessAdditiveTransform(0.0, plan.brightness, synchronize_channels=False)


def _noise(plan: SinglePlan) -> Any:
    import numpy as np
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform

    def deviation(*_: Any) -> float:
        return math.sqrt(np.random.uniform(*plan.noise_variance))

    return GaussianNoiseTransform(deviation, synchronize_channels=False)


def _blur(plan: SinglePlan) -> Any:
    return blur(plan.blur_sigma, synchronize_channels=False)


_MAKERS = {"contrast": _contrast, "gamma": _gamma, "brightness": _brightness, "noise": _noise, "blur": _blur}
