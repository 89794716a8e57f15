"""What is diffused: images packed into smaller maps of more channels.

Without loss and without weights: `haar`, the orthonormal Haar wavelet, applied to the low band again for factors 4 and 8
(Mallat 1989); white noise stays white, so a schedule means the same as in pixels. `pixel`: space to depth. With learned
weights: `vae`, in `autoencoder`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F

# of channels, by the variance that they have in common; what is less is not raised further
LEAST_DIFFERENCE = 1e-3
_IMAGES_AT_ONCE = 16


class Codec(Protocol):
    """(B, 1, A, B) images in [-1, 1] <-> (B, channels, A / factor, B / factor) maps; see `ChannelsCodec` for several channels.

    Attributes:
        name: haar, pixel or vae. factor: image voxels a map voxel, along each side. channels: of the map. image_channels: of the
            images.
    """

    name: str
    factor: int
    image_channels: int

    @property
    def channels(self) -> int:
        """Channels of the map."""
        ...

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images to maps; both sides must be multiples of the factor."""
        ...

    def decode(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps to images."""
        ...


def latent_shape(codec: Codec, size: Sequence[int]) -> tuple[int, int, int]:
    """Shape (c, h, w) of the map of an image of size (A, B)."""
    return codec.channels, size[0] // codec.factor, size[1] // codec.factor


def padded_size(size: Sequence[int], divisor: int) -> tuple[int, int]:
    """Sides (A', B') rounded up to multiples of a divisor."""
    a, b = (math.ceil(side / divisor) * divisor for side in size)
    return a, b


def padded(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Images (..., A, B) brought to `size` by repeating their last row and column; `[..., :A, :B]` is the inverse."""
    return F.pad(images, (0, size[1] - images.shape[-1], 0, size[0] - images.shape[-2]), mode="replicate")


def in_parts(change: Callable[[torch.Tensor], torch.Tensor], tensors: torch.Tensor, size: int) -> torch.Tensor:
    """`change` of (B, ...), at most `size` of them at once: a learned codec would need much memory for a whole volume."""
    parts = [change(part) for part in torch.split(tensors, size)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class PackingCodec:
    """`haar` or `pixel`: exact to rounding.

    Args:
        scales: of each channel; maps are divided by them. A picture's fine bands are far weaker than its coarse one, so that a
            schedule made for unit variance would drown them in noise and leave them for its last moment; scaled by `adapt`, every
            band is learned, and sampled in few steps, like the others. None: as they are.
    """

    image_channels = 1

    def __init__(self, name: str, factor: int, scales: Sequence[float] | None = None) -> None:
        self.name, self.factor = name, factor
        self.scales = None if scales is None else tuple(scales)

    @property
    def channels(self) -> int:
        """Channels of the packed map."""
        return self.factor**2

    def adapt(self, images: torch.Tensor) -> None:
        """Set the scales to the root mean square of each channel over images (B, 1, A, B)."""
        self.scales = None
        measured = self.encode(images.double()).square().mean(dim=(0, 2, 3)).sqrt()
        self.scales = tuple(measured.clamp(min=1e-3 * float(measured.max()) + 1e-6).tolist())

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Pack; both sides must be multiples of the factor."""
        return self._packed(images) / self._scale(images)

    def decode(self, maps: torch.Tensor) -> torch.Tensor:
        """Unpack; inverse of `encode` to rounding."""
        return self._unpacked(maps * self._scale(maps))

    def _scale(self, like: torch.Tensor) -> torch.Tensor | float:
        return 1.0 if self.scales is None else like.new_tensor(self.scales).view(1, -1, 1, 1)

    def _packed(self, images: torch.Tensor) -> torch.Tensor:
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

    def _unpacked(self, maps: torch.Tensor) -> torch.Tensor:
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


class ChannelsCodec:
    """Several image channels, each by a codec of its own: (B, C, A, B) images <-> maps whose channels stand one after the other.

    Contrasts of one anatomy have most of their variance in common. A network that is to give each of them errs in each by itself,
    and the small differences between them, which tell tissues apart, drown. Mixed by `adapt`, what contrasts don't have in
    common has more of the variance, so that it is learned to a larger share of itself.

    Args:
        parts: of one kind and factor, one for each image channel.
        mixing: (M, C, C) for the M maps of each part: the maps of the channels are these, times the maps that are diffused. None:
            not measured, no mixing.
        share: that mixing was measured with; see `adapt`.
    """

    def __init__(self, parts: Sequence[Codec], mixing: torch.Tensor | None = None, share: float = 0.0) -> None:
        self.parts = tuple(parts)
        self.name, self.factor, self.image_channels = parts[0].name, parts[0].factor, len(parts)
        self.mixing, self.share = mixing, share
        self._unmixing = None if mixing is None else torch.linalg.inv(mixing)

    @property
    def channels(self) -> int:
        """Channels of the map."""
        return sum(part.channels for part in self.parts)

    def adapt(self, images: torch.Tensor, share: float = 1.0) -> None:
        """Set the mixing from images (B, C, A, B): M^(share / 2) of the second moments M, map by map; mean variance becomes 1.

        The inverse of M^(1/2) is the whitening that leaves every channel as much like itself as may be (ZCA; Kessy et al., The
        American Statistician 72:309-314, 2018, arXiv 1512.00809); where channels don't correlate nothing is mixed.

        Args:
            share: 1: all parts get the same variance; 0: each keeps its own, and only the mean is set.
        """
        self.mixing, self.share = None, share
        moments = torch.stack([self._moments(part) for part in torch.split(images, _IMAGES_AT_ONCE)]).sum(dim=0)
        moments /= len(images) * images.shape[-2] * images.shape[-1] / self.factor**2
        values, vectors = torch.linalg.eigh(moments)
        least = LEAST_DIFFERENCE * values[:, -1:] + 1e-12
        values = values.clamp(min=least)
        roots = values ** (share / 2) * (values ** (1 - share)).mean(dim=1, keepdim=True).sqrt()
        self.mixing = (vectors * roots[:, None]) @ vectors.mT
        self._unmixing = torch.linalg.inv(self.mixing)

    def _moments(self, images: torch.Tensor) -> torch.Tensor:
        """Sum of products of channels (M, C, C) over images and places."""
        maps = self._side_by_side(self.encode(images.double()))
        return torch.einsum("bcmhw,bdmhw->mcd", maps, maps)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, A, B) to maps."""
        maps = torch.cat([part.encode(images[:, at : at + 1]) for at, part in enumerate(self.parts)], dim=1)
        return self._mixed(maps, self._unmixing)

    def decode(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps to images (B, C, A, B)."""
        own = torch.split(self._mixed(maps, self.mixing), [part.channels for part in self.parts], dim=1)
        return torch.cat([part.decode(one) for part, one in zip(self.parts, own, strict=True)], dim=1)

    def _side_by_side(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C M, h, w) -> (B, C, M, h, w)."""
        return maps.reshape(len(maps), self.image_channels, -1, *maps.shape[2:])

    def _mixed(self, maps: torch.Tensor, matrices: torch.Tensor | None) -> torch.Tensor:
        if self.mixing is None or matrices is None:
            return maps
        with torch.autocast(maps.device.type, enabled=False):  # differences of channels are small: no half precision
            mixed = torch.einsum("mcd,bdmhw->bcmhw", matrices.to(maps), self._side_by_side(maps))
        return mixed.flatten(1, 2)


def parts_of(codec: Codec) -> tuple[Codec, ...]:
    """The codec of each image channel."""
    return codec.parts if isinstance(codec, ChannelsCodec) else (codec,)


def for_channels(codec: Codec, count: int) -> Codec:
    """A codec of one image channel as one of several. An exact one gets scales for each channel, a learned one serves all."""
    if count == 1:
        return codec
    if isinstance(codec, PackingCodec):
        return ChannelsCodec([PackingCodec(codec.name, codec.factor, codec.scales) for _ in range(count)])
    return ChannelsCodec([codec] * count)


def _haar(bands: torch.Tensor) -> torch.Tensor:
    """The 4-point orthonormal Haar transform over channels (its own inverse): (B, 4, h, w) -> the same."""
    a, b, c, d = bands.unbind(1)
    return 0.5 * torch.stack([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], dim=1)
