"""Training patches for the segmenter: real volumes, merged on the fly with synthetic or other real ones, then augmented."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from diffboost3d.augmentation.cuboids import CuboidPlan, foreground_of, masks, merge_images, merge_labels
from diffboost3d.cases.records import IGNORED
from diffboost3d.imaging.channels import channels_of
from diffboost3d.seeds import generator, seed_of

Size = tuple[int, int, int]


class Augmentation(Protocol):
    """What a patch goes through after the merge.

    Attributes:
        reach: size (I, J, K) of what it reads, at least that of the patch, about the same middle.
    """

    reach: tuple[int, ...]

    def __call__(self, arrays: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
        """Named arrays (C, *reach) to arrays (C, *patch)."""


@dataclass(frozen=True)
class TrainingCase:
    """A prepared case in memory: image (I, J, K) or (C, I, J, K) in [-1, 1], label (I, J, K) uint8, synthetic images alike.

    `synthetic_labels` has one for each synthetic image, None where it has the case's; (): all have.
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    synthetic: tuple[NDArray[np.float32], ...] = ()
    synthetic_labels: tuple[NDArray[np.uint8] | None, ...] = ()


@dataclass(frozen=True)
class MergePlan:
    """How volumes are merged; see the section `merge` of the configuration.

    Attributes:
        source: none, real or synthetic.
        alpha: probability that a cuboid is real, or the range it is drawn from for every patch.
        mask_foreground: label values in which voxels stay real; True: all of them.
        probability: share of the patches that are merged; the others are real.
        last_probability: what that share has become, evenly, at the last of `patches`; None: it stays.
        patches: of the whole training.
        partner: same or any, the case whose synthetic sample is merged with a real patch.
    """

    source: str
    alpha: float | tuple[float, float]
    cell: tuple[int, ...]
    cell_mm: float | None
    feather: float
    at: str
    feather_mm: float | None = None
    mask_foreground: bool | tuple[int, ...] = False
    probability: float = 1.0
    last_probability: float | None = None
    patches: int = 1
    partner: str = "same"

    def probability_at(self, number: int) -> float:
        """Share of the patches that are merged where the training is at its `number`-th."""
        if self.last_probability is None:
            return self.probability
        passed = min(1.0, number / max(1, self.patches - 1))
        return self.probability + passed * (self.last_probability - self.probability)

    @property
    def cuboids(self) -> CuboidPlan:
        """How the cuboids are drawn. Predictions are merged with hard borders, as their labels."""
        feather, feather_mm = (self.feather, self.feather_mm) if self.at == "image" else (0.0, None)
        return CuboidPlan(self.alpha, self.cell, self.cell_mm, feather, feather_mm)

    def masks(self, label: torch.Tensor, spacing_mm: Sequence[float], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks (I, J, K) of a draw, for labels and for images, with the foreground of a real label (1, I, J, K) kept."""
        shape = label.shape[1:]
        cuboids = self.cuboids.draw(shape, spacing_mm, torch.Generator().manual_seed(seed))
        kept = foreground_of(label, self.mask_foreground) if self.mask_foreground else None
        foreground = None if kept is None else kept & (label[0] != IGNORED)
        return masks(cuboids, shape, foreground)


class PatchDataset(Dataset[dict[str, torch.Tensor]]):
    """Sample number -> image (C, I, J, K) and label (1, I, J, K); with merging at the prediction also other, other_label, mask.

    Case and window of a sample depend on the seed and its number only, not on the arm, so that arms are compared on the same
    sequence of patches.
    """

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        patch: Size,
        spacing_mm: Sequence[float],
        merge: MergePlan,
        augmentations: Sequence[Augmentation] | None,
        foreground_probability: float,
        seed: int,
    ) -> None:
        self.cases, self.patch, self.merge = cases, patch, merge
        self.augmentations = tuple(augmentations or ())
        self._reach = self.augmentations[0].reach if self.augmentations else patch
        self._spacing_mm = tuple(spacing_mm)
        self._foreground_probability = foreground_probability
        self._seed = seed
        self._generated = [position for position, case in enumerate(cases) if case.synthetic]
        self._foreground = [_labelled(case.label) for case in cases]

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        random = generator(self._seed, "patch", number)
        index = int(random.integers(len(self.cases)))
        start = self._window(index, random)
        arrays = self._cut(self.cases[index].image, self.cases[index].label, start)
        if self.merge.source != "none":
            arrays = self._merge(arrays, index, start, generator(self._seed, "merge", number), number)
        for place, augmentation in enumerate(self.augmentations):
            arrays = augmentation(arrays, seed_of(self._seed, "augmentation", place, number))
        return {name: array.float() if name in ("image", "other") else array.long() for name, array in arrays.items()}

    def _window(self, index: int, random: np.random.Generator) -> tuple[int, ...]:
        """First voxel of the patch; negative where the volume is smaller and is padded evenly."""
        shape = self.cases[index].label.shape
        centre = [float(random.uniform(0, size)) for size in shape]
        if random.random() < self._foreground_probability and len(self._foreground[index]):
            place = self._foreground[index][int(random.integers(len(self._foreground[index])))]
            centre = [float(position) for position in np.unravel_index(int(place), shape)]
        return tuple(
            -((size_patch - size) // 2)
            if size <= size_patch
            else int(np.clip(round(middle - size_patch / 2), 0, size - size_patch))
            for middle, size, size_patch in zip(centre, shape, self.patch, strict=True)
        )

    def _cut(
        self, image: NDArray[np.float32], label: NDArray[np.uint8], start: Sequence[int]
    ) -> dict[str, torch.Tensor]:
        """The patch from voxel `start` on, with as much around it as augmentation reads."""
        first = [at - (size - side) // 2 for at, size, side in zip(start, self._reach, self.patch, strict=True)]
        return {
            "image": torch.from_numpy(cut(channels_of(image), first, self._reach, -1.0)),
            "label": torch.from_numpy(cut(label, first, self._reach, 0))[None],
        }

    def _merge(
        self, real: dict[str, torch.Tensor], index: int, start: Sequence[int], random: np.random.Generator, number: int
    ) -> dict[str, torch.Tensor]:
        other = self._other(index, start, random)
        hard, soft = self.merge.masks(real["label"], self._spacing_mm, int(random.integers(2**62)))
        if random.random() >= self.merge.probability_at(number):
            hard = soft = torch.ones_like(hard)
        if self.merge.at == "prediction":
            mask = hard[None].to(torch.uint8)
            return {**real, "other": other["image"], "other_label": other["label"], "mask": mask}
        return {
            "image": merge_images(soft, real["image"], other["image"]),
            "label": merge_labels(hard, real["label"], other["label"]),
        }

    def _other(self, index: int, start: Sequence[int], random: np.random.Generator) -> dict[str, torch.Tensor]:
        """What is merged with the real patch: a synthetic sample of the case, or of any, or a patch of another real case.

        A case without synthetic samples is merged with itself, which leaves it as it is; so is every case where none has any.
        """
        if self.merge.source == "synthetic":
            if self.merge.partner == "any" and self._generated:
                index = self._generated[int(random.integers(len(self._generated)))]
                start = self._window(index, random)
            case = self.cases[index]
            if not case.synthetic:
                return self._cut(case.image, case.label, start)
            number = int(random.integers(len(case.synthetic)))
            own = case.synthetic_labels[number] if case.synthetic_labels else None
            return self._cut(case.synthetic[number], case.label if own is None else own, start)
        others = [position for position in range(len(self.cases)) if position != index] or [index]
        chosen = others[int(random.integers(len(others)))]
        return self._cut(self.cases[chosen].image, self.cases[chosen].label, self._window(chosen, random))


def _labelled(label: NDArray[np.uint8]) -> NDArray[np.unsignedinteger[Any]]:
    """Places of the labelled voxels in the flat array, in the smallest type: a large organ has millions."""
    places = np.flatnonzero((label > 0) & (label != IGNORED))
    return places.astype(np.uint32 if label.size <= 2**32 else np.uint64)


def cut(array: NDArray[np.generic], start: Sequence[int], size: Sequence[int], fill: float) -> NDArray[np.generic]:
    """A window (size) of an array (I, J, K) or (C, I, J, K) from voxel `start` on; `fill` beyond the array."""
    patch = np.full((*array.shape[:-3], *size), fill, dtype=array.dtype)
    inside: list[Any] = [...]
    outside: list[Any] = [...]
    for first, wanted, there in zip(start, size, array.shape[-3:], strict=True):
        low, high = max(first, 0), min(first + wanted, there)
        inside.append(slice(low, high))
        outside.append(slice(low - first, high - first))
    patch[tuple(outside)] = array[tuple(inside)]
    return patch


def largest_shape(shapes: Sequence[tuple[int, ...]]) -> Size:
    """The shape (I, J, K) that holds every volume of these shapes."""
    i, j, k = (int(side) for side in np.max(np.asarray(shapes), axis=0))
    return (i, j, k)


def patch_size(
    shapes: Sequence[tuple[int, ...]], divisor: int, largest: int, share: float, wanted: Sequence[int] | None
) -> Size:
    """Patch (I, J, K): as wanted, else a share of the largest volume's sides, at most `largest`; 1 stays 1 (2D).

    Sides become multiples of `divisor` (a wanted one is rounded up, a planned one to the nearest).
    """
    sides = largest_shape(shapes)
    if wanted is not None:
        multiples = [math.ceil(side / divisor) for side in wanted]
    else:
        multiples = [min(max(1, round(side * share / divisor)), max(1, largest // divisor)) for side in sides]
    i, j, k = (1 if side == 1 else multiple * divisor for side, multiple in zip(sides, multiples, strict=True))
    return (i, j, k)
