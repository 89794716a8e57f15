"""Refining a volume: a little noise is put on it and taken away again in 3D (SDEdit, arXiv 2108.01073, with another denoiser).

A generator of slices makes fine texture anew in every slice, whatever it was told of its neighbours. What lies below the noise
is made again here, by a network that sees all three axes alike; what lies above it, shapes and tissues, stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from diffboost3d.imaging.scratch import IN_MEMORY, Scratch
from diffboost3d.refinement.blocks import block_of, in_blocks
from diffboost3d.refinement.networks import Refiner

FINE_STEPS = 3.0  # rho of arXiv 2206.00364, equation 5: above 1, steps crowd where little noise is left


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
def refine(
    refiner: Refiner,
    channels: Sequence[NDArray[np.float32]],
    texture: torch.Tensor,
    plan: RefinePlan,
    random: torch.Generator,
    scratch: Scratch = IN_MEMORY,
) -> None:
    """Make the finest part of a volume's channels (I, J, K) in [-1, 1] anew, in place.

    Second-order multistep in the logarithm of the noise (DPM-Solver++ 2M, arXiv 2211.01095); the first and the last step are of
    first order.

    Args:
        channels: on the CPU, like all arrays of their size, which are three; what is seen at once is brought to where the
            refiner is.
        texture: (3 N,), of `texture.texture_of`, that the result is to have. random: on the CPU, draws the noise.
        scratch: makes the arrays of that size.
    """
    sigmas, (i, j, k) = sigmas_of(plan, refiner.plan.sigma[0]), channels[0].shape
    noisy = _with_whole_blocks(channels, refiner.plan.divisor, scratch)
    _add_noise(noisy, sigmas[0], random)
    clean, before = (torch.from_numpy(scratch.empty(noisy.shape)) for _ in range(2))
    step_before = 0.0
    for number, (sigma, following) in enumerate(zip(sigmas, [*sigmas[1:], 0.0], strict=True)):
        _predict(refiner, noisy, sigma, texture, plan.voxels, clean)
        if following == 0.0:
            break
        step = math.log(sigma / following)
        ahead = clean
        if number:
            share = step / (2 * step_before)
            ahead = before.mul_(-share).add_(clean, alpha=1.0 + share)
        noisy.mul_(following / sigma).add_(ahead, alpha=1.0 - following / sigma)
        clean, before, step_before = before, clean, step
    for channel, own in zip(channels, clean, strict=True):
        np.clip(own[:i, :j, :k].numpy(), -1.0, 1.0, out=channel)


def sigmas_of(plan: RefinePlan, least: float) -> list[float]:
    """The strengths of noise that are gone through, from the plan's down to the least that the refiner knows."""
    if plan.steps == 1 or plan.sigma <= least:
        return [plan.sigma][: plan.steps]
    ends = (plan.sigma ** (1 / FINE_STEPS), least ** (1 / FINE_STEPS))
    shares = [at / (plan.steps - 1) for at in range(plan.steps)]
    return [(ends[0] + share * (ends[1] - ends[0])) ** FINE_STEPS for share in shares]


def _with_whole_blocks(channels: Sequence[NDArray[np.float32]], divisor: int, scratch: Scratch) -> torch.Tensor:
    """A copy (N, I, J, K) whose sides are multiples of the divisor, by repeating its last voxels."""
    shape = channels[0].shape
    whole = scratch.empty([len(channels), *(side + -side % divisor for side in shape)])
    for target, channel in zip(whole, channels, strict=True):
        target[tuple(slice(side) for side in shape)] = channel
    for axis, side in enumerate(shape):
        moved = np.moveaxis(whole, axis + 1, 0)
        moved[side:] = moved[side - 1 : side]
    return torch.from_numpy(whole)


def _add_noise(volume: torch.Tensor, sigma: float, random: torch.Generator) -> None:
    """In place, plane by plane: its noise is never whole."""
    for channel in volume:
        for plane in channel:
            plane += sigma * torch.randn(plane.shape, generator=random)


def _predict(
    refiner: Refiner, noisy: torch.Tensor, sigma: float, texture: torch.Tensor, voxels: int, clean: torch.Tensor
) -> None:
    """Fill `clean` with what the refiner makes of a volume (N, I, J, K), of blocks where it is large.

    Sides are multiples of the refiner's divisor.
    """
    device = next(refiner.parameters()).device
    strength, texture = torch.full((1,), sigma, device=device), texture.to(device)[None]

    def predict(block: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = refiner(block[None].to(device), strength, texture)
        return made[0].float().cpu()

    i, j, k = noisy.shape[-3:]
    if i * j * k <= voxels:
        clean.copy_(predict(noisy))
    else:
        in_blocks(predict, noisy, block_of((i, j, k), voxels, refiner.plan.divisor), clean)
