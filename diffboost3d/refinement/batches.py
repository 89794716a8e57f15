"""Training patches for the refiner: a cuboid of a random volume with its noise, on whole voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from diffboost3d.imaging.channels import channels_of
from diffboost3d.refinement.networks import drawn_sigma
from diffboost3d.refinement.texture import texture_of
from diffboost3d.seeds import generator

Tensors = dict[str, torch.Tensor]


class NoisyPatches(Dataset[Tensors]):
    """Sample number -> image and noise (N, *patch), sigma (), texture (3 N,); a function of the seed and the number alone.

    Args:
        images: prepared ones, (I, J, K) or (N, I, J, K) in [-1, 1].
        patch: sides in voxels; a smaller volume repeats its last voxels.
        mirrors: patches are mirrored along each axis, or not, by the toss of a coin.
    """

    def __init__(
        self,
        images: Sequence[NDArray[np.float32]],
        patch: tuple[int, int, int],
        sigma: tuple[float, float],
        seed: int,
        purpose: str,
        mirrors: bool = True,
    ) -> None:
        self._images = [channels_of(image) for image in images]
        self._textures = [torch.from_numpy(texture_of(image)) for image in images]
        self._patch, self._sigma, self._key, self._mirrors = patch, sigma, (seed, purpose), mirrors

    def __getitem__(self, number: int) -> Tensors:
        random = generator(*self._key, number)
        chosen = int(random.integers(len(self._images)))
        image = torch.from_numpy(self._cut(self._images[chosen], random))
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(int(random.integers(2**62))))
        sigma = torch.tensor(drawn_sigma(float(random.random()), self._sigma))
        return {"image": image, "noise": noise, "sigma": sigma, "texture": self._textures[chosen].clone()}

    def _cut(self, image: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
        sides = image.shape[1:]
        firsts = [int(random.integers(max(1, side - size + 1))) for side, size in zip(sides, self._patch, strict=True)]
        cut = image[(slice(None), *(slice(at, at + size) for at, size in zip(firsts, self._patch, strict=True)))]
        missing = [(0, size - side) for size, side in zip(self._patch, cut.shape[1:], strict=True)]
        if any(after for _, after in missing):
            cut = np.pad(cut, [(0, 0), *missing], mode="edge")
        tosses = random.random(3) < 0.5
        if self._mirrors:
            cut = np.flip(cut, tuple(axis + 1 for axis in range(3) if tosses[axis]))
        return np.ascontiguousarray(cut)


def spread_of_images(images: Sequence[NDArray[np.float32]]) -> float:
    """Standard deviation of the voxels of images in [-1, 1]."""
    count = sum(image.size for image in images)
    mean = sum(float(image.sum(dtype=np.float64)) for image in images) / count
    squares = sum(float(np.square(image - mean).sum(dtype=np.float64)) for image in images)
    return max(float(np.sqrt(squares / count)), 0.05)
