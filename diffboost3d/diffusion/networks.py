"""The conditional denoiser: a U-Net with text cross-attention and a ControlNet branch for the edges (arXiv 2302.05543).

The parts are those of `diffusers` and `transformers`, so what is saved is a folder that those libraries open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from diffboost3d.diffusion.text import END, START, VOCABULARY


@dataclass(frozen=True)
class DenoiserPlan:
    """The sizes of a denoiser; see the section `diffusion.denoiser` of the configuration.

    Attributes:
        latent_channels, factor: of the codec. control_channels: of the control image, at full resolution.
    """

    channels: tuple[int, ...]
    layers_per_level: int
    attention_levels: int
    head_channels: int
    text_width: int
    text_layers: int
    text_length: int
    latent_channels: int
    factor: int
    control_channels: int

    @property
    def divisor(self) -> int:
        """Image sides must be multiples of this."""
        return int(self.factor * 2 ** (len(self.channels) - 1))


class ConditionalDenoiser(torch.nn.Module):
    """Predicts the diffusion target of noisy maps from timestep, text and control image."""

    def __init__(self, plan: DenoiserPlan) -> None:
        super().__init__()
        self.plan = plan
        self.unet = _unet(plan)
        self.controlnet = _controlnet(self.unet, plan)
        self.text_encoder = _text_encoder(plan)

    def forward(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        tokens: torch.Tensor,
        control: torch.Tensor,
        control_strength: float = 1.0,
    ) -> torch.Tensor:
        """The prediction (B, c, h, w).

        Args:
            noisy: maps (B, c, h, w). timesteps: (B,). tokens: (B, T), or (1, T) for a prompt common to all.
            control: control images (B, C, A, B) at full resolution in [0, 1]; zeros are "no control".
        """
        text = self.embed(tokens).expand(len(noisy), -1, -1)
        return self.predict(noisy, timesteps, text, control, control_strength)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Text embeddings (B, T, width)."""
        embedded: torch.Tensor = self.text_encoder(input_ids=tokens).last_hidden_state
        return embedded

    def predict(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor, control: torch.Tensor, strength: float
    ) -> torch.Tensor:
        """As `forward`, with embedded text."""
        down, middle = self.controlnet(noisy, timesteps, text, control, conditioning_scale=strength, return_dict=False)
        predicted: torch.Tensor = self.unet(
            noisy,
            timesteps,
            text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        return predicted

    def lock_base(self) -> None:
        """Train the control branch alone, as published."""
        self.unet.requires_grad_(False)
        self.text_encoder.requires_grad_(False)


def _unet(plan: DenoiserPlan) -> Any:
    from diffusers import UNet2DConditionModel

    levels = len(plan.channels)
    attends = [level >= levels - plan.attention_levels for level in range(levels)]
    groups = math.gcd(16, *plan.channels)
    while groups > 1 and min(plan.channels) < 4 * groups:
        groups //= 2  # norms of one or two channels would take the added time embedding out again
    return UNet2DConditionModel(
        in_channels=plan.latent_channels,
        out_channels=plan.latent_channels,
        block_out_channels=plan.channels,
        layers_per_block=plan.layers_per_level,
        down_block_types=tuple("CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
        cross_attention_dim=plan.text_width,
        # diffusers names this the head dimension but reads the number of heads
        attention_head_dim=tuple(max(1, width // plan.head_channels) for width in plan.channels),
        norm_num_groups=groups,
    )


def _controlnet(unet: Any, plan: DenoiserPlan) -> Any:
    from diffusers import ControlNetModel

    halvings = int(math.log2(plan.factor))  # the hint is brought from full resolution to that of the maps
    hint = tuple(min(16 * 2**level, 256) for level in range(halvings + 1))
    return ControlNetModel.from_unet(
        unet, conditioning_channels=plan.control_channels, conditioning_embedding_out_channels=hint
    )


def _text_encoder(plan: DenoiserPlan) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=plan.text_width,
            intermediate_size=4 * plan.text_width,
            num_hidden_layers=plan.text_layers,
            num_attention_heads=max(1, plan.text_width // 32),
            max_position_embeddings=plan.text_length,
            bos_token_id=START,
            eos_token_id=END,
            pad_token_id=END,
        )
    )
