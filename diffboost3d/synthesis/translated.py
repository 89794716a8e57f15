"""Synthetic volumes translated from control images, slice by slice; stands where `volumes.VolumeSampler` does."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from diffboost3d.imaging.channels import channels_of
from diffboost3d.imaging.scratch import IN_MEMORY, Scratch
from diffboost3d.synthesis.volumes import SampleRequest
from diffboost3d.translation.batches import filled, multiples
from diffboost3d.translation.learning import translate
from diffboost3d.translation.networks import Translator


class TranslatedVolumes:
    """Makes prepared volumes from their control images with one translator; text and the real image have no say.

    Args:
        precision: "no", "bf16" or "fp16". scratch: where whole volumes are kept.
    """

    def __init__(
        self, translator: Translator, device: torch.device, precision: str = "no", scratch: Scratch = IN_MEMORY
    ) -> None:
        self._translator, self._device, self._scratch = translator.to(device), device, scratch
        self._dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def together(self, shape: Sequence[int], axis: int) -> int:
        """Samples that are made at once: one."""
        return 1

    def volumes(
        self, axis: int, spacing_mm: Sequence[float], requests: Sequence[SampleRequest]
    ) -> list[NDArray[np.float32]]:
        """A volume in [-1, 1] for each request, of the shape of its image."""
        return [self._volume(axis, request) for request in requests]

    def _volume(self, axis: int, request: SampleRequest) -> NDArray[np.float32]:
        volume = self._scratch.empty(request.image.shape)
        slices = np.moveaxis(channels_of(volume), axis + 1, 0)
        for at in range(len(slices)):
            slices[at] = self._slice(request.control_of(axis, at, at + 1), request.seed)
        return volume

    def _slice(self, control: torch.Tensor, seed: int) -> NDArray[np.float32]:
        """(N, A, B) of a control (1, C, A, B)."""
        sides = control.shape[-2:]
        whole = filled(control, multiples(sides, self._translator.plan.divisor))
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            made = translate(self._translator, whole, seed, self._device)
        return np.asarray(made[0, :, : sides[0], : sides[1]].numpy(), np.float32)

    def seconds_a_slice(self, shape: Sequence[int], axis: int) -> float:
        """About how long a slice of such a volume takes (after one to warm up)."""
        plane = [side for index, side in enumerate(shape) if index != axis]
        empty, seconds = torch.zeros(1, self._translator.plan.control_channels, *plane), 0.0
        for _ in range(2):
            started = time.perf_counter()
            self._slice(empty, 0)
            seconds = time.perf_counter() - started
        return seconds
