"""Finished volumes gone over in 3D by a refiner, with noise of each sample's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from diffboost3d.refinement.networks import Refiner
from diffboost3d.refinement.sampling import RefinePlan, refined
from diffboost3d.refinement.texture import texture_of
from diffboost3d.seeds import seed_of


class Refining:
    """Refines volumes with one refiner.

    Args:
        precision: "no", "bf16" or "fp16".
    """

    def __init__(self, refiner: Refiner, plan: RefinePlan, device: torch.device, precision: str = "no") -> None:
        self._refiner, self._plan, self._device = refiner.to(device).eval(), plan, device
        self._dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def __call__(self, channels: Sequence[NDArray[np.float32]], like: NDArray[np.float32], seed: int) -> None:
        """Refine the channels (I, J, K) of a volume in [-1, 1] jointly, in place.

        Args:
            like: the real volume (I, J, K) or (N, I, J, K), whose texture along each axis is told to the refiner.
        """
        volume = torch.from_numpy(np.stack(channels))
        noise = torch.randn(volume.shape, generator=torch.Generator().manual_seed(seed_of(seed, "refine")))
        texture = torch.from_numpy(texture_of(like))
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            made = refined(self._refiner, volume, texture, self._plan, noise).numpy()
        for channel, own in zip(channels, made, strict=True):
            channel[...] = own
