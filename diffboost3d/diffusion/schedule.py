"""The noise schedule and the samplers, as `diffusers` schedulers."""

from __future__ import annotations

import math
from typing import Any

import torch

SAMPLERS = ("ddim", "dpmsolver++", "sde-dpmsolver++", "unipc")
SMALLEST = 1e-4  # share of signal or noise that is divided by


def make_scheduler(timesteps: int, betas: str, prediction: str, zero_terminal_snr: bool) -> Any:
    """A DDIM scheduler (arXiv 2010.02502).

    With `zero_terminal_snr` the last timestep is pure noise and sampling starts there ("trailing" spacing), as in
    arXiv 2305.08891; otherwise the spacing is that of the published recipe ("leading").

    Raises:
        ValueError: zero terminal SNR with epsilon prediction, which is undefined at the last timestep.
    """
    from diffusers import DDIMScheduler

    if zero_terminal_snr and prediction == "epsilon":
        raise ValueError("diffusion.schedule.zero_terminal_snr=true needs prediction=v_prediction")
    published = betas == "scaled_linear"
    return DDIMScheduler(
        num_train_timesteps=timesteps,
        beta_schedule=betas,
        beta_start=0.00085 if published else 0.0001,
        beta_end=0.012 if published else 0.02,
        prediction_type=prediction,
        rescale_betas_zero_snr=zero_terminal_snr,
        timestep_spacing="trailing" if zero_terminal_snr else "leading",
        steps_offset=0 if zero_terminal_snr else 1,
        clip_sample=False,
        set_alpha_to_one=zero_terminal_snr,
    )


def sampling_scheduler(scheduler: Any, sampler: str) -> Any:
    """A scheduler of the same noise schedule for one way of sampling; fresh, as some remember earlier steps.

    Args:
        sampler: ddim (arXiv 2010.02502), dpmsolver++ (second order, multistep, arXiv 2211.01095), sde-dpmsolver++ (the
            same for the stochastic equation, with new noise at every step), unipc (arXiv 2302.04867).

    Raises:
        ValueError: an unknown sampler.
    """
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "ddim": (DDIMScheduler, {}),
        "dpmsolver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
        "sde-dpmsolver++": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
        "unipc": (UniPCMultistepScheduler, {}),
    }
    if sampler not in kinds:
        raise ValueError(f"sampler {sampler!r} is unknown; allowed: {', '.join(SAMPLERS)}")
    kind, options = kinds[sampler]
    return kind.from_config(scheduler.config, **options)


def set_timesteps(sampling: Any, steps: int, power: float, device: torch.device, strength: float = 1.0) -> torch.Tensor:
    """Set the timesteps that a sampling scheduler goes through; returns those that remain for `strength`.

    Args:
        steps: of the whole noise range; the same share of them is taken as of the range.
        power: 1 leaves them as the scheduler spaces them; above, the i-th of n lies at strength (1 - i / n)^power of the range,
            so that they crowd where little noise is left and fine detail is decided. Not for DDIM.
        strength: share of the noise range that is gone through, at its end.

    Raises:
        ValueError: a power other than 1 with DDIM, whose step length is fixed.
    """
    sampling.set_timesteps(steps, device=device)
    taken = steps if strength >= 1.0 else max(1, round(strength * steps))
    if power == 1.0:
        if taken < steps and hasattr(sampling, "set_begin_index"):
            sampling.set_begin_index(steps - taken)
        remaining: torch.Tensor = sampling.timesteps[steps - taken :]
        return remaining
    if not hasattr(sampling, "sigmas"):
        raise ValueError("ddim takes even steps only; choose another sampler, or step_power=1")
    count = sampling.config.num_train_timesteps
    start = max(taken, round(min(strength, 1.0) * count)) - 1
    ladder = [round(start * (1.0 - at / taken) ** power) for at in range(taken)]
    for at in reversed(range(taken - 1)):  # where many steps crowd, rounding brings some together
        ladder[at] = max(ladder[at], ladder[at + 1] + 1)
    for at in range(1, taken):  # pushed above the start: come down again
        ladder[0], ladder[at] = min(ladder[0], start), min(ladder[at], start - at)
    kept = sampling.alphas_cumprod[ladder]
    sampling.sigmas = torch.cat([((1.0 - kept) / kept).sqrt(), torch.zeros(1)]).float().cpu()
    timesteps = torch.tensor(ladder, device=device)
    sampling.timesteps, sampling.num_inference_steps = timesteps, taken
    return timesteps


def clean_of(kind: str, predicted: torch.Tensor, noisy: torch.Tensor, kept: float) -> torch.Tensor:
    """The clean maps that a prediction stands for, noisy = sqrt(kept) clean + sqrt(1 - kept) noise.

    Args:
        kind: epsilon (the noise) or v_prediction.
        kept: alpha_bar of the timestep, in [0, 1). Near 0 a predicted noise says nothing about the clean maps; the quotient is
            kept finite.
    """
    signal, noise = math.sqrt(kept), math.sqrt(1.0 - kept)
    if kind == "epsilon":
        return (noisy - noise * predicted) / max(signal, SMALLEST)
    return signal * noisy - noise * predicted


def prediction_of(kind: str, clean: torch.Tensor, noisy: torch.Tensor, kept: float) -> torch.Tensor:
    """The prediction that stands for clean maps; the inverse of `clean_of`.

    Where hardly any noise is left it is a small difference over a small number; samplers multiply by that number again.
    """
    signal, noise = math.sqrt(kept), max(math.sqrt(1.0 - kept), SMALLEST)
    if kind == "epsilon":
        return (noisy - signal * clean) / noise
    return (signal * noisy - clean) / noise


def min_snr_weights(scheduler: Any, gamma: float, floor: float = 0.05) -> torch.Tensor:
    """Loss weight of each timestep (T,), mean 1: min(SNR, gamma) of the loss on the clean image (arXiv 2303.09556).

    For v-prediction that is min(SNR, gamma) / (SNR + 1), for noise min(SNR, gamma) / SNR. The weight never falls below `floor` of
    the largest one: with zero terminal SNR the last timestep would otherwise not be learned, where sampling starts.
    """
    kept = scheduler.alphas_cumprod.double()
    snr = kept / (1.0 - kept)
    if scheduler.config.prediction_type == "epsilon":
        weights = snr.clamp(max=gamma) / snr.clamp(min=1e-12)
    else:
        weights = snr.clamp(max=gamma) / (snr + 1.0)
    weights = weights.clamp(min=floor * float(weights.max()))
    scaled: torch.Tensor = (weights / weights.mean()).float()
    return scaled
