"""Synthetic volumes: slices of the control image, denoised in batches, put together, and brought to the real file's units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffboost3d.cases.records import Case
from diffboost3d.diffusion.codecs import Codec, latent_shape, padded_size
from diffboost3d.diffusion.networks import ConditionalDenoiser
from diffboost3d.diffusion.sampling import SamplingPlan, sample
from diffboost3d.diffusion.text import embed_mixture
from diffboost3d.imaging.geometry import resample
from diffboost3d.imaging.slices import SliceGrid
from diffboost3d.seeds import seed_of
from diffboost3d.synthesis.coherence import slice_noise
from diffboost3d.synthesis.spectrum import with_spectrum_of


@dataclass(frozen=True)
class NoisePlan:
    """How noise is shared along the slice axis; see `coherence.slice_noise`."""

    kind: str
    rho: float
    correlation_mm: float


@dataclass(frozen=True)
class SampleRequest:
    """One synthetic volume.

    Attributes:
        prompts: with their weights.
        image: the real volume (I, J, K) in [-1, 1], where sampling starts if strength < 1, and whose spectrum is taken.
        control: the control image (C, I, J, K) in [0, 1].
    """

    seed: int
    prompts: Mapping[str, float]
    image: NDArray[np.float32]
    control: NDArray[np.float32]


class VolumeSampler:
    """Samples prepared volumes from their control images with one generator.

    Args:
        batch: slices denoised at once, of one sample or of several; it may change the last bits of a result, never more.
        precision: "no", "bf16" or "fp16".
        compiled: compile the networks (torch.compile).
        match_spectrum: how far volumes are given the spectrum of the real one; see `spectrum.with_spectrum_of`.
    """

    def __init__(
        self,
        denoiser: ConditionalDenoiser,
        scheduler: Any,
        codec: Codec,
        plan: SamplingPlan,
        noise: NoisePlan,
        negative_prompt: str,
        batch: int,
        device: torch.device,
        precision: str = "no",
        compiled: bool = False,
        match_spectrum: float = 0.0,
    ) -> None:
        self._denoiser = denoiser.to(device)
        if device.type == "cuda":
            denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled:
            denoiser.unet.compile()
            denoiser.controlnet.compile()
        self._scheduler, self._codec, self._plan, self._noise = scheduler, codec, plan, noise
        self._negative = embed_mixture(denoiser, {negative_prompt: 1.0})
        self._embedded: dict[tuple[tuple[str, float], ...], torch.Tensor] = {}
        self._batch, self._device, self._match_spectrum = batch, device, match_spectrum
        self._dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def together(self, slices: int) -> int:
        """How many samples of a case with that many slices fill a batch."""
        return max(1, self._batch // slices)

    def volumes(self, axis: int, spacing_mm: float, requests: Sequence[SampleRequest]) -> list[NDArray[np.float32]]:
        """A synthetic volume (I, J, K) in [-1, 1] for each request; all are of one shape.

        Args:
            axis: of slicing. spacing_mm: along it.
        """
        grid = SliceGrid(requests[0].image.shape, axis)
        taken = [grid.slices(torch.from_numpy(np.concatenate([r.control, r.image[None]]))) for r in requests]
        slices, locations = torch.stack([slices for slices, _ in taken]), taken[0][1]
        size = padded_size(slices.shape[-2:], self._denoiser.divisor)
        shape = (len(grid), *latent_shape(self._codec, size))
        plan = self._noise
        noise = torch.stack(
            [slice_noise(plan.kind, shape, plan.rho, plan.correlation_mm, spacing_mm, r.seed) for r in requests]
        )
        # of noise added on the way (eta): a stream for each slice, so that the batch size doesn't matter
        streams = [
            torch.Generator(self._device).manual_seed(seed_of(request.seed, "eta", at))
            for request in requests
            for at in range(len(grid))
        ]
        texts = torch.cat([self._text(request.prompts) for request in requests])
        made = torch.empty(len(requests) * len(grid), 1, *slices.shape[-2:])
        for first in range(0, len(made), self._batch):
            numbers = torch.arange(first, min(first + self._batch, len(made)))
            sample_of, slice_of = numbers // len(grid), numbers % len(grid)
            made[numbers] = self._denoise(
                slices[sample_of, slice_of],
                noise[sample_of, slice_of],
                texts[sample_of.to(texts.device)],
                [streams[number] for number in numbers],
            )
        volumes = made.view(len(requests), len(grid), *made.shape[1:])
        whole = (grid.assemble(iter([(volume, locations)]))[0].numpy() for volume in volumes)
        return [
            with_spectrum_of(np.ascontiguousarray(volume), request.image, self._match_spectrum)
            for volume, request in zip(whole, requests, strict=True)
        ]

    def _text(self, prompts: Mapping[str, float]) -> torch.Tensor:
        """Embedded once for all samples that ask for the same."""
        key = tuple(prompts.items())
        if key not in self._embedded:
            self._embedded[key] = embed_mixture(self._denoiser, prompts)
        return self._embedded[key]

    def _denoise(
        self, slices: torch.Tensor, noise: torch.Tensor, text: torch.Tensor, streams: list[torch.Generator]
    ) -> torch.Tensor:
        slices = slices.to(self._device)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            images = sample(
                self._denoiser,
                self._scheduler,
                self._codec,
                self._plan,
                noise.to(self._device),
                text,
                self._negative,
                slices[:, :-1],
                slices[:, -1:],
                streams,
            )
        return images.float().cpu()


def in_source_units(volume: NDArray[np.float32], case: Case, source: NDArray[Any]) -> NDArray[np.float64]:
    """A synthetic prepared volume (I, J, K) on the grid and in the units of the case's own file.

    Where the real value was cut off by a CT window (air, table, metal) it stays: nothing is invented there.

    Args:
        source: the real array of the file, (I, J, K) of `case.source_grid`.
    """
    moved = resample(volume, case.grid, case.source_grid, "linear")
    return np.where(case.intensity.lost(source), source.astype(np.float64), case.intensity.inverse(moved))
