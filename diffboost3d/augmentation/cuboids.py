"""Cuboids: a mask that is constant on random cuboids and says which of two volumes each voxel is taken from.

x = M * real + (1 - M) * other with P(M = 1) = alpha (DiffBoost's patches in 3D). Nothing here knows TorchIO; the transform is
in `augmentation.merge`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

Cell = tuple[int, int, int]
Sigma = tuple[float, float, float]
HARD: Sigma = (0.0, 0.0, 0.0)
ROUNDING = 2e-6  # of a weight, in single precision


@dataclass(frozen=True)
class Cuboids:
    """A draw: which cuboids are real. Holds plain values only, so that it can be written as JSON.

    Attributes:
        cell: edge of a cuboid in voxels along i, j, k.
        offset: how far the first cuboid is cut, in voxels, in [0, cell).
        counts: cuboids along i, j, k.
        real: one character a cuboid, k running fastest: "1" real, "0" other.
        sigma: standard deviation in voxels along i, j, k by which borders are blended; 0: hard.
    """

    cell: Cell
    offset: Cell
    counts: Cell
    real: str
    sigma: Sigma = HARD

    def __post_init__(self) -> None:
        count = math.prod(self.counts)
        if len(self.real) != count or not (self._codes | 1 == ord("1")).all():  # "0" and "1" differ in their last bit
            raise ValueError(f"real must be {count} characters of 0 and 1, one a cuboid of {self.counts}")

    @property
    def grid(self) -> torch.Tensor:
        """(I', J', K') bool, one value a cuboid."""
        return (self._codes == ord("1")).reshape(self.counts)

    @property
    def _codes(self) -> torch.Tensor:
        return torch.frombuffer(bytearray(self.real, "ascii"), dtype=torch.uint8)

    def mask(self, shape: Sequence[int]) -> torch.Tensor:
        """M (I, J, K) bool: true where the voxel is real.

        Raises:
            ValueError: the cuboids don't reach over a volume of this shape.
        """
        mask = self.grid
        for axis, index in enumerate(self._cuboid_of_voxel(shape)):
            mask = mask.index_select(axis, index)
        return mask

    def weight(self, shape: Sequence[int]) -> torch.Tensor:
        """M (I, J, K) float32 in [0, 1], blended by a Gaussian of `sigma`; beyond the volume, the outermost cuboids go on.

        The Gaussian of a mask that is constant on a grid of boxes is a product of three small matrices: how much of the
        Gaussian about voxel n lies in cuboid a, an axis. So it is exact, and costs little for any sigma.
        """
        shares = [
            _shares(index, count, edge, shift, sigma)
            for index, count, edge, shift, sigma in zip(
                self._cuboid_of_voxel(shape), self.counts, self.cell, self.offset, self.sigma, strict=True
            )
        ]
        weight = _product(self.grid.float(), shares)
        # far from a border a voxel is of one source to the last bit
        return weight.sub_(ROUNDING).div_(1.0 - 2.0 * ROUNDING).clamp_(0.0, 1.0)

    def _cuboid_of_voxel(self, shape: Sequence[int]) -> list[torch.Tensor]:
        """Number of the cuboid that a voxel is in, one vector an axis."""
        index = [
            torch.div(torch.arange(size) + shift, edge, rounding_mode="floor")
            for size, shift, edge in zip(shape, self.offset, self.cell, strict=True)
        ]
        if any(int(numbers[-1]) >= count for numbers, count in zip(index, self.counts, strict=True)):
            raise ValueError(f"these cuboids were drawn on a smaller volume than {tuple(shape)}")
        return index


@dataclass(frozen=True)
class CuboidPlan:
    """How cuboids are drawn.

    Attributes:
        alpha: probability that a cuboid is real, or the range (low, high) that it is drawn from, evenly, for every draw.
        cell: edge of the cuboids in voxels, one number or one an axis.
        cell_mm: the same in mm, to the nearest voxel and at least one; goes before `cell`. One number: as wide along every
            axis in space, whatever the spacing.
        feather: standard deviation in voxels by which borders are blended; 0: hard.
        feather_mm: the same in mm, alike along every axis in space; goes before `feather`.

    Raises:
        ValueError: a value outside its range.
    """

    alpha: float | tuple[float, float] = 0.6
    cell: tuple[int, ...] = (16,)
    cell_mm: float | tuple[float, ...] | None = None
    feather: float = 0.0
    feather_mm: float | None = None

    def __post_init__(self) -> None:
        low, high = self.alpha if isinstance(self.alpha, tuple) else (self.alpha, self.alpha)
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(f"alpha must be from 0 to 1, or a range (low, high) in it, got {self.alpha}")
        if len(self.cell) not in (1, 3) or min(self.cell) < 1:
            raise ValueError(f"cell must be one or three numbers of at least 1 voxel, got {self.cell}")
        edges = self.cell_mm if isinstance(self.cell_mm, tuple) else (self.cell_mm or 1.0,)
        if self.cell_mm == 0 or len(edges) not in (1, 3) or not all(0 < edge < math.inf for edge in edges):
            raise ValueError(f"cell_mm must be one or three numbers above 0 mm, got {self.cell_mm}")
        for name, width in (("feather", self.feather), ("feather_mm", self.feather_mm or 0.0)):
            if not 0.0 <= width < math.inf:
                raise ValueError(f"{name} must be at least 0, got {width}")

    def draw(
        self, shape: Sequence[int], spacing_mm: Sequence[float], generator: torch.Generator | None = None
    ) -> Cuboids:
        """Cuboids for a volume (I, J, K); None: from torch's global generator."""
        alpha = self.alpha
        if isinstance(alpha, tuple):
            alpha = alpha[0] + (alpha[1] - alpha[0]) * float(torch.rand((), generator=generator))
        cell = cell_in_voxels(self.cell, self.cell_mm, spacing_mm)
        return draw_cuboids(shape, cell, alpha, generator, self.sigma(spacing_mm))

    def sigma(self, spacing_mm: Sequence[float]) -> Sigma:
        """Width of the blending in voxels along i, j, k."""
        if self.feather_mm is None:
            return (self.feather, self.feather, self.feather)
        i, j, k = (self.feather_mm / space for space in spacing_mm)
        return (i, j, k)


def cell_in_voxels(cell: Sequence[int], cell_mm: float | Sequence[float] | None, spacing_mm: Sequence[float]) -> Cell:
    """Edge of the cuboids along i, j, k: `cell_mm` divided by the spacing where given, else `cell` (one or three numbers)."""
    if cell_mm is None:
        i, j, k = (cell[0], cell[0], cell[0]) if len(cell) == 1 else cell
        return (i, j, k)
    edges = list(cell_mm) if isinstance(cell_mm, Sequence) else [cell_mm]
    edges = edges * 3 if len(edges) == 1 else edges
    i, j, k = (max(1, round(edge / space)) for edge, space in zip(edges, spacing_mm, strict=True))
    return (i, j, k)


def draw_cuboids(
    shape: Sequence[int],
    cell: Cell,
    alpha: float,
    generator: torch.Generator | None = None,
    sigma: Sigma = HARD,
) -> Cuboids:
    """Draw a random grid of cuboids over (I, J, K), at a random offset, each real with probability `alpha`."""
    i, j, k = (int(torch.randint(edge, (1,), generator=generator)) for edge in cell)
    a, b, c = (math.ceil((size + shift) / edge) for size, shift, edge in zip(shape, (i, j, k), cell, strict=True))
    real = torch.rand((a, b, c), generator=generator) < alpha
    characters = (real.to(torch.uint8) + ord("0")).numpy().tobytes().decode("ascii")
    return Cuboids(cell, (i, j, k), (a, b, c), characters, sigma)


def foreground_of(label: torch.Tensor, kept: bool | Sequence[int]) -> torch.Tensor:
    """(I, J, K) bool: where a label map (1, I, J, K) has one of the values `kept`; True: any but 0.

    Raises:
        ValueError: a label map of several channels, in which a value isn't a label.
    """
    if label.shape[0] != 1:
        raise ValueError(f"mask_foreground takes label maps of one channel, got {label.shape[0]} channels")
    if isinstance(kept, bool):
        return label[0].bool() & kept
    return torch.isin(label[0].long(), torch.tensor(list(kept)))


def masks(
    cuboids: Cuboids, shape: Sequence[int], foreground: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two masks (I, J, K) of a draw: for labels, and for images.

    Args:
        foreground: (I, J, K) bool, what stays real in any case.

    Returns:
        Hard M (bool), and M for images: the same with hard borders, else weights in [0, 1] (float32). In the foreground both
        are real. A feathered image is blended outside the foreground only, without a step at its border: the weight there
        is twice the share of a Gaussian that lies in the foreground, at most 1.
    """
    hard = cuboids.mask(shape)
    soft = cuboids.weight(shape) if any(cuboids.sigma) else None
    if foreground is not None:
        hard = hard | foreground
        if soft is not None:
            soft = torch.maximum(soft, _around(foreground, cuboids.sigma))
    return hard, hard if soft is None else soft


def merge_images(mask: torch.Tensor, real: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """M * real + (1 - M) * other; mask (I, J, K) bool or weights in [0, 1], images (C, I, J, K).

    With weights, images of whole numbers become float32.
    """
    if mask.dtype == torch.bool:
        return torch.where(mask, real, other)
    kind = torch.promote_types(real.dtype, other.dtype)
    kind = kind if kind.is_floating_point else torch.float32
    return torch.lerp(other.to(kind), real.to(kind), mask.to(kind))


def merge_labels(mask: torch.Tensor, real: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The label of the source that each voxel of a hard mask (I, J, K) comes from; labels (C, I, J, K)."""
    return torch.where(mask.bool(), real, other)


def _shares(index: torch.Tensor, count: int, edge: int, shift: int, sigma: float) -> torch.Tensor:
    """(N, count) float32: how much of a Gaussian about the centre of voxel n lies in cuboid a, along one axis."""
    if sigma == 0:
        return torch.nn.functional.one_hot(index, count).float()
    borders = torch.arange(1, count, dtype=torch.float64) * edge - shift
    centres = torch.arange(len(index), dtype=torch.float64) + 0.5
    below = torch.special.ndtr((borders - centres[:, None]) / sigma)
    ends = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(len(centres), 2)
    return torch.cat([ends[:, :1], below, ends[:, 1:]], dim=1).diff(dim=1).float()


def _product(values: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """(I, J, K): values (A, B, C) with a matrix (I, A), (J, B), (K, C) applied along each axis."""
    along_i, along_j, along_k = matrices
    values = torch.matmul(along_j, torch.matmul(values, along_k.T))
    return torch.matmul(along_i, values.flatten(1)).reshape(len(along_i), *values.shape[1:])


def _around(foreground: torch.Tensor, sigma: Sigma) -> torch.Tensor:
    """Weight (I, J, K) float32: 1 in the foreground, falling to 0 outside over some `sigma`."""
    weight = torch.zeros(foreground.shape)
    box = _box_around(foreground, [math.ceil(4.0 * width) for width in sigma])
    inside = foreground[box].float()
    if inside.numel():
        # each voxel is a cuboid of its own
        shares = [
            _shares(torch.arange(size), size, 1, 0, width) for size, width in zip(inside.shape, sigma, strict=True)
        ]
        weight[box] = torch.maximum(_product(inside, shares).mul_(2.0).clamp_(0.0, 1.0), inside)
    return weight


def _box_around(foreground: torch.Tensor, margin: Sequence[int]) -> tuple[slice, ...]:
    """The smallest box (I, J, K) that holds the foreground, with a margin in voxels inside the volume; empty without any."""
    box = []
    for axis, (size, more) in enumerate(zip(foreground.shape, margin, strict=True)):
        others = tuple(index for index in range(3) if index != axis)
        places = np.flatnonzero(foreground.numpy().any(axis=others))
        if not len(places):
            return (slice(0, 0),) * 3
        box.append(slice(max(0, int(places[0]) - more), min(size, int(places[-1]) + 1 + more)))
    return tuple(box)
