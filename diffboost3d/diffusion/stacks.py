"""Layers along the slice axis inside a 2D U-Net, so that neighbouring slices are denoised together and fit.

A convolution over three neighbouring slices stands behind every residual block, as temporal layers do in video models built
on image models (arXiv 2209.14792). It starts at no effect: a 2D generator that is given such layers is the same generator
until they are trained on stacks of consecutive slices.
"""

from __future__ import annotations

from typing import Any

import torch


class AlongStack(torch.nn.Module):
    """x + convolution over neighbouring slices; the first and last slice of a stack are repeated beyond it.

    Args:
        channels: of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = torch.nn.GroupNorm(1, channels)
        self.mix = torch.nn.Conv1d(channels, channels, 3, padding=1, padding_mode="replicate")
        self.out = torch.nn.Conv1d(channels, channels, 1)
        torch.nn.init.zeros_(self.out.weight)
        torch.nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, features: torch.Tensor, slices: int) -> torch.Tensor:
        """Features (B x slices, C, h, w), the slices of a stack one after the other."""
        _, channels, height, width = features.shape
        stacks = self.norm(features).view(-1, slices, channels, height * width)
        lines = stacks.permute(0, 3, 2, 1).reshape(-1, channels, slices)  # one a pixel of a stack
        mixed = self.out(torch.nn.functional.silu(self.mix(lines)))
        back = mixed.view(-1, height * width, channels, slices).permute(0, 3, 2, 1)
        moved: torch.Tensor = features + back.reshape(features.shape)
        return moved


class StackMixer(torch.nn.Module):
    """The layers of a U-Net, which act through hooks of its residual blocks.

    Args:
        unet: of `diffusers`; it is not a part of this module.

    Attributes:
        slices: of the stacks that the U-Net's batch consists of; 1: the layers don't act. It stays set after a call, as
            gradient checkpointing calls the blocks again in the backward pass.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        from diffusers.models.resnet import ResnetBlock2D

        blocks = [module for module in unet.modules() if isinstance(module, ResnetBlock2D)]
        self.layers = torch.nn.ModuleList([AlongStack(block.out_channels) for block in blocks])
        self.slices = 1
        for number, block in enumerate(blocks):
            block.register_forward_hook(self._hook(number))

    def _hook(self, number: int) -> Any:
        def mix(_block: Any, _inputs: Any, features: torch.Tensor) -> torch.Tensor:
            if self.slices == 1:
                return features
            layer = self.layers[number]
            kind = next(layer.parameters()).dtype  # a locked U-Net may be kept in half precision
            mixed: torch.Tensor = layer(features.to(kind), self.slices).to(features.dtype)
            return mixed

        return mix
