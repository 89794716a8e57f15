"""Training slices for the translator: a random slice of a random volume, image and control cut alike on whole voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.utils.data import Dataset

from diffboost3d.imaging.channels import channels_of
from diffboost3d.seeds import generator

Size = tuple[int, int]


@dataclass(frozen=True)
class PairedVolume:
    """A prepared volume: image (I, J, K) or (N, I, J, K) in [-1, 1], control (C, I, J, K) in [0, 1]."""

    image: NDArray[np.float32]
    control: NDArray[np.float32]


class PairedSlices(Dataset[dict[str, torch.Tensor]]):
    """Sample number -> image (N, A, B), control (C, A, B); a function of the seed and the number alone.

    Args:
        size: (A, B); of a larger slice a random window, a smaller one is filled up by `filled`.
        axis: of slicing.
    """

    def __init__(self, volumes: Sequence[PairedVolume], size: Size, axis: int, seed: int, purpose: str) -> None:
        self.volumes, self.size = volumes, size
        self._axis, self._key = axis, (seed, purpose)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        random = generator(*self._key, number)
        volume = self.volumes[int(random.integers(len(self.volumes)))]
        images = channels_of(volume.image)
        position = int(random.integers(images.shape[self._axis + 1]))
        image = torch.from_numpy(np.take(images, position, axis=self._axis + 1))
        control = torch.from_numpy(np.take(volume.control, position, axis=self._axis + 1))
        both = torch.cat([image, control])
        for dim, wanted in zip((1, 2), self.size, strict=True):
            free = both.shape[dim] - wanted
            first = int(random.integers(free + 1)) if free > 0 else 0
            both = both.narrow(dim, first, min(wanted, both.shape[dim]))
        both = filled(both, self.size)
        return {"image": both[: len(images)].clone(), "control": both[len(images) :].clone()}


def filled(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Images (C, A, B) or (S, C, A, B) brought to `size` by repeating the last row and column; `[..., :A, :B]` undoes it."""
    missing = (0, size[1] - images.shape[-1], 0, size[0] - images.shape[-2])
    return F.pad(images, missing, mode="replicate")


def multiples(size: Sequence[int], divisor: int) -> Size:
    """Sides rounded up to multiples of a divisor."""
    return math.ceil(size[0] / divisor) * divisor, math.ceil(size[1] / divisor) * divisor


def window_size(shapes: Sequence[tuple[int, ...]], axis: int, largest: int) -> Size:
    """Slice size (A, B) that covers every volume, at most `largest` a side."""
    sides = np.max([[side for at, side in enumerate(shape) if at != axis] for shape in shapes], axis=0)
    return min(int(sides[0]), largest), min(int(sides[1]), largest)
