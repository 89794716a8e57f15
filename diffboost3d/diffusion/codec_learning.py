"""Training the learned codec: what `training.fit` needs, and the scale of its maps, which is measured afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.utils.data import Dataset

from diffboost3d.diffusion.codecs import PackingCodec
from diffboost3d.errors import ConfigError

Tensors = dict[str, torch.Tensor]

VALIDATION_SLICES = 48
PICTURED_SLICES = 6
AT_ONCE = 8
SOBEL = ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0))


class PicturesOnly(Dataset[Tensors]):
    """The "image" (1, A, B) of each sample of a data set of the generator, without what only the generator reads."""

    def __init__(self, samples: Dataset[Tensors]) -> None:
        self._samples = samples

    def __getitem__(self, number: int) -> Tensors:
        return {"image": self._samples[number]["image"]}


class ReconstructionObjective(torch.nn.Module):
    """Batch with "image" (B, 1, A, B) -> {"loss", "absolute_loss", "detail_loss", "kl_loss"}, before their weights.

    Besides the absolute difference, which alone leaves edges soft, its Sobel gradients and Haar details count, so that
    fine structure is worth as much as its area is small. There is no perceptual network: those know photographs.

    Args:
        vae: an `AutoencoderKL` of grey images.
        detail_weight: of the mean absolute gradient and detail of the difference.
        kl_weight: of the divergence from a standard normal distribution, in nats an image voxel (as in arXiv 2112.10752).
    """

    def __init__(self, vae: Any, detail_weight: float, kl_weight: float) -> None:
        super().__init__()
        self.vae = vae
        self.detail_weight, self.kl_weight = detail_weight, kl_weight
        levels = len(vae.config["block_out_channels"])
        self._haar = PackingCodec("haar", min(8, 2 ** (levels - 1)))
        across = torch.tensor(SOBEL) / 8.0
        self.register_buffer("_sobel", torch.stack([across, across.T])[:, None], persistent=False)

    def forward(self, batch: Tensors) -> Tensors:
        """Losses of a batch, with a random map of each image's posterior."""
        images = batch["image"]
        posterior = self.vae.encode(images).latent_dist
        scalars = self.compare(self.vae.decode(posterior.sample()).sample, images)
        kl = posterior.kl().mean() / images[0].numel()
        return {"loss": scalars.pop("loss") + self.kl_weight * kl, **scalars, "kl_loss": kl}

    def compare(self, decoded: torch.Tensor, images: torch.Tensor) -> Tensors:
        """The losses of decoded images (B, 1, A, B), but for the divergence."""
        difference = decoded.float() - images.float()
        with torch.autocast(images.device.type, enabled=False):
            gradients = F.conv2d(difference, self.get_buffer("_sobel"))
            details = self._haar.encode(difference)[:, 1:]
        absolute, detail = difference.abs().mean(), gradients.abs().mean() + details.abs().mean()
        loss = absolute + self.detail_weight * detail
        return {"loss": loss, "absolute_loss": absolute, "detail_loss": detail}

    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, A, B) encoded to the mean of their posterior, and decoded."""
        decoded: torch.Tensor = self.vae.decode(self.vae.encode(images).latent_dist.mean).sample
        return decoded


class CodecLearner:
    """Trains an autoencoder on slices; see `training.Learner`.

    Args:
        training: the training slices, with "image" (1, A, B). still: validation slices without jitter (or, with
            `validates` false, training slices that are only pictured).
    """

    def __init__(
        self, objective: ReconstructionObjective, training: Dataset[Tensors], still: Dataset[Tensors], validates: bool
    ) -> None:
        self._objective = objective
        self.module: torch.nn.Module = objective
        self.dataset = training
        self._still, self._validates = still, validates

    def validate(self, device: torch.device) -> dict[str, float]:
        """Mean losses of fixed slices of validation volumes, reconstructed without chance, and their PSNR in dB."""
        if not self._validates:
            return {}
        sums: dict[str, float] = {}
        squares = 0.0
        for batch in image_batches(self._still, VALIDATION_SLICES):
            images = batch.to(device)
            decoded = self._objective.reconstruct(images)
            squares += float((decoded - images).square().mean()) * len(images)
            for name, value in self._objective.compare(decoded, images).items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(images)
        means = {name: value / VALIDATION_SLICES for name, value in sums.items()}
        return {**means, "psnr": 10.0 * math.log10(4.0 * VALIDATION_SLICES / max(squares, 1e-12))}

    def images(self, device: torch.device) -> dict[str, NDArray[np.uint8]]:
        """One picture: a row each of slices and of their reconstructions."""
        images = torch.cat(list(image_batches(self._still, PICTURED_SLICES))).to(device)
        rows = [torch.cat(list(row[:, 0]), dim=0) for row in (images, self._objective.reconstruct(images))]
        picture = torch.cat([row.T for row in rows]).float().cpu().numpy()
        grey = np.clip((picture + 1) * 127.5, 0, 255).astype(np.uint8)
        return {"input_reconstruction": np.repeat(grey[..., None], 3, axis=2)}


def image_batches(samples: Dataset[Tensors], count: int, batch: int = AT_ONCE) -> Iterator[torch.Tensor]:
    """The images of the first samples, as batches (at most `batch`, 1, A, B)."""
    for first in range(0, count, batch):
        yield torch.stack([samples[number]["image"] for number in range(first, min(first + batch, count))])


@torch.no_grad()
def measure_scale(vae: Any, batches: Iterable[torch.Tensor]) -> None:
    """Store shift_factor and scaling_factor in an autoencoder's configuration: maps of these images get mean 0, variance 1.

    So a noise schedule means for maps what it means for the exact codecs.

    Raises:
        ConfigError: the maps are constant or not finite: the training failed.
    """
    count, total, squares = 0, 0.0, 0.0
    for images in batches:
        maps = vae.encode(images.to(device=vae.device, dtype=vae.dtype)).latent_dist.mean.double()
        count, total, squares = count + maps.numel(), total + float(maps.sum()), squares + float(maps.square().sum())
    mean = total / count
    variance = squares / count - mean**2
    if not (math.isfinite(variance) and variance > 0):
        raise ConfigError(
            f"the maps of the codec have variance {variance:g}: its training failed; lower "
            "diffusion.codec.training.learning_rate"
        )
    vae.register_to_config(shift_factor=mean, scaling_factor=variance**-0.5)
