"""Sampling: from noise, text and control to images, by DDIM with optional guidance and a partly noised start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from diffboost3d.diffusion.codecs import Codec
from diffboost3d.diffusion.networks import ConditionalDenoiser


@dataclass(frozen=True)
class SamplingPlan:
    """How to sample; see the section `synthesize` of the configuration.

    Attributes:
        guidance_scale: 1 is the conditional prediction alone (arXiv 2207.12598); the unconditional half drops text and
            control.
        strength: share of the noise range that is gone through (SDEdit, arXiv 2108.01073); 1 starts from pure noise.
    """

    steps: int
    guidance_scale: float = 1.0
    control_strength: float = 1.0
    strength: float = 1.0
    eta: float = 0.0


def padded_size(size: Sequence[int], divisor: int) -> tuple[int, int]:
    """Sides (A', B') rounded up to multiples of the denoiser's divisor."""
    a, b = (math.ceil(side / divisor) * divisor for side in size)
    return a, b


@torch.inference_mode()
def sample(
    denoiser: ConditionalDenoiser,
    scheduler: Any,
    codec: Codec,
    plan: SamplingPlan,
    noise: torch.Tensor,
    tokens: torch.Tensor,
    no_tokens: torch.Tensor,
    control: torch.Tensor,
    start: torch.Tensor | None = None,
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> torch.Tensor:
    """Images (B, 1, A, B) in [-1, 1].

    Sides that are no multiple of the network's are padded by repeating the border, and cut off again.

    Args:
        noise: (B, 1, A', B'), standard normal, in image space (the codec keeps it white); sides as `padded_size` says.
        tokens, no_tokens: (1, T), of the prompt and of the empty prompt. control: (B, C, A, B) in [0, 1].
        start: images (B, 1, A, B) to start from where `plan.strength` < 1.
        generator: for eta > 0; one, or one a slice.
    """
    sides = control.shape[-2:]
    padding = [part for side, whole in zip(sides[::-1], noise.shape[:-3:-1], strict=True) for part in (0, whole - side)]
    control = F.pad(control, padding, mode="replicate")
    latents, timesteps = _begin(scheduler, codec, plan, noise, start, padding)
    text = denoiser.embed(tokens).expand(len(noise), -1, -1)
    no_text = denoiser.embed(no_tokens).expand(len(noise), -1, -1) if plan.guidance_scale != 1.0 else None
    eta = min(plan.eta, 0.999)  # at 1, DDIM takes the root of a rounded 0 where it starts from pure noise
    for timestep in timesteps:
        when = timestep.expand(len(noise)).to(noise.device)
        predicted = denoiser.predict(latents, when, text, control, plan.control_strength)
        if no_text is not None:
            without = denoiser.predict(latents, when, no_text, torch.zeros_like(control), plan.control_strength)
            predicted = without + plan.guidance_scale * (predicted - without)
        latents = scheduler.step(predicted, timestep, latents, eta=eta, generator=generator).prev_sample
    return codec.decode(latents)[..., : sides[0], : sides[1]].clamp(-1.0, 1.0)


def _begin(
    scheduler: Any,
    codec: Codec,
    plan: SamplingPlan,
    noise: torch.Tensor,
    start: torch.Tensor | None,
    padding: list[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """First latents and the timesteps to go through."""
    scheduler.set_timesteps(plan.steps)
    timesteps = scheduler.timesteps
    latents = codec.encode(noise)
    if plan.strength >= 1.0:
        return latents, timesteps
    if start is None:
        raise ValueError("strength below 1 needs images to start from")
    timesteps = timesteps[plan.steps - max(1, round(plan.strength * plan.steps)) :]
    clean = codec.encode(F.pad(start, padding, mode="replicate"))
    return scheduler.add_noise(clean, latents, timesteps[:1].expand(len(noise)).to(noise.device)), timesteps
