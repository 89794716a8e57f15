"""Training the generator: what `training.fit` needs, with validation losses by noise level and pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from diffboost3d.diffusion.codecs import Codec
from diffboost3d.diffusion.lora import LoraPlan, add_adapters
from diffboost3d.diffusion.networks import ConditionalDenoiser
from diffboost3d.diffusion.objective import DenoisingObjective, flattened
from diffboost3d.diffusion.sampling import SamplingPlan, sample
from diffboost3d.diffusion.text import embed_mixture

Tensors = dict[str, torch.Tensor]

VALIDATION_SLICES = 48
VALIDATED_AT_ONCE = 8  # with Stable Diffusion's weights more would not fit beside the training
PICTURED_SLICES = 6
NOISE_LEVELS = ("low", "middle", "high")


class DiffusionLearner:
    """Trains a denoiser on slices; see `training.Learner`.

    Args:
        training: the training slices. still: validation slices without jitter or drops (or, with `validates` false,
            training slices that are only pictured).
        prompt: of the pictured samples.
        trained: "all", "control" to lock the base, or "lora" to train adapters on the locked U-Net besides the control.
        locked_type: in which the locked base is kept. lora: the adapters, with trained="lora".
        keeps_best: the weights of the best validation loss are kept, not the last ones.
    """

    def __init__(
        self,
        denoiser: ConditionalDenoiser,
        scheduler: Any,
        codec: Codec,
        training: Dataset[Tensors],
        still: Dataset[Tensors],
        validates: bool,
        prompt: str,
        trained: str = "all",
        min_snr_gamma: float | None = None,
        keeps_best: bool = False,
        locked_type: torch.dtype = torch.float32,
        lora: LoraPlan | None = None,
    ) -> None:
        if trained != "all":
            denoiser.lock_base(locked_type)
        if trained == "lora":
            add_adapters(denoiser.unet, lora or LoraPlan())
        self._objective = DenoisingObjective(denoiser, scheduler, codec, min_snr_gamma)
        self.module: torch.nn.Module = self._objective
        self.dataset = training
        self._still, self._validates, self._prompt, self._keeps_best = still, validates, prompt, keeps_best

    def validate(self, device: torch.device) -> dict[str, float]:
        """Mean loss on fixed slices of validation volumes, in all and by thirds of the timesteps."""
        if not self._validates:
            return {}
        batch = self._batch(VALIDATION_SLICES, device)
        timesteps = self._objective.scheduler.config.num_train_timesteps
        spread = torch.linspace(0, timesteps - 1, VALIDATION_SLICES, device=device).long()
        batch["timestep"] = spread
        at_once = VALIDATED_AT_ONCE if batch["image"].ndim == 4 else 1
        parts = [
            {name: tensor[first : first + at_once] for name, tensor in batch.items()}
            for first in range(0, VALIDATION_SLICES, at_once)
        ]
        losses = torch.cat([self._objective.losses(part).cpu() for part in parts])
        scalars = {"loss": float(losses.mean())}
        for name, part in zip(NOISE_LEVELS, losses.chunk(len(NOISE_LEVELS)), strict=True):
            scalars[f"loss_{name}_noise"] = float(part.mean())
        return scalars | ({"score": -scalars["loss"]} if self._keeps_best else {})

    def images(self, device: torch.device) -> dict[str, NDArray[np.uint8]]:
        """One picture: a row each of edges, samples of them, and the real slices."""
        batch, slices = flattened(self._batch(PICTURED_SLICES, device))
        denoiser = self._objective.denoiser
        fake = sample(
            denoiser,
            self._objective.scheduler,
            self._objective.codec,
            SamplingPlan(steps=10),
            batch["noise"],
            embed_mixture(denoiser, {self._prompt: 1.0}),
            embed_mixture(denoiser, {"": 1.0}),
            batch["control"],
            stack=slices,
        )
        edge = batch["control"].amax(dim=1, keepdim=True) * 2 - 1
        rows = [
            torch.cat(list(row[::slices, 0]), dim=0) for row in (edge, fake, batch["image"])
        ]  # the first of a stack
        picture = torch.cat([row.T for row in rows]).float().cpu().numpy()
        grey = np.clip((picture + 1) * 127.5, 0, 255).astype(np.uint8)
        return {"edge_sample_real": np.repeat(grey[..., None], 3, axis=2)}

    def _batch(self, count: int, device: torch.device) -> Tensors:
        items = [self._still[number] for number in range(count)]
        return {name: torch.stack([item[name] for item in items]).to(device) for name in items[0]}
