"""Cuboid merging: real and other volumes mixed by a mask that is constant on random cuboids (DiffBoost's patches in 3D).

x = M * real + (1 - M) * other with P(M = 1) = alpha; labels are taken from the same source as the image. `CuboidMerge` is a
TorchIO transform and works alone in any pipeline, in 3D and 2D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torchio as tio
from torchio.transforms.augmentation import RandomTransform

Cell = tuple[int, int, int]


@dataclass(frozen=True)
class Cuboids:
    """A draw: which cuboids are real.

    Attributes:
        cell: edge of a cuboid in voxels along i, j, k.
        offset: how far the first cuboid is cut, in voxels, in [0, cell).
        real: nested tuples (I', J', K') of 0 and 1, one a cuboid.
    """

    cell: Cell
    offset: Cell
    real: tuple[tuple[tuple[int, ...], ...], ...]

    def mask(self, shape: Sequence[int]) -> torch.Tensor:
        """M on a grid (I, J, K): 1.0 where the voxel is real."""
        mask = torch.tensor(self.real, dtype=torch.float32)
        for axis in range(3):
            mask = mask.repeat_interleave(self.cell[axis], dim=axis)
            mask = mask.narrow(axis, self.offset[axis], shape[axis])
        return mask


def cell_in_voxels(cell: Sequence[int], cell_mm: float | None, spacing_mm: Sequence[float]) -> Cell:
    """Edge of the cuboids along i, j, k: `cell_mm` divided by the spacing where given, else `cell` (one or three numbers)."""
    if cell_mm is not None:
        i, j, k = (max(1, round(cell_mm / space)) for space in spacing_mm)
    else:
        i, j, k = (cell[0], cell[0], cell[0]) if len(cell) == 1 else cell
    return (i, j, k)


def draw_cuboids(shape: Sequence[int], cell: Cell, alpha: float, generator: torch.Generator | None = None) -> Cuboids:
    """Draw a random grid of cuboids over (I, J, K), at a random offset, each real with probability `alpha`."""
    offset = [int(torch.randint(edge, (1,), generator=generator)) for edge in cell]
    counts = [math.ceil((size + shift) / edge) for size, shift, edge in zip(shape, offset, cell, strict=True)]
    real = torch.rand(counts, generator=generator) < alpha
    i, j, k = offset
    return Cuboids(cell, (i, j, k), tuple(tuple(tuple(map(int, row)) for row in plane) for plane in real.tolist()))


def merge_images(mask: torch.Tensor, real: torch.Tensor, other: torch.Tensor, feather: float = 0.0) -> torch.Tensor:
    """M * real + (1 - M) * other; mask (I, J, K), images (C, I, J, K).

    Args:
        feather: standard deviation in voxels of a Gaussian that softens the borders of M; 0: hard.
    """
    if feather > 0:
        from scipy.ndimage import gaussian_filter

        sigma = [feather if size > 1 else 0.0 for size in mask.shape]
        mask = torch.from_numpy(gaussian_filter(mask.numpy(), sigma, mode="nearest"))
        return mask * real + (1.0 - mask) * other
    return torch.where(mask.bool(), real, other)


def merge_labels(mask: torch.Tensor, real: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The label of the source that each voxel of a hard mask comes from; labels (C, I, J, K)."""
    return torch.where(mask.bool(), real, other)


class CuboidMerge(RandomTransform):  # type: ignore[misc]
    """Merge a subject's `image` with its `synthetic` image on random cuboids; a TorchIO transform.

    The subject needs the images `image` and `synthetic` on one grid. Where it has `synthetic_label`, its `label` is merged
    with that alike; else `label` stays. The cuboids are drawn from torch's global generator, as all of TorchIO's, and are
    kept in the subject's history, so that `subject.get_applied_transforms()` replays them. The `synthetic` images are left
    in the subject.

    Args:
        alpha: probability that a cuboid is real.
        cell: edge of the cuboids in voxels, one number or one an axis. cell_mm: the same in mm, isotropic in space; it
            goes before `cell`.
        feather: standard deviation in voxels of the blended borders; labels stay hard.

    Raises:
        ValueError: alpha outside [0, 1], or a cell that isn't one or three whole numbers from 1.

    Examples:
        >>> import torch, torchio as tio
        >>> subject = tio.Subject(
        ...     image=tio.ScalarImage(tensor=torch.ones(1, 8, 8, 8)),
        ...     synthetic=tio.ScalarImage(tensor=torch.zeros(1, 8, 8, 8)),
        ... )
        >>> merged = CuboidMerge(alpha=0.5, cell=4)(subject)
        >>> sorted(merged.image.data.unique().tolist()) in ([0.0], [1.0], [0.0, 1.0])
        True
    """

    def __init__(
        self,
        alpha: float = 0.6,
        cell: int | Sequence[int] = 16,
        cell_mm: float | None = None,
        feather: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alpha must be from 0 to 1, got {alpha}")
        self.alpha, self.cell_mm, self.feather = alpha, cell_mm, feather
        self.cell = (cell,) if isinstance(cell, int) else tuple(cell)
        if len(self.cell) not in (1, 3) or min(self.cell) < 1:
            raise ValueError(f"cell must be one or three numbers of at least 1 voxel, got {cell}")

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Draw cuboids and apply them."""
        cell = cell_in_voxels(self.cell, self.cell_mm, subject["image"].spacing)
        cuboids = draw_cuboids(subject["image"].spatial_shape, cell, self.alpha)
        merged: tio.Subject = MergeCuboids(cuboids, self.feather)(subject)
        return merged


class MergeCuboids(tio.Transform):  # type: ignore[misc]
    """Apply given cuboids; what `CuboidMerge` leaves in the subject's history."""

    def __init__(self, cuboids: Cuboids, feather: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cuboids, self.feather = cuboids, feather
        self.args_names = ["cuboids", "feather"]

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Merge image and, where the synthetic image has its own, label."""
        image, synthetic = subject["image"], subject["synthetic"]
        if image.shape != synthetic.shape:
            raise ValueError(f"image {tuple(image.shape)} and synthetic {tuple(synthetic.shape)} differ in shape")
        mask = self.cuboids.mask(image.spatial_shape)
        image.set_data(merge_images(mask, image.data, synthetic.data, self.feather))
        if "synthetic_label" in subject and "label" in subject:
            subject["label"].set_data(merge_labels(mask, subject["label"].data, subject["synthetic_label"].data))
        return subject
