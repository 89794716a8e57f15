"""Motions: deformations that can be gone a part of the way, each part as free of folds as the whole.

A motion is an affine generator and a velocity field that doesn't change in time. Its warp at a share s is the exponential of
both times s, by scaling and squaring (Arsigny et al. 2006), so that it is a diffeomorphism for every s; a displacement that is
merely multiplied need not be one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from diffboost3d.augmentation.warping import Float, Size, Warp, node_spacing, sample_linear


@dataclass(frozen=True)
class Motion:
    """What pulls voxels: x + u(x) = exp(s generator) exp(s velocity) x, where x is in mm from the first voxel.

    Attributes:
        generator: (4, 4), the logarithm of an affine matrix on positions in mm along the voxel axes.
        velocity: (3, i, j, k) in mm, on nodes as those of a `Warp`.
        shape, spacing_mm: of the volume.
    """

    generator: NDArray[np.float64]
    velocity: Float
    shape: Size
    spacing_mm: tuple[float, float, float]

    def warp(self, share: float = 1.0) -> Warp:
        """The warp at a share of the way. Displacements are rounded to half precision, in which they are kept."""
        spacing = node_spacing(self.velocity.shape[1:], self.shape, self.spacing_mm)
        flown = exponential(torch.from_numpy(np.float32(share) * self.velocity), spacing)
        moved = moved_affinely(flown, share * self.generator, spacing)
        return Warp(moved.numpy().astype(np.float16).astype(np.float32), self.shape, self.spacing_mm)


def exponential(velocity: torch.Tensor, spacing_mm: Sequence[float]) -> torch.Tensor:
    """Displacement (3, i, j, k) in mm of the flow of `velocity` (the same) for one unit of time."""
    step = torch.tensor(spacing_mm)[:, None, None, None]
    largest = float((velocity / step).abs().max()) if velocity.numel() else 0.0
    squarings = max(0, math.ceil(math.log2(max(largest, 1e-6) / 0.25)))
    field: torch.Tensor = velocity / 2**squarings
    here = voxel_positions(velocity.shape[1:])
    for _ in range(squarings):
        field = field + sample_linear(field, here + field / step, "border")
    return field


def moved_affinely(
    displacement: torch.Tensor, generator: NDArray[np.float64], spacing_mm: Sequence[float]
) -> torch.Tensor:
    """Displacement (3, i, j, k) in mm of exp(generator) after x + displacement(x)."""
    from scipy.linalg import expm

    if not generator.any():
        return displacement
    matrix = torch.from_numpy((expm(generator) - np.eye(4)).astype(np.float32))
    place = voxel_positions(displacement.shape[1:]) * torch.tensor(spacing_mm)[:, None, None, None] + displacement
    return displacement + torch.einsum("ab,bijk->aijk", matrix[:3, :3], place) + matrix[:3, 3][:, None, None, None]


def voxel_positions(shape: Sequence[int]) -> torch.Tensor:
    """Voxel positions (3, i, j, k)."""
    return torch.stack(torch.meshgrid(*(torch.arange(size).float() for size in shape), indexing="ij"))


def about(linear: NDArray[np.float64], centre_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """The generator (4, 4) of a linear one (3, 3) that leaves `centre_mm` in place."""
    generator = np.zeros((4, 4))
    generator[:3, :3] = linear
    generator[:3, 3] = -linear @ centre_mm
    return generator
