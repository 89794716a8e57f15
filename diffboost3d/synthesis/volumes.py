"""Synthetic volumes: slabs of slices, denoised in batches, put together, and given the spectrum of the real volume."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffboost3d.diffusion.codecs import Codec, latent_shape, padded, padded_size
from diffboost3d.diffusion.networks import ConditionalDenoiser
from diffboost3d.diffusion.sampling import WHOLE, Correction, SamplingPlan, sample
from diffboost3d.diffusion.second_plane import CrossSlices, SecondPlane
from diffboost3d.diffusion.text import embed_mixture
from diffboost3d.imaging.channels import channels_of
from diffboost3d.imaging.edges import ControlSlices
from diffboost3d.imaging.scratch import IN_MEMORY, Scratch
from diffboost3d.imaging.slices import SliceGrid
from diffboost3d.seeds import seed_of
from diffboost3d.synthesis.coherence import slice_noise
from diffboost3d.synthesis.refining import Refining
from diffboost3d.synthesis.spectral_noise import noise_like
from diffboost3d.synthesis.spectrum import with_spectrum_of

SLOW_VOXELS = 10


@dataclass(frozen=True)
class NoisePlan:
    """How noise is shared along the slice axis; see `coherence.slice_noise`, for "spectrum" `spectral_noise.noise_like`."""

    kind: str
    rho: float
    correlation_mm: float


@dataclass(frozen=True)
class SlabPlan:
    """How a volume is cut.

    Attributes:
        slices: of a slab; they are neighbours, and denoised in one batch. None: as many as may be denoised at once where the
            generator has layers along the slices or the blend is "step", else 1.
        overlap: slices that neighbouring slabs share, blended by a Hann window; even.
        voxels: denoised at once at most, but always a whole slab.
        blend: "end": slabs are finished, then blended. "step": a volume is denoised whole, and at every step the predictions of
            its slabs are.
    """

    slices: int | None = 1
    overlap: int = 0
    voxels: int = 2**20
    blend: str = "end"


@dataclass(frozen=True)
class SecondPlanePlan:
    """At every so many steps, slices across this axis have their say; spacing along it. See `second_plane.SecondPlane`."""

    axis: int
    every: int
    spacing_mm: float


@dataclass(frozen=True)
class SampleRequest:
    """One synthetic volume.

    Attributes:
        prompts: with their weights.
        image: the real volume (I, J, K), or (N, I, J, K) with several channels, in [-1, 1], where sampling starts if
            strength < 1, and whose spectrum is taken.
        control: the control image (C, I, J, K) in [0, 1], or what makes it slice by slice.
        second_control: the same of slices across the second axis, where there is a second plane.
    """

    seed: int
    prompts: Mapping[str, float]
    image: NDArray[np.float32]
    control: NDArray[np.float32] | ControlSlices
    second_control: NDArray[np.float32] | ControlSlices | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(I, J, K)."""
        i, j, k = self.image.shape[-3:]
        return (i, j, k)

    def control_of(self, axis: int, first: int, stop: int) -> torch.Tensor:
        """Of slices `first` to `stop` - 1 along `axis`: (S, C, A, B)."""
        return _slices_of(self.control, axis, first, stop)

    def control_across(self, axis: int) -> torch.Tensor:
        """Of all slices along the second axis: (S, C, A, B)."""
        if self.second_control is None:
            raise ValueError("a second plane needs its own control")
        return _slices_of(self.second_control, axis, 0, self.shape[axis])


def _slices_of(control: NDArray[np.float32] | ControlSlices, axis: int, first: int, stop: int) -> torch.Tensor:
    if isinstance(control, ControlSlices):
        return torch.from_numpy(control.slices(first, stop))
    return torch.from_numpy(np.moveaxis(control, axis + 1, 0)[first:stop].copy())


class VolumeSampler:
    """Samples prepared volumes from their control images with one generator.

    Args:
        batch: slices denoised at once at most, of one sample or of several; it may change the last bits of a result, never
            more, but where a generator with layers along the slices is given no number of them (`SlabPlan.slices`).
        precision: "no", "bf16" or "fp16".
        compiled: compile the networks (torch.compile).
        match_spectrum: how far volumes are given the spectrum of the real one; see `spectrum.with_spectrum_of`.
        slow_mm: waves of this length and more are those of the real one; 0: none; None: as many as `slow_mm_of` says.
        slabs: how volumes are cut. scratch: where whole volumes are kept.
        second: a second plane; needs slabs that are blended at every step.
        refining: goes over whole volumes in 3D, before they are given the spectrum.
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
        slow_mm: float | None = 0.0,
        slabs: SlabPlan = SlabPlan(),
        scratch: Scratch = IN_MEMORY,
        second: SecondPlanePlan | None = None,
        refining: Refining | None = None,
    ) -> None:
        if second is not None and slabs.blend != "step":
            raise ValueError(f"a second plane needs whole volumes (blend step), not slabs blended at the {slabs.blend}")
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
        self._slabs, self._scratch, self._second, self._slow_mm = slabs, scratch, second, slow_mm
        self._refining = refining
        self._dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def together(self, shape: Sequence[int], axis: int) -> int:
        """How many samples of a volume (I, J, K) fill a batch."""
        return max(1, self._at_once(shape, axis) // shape[axis])

    def _at_once(self, shape: Sequence[int], axis: int) -> int:
        """Slices that are denoised at once at most."""
        plane = int(np.prod(shape)) // shape[axis]
        return max(1, min(self._batch, self._slabs.voxels // plane))

    def _window(self, shape: Sequence[int], axis: int) -> tuple[int, int]:
        """Slices that are predicted together, and how many of them overlap with the next ones."""
        slabs, at_once = self._slabs, self._at_once(shape, axis)
        if self._denoiser.mixer is None and slabs.blend == "step":
            return at_once, 0  # slices that see no neighbours are alike in every window
        if slabs.slices is not None:
            return slabs.slices, slabs.overlap
        if self._denoiser.mixer is None:
            return 1, 0
        return max(at_once, 2 * slabs.overlap), slabs.overlap  # a slab is never cut so short that it can't move on

    def volumes(
        self, axis: int, spacing_mm: Sequence[float], requests: Sequence[SampleRequest]
    ) -> list[NDArray[np.float32]]:
        """A synthetic volume in [-1, 1] for each request, of the shape of its image, which all have; channels are made jointly.

        Args:
            axis: of slicing. spacing_mm: of the voxels (I, J, K).
        """
        shape = requests[0].shape
        slab = (shape[axis], 0) if self._slabs.blend == "step" else self._window(shape, axis)
        grid = SliceGrid(shape, axis, *slab)
        made = [[self._scratch.empty(shape) for _ in range(self._codec.image_channels)] for _ in requests]
        self._fill(grid, self._at_once(shape, axis), spacing_mm[axis], requests, made)
        if self._refining is not None:
            for volume, request in zip(made, requests, strict=True):
                self._refining(volume, request.image, request.seed, self._scratch)
        finish = partial(
            with_spectrum_of,
            share=self._match_spectrum,
            in_place=True,
            scratch=self._scratch,
            block_axes=self._block_axes(axis),
            slow_mm=slow_mm_of(spacing_mm) if self._slow_mm is None else self._slow_mm,
            spacing_mm=spacing_mm,
        )
        return [
            self._joined(list(map(finish, volume, channels_of(request.image))), request.image.shape)
            for volume, request in zip(made, requests, strict=True)
        ]

    def _block_axes(self, axis: int) -> list[int]:
        """Axes along which what is diffused are blocks of voxels."""
        planes = [axis] if self._second is None else [axis, self._second.axis]
        return [along for along in range(3) if self._codec.factor % 2 == 0 and any(along != one for one in planes)]

    def _joined(self, channels: list[NDArray[np.float32]], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The channels of a volume as one array."""
        if len(channels) == 1:
            return channels[0]
        whole: NDArray[np.float32] = self._scratch.empty(shape)
        for target, one in zip(whole, channels, strict=True):
            target[...] = one
        return whole

    def _fill(
        self,
        grid: SliceGrid,
        at_once: int,
        spacing_mm: float,
        requests: Sequence[SampleRequest],
        made: list[list[NDArray[np.float32]]],
    ) -> None:
        """Denoise all slabs of all samples, batch by batch. The noise is of a slice, whichever slabs the slice is in."""
        noises = [self._noise_of(grid, spacing_mm, request.image, request.seed) for request in requests]
        cutters = [grid.cutter(torch.from_numpy(channels_of(request.image))) for request in requests]
        assemblies = [[grid.assembly(channel) for channel in volume] for volume in made]
        slabs = [(sample, number) for sample in range(len(requests)) for number in range(len(grid.firsts))]
        count = max(1, at_once // grid.slab)
        for block in (slabs[start : start + count] for start in range(0, len(slabs), count)):
            inputs, noise, texts, streams = [], [], [], []
            for sample_, number in block:
                request, first = requests[sample_], grid.firsts[number]
                stop = first + grid.slab
                inputs.append(torch.cat([request.control_of(grid.axis, first, stop), cutters[sample_][number]], dim=1))
                noise.append(noises[sample_][first:stop])
                texts.append(self._text(request.prompts).expand(grid.slab, -1, -1))
                # of noise added on the way (eta): a stream for each slice, so that the batch size doesn't matter
                streams += [self._stream(request.seed, at) for at in range(first, stop)]
            given = (torch.cat(inputs), torch.cat(noise), torch.cat(texts), streams, grid.slab)
            if self._slabs.blend == "step":
                across = self._across(grid, [requests[sample_] for sample_, _ in block])
                images = self._denoise(*given, None, self._window(grid.shape, grid.axis), across)
            else:
                images = self._denoise(*given)
            for (sample_, _), slab in zip(block, torch.split(images, grid.slab), strict=True):
                for assembly, channel in zip(assemblies[sample_], torch.split(slab, 1, dim=1), strict=True):
                    assembly.add(channel)

    def _across(self, grid: SliceGrid, requests: Sequence[SampleRequest]) -> SecondPlane | None:
        """The second plane of whole volumes, with noise of a stream of its own."""
        plan = self._second
        if plan is None:
            return None
        other = SliceGrid(grid.shape, plan.axis)
        volumes = [
            CrossSlices(
                self._text(request.prompts),
                request.control_across(plan.axis),
                self._noise_of(other, plan.spacing_mm, request.image, seed_of(request.seed, "second plane")),
            )
            for request in requests
        ]
        return SecondPlane(
            self._denoiser,
            self._scheduler,
            self._codec,
            self._plan,
            self._negative,
            volumes,
            grid.shape,
            (grid.axis, plan.axis),
            plan.every,
            *self._window(grid.shape, plan.axis),
        )

    def _noise_of(self, grid: SliceGrid, spacing_mm: float, image: NDArray[np.float32], seed: int) -> torch.Tensor:
        """(S, c, h, w) of a whole volume."""
        plan = self._noise
        if plan.kind == "spectrum":
            noise = noise_like(self._maps_of(grid, image), seed)
        else:
            plane = [side for index, side in enumerate(grid.shape) if index != grid.axis]
            shape = (len(grid), *latent_shape(self._codec, padded_size(plane, self._denoiser.divisor)))
            noise = slice_noise(plan.kind, shape, plan.rho, plan.correlation_mm, spacing_mm, seed)
        return noise if self._scratch.in_memory(grid.shape) else torch.from_numpy(self._scratch.copy(noise.numpy()))

    @torch.inference_mode()
    def _maps_of(self, grid: SliceGrid, image: NDArray[np.float32]) -> torch.Tensor:
        """(S, c, h, w) of the slices of a real image, in batches."""
        slices = np.moveaxis(channels_of(image), grid.axis + 1, 0)
        size = padded_size(slices.shape[-2:], self._denoiser.divisor)
        count = self._at_once(grid.shape, grid.axis)
        maps = [
            self._codec.encode(padded(torch.from_numpy(slices[at : at + count].copy()).to(self._device), size)).cpu()
            for at in range(0, len(slices), count)
        ]
        return torch.cat(maps)

    def _stream(self, seed: int, at: int) -> torch.Generator:
        return torch.Generator(self._device).manual_seed(seed_of(seed, "eta", at))

    def seconds_a_slice(self, shape: Sequence[int], axis: int) -> float:
        """About how long a slice of such a volume takes, from one network evaluation on a batch (after one to warm up)."""
        count = min(self._at_once(shape, axis), shape[axis])
        plane = [side for index, side in enumerate(shape) if index != axis]
        inputs = torch.zeros(count, self._denoiser.control_channels + self._codec.image_channels, *plane)
        noise = torch.zeros(count, *latent_shape(self._codec, padded_size(plane, self._denoiser.divisor)))
        once = dataclasses.replace(
            self._plan,
            steps=1,
            sampler="ddim",
            step_power=1.0,
            strength=1.0,
            eta=0.0,
            guidance_scale=1.0,
            control_guidance_scale=1.0,
        )
        seconds = 0.0
        for _ in range(2):
            started = time.perf_counter()
            self._denoise(inputs, noise, self._negative, [], count, plan=once)
            seconds = time.perf_counter() - started
        refining = 0.0 if self._refining is None else self._refining.seconds(shape) / shape[axis]
        return refining + seconds / count * evaluations(self._plan, 0 if self._second is None else self._second.every)

    def _text(self, prompts: Mapping[str, float]) -> torch.Tensor:
        """Embedded once for all samples that ask for the same."""
        key = tuple(prompts.items())
        if key not in self._embedded:
            self._embedded[key] = embed_mixture(self._denoiser, prompts)
        return self._embedded[key]

    def _denoise(
        self,
        slices: torch.Tensor,
        noise: torch.Tensor,
        text: torch.Tensor,
        streams: list[torch.Generator],
        stack: int = 1,
        plan: SamplingPlan | None = None,
        window: tuple[int, int] = (WHOLE, 0),
        correction: Correction | None = None,
    ) -> torch.Tensor:
        """Images (S, N, A, B) of controls and, behind them, images to start from (S, C + N, A, B)."""
        slices, own = slices.to(self._device), self._codec.image_channels
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            images = sample(
                self._denoiser,
                self._scheduler,
                self._codec,
                plan or self._plan,
                noise.to(self._device),
                text,
                self._negative,
                slices[:, :-own],
                slices[:, -own:],
                streams,
                stack=stack,
                window=window[0],
                overlap=window[1],
                correction=correction,
            )
        return images.float().cpu()


def slow_mm_of(spacing_mm: Sequence[float]) -> float:
    """Length in mm from which on waves are left to the real volume, unless configured: of so many of the finest voxels."""
    return SLOW_VOXELS * min(spacing_mm)


def evaluations(plan: SamplingPlan, second_every: int = 0) -> int:
    """Network evaluations of a slice; steps that a second plane acts at count twice."""
    taken = plan.steps if plan.strength >= 1.0 else max(1, round(plan.strength * plan.steps))
    return sum(
        plan.passes_at(1.0 - (taken - number) / plan.steps)
        * (2 if second_every and not (number + 1) % second_every else 1)
        for number in range(taken)
    )
