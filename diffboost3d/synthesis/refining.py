"""Finished volumes gone over in 3D by a refiner, with noise of each sample's own."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from diffboost3d.imaging.scratch import IN_MEMORY, Scratch
from diffboost3d.refinement.blocks import voxels_seen
from diffboost3d.refinement.networks import Refiner
from diffboost3d.refinement.sampling import RefinePlan, refine
from diffboost3d.refinement.texture import texture_of
from diffboost3d.seeds import seed_of

TRIED_SIDE = 32  # voxels


class Refining:
    """Refines volumes with one refiner.

    Args:
        precision: "no", "bf16" or "fp16".
    """

    def __init__(self, refiner: Refiner, plan: RefinePlan, device: torch.device, precision: str = "no") -> None:
        self._refiner, self._plan, self._device = refiner.to(device).eval(), plan, device
        self._dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def __call__(
        self,
        channels: Sequence[NDArray[np.float32]],
        like: NDArray[np.float32],
        seed: int,
        scratch: Scratch = IN_MEMORY,
    ) -> None:
        """Refine the channels (I, J, K) of a volume in [-1, 1] jointly, in place.

        Args:
            like: the real volume (I, J, K) or (N, I, J, K), whose texture along each axis is told to the refiner.
            scratch: makes the arrays of the volume's size.
        """
        random = torch.Generator().manual_seed(seed_of(seed, "refine"))
        texture = torch.from_numpy(texture_of(like))
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            refine(self._refiner, channels, texture, self._plan, random, scratch)

    def seconds(self, shape: Sequence[int]) -> float:
        """About how long a volume (I, J, K) takes, from one evaluation on a small block (after one to warm up)."""
        count, side = self._refiner.plan.image_channels, TRIED_SIDE
        block, taken = torch.zeros(1, count, side, side, side, device=self._device), 0.0
        texture = torch.zeros(1, 3 * count, device=self._device)
        sigma = torch.full((1,), self._plan.sigma, device=self._device)
        for _ in range(2):
            started = time.perf_counter()
            with (
                torch.inference_mode(),
                torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None),
            ):
                float(self._refiner(block, sigma, texture).sum())  # waits for the device
            taken = time.perf_counter() - started
        return taken / side**3 * voxels_seen(shape, self._plan.voxels, self._refiner.plan.divisor) * self._plan.steps
