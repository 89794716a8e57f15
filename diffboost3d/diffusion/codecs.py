"""What is diffused: images packed into smaller maps of more channels, without loss.

`haar`: the orthonormal Haar wavelet, applied to the low band again for factors 4 and 8 (Mallat 1989); white noise stays
white, so a schedule means the same as in pixels. `pixel`: space to depth.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


class Codec:
    """(B, 1, A, B) images in [-1, 1] <-> (B, factor^2, A / factor, B / factor) maps."""

    def __init__(self, name: str, factor: int) -> None:
        self.name, self.factor = name, factor

    @property
    def channels(self) -> int:
        """Channels of the packed map."""
        return self.factor**2

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Pack; both sides must be multiples of the factor."""
        if self.factor == 1:
            return images
        if self.name == "pixel":
            return F.pixel_unshuffle(images, self.factor)
        details: list[torch.Tensor] = []
        low, factor = images, self.factor
        while factor > 1:
            bands = _haar(F.pixel_unshuffle(low, 2))
            low, factor = bands[:, :1], factor // 2
            details.insert(0, F.pixel_unshuffle(bands[:, 1:], factor) if factor > 1 else bands[:, 1:])
        return torch.cat([low, *details], dim=1)

    def decode(self, maps: torch.Tensor) -> torch.Tensor:
        """Unpack; inverse of `encode` to rounding."""
        if self.factor == 1:
            return maps
        if self.name == "pixel":
            return F.pixel_shuffle(maps, self.factor)
        low, at, packing = maps[:, :1], 1, 1  # coarsest first; finer details are packed more
        while packing < self.factor:
            packed = maps[:, at : at + 3 * packing**2]
            at += 3 * packing**2
            bands = torch.cat([low, F.pixel_shuffle(packed, packing) if packing > 1 else packed], dim=1)
            low = F.pixel_shuffle(_haar(bands), 2)
            packing *= 2
        return low


def _haar(bands: torch.Tensor) -> torch.Tensor:
    """The 4-point orthonormal Haar transform over channels (its own inverse): (B, 4, h, w) -> the same."""
    a, b, c, d = bands.unbind(1)
    return 0.5 * torch.stack([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], dim=1)
