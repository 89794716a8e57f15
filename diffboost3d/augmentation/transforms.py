"""Transforms of batchgeneratorsv2 on named arrays: targets move together, a seed decides all, global generators stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

IMAGES, LABELS = ("image", "other"), ("label", "other_label", "mask")
ANISOTROPIC = 3.0  # nnU-Net's threshold, beyond which turning out of the fine plane would shear the anatomy
DARKEST = -1.0  # what lies beyond a volume, as in patches
NO_BLUR = 0.1  # a standard deviation whose kernel has one voxel
Arrays = dict[str, torch.Tensor]
Shape = tuple[int, ...]


def thick_axis(spacing_mm: Sequence[float], spatial_dims: int) -> int | None:
    """The axis of slices so thick that spatial changes stay in their plane; None: there is none, as in 2D."""
    thick = spatial_dims == 3 and max(spacing_mm) / min(spacing_mm) > ANISOTROPIC
    return int(np.argmax(spacing_mm)) if thick else None


class Transforms:
    """Some transforms on arrays (C, I, J, K): `image`, `label`, and what else of IMAGES and LABELS is there.

    Args:
        blocks: made by `spatial`, and the intensity and mirroring transforms of batchgeneratorsv2, for volumes whose thick axis,
            if any, comes first.
        thick: see `thick_axis`.
        spatial_dims: 2 for arrays (C, I, J, 1), else 3.
        mirror_axes: axes that are mirrored, each in half of the cases.
    """

    def __init__(self, blocks: Sequence[Any], thick: int | None, spatial_dims: int, mirror_axes: Sequence[int]) -> None:
        self._blocks, self._thick, self._dims = blocks, thick, spatial_dims
        self._mirror_axes = [axis for axis in mirror_axes if axis < spatial_dims]

    def __call__(self, arrays: Arrays, seed: int) -> Arrays:
        """Augment; the arrays given are not changed."""
        images = [name for name in IMAGES if name in arrays]
        labels = [name for name in LABELS if name in arrays]
        data = {"image": self._joined(arrays, images).float(), "segmentation": self._joined(arrays, labels).short()}
        with _seeded(seed):
            for block in self._blocks:
                data = block(**data)
            flips = [axis for axis in self._mirror_axes if torch.rand(1) < 0.5]
        return {
            **self._parted(data["image"], arrays, images, flips),
            **self._parted(data["segmentation"], arrays, labels, flips),
        }

    def _joined(self, arrays: Arrays, names: Sequence[str]) -> torch.Tensor:
        """A copy of all of them as channels; in 2D without the last axis, else the thick axis first."""
        joined = torch.cat([arrays[name] for name in names])
        if self._dims == 2:
            return joined[..., 0]
        return joined if self._thick is None else joined.movedim(self._thick + 1, 1).contiguous()

    def _parted(self, joined: torch.Tensor, arrays: Arrays, names: Sequence[str], flips: Sequence[int]) -> Arrays:
        """The arrays by name again, mirrored, of the type they had."""
        if self._dims == 2:
            joined = joined[..., None]
        elif self._thick is not None:
            joined = joined.movedim(1, self._thick + 1)
        joined = joined.flip([axis + 1 for axis in flips]).contiguous()
        parts = torch.split(joined, [len(arrays[name]) for name in names])
        return {name: part.to(arrays[name].dtype) for name, part in zip(names, parts, strict=True)}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """batchgeneratorsv2 draws from the global generators of numpy and torch; they are keyed here, and put back.

    That of the CPU alone: `torch.manual_seed` would key the accelerators' too, which nothing puts back, and takes as long as
    a small transform to do so.
    """
    kept, kept_torch = np.random.get_state(), torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        yield
    finally:
        torch.default_generator.set_state(kept_torch)
        np.random.set_state(kept)


# --- blocks ----------------------------------------------------------------------------------------------------------
def sometimes(transform: Any, probability: float) -> Any:
    """The transform, in that share of the cases."""
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    return RandomTransform(transform, apply_probability=probability)


def spatial(patch: Shape, thick: int | None, **settings: Any) -> list[Any]:
    """Rotation, scaling and elastic deformation about the middle, read from around the patch where the arrays are larger.

    Images are read linearly, labels are those of the largest share of linearly read ones. With a thick axis all its slices
    move alike in their plane (nnU-Net's "dummy 2D").

    Args:
        patch: of the result (I, J, K), in 2D (I, J), with the thick axis, if any, first.
        settings: of batchgeneratorsv2's SpatialTransform.
    """
    from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform

    from diffboost3d.augmentation.resampling import Movement

    common = {"padding_mode_image": "constant", "padding_value_image": DARKEST, "random_crop": False}
    plane = patch if thick is None else patch[1:]
    move = Movement(plane, patch_center_dist_from_border=0, **common, **settings)
    return [move] if thick is None else [Convert3DTo2DTransform(), move, Convert2DTo3DTransform()]


def blur(sigma: tuple[float, float], **settings: Any) -> Any:
    """Gaussian blurring, along each axis by another sigma in voxels; one too short for the longest kernel stays sharp."""
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform

    # benchmark=True, as nnU-Net has it, chooses an algorithm by the clock: other last bits on every run
    drawn = partial(_drawn_sigma, sigma)
    return GaussianBlurTransform(drawn, synchronize_axes=False, benchmark=False, **settings)


def _drawn_sigma(sigma: tuple[float, float], shape: Sequence[int], dim: int) -> float:
    """No function inside `blur`: transforms are pickled where loader processes don't begin as forks."""
    drawn = float(np.random.uniform(*sigma))
    reflected = 3 * sigma[1] + 0.75  # voxels, at most: the kernel has 6 sigma + 0.5 of them, rounded to an odd number
    return drawn if shape[dim] > reflected else NO_BLUR


class InUnits:
    """Applies a transform of images of mean 0 and standard deviation 1, as nnU-Net has them, to images in [-1, 1]."""

    def __init__(self, transform: Any) -> None:
        self._transform = transform

    def __call__(self, **data: Any) -> dict[str, Any]:
        """The whole dictionary, with its image changed."""
        axes = tuple(range(1, data["image"].ndim))
        mean, deviation = data["image"].mean(axes, True), data["image"].std(axes, keepdim=True).clamp_min(1e-6)
        changed: dict[str, Any] = self._transform(**{**data, "image": (data["image"] - mean) / deviation})
        return {**changed, "image": changed["image"] * deviation + mean}


def moved_first(sides: Sequence[int], thick: int | None, spatial_dims: int) -> Shape:
    """Sides (I, J, K) in the order that blocks see."""
    if spatial_dims == 2:
        return tuple(sides[:2])
    return tuple(sides) if thick is None else (sides[thick], *(side for at, side in enumerate(sides) if at != thick))
