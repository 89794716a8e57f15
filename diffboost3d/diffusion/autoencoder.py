"""The learned codec: maps of a variational autoencoder (arXiv 2112.10752), such as Stable Diffusion's or one of `train-codec`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diffboost3d.errors import DataError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

FILES = ("config.json", "diffusion_pytorch_model.safetensors")


@dataclass(frozen=True)
class AutoencoderPlan:
    """The sizes of an autoencoder; see the section `diffusion.codec.vae` of the configuration.

    Attributes:
        channels: of each level; every level after the first halves the sides.
    """

    channels: tuple[int, ...]
    latent_channels: int
    layers_per_block: int

    @property
    def factor(self) -> int:
        """Image voxels a map voxel, along each side."""
        return int(2 ** (len(self.channels) - 1))


def build_autoencoder(plan: AutoencoderPlan) -> AutoencoderKL:
    """An untrained autoencoder of grey images; its weights come from torch's global generator.

    It has no attention, so that memory grows with the number of pixels, and not with its square.
    """
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=1,
        out_channels=1,
        block_out_channels=plan.channels,
        down_block_types=("DownEncoderBlock2D",) * len(plan.channels),
        up_block_types=("UpDecoderBlock2D",) * len(plan.channels),
        layers_per_block=plan.layers_per_block,
        latent_channels=plan.latent_channels,
        norm_num_groups=math.gcd(8, *plan.channels),
        mid_block_add_attention=False,
    )


class AutoencoderCodec:
    """A frozen `diffusers.AutoencoderKL` as a codec (see `codecs.Codec`); lossy.

    No module, so that it is no part of a denoiser's checkpoints; it follows the tensors that it is given to their device
    and type.
    """

    name = "vae"
    image_channels = 1

    def __init__(self, vae: AutoencoderKL) -> None:
        self.vae: Any = vae.eval().requires_grad_(False)
        self.factor: int = 2 ** (len(vae.config["block_out_channels"]) - 1)

    @property
    def channels(self) -> int:
        """Channels of the map."""
        return int(self.vae.config["latent_channels"])

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """The posterior mean of images (B, 1, A, B), shifted and scaled to about unit variance; sides: multiples of `factor`."""
        vae = self._beside(images)
        with torch.autocast(images.device.type, enabled=False):  # half precision would show as bands in smooth tissue
            mean: torch.Tensor = vae.encode(images.expand(-1, vae.config["in_channels"], -1, -1)).latent_dist.mean
        return (mean - self._shift()) * float(vae.config["scaling_factor"])

    @torch.no_grad()
    def decode(self, maps: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, A, B) of maps (B, channels, h, w): the mean over the channels of what the decoder gives."""
        vae = self._beside(maps)
        with torch.autocast(maps.device.type, enabled=False):
            decoded: torch.Tensor = vae.decode(maps / float(vae.config["scaling_factor"]) + self._shift()).sample
        return decoded.mean(dim=1, keepdim=True)

    def save(self, folder: Path) -> None:
        """Write config.json and safetensors into a folder."""
        self.vae.save_pretrained(folder, safe_serialization=True)

    @classmethod
    def load(cls, folder: Path) -> AutoencoderCodec:
        """Read what `save` wrote, or any AutoencoderKL of `diffusers` in a local folder; on the CPU; never unpickles.

        Raises:
            DataError: a file is missing.
        """
        from diffusers import AutoencoderKL

        cls.files(folder)
        vae = AutoencoderKL.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        vae.register_to_config(_name_or_path="")  # diffusers would save where it was read from
        return cls(vae)

    @staticmethod
    def files(folder: Path) -> list[Path]:
        """The files that `load` reads. Raises as it does."""
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise DataError(
                f"{folder}: {missing[0]} is missing; give the folder of an AutoencoderKL ({' and '.join(FILES)})"
            )
        return [folder / name for name in FILES]

    def _shift(self) -> float:
        return float(self.vae.config.get("shift_factor") or 0.0)

    def _beside(self, tensors: torch.Tensor) -> Any:
        """The autoencoder, on the device and in the type of these tensors."""
        if (self.vae.device, self.vae.dtype) != (tensors.device, tensors.dtype):
            self.vae.to(device=tensors.device, dtype=tensors.dtype)
        return self.vae
