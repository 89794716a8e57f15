"""A small 3D U-Net that takes noise of any known strength from volumes, preconditioned as in Karras et al. 2022."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

WAVES = 8  # of the strength of noise, in each of sine and cosine
EMBEDDED = 64


@dataclass(frozen=True)
class RefinerPlan:
    """Sizes and units of a refiner.

    Attributes:
        channels: of each level; the first is that of whole voxels, each further one halves the sides.
        blocks: residual blocks of a level, on the way down and on the way up.
        sigma: least and greatest standard deviation of the noise that it learns, in units of [-1, 1].
        spread: standard deviation of its training images (sigma_data of arXiv 2206.00364).
        texture_mean, texture_spread: of `texture.texture_of` over its training images.
        image_channels: N, which are refined jointly.
    """

    channels: tuple[int, ...]
    blocks: int
    sigma: tuple[float, float]
    spread: float
    texture_mean: tuple[float, ...]
    texture_spread: tuple[float, ...]
    image_channels: int = 1

    @property
    def divisor(self) -> int:
        """Sides are multiples of this."""
        return int(2 ** (len(self.channels) - 1))


class Refiner(nn.Module):
    """What is left of noisy volumes (B, N, I, J, K) without their noise.

    No layer normalises over space, so away from a patch's borders what it does to a voxel doesn't depend on the patch's size.
    """

    def __init__(self, plan: RefinerPlan) -> None:
        super().__init__()
        self.plan = plan
        finest, count = plan.channels[0], plan.image_channels
        self.embed = nn.Sequential(
            nn.Linear(2 * WAVES + len(plan.texture_mean), EMBEDDED),
            nn.SiLU(),
            nn.Linear(EMBEDDED, EMBEDDED),
            nn.SiLU(),
        )
        self.first = nn.Conv3d(count, finest, 3, padding=1)
        self.down, self.up, self.join = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for upper, lower in pairwise(plan.channels):
            self.down.append(nn.Conv3d(upper, lower, 2, stride=2))
            self.up.append(nn.ConvTranspose3d(lower, upper, 2, stride=2))
            self.join.append(nn.Conv3d(2 * upper, upper, 1))
        self.before = nn.ModuleList(_Blocks(width, plan.blocks) for width in plan.channels)
        self.after = nn.ModuleList(_Blocks(width, plan.blocks) for width in plan.channels)
        self.last = nn.Conv3d(finest, count, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, noisy: torch.Tensor, sigma: torch.Tensor, texture: torch.Tensor) -> torch.Tensor:
        """The clean volumes, as far as they are known: c_skip x + c_out F(c_in x, c_noise), arXiv 2206.00364, table 1.

        Args:
            noisy: sides are multiples of `plan.divisor`. sigma: (B,), of the noise. texture: (B, 3 N), of `texture_of`.
        """
        s, own = sigma.view(-1, 1, 1, 1, 1), self.plan.spread
        whole = (s * s + own * own).sqrt()
        predicted = self._network(noisy / whole, self._embedded(sigma, texture))
        clean: torch.Tensor = noisy * (own / whole) ** 2 + predicted * (s * own / whole)
        return clean

    def losses(
        self, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor, texture: torch.Tensor
    ) -> torch.Tensor:
        """Mean squared error of each volume (B,), weighted by 1 / c_out^2, so that every strength of noise counts alike."""
        s, own = sigma.view(-1, 1, 1, 1, 1), self.plan.spread
        weight = (s * s + own * own) / (s * own) ** 2
        error = self(clean + s * noise, sigma, texture).float() - clean
        losses: torch.Tensor = (weight * error.square()).flatten(1).mean(dim=1)
        return losses

    def _embedded(self, sigma: torch.Tensor, texture: torch.Tensor) -> torch.Tensor:
        waves = 0.125 * sigma.log()[:, None] * 2.0 ** torch.arange(WAVES, device=sigma.device)
        mean, spread = (texture.new_tensor(numbers) for numbers in (self.plan.texture_mean, self.plan.texture_spread))
        own = ((texture - mean) / spread).clamp(-3.0, 3.0)
        embedded: torch.Tensor = self.embed(torch.cat([waves.sin(), waves.cos(), own], dim=1))
        return embedded

    def _network(self, scaled: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        passed, kept = self.first(scaled), []
        for level, blocks in enumerate(self.before):
            passed = blocks(passed if level == 0 else self.down[level - 1](passed), embedded)
            kept.append(passed)
        for level in reversed(range(len(self.after))):
            if level < len(self.up):
                passed = self.join[level](torch.cat([self.up[level](passed), kept[level]], dim=1))
            passed = self.after[level](passed, embedded)
        made: torch.Tensor = self.last(F.silu(passed))
        return made


class _Modulation(nn.Module):
    """Scales and shifts channels by what is embedded; at first not at all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(EMBEDDED, 2 * channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, maps: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        scale, shift = self.linear(embedded)[..., None, None, None].chunk(2, dim=1)
        modulated: torch.Tensor = maps * (1.0 + scale) + shift
        return modulated


class _Block(nn.Module):
    """A residual block: what a voxel's neighbourhood says, then a mixture of channels; at first it changes nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.around, self.mix = nn.Conv3d(channels, channels, 3, padding=1), nn.Conv3d(channels, channels, 1)
        self.modulate = _Modulation(channels)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]

    def forward(self, maps: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = self.mix(F.silu(self.modulate(self.around(F.silu(maps)), embedded)))
        return maps + changed


class _Blocks(nn.Module):
    """The residual blocks of a level."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(channels) for _ in range(count))

    def forward(self, maps: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            maps = block(maps, embedded)
        return maps


def drawn_sigma(share: float, sigma: tuple[float, float]) -> float:
    """The strength of noise that lies so far (0 to 1) between the least and the greatest, on a logarithmic scale."""
    least, most = sigma
    return least * math.exp(share * math.log(most / least))
