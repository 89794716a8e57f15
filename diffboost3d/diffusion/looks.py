"""An appearance vocabulary: words, and what each does to an image.

In training a share of the slices is altered and the word joins their prompt, so that the word means that look when it
is asked for in sampling. The control image stays as it was: a look changes no structure.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

Draw = Callable[[float, float], float]  # a uniform number between two bounds
Noise = Callable[[torch.Size], torch.Tensor]


def _gamma(image: torch.Tensor, gamma: float) -> torch.Tensor:
    return 2.0 * ((image.clamp(-1.0, 1.0) + 1.0) / 2.0) ** gamma - 1.0


def _contrast(image: torch.Tensor, factor: float) -> torch.Tensor:
    return (image - image.mean()) * factor + image.mean()


def _blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of (..., A, B), sigma in voxels."""
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    padded = F.pad(image.reshape(-1, 1, *image.shape[-2:]), (radius, radius, radius, radius), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1)).view(image.shape)


def _shading(image: torch.Tensor, draw: Draw) -> torch.Tensor:
    """A slow gain field from one side to the other, as of a surface coil."""
    ramp_a = torch.linspace(-1.0, 1.0, image.shape[-2])[:, None]
    ramp_b = torch.linspace(-1.0, 1.0, image.shape[-1])[None, :]
    gain = 1.0 + draw(-0.35, 0.35) * ramp_a + draw(-0.35, 0.35) * ramp_b
    return (image + 1.0) * gain - 1.0


LOOKS: dict[str, Callable[[torch.Tensor, Draw, Noise], torch.Tensor]] = {
    "strong contrast": lambda image, draw, _: _contrast(image, draw(1.25, 1.6)),
    "weak contrast": lambda image, draw, _: _contrast(image, draw(0.55, 0.8)),
    "brighter": lambda image, draw, _: image + draw(0.15, 0.35),
    "darker": lambda image, draw, _: image - draw(0.15, 0.35),
    "bright mid-tones": lambda image, draw, _: _gamma(image, draw(0.55, 0.8)),
    "dark mid-tones": lambda image, draw, _: _gamma(image, draw(1.25, 1.7)),
    "sharpened": lambda image, draw, _: image + draw(0.5, 1.2) * (image - _blur(image, 1.0)),
    "blurred": lambda image, draw, _: _blur(image, draw(0.6, 1.2)),
    "grainy": lambda image, draw, noise: image + draw(0.05, 0.15) * noise(image.shape),
    "uneven brightness": lambda image, draw, _: _shading(image, draw),
}


def with_look(image: torch.Tensor, look: str, seed: int) -> torch.Tensor:
    """An image (1, A, B), or a stack (S, 1, A, B), in [-1, 1] given one of `LOOKS`, its strength drawn by the seed."""
    random = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=random))

    return LOOKS[look](image, draw, lambda shape: torch.randn(shape, generator=random)).clamp(-1.0, 1.0)
