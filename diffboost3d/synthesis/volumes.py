"""One synthetic volume: slices of the control image, denoised in batches, put together, and brought to the real file's units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffboost3d.cases.records import Case
from diffboost3d.diffusion.codecs import Codec
from diffboost3d.diffusion.networks import ConditionalDenoiser
from diffboost3d.diffusion.sampling import SamplingPlan, padded_size, sample
from diffboost3d.diffusion.text import tokenize
from diffboost3d.imaging.geometry import resample
from diffboost3d.imaging.slices import SliceGrid
from diffboost3d.seeds import seed_of
from diffboost3d.synthesis.coherence import slice_noise


@dataclass(frozen=True)
class NoisePlan:
    """How noise is shared along the slice axis; see `coherence.slice_noise`."""

    kind: str
    rho: float
    correlation_mm: float


class VolumeSampler:
    """Samples prepared volumes from their control images with one generator.

    Args:
        precision: "no", "bf16" or "fp16".
        batch: slices denoised at once; it may change the last bits of a result, never more.
    """

    def __init__(
        self,
        denoiser: ConditionalDenoiser,
        scheduler: Any,
        codec: Codec,
        plan: SamplingPlan,
        noise: NoisePlan,
        prompt: str,
        batch: int,
        device: torch.device,
        precision: str = "no",
    ) -> None:
        self._denoiser = denoiser.to(device)
        self._scheduler, self._codec, self._plan, self._noise = scheduler, codec, plan, noise
        self._tokens = tokenize(prompt, denoiser.plan.text_length)[None].to(device)
        self._no_tokens = tokenize("", denoiser.plan.text_length)[None].to(device)
        self._batch, self._device = batch, device
        self._dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def volume(
        self, image: NDArray[np.float32], control: NDArray[np.float32], axis: int, spacing_mm: float, seed: int
    ) -> NDArray[np.float32]:
        """A synthetic volume (I, J, K) in [-1, 1].

        Args:
            image: the real volume (I, J, K), where sampling starts if strength < 1.
            control: (C, I, J, K). axis: of slicing. spacing_mm: along it. seed: of this sample.
        """
        grid = SliceGrid(image.shape, axis)
        sides = [size for index, size in enumerate(image.shape) if index != axis]
        size = padded_size(sides, self._denoiser.plan.divisor)
        noise = slice_noise(
            self._noise.kind, (len(grid), *size), self._noise.rho, self._noise.correlation_mm, spacing_mm, seed
        )
        # of noise added on the way (eta): a stream for each slice, so that the batch size doesn't matter
        random = [torch.Generator(self._device).manual_seed(seed_of(seed, "eta", at)) for at in range(len(grid))]
        both = torch.from_numpy(np.concatenate([control, image[None]]))

        def parts() -> Any:
            first = 0
            for slices, locations in grid.batches(both, self._batch):
                part = slice(first, first + len(slices))
                yield self._slices(slices, noise[part, None], random[part]), locations
                first += len(slices)

        return np.ascontiguousarray(grid.assemble(parts())[0].numpy(), dtype=np.float32)

    def _slices(self, slices: torch.Tensor, noise: torch.Tensor, random: list[torch.Generator]) -> torch.Tensor:
        slices = slices.to(self._device)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            images = sample(
                self._denoiser,
                self._scheduler,
                self._codec,
                self._plan,
                noise.to(self._device),
                self._tokens,
                self._no_tokens,
                slices[:, :-1],
                slices[:, -1:],
                random,
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
