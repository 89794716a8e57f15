"""Sampling: from noise, text and control to images, with guidance on each condition and a partly noised start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from diffboost3d.diffusion.codecs import Codec, in_parts, padded
from diffboost3d.diffusion.networks import ConditionalDenoiser
from diffboost3d.diffusion.schedule import sampling_scheduler, set_timesteps

WHOLE = 1 << 30  # more slices than any volume has
RandomStreams = torch.Generator | list[torch.Generator] | None


@dataclass(frozen=True)
class SamplingPlan:
    """How to sample; see the section `synthesize` of the configuration.

    Attributes:
        sampler: see `schedule.sampling_scheduler`. step_power: see `schedule.set_timesteps`.
        guidance_scale: of the text against the negative prompt (arXiv 2207.12598); 1 is the conditional prediction alone.
        control_guidance_scale: of the control image against none (as the image guidance of arXiv 2211.09800).
        guidance_rescale: share of the correction of the guided prediction's contrast (arXiv 2305.08891, section 3.4).
        guidance_range: part of the way from noise (0) to image (1) on which guidance acts.
        control_strength: scale of the control residuals; 0 leaves the control branch out.
        guess_mode: the control residuals fade towards the shallow levels, and the negative half has no control at all.
        strength: share of the noise range that is gone through (SDEdit, arXiv 2108.01073); 1 starts from pure noise.
        eta: noise added on the way; DDIM only.
    """

    steps: int
    sampler: str = "ddim"
    step_power: float = 1.0
    guidance_scale: float = 1.0
    control_guidance_scale: float = 1.0
    guidance_rescale: float = 0.0
    guidance_range: tuple[float, float] = (0.0, 1.0)
    control_strength: float = 1.0
    guess_mode: bool = False
    strength: float = 1.0
    eta: float = 0.0

    def passes_at(self, share: float) -> int:
        """Network evaluations of a step that lies at this share of the way."""
        if not self.guides_at(share):
            return 1
        return sum((self.guidance_scale != 0.0, True, self.control_guidance_scale != 1.0))

    def guides_at(self, share: float) -> bool:
        """Whether guidance acts there; it costs nothing where both scales are 1."""
        low, high = self.guidance_range
        return low <= share <= high and (self.guidance_scale != 1.0 or self.control_guidance_scale != 1.0)


class Correction(Protocol):
    """What has a say in predictions on the way, such as `second_plane.SecondPlane`."""

    def acts_at(self, number: int) -> bool:
        """Whether it acts at the step of this number, the first being 0."""
        ...

    def __call__(
        self, predicted: torch.Tensor, maps: torch.Tensor, timestep: torch.Tensor, kept: float, share: float
    ) -> torch.Tensor:
        """A prediction (B, c, h, w) to be taken instead of `predicted`.

        Args:
            maps: the noisy ones. kept: alpha_bar of the timestep. share: of the way from noise to image.
        """
        ...


@torch.inference_mode()
def sample(
    denoiser: ConditionalDenoiser,
    scheduler: Any,
    codec: Codec,
    plan: SamplingPlan,
    noise: torch.Tensor,
    text: torch.Tensor,
    negative_text: torch.Tensor,
    control: torch.Tensor,
    start: torch.Tensor | None = None,
    generator: RandomStreams = None,
    stack: int = 1,
    window: int = WHOLE,
    overlap: int = 0,
    correction: Correction | None = None,
) -> torch.Tensor:
    """Images (B, 1, A, B) in [-1, 1], of several channels (B, N, A, B).

    Sides that are no multiple of the network's are padded by repeating the border, and cut off again.

    Args:
        noise: (B, c, h, w), standard normal, of the map of the padded image; see `codecs.latent_shape`, `padded_size`.
        text, negative_text: embeddings (B, T, width), or (1, T, width) common to all. control: (B, C, A, B) in [0, 1].
        start: such images to start from where `plan.strength` < 1.
        generator: of noise added on the way (eta, sde); one, or one a slice.
        stack, window, overlap, correction: see `sample_maps`.
    """
    a, b = control.shape[-2:]
    given = (noise, text, negative_text, control, start, generator, stack, window, overlap, correction)
    maps = sample_maps(denoiser, scheduler, codec, plan, *given)
    return in_parts(codec.decode, maps, window)[..., :a, :b].clamp(-1.0, 1.0)


@torch.inference_mode()
def sample_maps(
    denoiser: ConditionalDenoiser,
    scheduler: Any,
    codec: Codec,
    plan: SamplingPlan,
    noise: torch.Tensor,
    text: torch.Tensor,
    negative_text: torch.Tensor,
    control: torch.Tensor,
    start: torch.Tensor | None = None,
    generator: RandomStreams = None,
    stack: int = 1,
    window: int = WHOLE,
    overlap: int = 0,
    correction: Correction | None = None,
) -> torch.Tensor:
    """As `sample`, before the codec: maps (B, c, h, w).

    Args:
        stack: the batch consists of stacks of so many consecutive slices, which a generator with layers along the slice axis
            denoises together.
        window: predictions are of so many slices at once, `overlap` of them shared with the next window, and averaged at every
            step where windows overlap (as arXiv 2302.08113 does in plane); it bounds memory, and what a slice sees.
        correction: has a say in the predictions of some steps.
    """
    size = [side * codec.factor for side in noise.shape[-2:]]
    guided = Guided(denoiser, plan, text, negative_text, padded(control, size), Windows(stack, window, overlap))
    steps = sampling_scheduler(scheduler, plan.sampler)
    clean = None if start is None or plan.strength >= 1.0 else in_parts(codec.encode, padded(start, size), window)
    maps, timesteps = _begin(steps, scheduler, plan, noise, clean)
    extra: dict[str, Any] = {}
    if plan.sampler == "ddim":
        # at 1, DDIM takes the root of a rounded 0 where it starts from pure noise
        extra = {"eta": min(plan.eta, 0.999), "generator": generator}
    elif plan.sampler.startswith("sde"):
        extra = {"generator": generator}
    for number, timestep in enumerate(timesteps):
        share = 1.0 - (len(timesteps) - number) / plan.steps
        predicted = guided(maps, timestep.expand(len(noise)).to(noise.device), share)
        if correction is not None and correction.acts_at(number):
            kept = float(steps.alphas_cumprod[int(timestep)])
            predicted = correction(predicted, maps, timestep, kept, share)
        maps = steps.step(predicted, timestep, maps, **extra).prev_sample
    return maps


def _begin(
    steps: Any, scheduler: Any, plan: SamplingPlan, noise: torch.Tensor, clean: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """First maps and the timesteps to go through."""
    timesteps = set_timesteps(steps, plan.steps, plan.step_power, noise.device, plan.strength)
    if plan.strength >= 1.0:
        return noise * steps.init_noise_sigma, timesteps
    if clean is None:
        raise ValueError("strength below 1 needs images to start from")
    when = timesteps[:1].expand(len(noise)).to(noise.device)
    noisy: torch.Tensor = scheduler.add_noise(clean, noise, when)
    return noisy, timesteps


@dataclass(frozen=True)
class Windows:
    """Overlapping runs of consecutive slices in stacks of `stack` slices; see `sample_maps`."""

    stack: int = 1
    size: int = WHOLE
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.stack < 1 or self.size < 1 or not 0 <= self.overlap < self.size:
            raise ValueError(
                f"a window of {self.size} slices can't overlap by {self.overlap} in stacks of {self.stack}"
            )

    def runs(self) -> list[tuple[int, int]]:
        """(first, last + 1) of every window; the last one ends with the stack."""
        size, step = min(self.size, self.stack), max(1, self.size - self.overlap)
        firsts = [*range(0, self.stack - size, step), self.stack - size]
        return [(first, first + size) for first in firsts]

    def weights(self, count: int) -> torch.Tensor:
        """Of the slices of a window of `count`: a Hann window that is zero nowhere (count,)."""
        return torch.sin(torch.pi * (torch.arange(count) + 0.5) / count) ** 2


class Guided:
    """(maps, timesteps (B,), share of the way) -> predictions with guidance: base + w_text (full - base) + (w_control - 1)
    (base - none).

    full has text and control, base the negative text and control, none the negative text alone; what has no weight is not
    computed.
    """

    def __init__(
        self,
        denoiser: ConditionalDenoiser,
        plan: SamplingPlan,
        text: torch.Tensor,
        negative_text: torch.Tensor,
        control: torch.Tensor,
        windows: Windows,
    ) -> None:
        self._denoiser, self._plan, self._control, self._windows = denoiser, plan, control, windows
        self._text = text.expand(len(control), -1, -1)
        self._negative = negative_text.expand(len(control), -1, -1)

    def __call__(self, maps: torch.Tensor, when: torch.Tensor, share: float) -> torch.Tensor:
        plan = self._plan
        if not plan.guides_at(share):
            return self._predict(maps, when, self._text, self._control)
        base = self._predict(maps, when, self._negative, None if plan.guess_mode else self._control)
        guided, full = base, base
        if plan.guidance_scale:
            full = self._predict(maps, when, self._text, self._control)
            guided = base + plan.guidance_scale * (full - base)
        if plan.control_guidance_scale != 1.0:
            none = self._predict(maps, when, self._negative, torch.zeros_like(self._control))
            guided = guided + (plan.control_guidance_scale - 1.0) * (base - none)
        return _rescaled(guided, full, plan.guidance_rescale) if plan.guidance_rescale else guided

    def _predict(
        self, maps: torch.Tensor, when: torch.Tensor, text: torch.Tensor, control: torch.Tensor | None
    ) -> torch.Tensor:
        stack, runs = self._windows.stack, self._windows.runs()
        if len(runs) == 1:
            return self._predict_run(maps, when, text, control, stack)
        total, weight = torch.zeros_like(maps), maps.new_zeros(len(maps))
        for first, end in runs:
            rows = torch.arange(len(maps), device=maps.device).view(-1, stack)[:, first:end].flatten()
            share = self._windows.weights(end - first).to(maps).repeat(len(maps) // stack)
            guide = None if control is None else control[rows]
            total[rows] += self._predict_run(maps[rows], when[rows], text[rows], guide, end - first) * _column(share)
            weight[rows] += share
        return total / _column(weight)

    def _predict_run(
        self, maps: torch.Tensor, when: torch.Tensor, text: torch.Tensor, control: torch.Tensor | None, slices: int
    ) -> torch.Tensor:
        plan = self._plan
        return self._denoiser.predict(maps, when, text, control, plan.control_strength, plan.guess_mode, slices)


def _column(values: torch.Tensor) -> torch.Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def _rescaled(guided: torch.Tensor, full: torch.Tensor, share: float) -> torch.Tensor:
    """Guidance widens the spread of a prediction; bring it back by a share."""
    axes = tuple(range(1, full.ndim))
    narrowed = guided * (full.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
    return share * narrowed + (1.0 - share) * guided
