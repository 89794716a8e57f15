"""A second plane: at some steps, slices across another axis say what the clean volume is.

Slices that are denoised one by one fit within their plane, not across it. Alternating between two planes mends that, as two
perpendicular 2D models do in arXiv 2303.08440; here one generator has learned both planes. There the noisy volume itself is cut
the other way. Here the predicted clean volume is, and noised again in the maps of that plane, since noise in scaled or learned
maps is not white in voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diffboost3d.diffusion.codecs import Codec, in_parts, padded
from diffboost3d.diffusion.networks import ConditionalDenoiser
from diffboost3d.diffusion.sampling import WHOLE, Guided, SamplingPlan, Windows
from diffboost3d.diffusion.schedule import clean_of, prediction_of


@dataclass(frozen=True)
class CrossSlices:
    """What one volume follows across the second axis: text (1, T, width), control (S, C, A, B) in [0, 1] and noise
    (S, c, h, w), standard normal, of the maps of its padded slices; the noise is the same at every step.
    """

    text: torch.Tensor
    control: torch.Tensor
    noise: torch.Tensor


class SecondPlane:
    """Replaces predictions by those of slices across a second axis; see `sampling.Correction`.

    The maps must be those of whole volumes, each a stack of all its slices along the first axis.

    Args:
        volumes: one for each volume that is sampled, in order. shape: (I, J, K) of each.
        axes: the first and the second axis of slicing.
        every: it acts at steps number `every`, 2 `every`, ..., counted from 1.
        window, overlap: of slices across the second axis; see `sampling.sample_maps`. Volumes are seen one by one, so that no
            more than a window goes through the networks or the codec at once.
    """

    def __init__(
        self,
        denoiser: ConditionalDenoiser,
        scheduler: Any,
        codec: Codec,
        plan: SamplingPlan,
        negative_text: torch.Tensor,
        volumes: Sequence[CrossSlices],
        shape: tuple[int, int, int],
        axes: tuple[int, int],
        every: int,
        window: int = WHOLE,
        overlap: int = 0,
    ) -> None:
        if axes[0] == axes[1] or every < 1:
            raise ValueError(f"a second plane across axis {axes[1]} of {axes[0]}, every {every} steps")
        self._denoiser, self._scheduler, self._codec, self._plan = denoiser, scheduler, codec, plan
        self._negative, self._volumes, self._every = negative_text, volumes, every
        self._shape, (self._first, self._second) = shape, axes
        self._window, self._windows = window, Windows(shape[axes[1]], window, overlap)
        self._kind: str = scheduler.config.prediction_type

    def acts_at(self, number: int) -> bool:
        """Whether it acts at the step of this number, the first being 0."""
        return (number + 1) % self._every == 0

    def __call__(
        self, predicted: torch.Tensor, maps: torch.Tensor, timestep: torch.Tensor, kept: float, share: float
    ) -> torch.Tensor:
        """The second plane's prediction, as one of the first plane's maps; see `sampling.Correction`."""
        clean = clean_of(self._kind, predicted, maps, kept)
        images = in_parts(self._codec.decode, clean, self._window)
        stacks = images.chunk(len(self._volumes))
        seen = [self._seen(stack, given, timestep, share) for stack, given in zip(stacks, self._volumes, strict=True)]
        again = in_parts(self._codec.encode, padded(torch.cat(seen), images.shape[-2:]), self._window)
        return prediction_of(self._kind, again, maps, kept)

    def _seen(self, stack: torch.Tensor, given: CrossSlices, timestep: torch.Tensor, share: float) -> torch.Tensor:
        """Clean slices (S, C, A, B) across the first axis, by those across the second."""
        a, b = (side for axis, side in enumerate(self._shape) if axis != self._first)
        volume = stack[..., :a, :b].movedim(1, 0).movedim(1, self._first + 1)  # (C, I, J, K)
        slices = volume.movedim(self._second + 1, 0).clamp(-1.0, 1.0)
        found = self._denoised(slices, given, timestep, share)
        return found.movedim(1, 0).movedim(1, self._second + 1).movedim(self._first + 1, 0)

    def _denoised(self, slices: torch.Tensor, given: CrossSlices, timestep: torch.Tensor, share: float) -> torch.Tensor:
        """Slices (S, C, A, B) across the second axis, noised to the timestep and predicted again."""
        a, b = slices.shape[-2:]
        noise, text = given.noise.to(slices), given.text.to(slices.device)
        size = [side * self._codec.factor for side in noise.shape[-2:]]
        when = timestep.expand(len(slices)).to(slices.device)
        clean = in_parts(self._codec.encode, padded(slices, size), self._window)
        noisy = self._scheduler.add_noise(clean, noise, when)
        control = padded(given.control.to(slices), size)
        guided = Guided(self._denoiser, self._plan, text, self._negative, control, self._windows)
        kept = float(self._scheduler.alphas_cumprod[int(timestep)])
        found = clean_of(self._kind, guided(noisy, when, share), noisy, kept)
        return in_parts(self._codec.decode, found, self._window)[..., :a, :b]
