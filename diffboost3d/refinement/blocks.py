"""A large volume in overlapping blocks: what a network makes of each goes into one volume, with no other array of its size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch

OVERLAP = 0.25  # of a side


def in_blocks(
    predict: Callable[[torch.Tensor], torch.Tensor], volume: torch.Tensor, sides: list[int], out: torch.Tensor
) -> None:
    """Fill `out` (N, I, J, K) with what is predicted of the volume's blocks; where they overlap they fade into each other.

    Args:
        predict: of a block (N, i, j, k). sides: of a block, as of `block_of`.
    """
    out.zero_()
    along = [windows(whole, side) for whole, side in zip(volume.shape[-3:], sides, strict=True)]
    for (i, of_i), (j, of_j), (k, of_k) in itertools.product(*along):
        place = (slice(None), slice(i, i + sides[0]), slice(j, j + sides[1]), slice(k, k + sides[2]))
        made = predict(volume[place])
        made *= of_i[:, None, None] * of_j[:, None] * of_k
        out[place] += made


def windows(whole: int, side: int) -> list[tuple[int, torch.Tensor]]:
    """(first voxel, weights) of each block along an axis; Hann windows, divided by their sum at each voxel."""
    count = _count(whole, side)
    firsts = [round(number * (whole - side) / max(1, count - 1)) for number in range(count)]
    hann = torch.sin(math.pi * (torch.arange(side, dtype=torch.float64) + 0.5) / side) ** 2
    sums = torch.zeros(whole, dtype=torch.float64)
    for first in firsts:
        sums[first : first + side] += hann
    return [(first, (hann / sums[first : first + side]).float()) for first in firsts]


def block_of(shape: tuple[int, ...], voxels: int, divisor: int) -> list[int]:
    """Sides of overlapping blocks that cover a volume evenly: multiples of the divisor, at most so many voxels, about cubes.

    Args:
        shape: multiples of the divisor. A block has two divisors a side at least, where the volume has.
    """
    sides = [min(2 * divisor, side) for side in shape]
    grows = [True] * 3
    while any(grows):
        at = min((axis for axis in range(3) if grows[axis]), key=lambda axis: sides[axis])
        larger = [side + divisor * (axis == at) for axis, side in enumerate(sides)]
        grows[at] = math.prod(larger) <= voxels and sides[at] < shape[at]
        sides = larger if grows[at] else sides
    return [_even(whole, side, divisor) for whole, side in zip(shape, sides, strict=True)]


def voxels_seen(shape: Sequence[int], voxels: int, divisor: int) -> int:
    """Of a volume, with what is added to make its sides multiples of the divisor and what its blocks share."""
    sides = [side + -side % divisor for side in shape]
    if math.prod(sides) <= voxels:
        return math.prod(sides)
    blocks = block_of(tuple(sides), voxels, divisor)
    return math.prod(_count(whole, side) * side for whole, side in zip(sides, blocks, strict=True))


def _count(whole: int, side: int) -> int:
    """Blocks that cover an axis with their overlap."""
    return max(0, math.ceil((whole / side - 1.0) / (1.0 - OVERLAP))) + 1


def _even(whole: int, side: int, divisor: int) -> int:
    """The least side of which as many blocks, with their overlap, cover the whole as of this one."""
    step = 1.0 - OVERLAP
    return min(side, math.ceil(whole / (1.0 + (_count(whole, side) - 1) * step) / divisor) * divisor)
