"""Training Pix2Pix with the one training loop: both networks take a step at once, each against the other as it was before."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.func import functional_call

from diffboost3d.translation.batches import PairedSlices
from diffboost3d.translation.networks import PatchDiscriminator, Translator

SHOWN = 6  # slices in a picture
VALIDATED = 16


class AdversarialObjective(torch.nn.Module):
    """Batch of image (B, N, A, B) and control (B, C, A, B) -> {"loss", "loss_gan", "loss_l1", "loss_discriminator"}.

    One backward pass serves both networks: the translator is judged by a discriminator whose weights take no gradient, and the
    discriminator sees translations that take none. So one optimiser trains both, and both step at once (simultaneous instead of
    alternating gradient descent). The discriminator's loss counts half, as in the paper.

    Args:
        l1_weight: of the mean absolute difference to the real image.
    """

    def __init__(self, translator: Translator, discriminator: PatchDiscriminator, l1_weight: float) -> None:
        super().__init__()
        self.translator, self.discriminator, self._l1_weight = translator, discriminator, l1_weight

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The losses."""
        image, control = batch["image"], batch["control"]
        made = self.translator(control)
        locked = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        gan = _says(functional_call(self.discriminator, locked, (made, control)), real=True)
        l1 = F.l1_loss(made.float(), image)
        taken_for_real = _says(self.discriminator(image, control), real=True)
        found_out = _says(self.discriminator(made.detach(), control), real=False)
        judging = 0.5 * (taken_for_real + found_out)
        loss = gan + self._l1_weight * l1 + judging
        return {"loss": loss, "loss_gan": gan, "loss_l1": l1, "loss_discriminator": judging}


def _says(logits: torch.Tensor, real: bool) -> torch.Tensor:
    """Cross entropy of patches that should be called real, or not."""
    logits = logits.float()
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


class TranslationLearner:
    """Trains a translator against its discriminator; see `training.Learner`. No score: the weights of the last step are kept.

    Args:
        still: slices of validation cases, for the error and the pictures; of training cases where there are none.
        seed: keys the dropout of validation and pictures.
    """

    def __init__(
        self,
        translator: Translator,
        discriminator: PatchDiscriminator,
        dataset: PairedSlices,
        still: PairedSlices,
        l1_weight: float,
        seed: int,
    ) -> None:
        self.module: torch.nn.Module = AdversarialObjective(translator, discriminator, l1_weight)
        self.translator, self.dataset = translator, dataset
        self._still, self._seed = still, seed

    def validate(self, device: torch.device) -> dict[str, float]:
        """Mean absolute difference between translations and real slices."""
        batch, made = self._translated(VALIDATED, device)
        return {"l1": float((made - batch["image"]).abs().mean())}

    def images(self, device: torch.device) -> dict[str, NDArray[np.uint8]]:
        """Control above, translation in the middle, real slice below."""
        batch, made = self._translated(SHOWN, device)
        rows = [batch["control"].amax(dim=1, keepdim=True) * 2 - 1, made, batch["image"]]
        return {"control_translation_real": picture(rows)}

    def _translated(self, count: int, device: torch.device) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        samples = [self._still[number] for number in range(count)]
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        return batch, translate(self.translator, batch["control"], self._seed, device)


@torch.no_grad()
def translate(translator: Translator, control: torch.Tensor, seed: int, device: torch.device) -> torch.Tensor:
    """Slices (S, C, A, B) to images (S, N, A, B) on the CPU, one by one, all with the same dropout, which the seed decides.

    So the noise is common to all slices of a volume, and how many go at once can't matter.
    """
    devices = [device] if device.type == "cuda" else []
    made = []
    with torch.random.fork_rng(devices=devices):
        for one in control:
            torch.manual_seed(seed)
            made.append(translator(one[None].to(device)).float().cpu())
    return torch.cat(made)


def picture(rows: list[Any]) -> NDArray[np.uint8]:
    """Rows of images (S, N, A, B) in [-1, 1] as one grey picture of their first channel (height, width, 3)."""
    lines = [np.concatenate([image[0].T[::-1] for image in row.numpy()], axis=1) for row in rows]
    grey = np.clip((np.concatenate(lines) + 1) * 127.5, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
