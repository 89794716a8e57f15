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
    refiner: Refiner, volume: torch.Tensor, texture: torch.Tensor, plan: RefinePlan, noise: torch.Tensor
) -> torch.Tensor:
    """The volume (N, I, J, K) in [-1, 1] with its finest part made anew.

    Second-order multistep in the logarithm of the noise (DPM-Solver++ 2M, arXiv 2211.01095, which for this parametrisation is
    exponential Adams-Bashforth); the first and the last step are of first order.

    Args:
        volume: on the CPU; what is seen at once is brought to where the refiner is.
        texture: (3 N,), of `texture.texture_of`, that the result is to have. noise: like `volume`, standard normal.
    """
    sigmas = sigmas_of(plan, refiner.plan.sigma[0])
    noisy = volume + sigmas[0] * noise
    before, step_before = noisy, 0.0
    for number, (sigma, following) in enumerate(zip(sigmas, [*sigmas[1:], 0.0], strict=True)):
        clean = _clean(refiner, noisy, sigma, texture, plan.voxels)
        if following == 0.0:
            return clean.clamp(-1.0, 1.0)
        step = math.log(sigma / following)
        ahead = clean if number == 0 else clean + (clean - before) * (step / (2 * step_before))
        noisy = noisy * (following / sigma) + ahead * (1.0 - following / sigma)
        before, step_before = clean, step
    raise ValueError(f"refining takes at least one step, not {plan.steps}")


def sigmas_of(plan: RefinePlan, least: float) -> list[float]:
    """The strengths of noise that are gone through, from the plan's down to the least that the refiner knows."""
    if plan.steps == 1 or plan.sigma <= least:
        return [plan.sigma][: plan.steps]
    ends = (plan.sigma ** (1 / FINE_STEPS), least ** (1 / FINE_STEPS))
    shares = [at / (plan.steps - 1) for at in range(plan.steps)]
    return [(ends[0] + share * (ends[1] - ends[0])) ** FINE_STEPS for share in shares]


def _clean(refiner: Refiner, noisy: torch.Tensor, sigma: float, texture: torch.Tensor, voxels: int) -> torch.Tensor:
    """What the refiner makes of a whole volume (N, I, J, K), of blocks of it where it is large."""
    divisor, device = refiner.plan.divisor, next(refiner.parameters()).device

    def predict(blocks: torch.Tensor) -> torch.Tensor:
        count, (i, j, k) = len(blocks), blocks.shape[-3:]
        missing = [padding for side in (k, j, i) for padding in (0, -side % divisor)]
        whole = F.pad(blocks, missing, mode="replicate").to(device)
        strength = torch.full((count,), sigma, device=device)
        made: torch.Tensor = refiner(whole, strength, texture.to(device).expand(count, -1))
        return made[..., :i, :j, :k].float().cpu()

    shape = tuple(noisy.shape[-3:])
    if math.prod(shape) <= voxels:
        return predict(noisy[None])[0]
    from monai.inferers import sliding_window_inference

    made = sliding_window_inference(
        noisy[None], block_of(shape, voxels, divisor), 1, predict, overlap=BLOCK_OVERLAP, mode="gaussian"
    )
    assert isinstance(made, torch.Tensor)
    return made[0]


def block_of(shape: tuple[int, ...], voxels: int, divisor: int) -> list[int]:
    """The largest block of about equal sides, multiples of the divisor, with at most so many voxels (but two divisors a side)."""
    sides = [2 * divisor] * 3
    grows = [True] * 3
    while any(grows):
        at = min((axis for axis in range(3) if grows[axis]), key=lambda axis: sides[axis])
        larger = [side + divisor * (axis == at) for axis, side in enumerate(sides)]
        grows[at] = math.prod(larger) <= voxels and sides[at] < shape[at]
        sides = larger if grows[at] else sides
    return sides
