"""Training the refiner with the one training loop."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from diffboost3d.refinement.networks import Refiner

Tensors = dict[str, torch.Tensor]

VALIDATED, AT_ONCE = 24, 4
SHOWN = 5  # patches in a picture
SHARES = ("little", "middle", "much")


class RefinementObjective(torch.nn.Module):
    """Batch of `batches.NoisyPatches` -> {"loss"}."""

    def __init__(self, refiner: Refiner) -> None:
        super().__init__()
        self.refiner = refiner

    def forward(self, batch: Tensors) -> Tensors:
        """The mean over the batch; see `Refiner.losses`."""
        return {"loss": self.losses(batch).mean()}

    def losses(self, batch: Tensors) -> torch.Tensor:
        """Of each patch (B,)."""
        return self.refiner.losses(batch["image"], batch["noise"], batch["sigma"], batch["texture"])


class RefinementLearner:
    """Trains a refiner; see `training.Learner`. No score: the averaged weights of the last step are kept.

    Args:
        still: patches of validation images, for the losses and pictures; of training images where there are none.
    """

    def __init__(self, refiner: Refiner, dataset: Dataset[Tensors], still: Dataset[Tensors]) -> None:
        self.refiner, self.dataset, self._still = refiner, dataset, still
        self._objective = RefinementObjective(refiner)
        self.module: torch.nn.Module = self._objective

    @torch.no_grad()
    def validate(self, device: torch.device) -> dict[str, float]:
        """Mean loss of fixed patches, and by thirds of the strength of noise."""
        samples = sorted((self._still[number] for number in range(VALIDATED)), key=lambda one: float(one["sigma"]))
        parts = [samples[first : first + AT_ONCE] for first in range(0, VALIDATED, AT_ONCE)]
        losses = torch.cat([self._objective.losses(_stacked(part, device)).cpu() for part in parts])
        thirds = {
            f"loss_{name}_noise": float(part.mean())
            for name, part in zip(SHARES, losses.chunk(len(SHARES)), strict=True)
        }
        return {"loss": float(losses.mean()), **thirds}

    @torch.no_grad()
    def images(self, device: torch.device) -> dict[str, NDArray[np.uint8]]:
        """The middle plane of patches: noisy above, without its noise in the middle, real below."""
        batch = _stacked([self._still[number] for number in range(SHOWN)], device)
        noisy = batch["image"] + batch["sigma"].view(-1, 1, 1, 1, 1) * batch["noise"]
        rows = [noisy, self.refiner(noisy, batch["sigma"], batch["texture"]), batch["image"]]
        lines = [np.concatenate([_middle_plane(patch) for patch in row], axis=1) for row in rows]
        grey = np.clip((np.concatenate(lines) + 1) * 127.5, 0, 255).astype(np.uint8)
        return {"noisy_refined_real": np.repeat(grey[..., None], 3, axis=2)}


def _stacked(samples: list[Tensors], device: torch.device) -> Tensors:
    return {name: torch.stack([sample[name] for sample in samples]).to(device) for name in samples[0]}


def _middle_plane(patch: torch.Tensor) -> NDArray[np.float32]:
    """Of the first channel, across the first axis, upright."""
    plane = patch[0, patch.shape[1] // 2].float().cpu().numpy()
    return np.asarray(plane.T[::-1], np.float32)
