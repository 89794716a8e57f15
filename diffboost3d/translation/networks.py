"""The two networks of Pix2Pix (Isola et al. 2017, arXiv 1611.07004): a U-Net that translates, and one that judges patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

DROPPED_LEVELS = 3  # the deepest levels of the decoder have dropout
WIDEST = 8  # times the channels of the first level


@dataclass(frozen=True)
class TranslatorPlan:
    """Sizes of the networks; see the section `pix2pix` of the configuration.

    Attributes:
        control_channels: of what is translated. depth: levels, each of half the sides; `fitting_depth` tells how many fit.
        image_channels: of what it is translated into.
    """

    control_channels: int
    channels: int
    depth: int
    dropout: float
    discriminator_levels: int
    image_channels: int = 1

    @property
    def divisor(self) -> int:
        """Sides of slices are multiples of this."""
        return int(2**self.depth)


def fitting_depth(size: Sequence[int], most: int) -> int:
    """Levels of a generator for slices (A, B): down to one pixel of the shorter side, at most `most`, at least 2."""
    return max(2, min(most, int(math.log2(min(size)))))


def fitting_levels(size: Sequence[int], most: int) -> int:
    """Halvings of a discriminator that still judges a patch of slices (A, B) as wide as three of its last pixels."""
    return max(1, min(most, int(math.log2(min(size) / 3))))


def _width(plan: TranslatorPlan, level: int) -> int:
    return plan.channels * min(1 << level, WIDEST)


class Translator(nn.Module):
    """Control (B, C, A, B) in [0, 1] to an image (B, N, A, B) in [-1, 1]; sides are multiples of `plan.divisor`.

    Normalised by the statistics of each slice (the paper's batch of one). Its noise is dropout, which acts whether the module
    trains or not.
    """

    def __init__(self, plan: TranslatorPlan) -> None:
        super().__init__()
        self.plan = plan
        widths = [_width(plan, level) for level in range(plan.depth)]
        inputs = [plan.control_channels, *widths[:-1]]
        # the first level isn't normalised, as in the paper; nor the deepest, which may be a single pixel
        self.down = nn.ModuleList(
            _down(inputs[level], widths[level], level > 0, 0 < level < plan.depth - 1) for level in range(plan.depth)
        )
        self.up = nn.ModuleList()
        for level in reversed(range(plan.depth)):
            joined = widths[level] * (1 if level == plan.depth - 1 else 2)
            dropped = plan.dropout if level > 0 and plan.depth - 1 - level < DROPPED_LEVELS else 0.0
            self.up.append(_up(joined, inputs[level] if level else plan.image_channels, level > 0, dropped))

    def forward(self, control: torch.Tensor) -> torch.Tensor:
        """The image."""
        passed, kept = control * 2.0 - 1.0, []
        for level in self.down:
            passed = level(passed)
            kept.append(passed)
        for number, level in enumerate(self.up):
            passed = level(passed if number == 0 else torch.cat([passed, kept[-1 - number]], dim=1))
        return torch.tanh(passed)


class _AlwaysDropout(nn.Dropout):
    """Drops whether it trains or not."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        return nn.functional.dropout(input, self.p, training=True)


def _down(inputs: int, outputs: int, activated: bool, normalised: bool) -> nn.Sequential:
    parts: list[nn.Module] = [nn.LeakyReLU(0.2)] if activated else []
    parts.append(nn.Conv2d(inputs, outputs, 4, 2, 1))
    return nn.Sequential(*parts, *([nn.InstanceNorm2d(outputs)] if normalised else []))


def _up(inputs: int, outputs: int, normalised: bool, dropout: float) -> nn.Sequential:
    parts: list[nn.Module] = [nn.ReLU(), nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)]
    parts += [nn.InstanceNorm2d(outputs)] if normalised else []
    return nn.Sequential(*parts, *([_AlwaysDropout(dropout)] if dropout else []))


class PatchDiscriminator(nn.Module):
    """Image (B, N, A, B) and control (B, C, A, B) to logits, one for each patch, that the image is a real one of the control."""

    def __init__(self, plan: TranslatorPlan) -> None:
        super().__init__()
        levels = plan.discriminator_levels
        seen = plan.image_channels + plan.control_channels
        parts: list[nn.Module] = [nn.Conv2d(seen, plan.channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        for level in range(1, levels + 1):
            step = 2 if level < levels else 1
            width = _width(plan, level)
            parts += [
                nn.Conv2d(_width(plan, level - 1), width, 4, step, 1),
                nn.InstanceNorm2d(width),
                nn.LeakyReLU(0.2),
            ]
        self.judge = nn.Sequential(*parts, nn.Conv2d(_width(plan, levels), 1, 4, 1, 1))

    def forward(self, image: torch.Tensor, control: torch.Tensor) -> torch.Tensor:
        """The logits (B, 1, a, b)."""
        judged: torch.Tensor = self.judge(torch.cat([image, control * 2.0 - 1.0], dim=1))
        return judged


def initialise(network: nn.Module) -> None:
    """First weights of the paper: normal, of standard deviation 0.02; drawn from torch's global generator."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def build(plan: TranslatorPlan) -> tuple[Translator, PatchDiscriminator]:
    """Both networks with first weights."""
    both = Translator(plan), PatchDiscriminator(plan)
    for network in both:
        initialise(network)
    return both
