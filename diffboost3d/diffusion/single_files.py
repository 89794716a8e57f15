"""Single-file checkpoints in the layout of the first Stable Diffusion and ControlNet code (ldm, cldm), as parts of `diffusers`.

Sizes are read off the tensors and the rest is what version 1 and 2 have in common or are told apart by, so nothing has to be
fetched. The renaming is that of `diffusers`.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch

from diffboost3d.errors import ConfigError

Tensors = dict[str, torch.Tensor]

UNET, CONTROL, VAE = "model.diffusion_model.", "control_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
HEAD_CHANNELS = 64  # of one attention head, in the text encoders and in the U-Net of version 2
HEADS = 8  # in the U-Net of version 1
LATENT_SCALE = 0.18215


def read_checkpoint(path: Path) -> Tensors:
    """The tensors of a .safetensors, .ckpt, .pth or .bin file, on the CPU. No code of the file is run.

    Raises:
        ConfigError: the file is missing, damaged, or holds more than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ConfigError(f"{path} is missing; give a folder or a file of weights on this machine")
    try:
        if path.suffix == ".safetensors":
            tensors: Tensors = load_file(path)
            return tensors
        read = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{path} is refused: it is damaged or holds more than weights, which could run as code; give a .safetensors file"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise ConfigError(
            f"{path} is no readable file of weights; fetch it again or give a .safetensors file"
        ) from error
    while isinstance(read, dict) and "state_dict" in read:
        read = read["state_dict"]
    if not isinstance(read, dict):
        raise ConfigError(f"{path} holds no named weights; give a Stable Diffusion or ControlNet checkpoint")
    return {name: value for name, value in read.items() if isinstance(value, torch.Tensor)}


def has_part(tensors: Tensors, prefix: str) -> bool:
    """Whether a checkpoint has a part: `UNET`, `CONTROL`, `VAE`, `CLIP` or `OPEN_CLIP`."""
    return any(name.startswith(prefix) for name in tensors)


def unet_from(tensors: Tensors, path: Path) -> Any:
    """The U-Net of a checkpoint; `path` is for messages. Raises ConfigError where it is not of version 1 or 2."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    own = _without(tensors, UNET)
    _require(own, "input_blocks.0.0.weight", path, "no Stable Diffusion U-Net")
    config = _unet_config(own, path)
    config |= {"out_channels": own["out.2.weight"].shape[0], "sample_size": 64}
    attends = [kind == "CrossAttnDownBlock2D" for kind in config["down_block_types"]]
    config["up_block_types"] = ["CrossAttnUpBlock2D" if one else "UpBlock2D" for one in reversed(attends)]
    return _filled(UNet2DConditionModel(**config), convert_ldm_unet_checkpoint(tensors, config), path, "U-Net")


def controlnet_from(tensors: Tensors, path: Path) -> Any:
    """The ControlNet of a full cldm checkpoint or of a file of its control part alone. Raises ConfigError."""
    from diffusers import ControlNetModel
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    own = _without(tensors, CONTROL) if has_part(tensors, CONTROL) else tensors
    if "controlnet_cond_embedding.conv_in.weight" in own:
        raise ConfigError(f"{path} has the names of diffusers; give the folder that it lies in, with its config.json")
    if "difference" in own:
        raise ConfigError(f"{path} holds a difference from a base, not a ControlNet; give the whole ControlNet")
    _require(own, "input_hint_block.0.weight", path, "no ControlNet")
    config = _unet_config(own, path)
    hints = [own[f"input_hint_block.{index}.weight"] for index in (0, 4, 8, 12)]
    config["conditioning_channels"] = hints[0].shape[1]
    config["conditioning_embedding_out_channels"] = [hint.shape[0] for hint in hints]
    return _filled(ControlNetModel(**config), convert_controlnet_checkpoint(own, config), path, "ControlNet")


def vae_from(tensors: Tensors, path: Path) -> Any:
    """The autoencoder of a checkpoint. Raises ConfigError."""
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    own = _without(tensors, VAE)
    _require(own, "encoder.conv_in.weight", path, "no autoencoder")
    levels = _count(own, r"encoder\.down\.(\d+)\.")
    config = {
        "in_channels": own["encoder.conv_in.weight"].shape[1],
        "out_channels": own["decoder.conv_out.weight"].shape[0],
        "block_out_channels": [own[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": _count(own, r"encoder\.down\.0\.block\.(\d+)\."),
        "latent_channels": own["post_quant_conv.weight"].shape[1],
        "sample_size": 512,
        "scaling_factor": LATENT_SCALE,
    }
    return _filled(AutoencoderKL(**config), convert_ldm_vae_checkpoint(tensors, config), path, "autoencoder")


def text_encoder_from(tensors: Tensors, path: Path) -> Any:
    """The text encoder of a checkpoint: CLIP (version 1), or OpenCLIP without its last layer (version 2). Raises ConfigError."""
    from transformers import CLIPTextModel

    if has_part(tensors, OPEN_CLIP):
        config, renamed = _open_clip(tensors)
    elif has_part(tensors, CLIP):
        config, renamed = _clip(tensors)
    else:
        raise ConfigError(f"{path} holds no CLIP text encoder; give a Stable Diffusion 1.x or 2.x checkpoint")
    model = CLIPTextModel(config)
    if not hasattr(model, "text_model"):  # transformers 5 has no wrapper around it
        renamed = {name.removeprefix("text_model."): value for name, value in renamed.items()}
    known = model.state_dict().keys()
    beside = ("position_ids", "text_projection.weight")  # buffers and heads that the text encoder alone has not
    renamed = {name: value for name, value in renamed.items() if name in known or not name.endswith(beside)}
    return _filled(model, renamed, path, "text encoder")


def _clip(tensors: Tensors) -> tuple[Any, Tensors]:
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint

    own = _without(tensors, CLIP)
    layers = _count(own, r"text_model\.encoder\.layers\.(\d+)\.")
    embeddings = "text_model.embeddings.{}_embedding.weight"
    config = _text_config(
        own[embeddings.format("token")],
        own[embeddings.format("position")],
        own["text_model.encoder.layers.0.mlp.fc1.weight"],
        layers,
        "quick_gelu",
    )
    return config, convert_ldm_clip_checkpoint(tensors)


def _open_clip(tensors: Tensors) -> tuple[Any, Tensors]:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    own = _without(tensors, OPEN_CLIP)
    layers = _count(own, r"transformer\.resblocks\.(\d+)\.") - 1  # version 2 reads the last layer but one
    first = own["transformer.resblocks.0.mlp.c_fc.weight"]
    config = _text_config(own["token_embedding.weight"], own["positional_embedding"], first, layers, "gelu")
    last = f"{OPEN_CLIP}transformer.resblocks.{layers}."
    read = {name: value for name, value in tensors.items() if not name.startswith(last)}
    read.pop(f"{OPEN_CLIP}text_projection", None)
    renamed: Tensors = convert_open_clip_checkpoint(_Sized(config), read)
    return config, renamed


class _Sized:
    """What the renaming asks a text model for."""

    def __init__(self, config: Any) -> None:
        self.config = config


def _text_config(tokens: torch.Tensor, places: torch.Tensor, first: torch.Tensor, layers: int, act: str) -> Any:
    from transformers import CLIPTextConfig

    width = tokens.shape[1]
    return CLIPTextConfig(
        vocab_size=tokens.shape[0],
        hidden_size=width,
        projection_dim=width,
        intermediate_size=first.shape[0],
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // HEAD_CHANNELS),
        max_position_embeddings=places.shape[0],
        hidden_act=act,
        bos_token_id=tokens.shape[0] - 2,
        eos_token_id=tokens.shape[0] - 1,
    )


def _unet_config(own: Tensors, path: Path) -> dict[str, Any]:
    """The arguments that the U-Net and its control branch share, from tensors named as in ldm without prefix."""
    if any(name.startswith("label_emb.") for name in own):
        raise ConfigError(f"{path} is of another family (SDXL, unCLIP, ...); give Stable Diffusion 1.x or 2.x")
    inputs = _count(own, r"input_blocks\.(\d+)\.")
    levels = 1 + sum(bool(re.fullmatch(r"input_blocks\.\d+\.0\.op\.weight", name)) for name in own)
    layers = inputs // levels - 1  # each level: its blocks, and a convolution before it
    firsts = [1 + level * (layers + 1) for level in range(levels)]
    channels = [own[f"input_blocks.{first}.0.out_layers.3.weight"].shape[0] for first in firsts]
    attends = [f"input_blocks.{first}.1.proj_in.weight" in own for first in firsts]
    linear = own["middle_block.1.proj_in.weight"].ndim == 2  # version 2
    return {
        "in_channels": own["input_blocks.0.0.weight"].shape[1],
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if one else "DownBlock2D" for one in attends],
        "cross_attention_dim": own["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        # diffusers names this the head dimension but reads the number of heads
        "attention_head_dim": [max(1, width // HEAD_CHANNELS) for width in channels] if linear else HEADS,
        "use_linear_projection": linear,
        "upcast_attention": linear,
    }


def _without(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _count(tensors: Tensors, pattern: str) -> int:
    """How many different numbers stand in the names."""
    return len({match.group(1) for name in tensors if (match := re.match(pattern, name))})


def _require(tensors: Tensors, name: str, path: Path, otherwise: str) -> None:
    if name not in tensors:
        raise ConfigError(
            f"{path} holds {otherwise}; give a checkpoint of Stable Diffusion 1.x or 2.x, or its ControlNet"
        )


def _filled(model: Any, tensors: Tensors, path: Path, part: str) -> Any:
    """The model with these weights, all of them, in single precision."""
    try:
        model.load_state_dict(tensors)
    except (RuntimeError, AttributeError) as error:
        raise ConfigError(f"the {part} in {path} has not the layout of Stable Diffusion 1.x or 2.x") from error
    return model.eval()
