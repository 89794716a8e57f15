"""Training the generator: what `training.fit` needs, with validation losses by noise level and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffboost3d.diffusion.batches import SliceDataset, SlicePlan, SliceSource
from diffboost3d.diffusion.codecs import Codec
from diffboost3d.diffusion.networks import ConditionalDenoiser
from diffboost3d.diffusion.objective import DenoisingObjective
from diffboost3d.diffusion.sampling import SamplingPlan, sample

VALIDATION_SLICES = 32
PICTURED_SLICES = 6
NOISE_LEVELS = ("low", "middle", "high")


class DiffusionLearner:
    """Trains a denoiser on slices; see `training.Learner`.

    Args:
        training, validation: prepared volumes with their control images; without validation volumes nothing is validated
            and training slices are pictured.
    """

    def __init__(
        self,
        denoiser: ConditionalDenoiser,
        scheduler: Any,
        codec: Codec,
        prompt: str,
        training: Sequence[SliceSource],
        validation: Sequence[SliceSource],
        plan: SlicePlan,
        base_locked: bool,
    ) -> None:
        if base_locked:
            denoiser.lock_base()
        self.module: torch.nn.Module = DenoisingObjective(denoiser, scheduler, codec)
        self._objective = self.module
        self._codec = codec
        length = denoiser.plan.text_length
        self.dataset = SliceDataset(training, prompt, length, codec, plan)
        still = SlicePlan(plan.size, plan.axis, 0.0, (1.0, 1.0), 0.0, 0.0, plan.timesteps, plan.seed, "validation")
        self._shown = SliceDataset(validation or training, prompt, length, codec, still)
        self._validates = bool(validation)

    def validate(self, device: torch.device) -> dict[str, float]:
        """Mean loss on fixed slices of validation volumes, in all and by thirds of the timesteps."""
        if not self._validates:
            return {}
        batch = self._batch(VALIDATION_SLICES, device)
        spread = torch.linspace(0, self.dataset.plan.timesteps - 1, VALIDATION_SLICES, device=device).long()
        losses = self._objective.losses({**batch, "timestep": spread}).cpu()  # type: ignore[operator]
        thirds = dict(zip(NOISE_LEVELS, losses.chunk(len(NOISE_LEVELS)), strict=True))
        return {"loss": float(losses.mean())} | {
            f"loss_{name}_noise": float(part.mean()) for name, part in thirds.items()
        }

    def images(self, device: torch.device) -> dict[str, NDArray[np.uint8]]:
        """One picture: a row each of edges, samples of them, and the real slices."""
        batch = self._batch(PICTURED_SLICES, device)
        objective: Any = self._objective
        length = objective.denoiser.plan.text_length
        fake = sample(
            objective.denoiser,
            objective.scheduler,
            self._codec,
            SamplingPlan(steps=10),
            self._codec.decode(batch["noise"]),
            batch["tokens"][:1],
            self._shown.no_tokens[None, :length].to(device),
            batch["control"],
        )
        edge = batch["control"].amax(dim=1, keepdim=True) * 2 - 1
        rows = [torch.cat(list(row[:, 0]), dim=0) for row in (edge, fake, batch["image"])]
        picture = torch.cat([row.T for row in rows]).float().cpu().numpy()
        grey = np.clip((picture + 1) * 127.5, 0, 255).astype(np.uint8)
        return {"edge_sample_real": np.repeat(grey[..., None], 3, axis=2)}

    def _batch(self, count: int, device: torch.device) -> dict[str, torch.Tensor]:
        items = [self._shown[number] for number in range(count)]
        return {name: torch.stack([item[name] for item in items]).to(device) for name in items[0]}
