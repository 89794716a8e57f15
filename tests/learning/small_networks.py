"""A denoiser so small that a step takes milliseconds."""

from __future__ import annotations

import torch

from diffboost3d.diffusion.codecs import PackingCodec
from diffboost3d.diffusion.networks import ConditionalDenoiser, DenoiserPlan, build_denoiser

CONTROLS = 3
LENGTH = 12  # of a prompt, in tokens


def small_denoiser(codec: PackingCodec, awake: bool = True) -> ConditionalDenoiser:
    """Random weights; `awake`: also where a ControlNet starts with zeros, so that the control has an effect."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = build_denoiser(small_plan(codec)).eval()
        if awake:
            for parameter in denoiser.controlnet.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.05)
    return denoiser


def small_plan(codec: PackingCodec) -> DenoiserPlan:
    """Its sizes."""
    return DenoiserPlan(
        channels=(16, 16),
        layers_per_level=1,
        attention_levels=1,
        head_channels=8,
        text_width=16,
        text_layers=1,
        text_length=LENGTH,
        latent_channels=codec.channels,
        factor=codec.factor,
        control_channels=CONTROLS,
    )
