"""Refining a volume: a little noise is put on it and taken away again in 3D (SDEdit, arXiv 2108.01073, with another denoiser).

A generator of slices makes fine texture anew in every slice, whatever it was told of its neighbours. What lies below the noise
is made again here, by a network that sees all three axes alike; what lies above it, shapes and tissues, stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from diffboost3d.refinement.networks import Refiner

FINE_STEPS = 3.0  # rho of arXiv 2206.00364, equation 5: above 1, steps crowd where little noise is left
BLOCK_OVERLAP = 0.25


@dataclass(frozen=True)
class RefinePlan:
    """How volumes are refined.

    Attributes:
        sigma: standard deviation of the noise, in units of [-1, 1]. steps: in which it is taken away.
        voxels: seen at once at most; larger volumes go in blocks that overlap.
    """

    sigma: float
    steps: int
    voxels: int = 2**20


@torch.inference_mode()
def refined(
    refiner: Refiner, volume: torch.Tensor, texture: torch.Tensor, plan: RefinePlan, random: torch.Generator
) -> torch.Tensor:
    """The volume (N, I, J, K) in [-1, 1] with its finest part made anew.

    Second-order multistep in the logarithm of the noise (DPM-Solver++ 2M, arXiv 2211.01095); the first and the last step are of
    first order.

    Args:
        volume: on the CPU; what is seen at once is brought to where the refiner is.
        texture: (3 N,), of `texture.texture_of`, that the result is to have. random: on the CPU, draws the noise.
    """
    sigmas, (i, j, k) = sigmas_of(plan, refiner.plan.sigma[0]), volume.shape[-3:]
    noisy = _with_whole_blocks(volume, refiner.plan.divisor)
    noisy += sigmas[0] * torch.randn(noisy.shape, generator=random)
    before, step_before = noisy, 0.0
    for number, (sigma, following) in enumerate(zip(sigmas, [*sigmas[1:], 0.0], strict=True)):
        clean = _clean(refiner, noisy, sigma, texture, plan.voxels)
        if following == 0.0:
            return clean[:, :i, :j, :k].clamp(-1.0, 1.0)
        step = math.log(sigma / following)
        ahead = clean
        if number:  # takes the place of the former prediction: large volumes have few copies
            share = step / (2 * step_before)
            ahead = before.mul_(-share).add_(clean, alpha=1.0 + share)
        noisy.mul_(following / sigma).add_(ahead, alpha=1.0 - following / sigma)
        before, step_before = clean, step
    raise ValueError(f"refining takes at least one step, not {plan.steps}")


def sigmas_of(plan: RefinePlan, least: float) -> list[float]:
    """The strengths of noise that are gone through, from the plan's down to the least that the refiner knows."""
    if plan.steps == 1 or plan.sigma <= least:
        return [plan.sigma][: plan.steps]
    ends = (plan.sigma ** (1 / FINE_STEPS), least ** (1 / FINE_STEPS))
    shares = [at / (plan.steps - 1) for at in range(plan.steps)]
    return [(ends[0] + share * (ends[1] - ends[0])) ** FINE_STEPS for share in shares]


def _with_whole_blocks(volume: torch.Tensor, divisor: int) -> torch.Tensor:
    """A copy whose sides are multiples of the divisor, by repeating its last voxels."""
    missing = [padding for side in reversed(volume.shape[-3:]) for padding in (0, -side % divisor)]
    return F.pad(volume[None], missing, mode="replicate")[0] if any(missing) else volume.clone()


def _clean(refiner: Refiner, noisy: torch.Tensor, sigma: float, texture: torch.Tensor, voxels: int) -> torch.Tensor:
    """What the refiner makes of a volume (N, I, J, K) whose sides are multiples of its divisor, of blocks where it is large."""
    device = next(refiner.parameters()).device

    def predict(blocks: torch.Tensor) -> torch.Tensor:
        count = len(blocks)
        strength = torch.full((count,), sigma, device=device)
        made: torch.Tensor = refiner(blocks.to(device), strength, texture.to(device).expand(count, -1))
        return made.float().cpu()

    shape = tuple(noisy.shape[-3:])
    if math.prod(shape) <= voxels:
        return predict(noisy[None])[0]
    from monai.inferers import sliding_window_inference

    block = block_of(shape, voxels, refiner.plan.divisor)
    made = sliding_window_inference(noisy[None], block, 1, predict, overlap=BLOCK_OVERLAP, mode="gaussian")
    assert isinstance(made, torch.Tensor)
    return made[0]


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


def _even(whole: int, side: int, divisor: int) -> int:
    """The least side of which as many blocks, with their overlap, cover the whole as of this one."""
    step = 1.0 - BLOCK_OVERLAP
    count = max(1, math.ceil((whole / side - 1.0) / step) + 1) if side < whole else 1
    return min(side, math.ceil(whole / (1.0 + (count - 1) * step) / divisor) * divisor)
