"""How deep a U-Net goes, and along which axes it pools, from the voxel spacing and the patch: the rule of nnU-Net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SMALLEST_SIDE = 4  # voxels of the coarsest feature map
LEAST_LEVELS = 3  # MONAI's DynUNet has an input block, a lower level and a bottleneck at least
COARSER = 2.0  # axes whose spacing is this many times the finest wait until the others have caught up

Axes = tuple[int, ...]


@dataclass(frozen=True)
class Topology:
    """Kernels and strides of every level, the finest first; one number an axis. The first stride is all ones."""

    kernels: tuple[Axes, ...]
    strides: tuple[Axes, ...]

    @property
    def divisor(self) -> Axes:
        """What every side of an input must be a multiple of."""
        return side_products(self.strides)


def plan_topology(spacing_mm: Sequence[float], patch: Sequence[int]) -> Topology:
    """Levels for patches of this size, by the rule in the supplement of Isensee et al. (Nature Methods 18, 2021).

    Every level halves the axes that are still long enough (the coarsest map keeps 4 voxels) and whose spacing is below twice the
    finest of those; an axis alone is halved only while it has 12 voxels. So thick slices are pooled in plane until their voxels
    are about as wide as thick. A kernel is 1 along an axis until its spacing is below twice the finest, then 3.

    The bottleneck has 3 along all. A patch too small for three levels gets some that don't halve: DynUNet has three at least.

    Args:
        spacing_mm, patch: of two or three axes, in the same order.
    """
    spacing, size = [float(step) for step in spacing_mm], list(patch)
    axes = range(len(size))
    kernels: list[Axes] = []
    strides: list[Axes] = [(1,) * len(size)]
    kernel = [1] * len(size)
    while pooled := _pooled(spacing, size):
        kernel = [3 if spacing[axis] < COARSER * min(spacing) else kernel[axis] for axis in axes]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in pooled else 1 for axis in axes))
        for axis in pooled:
            spacing[axis] *= 2
            size[axis] = -(-size[axis] // 2)
    kernels.append((3,) * len(size))
    while len(strides) < LEAST_LEVELS:
        strides.append((1,) * len(size))
        kernels.append((3,) * len(size))
    return Topology(tuple(kernels), tuple(strides))


def _pooled(spacing: Sequence[float], size: Sequence[int]) -> list[int]:
    """The axes that the next level halves; none ends the network."""
    long = [axis for axis, side in enumerate(size) if side >= 2 * SMALLEST_SIDE]
    if not long:
        return []
    finest = min(spacing[axis] for axis in long)
    pooled = [axis for axis in long if spacing[axis] < COARSER * finest]
    alone_and_short = len(pooled) == 1 and size[pooled[0]] < 3 * SMALLEST_SIDE
    return [] if alone_and_short else pooled


def side_products(strides: Sequence[int | Sequence[int]], dims: int | None = None) -> Axes:
    """Products of strides by axis; a number stands for all `dims` axes."""
    count = dims or max(len(stride) if isinstance(stride, Sequence) else 1 for stride in strides)
    products = [1] * count
    for stride in strides:
        each = list(stride) if isinstance(stride, Sequence) else [stride] * count
        products = [product * factor for product, factor in zip(products, each, strict=True)]
    return tuple(products)
