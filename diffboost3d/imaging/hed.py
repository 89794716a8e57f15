"""Holistically-nested edges (HED, Xie & Tu, arXiv 1504.06375) slice by slice, with a weights file that the user gives.

The network is the one whose weights ControlNet publishes as `ControlNetHED.pth`: the convolutions of VGG-16 in five
blocks, a 1 x 1 projection of each to an edge map, and the mean of the five. No weights come with this package.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffboost3d.errors import ConfigError
from diffboost3d.imaging.edges import Float

LAYOUT = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # convolutions and channels of block1 ... block5
PIXELS = 2**18  # of the slices that are worked on at once; about 300 MB
COARSEST = 2 ** (len(LAYOUT) - 1)  # pixels of the picture a pixel of the last block


class _Block(nn.Module):
    def __init__(self, count: int, channels_in: int, channels: int) -> None:
        super().__init__()
        widths = [channels_in, *[channels] * count]
        self.convs = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 3, padding=1) for i in range(count))
        self.projection = nn.Conv2d(channels, 1, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        for conv in self.convs:
            features = F.relu(conv(features))
        return features, self.projection(features)


class HedNetwork(nn.Module):
    """Edge strength in [0, 1], (N, 1, H, W), of pictures (N, 3, H, W) in [0, 255]; H and W are multiples of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.zeros(1, 3, 1, 1))
        channels_in = 3
        for number, (count, channels) in enumerate(LAYOUT, start=1):
            self.add_module(f"block{number}", _Block(count, channels_in, channels))
            channels_in = channels

    def forward(self, pictures: Tensor) -> Tensor:
        """The edge strength, mean of all depths; shapes and units as above."""
        features, maps = pictures - self.norm, []
        for number in range(1, len(LAYOUT) + 1):
            if number > 1:
                features = F.max_pool2d(features, 2)
            features, logits = self.get_submodule(f"block{number}")(features)
            maps.append(F.interpolate(logits, pictures.shape[2:], mode="bilinear", align_corners=False))
        return torch.stack(maps).mean(dim=0).sigmoid()


def load_hed(path: Path) -> HedNetwork:
    """The network with the weights of a .safetensors or .pth file, on the CPU, in evaluation mode.

    Of a .pth file only tensors are read (`weights_only`): nothing in it is run.

    Raises:
        ConfigError: the file is missing, can't be read, or holds other weights.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file of HED weights {path}; give the path of ControlNetHED.pth")
    weights = _read_tensors(path)
    network = HedNetwork()
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(getattr(tensor, "shape", ())) for name, tensor in weights.items()}
    if found != wanted:
        name = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))[0]
        raise ConfigError(
            f"{path} has not the layout of ControlNetHED.pth: {name} is {_shape(found, name)} there, "
            f"{_shape(wanted, name)} in the network; take ControlNetHED.pth"
        )
    network.load_state_dict(weights)
    return network.float().eval().requires_grad_(False)


def _read_tensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise ConfigError(
            f"{path} can't be read as HED weights ({type(error).__name__}); give ControlNetHED.pth, "
            "or the same weights as .safetensors"
        ) from error
    return weights if isinstance(weights, dict) else {}


def _shape(shapes: dict[str, tuple[int, ...]], name: str) -> str:
    return "x".join(map(str, shapes[name])) if name in shapes else "absent"


def hed_edges(
    image: Float, spacing_mm: Sequence[float], network: HedNetwork, slice_axis: int = 2, size: int = 384
) -> Float:
    """Edge strength in [0, 1], (I, J, K) as `image`, of every slice across `slice_axis` on its own.

    All slices share one grey scale, and nothing is rounded to 8 bits.

    Args:
        image: (I, J, K) in [-1, 1].
        spacing_mm: voxel size along i, j, k.
        network: as `load_hed` gives it, on the device it shall work on.
        slice_axis: 0, 1 or 2.
        size: pixels to which the longer side of a slice is enlarged (never reduced) on the way, square in mm: HED was
            made for photographs, and finds only the coarsest edges in a slice of 50 pixels.
    """
    volume = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, slice_axis, 0), dtype=np.float32))
    in_plane = [space for axis, space in enumerate(spacing_mm) if axis != slice_axis]
    sides = _enlarged(volume.shape[1:], in_plane, size)
    at_once = max(1, PIXELS // (sides[0] * sides[1]))
    edges = torch.cat([_edges_of(slices, network, sides) for slices in torch.split(volume, at_once)])
    return np.ascontiguousarray(np.moveaxis(edges.numpy(), 0, slice_axis))


def _enlarged(shape: Sequence[int], spacing_mm: Sequence[float], size: int) -> tuple[int, int]:
    """Sides of the enlarged slice, in proportion to its extent in mm, none below that of the slice."""
    extent = [count * space for count, space in zip(shape, spacing_mm, strict=True)]
    longest = max(size, *shape)
    a, b = (max(n, round(longest * length / max(extent))) for n, length in zip(shape, extent, strict=True))
    return a, b


def _edges_of(slices: Tensor, network: HedNetwork, sides: tuple[int, int]) -> Tensor:
    """Edges (N, A, B) of slices (N, A, B) in [-1, 1]."""
    grey = (slices[:, None].to(network.norm.device) + 1.0) * 127.5
    grey = F.interpolate(grey, sides, mode="bilinear", align_corners=False)
    lacking = [-side % COARSEST for side in sides]
    padded = F.pad(grey, (0, lacking[1], 0, lacking[0]), mode="replicate")  # else the coarse maps would shift
    with torch.inference_mode():
        edges = network(padded.expand(-1, 3, -1, -1))[..., : sides[0], : sides[1]]
    reduced = F.interpolate(edges, slices.shape[1:], mode="bilinear", align_corners=False, antialias=True)
    return reduced[:, 0].clamp(0.0, 1.0).cpu()
