"""Segmentation networks of MONAI behind one call: (B, 1, I, J, K) in, logits (B, classes, I, J, K) out, in 3D and 2D."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from diffboost3d.errors import ConfigError


class VolumeNetwork(torch.nn.Module):
    """A network of two or three spatial dimensions that takes volumes; a 2D one takes those of K == 1."""

    def __init__(self, network: torch.nn.Module, spatial_dims: int) -> None:
        super().__init__()
        self.network = network
        self.spatial_dims = spatial_dims

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes, I, J, K) of images (B, C, I, J, K)."""
        if self.spatial_dims == 3:
            logits: torch.Tensor = self.network(images)
            return logits
        return self.network(images.squeeze(-1)).unsqueeze(-1)  # type: ignore[no-any-return]


def build_network(
    name: str, spatial_dims: int, classes: int, patch: tuple[int, int, int], arguments: dict[str, Any]
) -> VolumeNetwork:
    """A network by name.

    Args:
        classes: background included. patch: input size, which UNETR is built for.
        arguments: of the MONAI constructor.

    Raises:
        ConfigError: arguments that the constructor refuses.
    """
    try:
        return VolumeNetwork(NETWORKS[name](spatial_dims, classes, patch[:spatial_dims], arguments), spatial_dims)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"network.arguments don't fit network {name!r}: {error}") from error


def _unet(dims: int, classes: int, patch: tuple[int, ...], arguments: dict[str, Any]) -> torch.nn.Module:
    from monai.networks.nets import UNet

    network: torch.nn.Module = UNet(spatial_dims=dims, in_channels=1, out_channels=classes, **arguments)
    return network


def _unetr(dims: int, classes: int, patch: tuple[int, ...], arguments: dict[str, Any]) -> torch.nn.Module:
    from monai.networks.nets import UNETR

    network: torch.nn.Module = UNETR(
        spatial_dims=dims, in_channels=1, out_channels=classes, img_size=patch, **arguments
    )
    return network


NETWORKS: dict[str, Callable[[int, int, tuple[int, ...], dict[str, Any]], torch.nn.Module]] = {
    "unet": _unet,
    "unetr": _unetr,
}
