"""The conditional denoiser: a U-Net with text cross-attention and a ControlNet branch for the edges (arXiv 2302.05543).

The parts are those of `diffusers` and `transformers`, so what is saved is a folder that those libraries open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from diffboost3d.diffusion.stacks import StackMixer
from diffboost3d.diffusion.text import END, START, VOCABULARY, ByteTokenizer, Tokenizer


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


class ConditionalDenoiser(torch.nn.Module):
    """Predicts the diffusion target of noisy maps from timestep, text and control image.

    Args:
        unet, controlnet: of `diffusers`. text_encoder: of `transformers`. tokenizer: what the text encoder reads.
        factor: image voxels a map voxel, along each side.

    Attributes:
        mixer: layers along the slice axis, or None.
    """

    def __init__(self, unet: Any, controlnet: Any, text_encoder: Any, tokenizer: Tokenizer, factor: int) -> None:
        super().__init__()
        self.unet, self.controlnet, self.text_encoder = unet, controlnet, text_encoder
        self.tokenizer, self.factor = tokenizer, factor
        self.mixer: StackMixer | None = None

    def mix_along_slices(self) -> None:
        """Add layers along the slice axis, where there are none; they start at no effect."""
        if self.mixer is None:
            self.mixer = StackMixer(self.unet)

    @property
    def divisor(self) -> int:
        """Image sides must be multiples of this."""
        return int(self.factor * 2 ** (len(self.unet.config.block_out_channels) - 1))

    @property
    def control_channels(self) -> int:
        """Channels of the control image."""
        return int(self.controlnet.config.conditioning_channels)

    def forward(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        tokens: torch.Tensor,
        control: torch.Tensor,
        slices: int = 1,
    ) -> torch.Tensor:
        """The prediction (B, c, h, w).

        Args:
            noisy: maps (B, c, h, w). timesteps: (B,). tokens: (B, T), or (1, T) for a prompt common to all.
            control: control images (B, C, A, B) at full resolution in [0, 1]; zeros are "no control".
            slices: the batch consists of stacks of so many consecutive slices, which layers along the slice axis mix.
        """
        text = self.embed(tokens).expand(len(noisy), -1, -1)
        return self.predict(noisy, timesteps, text, control, slices=slices)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Text embeddings (B, T, width)."""
        embedded: torch.Tensor = self.text_encoder(input_ids=tokens).last_hidden_state
        return embedded

    def predict(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        text: torch.Tensor,
        control: torch.Tensor | None,
        strength: float = 1.0,
        guess_mode: bool = False,
        slices: int = 1,
    ) -> torch.Tensor:
        """As `forward`, with embedded text (B, T, width).

        Args:
            control: None leaves the control branch out, as does strength 0.
            strength: scale of the control residuals.
            guess_mode: the residuals fade from 1 at the deepest to 0.1 at the shallowest level, as in `diffusers`.
        """
        residuals: dict[str, Any] = {}
        if control is not None and strength:
            residuals = self._residuals(noisy, timesteps, text, control, strength, guess_mode)
        kind = self.unet.dtype  # a locked U-Net may be kept in half precision
        if self.mixer is not None:
            self.mixer.slices = slices
        predicted: torch.Tensor = self.unet(noisy.to(kind), timesteps, text.to(kind), return_dict=False, **residuals)[0]
        return predicted.to(noisy.dtype)

    def _residuals(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        text: torch.Tensor,
        control: torch.Tensor,
        strength: float,
        guess_mode: bool,
    ) -> dict[str, Any]:
        """What the control branch adds to the U-Net, in the U-Net's type."""
        noisy, text, control = (tensor.to(self.controlnet.dtype) for tensor in (noisy, text, control))
        down, middle = self.controlnet(
            noisy, timesteps, text, control, conditioning_scale=strength, guess_mode=guess_mode, return_dict=False
        )
        kind = self.unet.dtype
        return {
            "down_block_additional_residuals": [residual.to(kind) for residual in down],
            "mid_block_additional_residual": middle.to(kind),
        }

    def lock_base(self, kind: torch.dtype = torch.float32) -> None:
        """Train the control branch alone (and layers along the slices), as published; what is locked is kept in this type."""
        for part in (self.unet, self.text_encoder):
            part.requires_grad_(False).to(kind)

    def spare_memory(self, attention_slicing: bool, gradient_checkpointing: bool) -> None:
        """Slower, with less memory: attention by slices of heads; activations computed again for the gradients."""
        for part in (self.unet, self.controlnet):
            if attention_slicing:
                part.set_attention_slice("auto")
            if gradient_checkpointing:
                part.enable_gradient_checkpointing()


def build_denoiser(plan: DenoiserPlan) -> ConditionalDenoiser:
    """An untrained denoiser; its weights come from torch's global generator."""
    unet = _unet(plan)
    return ConditionalDenoiser(
        unet, _controlnet(unet, plan), _text_encoder(plan), ByteTokenizer(plan.text_length), plan.factor
    )


def adapt_control_channels(controlnet: Any, channels: int, edges: int = 1) -> None:
    """Let a control branch read another number of control channels, in place.

    More channels: the new ones start at no effect; where the first `edges` are of a slice among its neighbours and the old ones
    were fewer, these become the middle ones of them. Fewer: a single channel acts as if it were repeated over the old ones (so a
    branch made for grey edges in RGB gives the same); otherwise the last ones are dropped.
    """
    hint = controlnet.controlnet_cond_embedding
    old = hint.conv_in
    before = old.in_channels
    if before == channels:
        return
    new = torch.nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding).to(old.weight)
    with torch.no_grad():
        new.weight.zero_()
        kept = min(before, channels)
        first = max(0, edges - before) // 2
        new.weight[:, first : first + kept] = old.weight.sum(1, keepdim=True) if channels == 1 else old.weight[:, :kept]
        new.bias.copy_(old.bias)  # type: ignore[union-attr]
    hint.conv_in = new
    controlnet.register_to_config(conditioning_channels=channels)


def widen_channels(denoiser: ConditionalDenoiser, count: int) -> None:
    """Let a denoiser of one image channel denoise `count` of them jointly, in place.

    Each channel begins with the weights of the single one: the first convolutions see the mean over the channels, the last one
    gives each channel what the single one got. So for maps that are alike in all channels it predicts what it predicted before.
    """
    for part in (denoiser.unet, denoiser.controlnet):
        part.conv_in = _repeated(part.conv_in, count, of_inputs=True)
        part.register_to_config(in_channels=part.conv_in.in_channels)
    denoiser.unet.conv_out = _repeated(denoiser.unet.conv_out, count, of_inputs=False)
    denoiser.unet.register_to_config(out_channels=denoiser.unet.conv_out.out_channels)


def _repeated(old: Any, count: int, of_inputs: bool) -> torch.nn.Conv2d:
    """A convolution whose inputs or outputs are there `count` times."""
    inputs, outputs = (
        (old.in_channels * count, old.out_channels) if of_inputs else (old.in_channels, old.out_channels * count)
    )
    new = torch.nn.Conv2d(inputs, outputs, old.kernel_size, old.stride, old.padding).to(old.weight)
    with torch.no_grad():
        new.weight.copy_(old.weight.repeat(1, count, 1, 1) / count if of_inputs else old.weight.repeat(count, 1, 1, 1))
        new.bias.copy_(old.bias if of_inputs else old.bias.repeat(count))  # type: ignore[union-attr]
    return new


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
