"""Training patches for the segmenter: real volumes, merged on the fly with synthetic or other real ones, then augmented."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from diffboost3d.augmentation.classical import ClassicalStack
from diffboost3d.augmentation.merge import CuboidMerge, cell_in_voxels, draw_cuboids
from diffboost3d.seeds import generator, seed_of

Size = tuple[int, int, int]


@dataclass(frozen=True)
class TrainingCase:
    """A prepared case in memory: image (I, J, K) in [-1, 1], label (I, J, K) uint8, synthetic images like the image."""

    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    synthetic: tuple[NDArray[np.float32], ...] = ()


@dataclass(frozen=True)
class MergePlan:
    """How volumes are merged; see the section `merge` of the configuration. source: none, real or synthetic."""

    source: str
    alpha: float
    cell: tuple[int, ...]
    cell_mm: float | None
    feather: float
    at: str


class PatchDataset(Dataset[dict[str, torch.Tensor]]):
    """Sample number -> image (1, I, J, K) and label (1, I, J, K); with merging at the prediction also other, other_label, mask.

    Case and window of a sample depend on the seed and its number only, not on the arm, so that arms are compared on the same
    sequence of patches.
    """

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        patch: Size,
        spacing_mm: Sequence[float],
        merge: MergePlan,
        classical: ClassicalStack | None,
        foreground_probability: float,
        seed: int,
    ) -> None:
        self.cases, self.patch, self.merge, self.classical = cases, patch, merge, classical
        self._spacing_mm = tuple(spacing_mm)
        self._foreground_probability = foreground_probability
        self._seed = seed
        self._foreground = [np.argwhere(case.label > 0) for case in cases]

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        random = generator(self._seed, "patch", number)
        index = int(random.integers(len(self.cases)))
        start = self._window(index, random)
        arrays = self._cut(self.cases[index].image, self.cases[index].label, start)
        if self.merge.source != "none":
            arrays = self._merge(arrays, index, start, generator(self._seed, "merge", number))
        if self.classical is not None:
            arrays = self.classical(arrays, seed_of(self._seed, "classical", number))
        return {name: array.float() if name in ("image", "other") else array.long() for name, array in arrays.items()}

    def _window(self, index: int, random: np.random.Generator) -> tuple[int, ...]:
        """First voxel of the patch; negative where the volume is smaller and is padded evenly."""
        shape = self.cases[index].label.shape
        centre = [float(random.uniform(0, size)) for size in shape]
        if random.random() < self._foreground_probability and len(self._foreground[index]):
            voxel = self._foreground[index][int(random.integers(len(self._foreground[index])))]
            centre = [float(position) for position in voxel]
        return tuple(
            -((size_patch - size) // 2)
            if size <= size_patch
            else int(np.clip(round(middle - size_patch / 2), 0, size - size_patch))
            for middle, size, size_patch in zip(centre, shape, self.patch, strict=True)
        )

    def _cut(
        self, image: NDArray[np.float32], label: NDArray[np.uint8], start: Sequence[int]
    ) -> dict[str, torch.Tensor]:
        return {
            "image": torch.from_numpy(cut(image, start, self.patch, -1.0))[None],
            "label": torch.from_numpy(cut(label, start, self.patch, 0))[None],
        }

    def _merge(
        self, real: dict[str, torch.Tensor], index: int, start: Sequence[int], random: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        other = self._other(index, start, random)
        seed = int(random.integers(2**62))
        if self.merge.at == "prediction":
            cell = cell_in_voxels(self.merge.cell, self.merge.cell_mm, self._spacing_mm)
            cuboids = draw_cuboids(self.patch, cell, self.merge.alpha, torch.Generator().manual_seed(seed))
            mask = cuboids.mask(self.patch)[None]
            return {**real, "other": other["image"], "other_label": other["label"], "mask": mask}
        return self._merged_images(real, other, seed)

    def _merged_images(
        self, real: dict[str, torch.Tensor], other: dict[str, torch.Tensor], seed: int
    ) -> dict[str, torch.Tensor]:
        import torchio as tio

        affine = np.diag([*self._spacing_mm, 1.0])
        subject = tio.Subject(
            image=tio.ScalarImage(tensor=real["image"], affine=affine),
            label=tio.LabelMap(tensor=real["label"], affine=affine),
            synthetic=tio.ScalarImage(tensor=other["image"], affine=affine),
            synthetic_label=tio.LabelMap(tensor=other["label"], affine=affine),
        )
        plan = self.merge
        merge = CuboidMerge(plan.alpha, plan.cell, plan.cell_mm, plan.feather, copy=False)
        with torch.random.fork_rng(devices=[]):  # TorchIO draws from the global generator
            torch.manual_seed(seed)
            merged = merge(subject)
        return {"image": merged["image"].data, "label": merged["label"].data}

    def _other(self, index: int, start: Sequence[int], random: np.random.Generator) -> dict[str, torch.Tensor]:
        """What is merged with the real patch: a synthetic sample of the case, or a patch of another real case.

        A case without synthetic samples is merged with itself, which leaves it as it is.
        """
        case = self.cases[index]
        if self.merge.source == "synthetic" and not case.synthetic:
            return self._cut(case.image, case.label, start)
        if self.merge.source == "synthetic":
            return self._cut(case.synthetic[int(random.integers(len(case.synthetic)))], case.label, start)
        others = [position for position in range(len(self.cases)) if position != index] or [index]
        chosen = others[int(random.integers(len(others)))]
        return self._cut(self.cases[chosen].image, self.cases[chosen].label, self._window(chosen, random))


def cut(array: NDArray[np.generic], start: Sequence[int], size: Sequence[int], fill: float) -> NDArray[np.generic]:
    """A window (size) of an array (I, J, K) from voxel `start` on; `fill` beyond the array."""
    patch = np.full(tuple(size), fill, dtype=array.dtype)
    inside, outside = [], []
    for first, wanted, there in zip(start, size, array.shape, strict=True):
        low, high = max(first, 0), min(first + wanted, there)
        inside.append(slice(low, high))
        outside.append(slice(low - first, high - first))
    patch[tuple(outside)] = array[tuple(inside)]
    return patch


def patch_size(
    shapes: Sequence[tuple[int, ...]], divisor: int, largest: int, share: float, wanted: Sequence[int] | None
) -> Size:
    """Patch (I, J, K): as wanted, else a share of the largest volume's sides, at most `largest`; 1 stays 1 (2D).

    Sides become multiples of `divisor` (a wanted one is rounded up, a planned one to the nearest).
    """
    sides = np.max(np.asarray(shapes), axis=0)
    if wanted is not None:
        multiples = [math.ceil(side / divisor) for side in wanted]
    else:
        multiples = [min(max(1, round(side * share / divisor)), max(1, largest // divisor)) for side in sides]
    i, j, k = (1 if side == 1 else multiple * divisor for side, multiple in zip(sides, multiples, strict=True))
    return (i, j, k)
