"""The training objective: mean squared error of the predicted noise or velocity (arXiv 2006.11239; v: 2202.00512)."""

from __future__ import annotations

from typing import Any

import torch

from diffboost3d.diffusion.codecs import Codec
from diffboost3d.diffusion.networks import ConditionalDenoiser
from diffboost3d.diffusion.schedule import min_snr_weights


class DenoisingObjective(torch.nn.Module):
    """Batch -> {"loss"}; the batch is as `SliceDataset` makes it, each slice (stack) with its own noise, timestep and drops.

    Args:
        min_snr_gamma: see `schedule.min_snr_weights`; None weighs all timesteps alike.
    """

    def __init__(
        self, denoiser: ConditionalDenoiser, scheduler: Any, codec: Codec, min_snr_gamma: float | None = None
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.scheduler = scheduler
        self.codec = codec
        self.weights = None if min_snr_gamma is None else min_snr_weights(scheduler, min_snr_gamma)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Mean loss of the batch, scalar, weighted where weights were asked for."""
        losses = self.losses(batch)
        if self.weights is not None:
            losses = losses * self.weights.to(losses.device)[batch["timestep"]]
        return {"loss": losses.mean()}

    def losses(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Loss of each slice or stack (B,), without weights."""
        stacks = len(batch["image"])
        batch, slices = flattened(batch)
        with torch.no_grad():
            clean = self.codec.encode(batch["image"])
        noisy = self.scheduler.add_noise(clean, batch["noise"], batch["timestep"])
        target = self.target(clean, batch["noise"], batch["timestep"])
        predicted = self.denoiser(noisy, batch["timestep"], batch["tokens"], batch["control"], slices)
        losses: torch.Tensor = (predicted.float() - target.float()).square().view(stacks, -1).mean(dim=1)
        return losses

    def target(self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the network should predict: the noise, or v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) clean."""
        if self.scheduler.config.prediction_type == "epsilon":
            return noise
        velocity: torch.Tensor = self.scheduler.get_velocity(clean, noise, timesteps)
        return velocity


def flattened(batch: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], int]:
    """(a batch of slices, how many consecutive ones are a stack) of a batch of slices or stacks (B, S, ...)."""
    if batch["image"].ndim == 4:
        return batch, 1
    slices = batch["image"].shape[1]
    common = ("tokens", "timestep")  # to all slices of a stack
    return {
        name: tensor.repeat_interleave(slices, dim=0) if name in common else tensor.flatten(0, 1)
        for name, tensor in batch.items()
    }, slices
