"""Stable Diffusion 1.x and 2.x with a ControlNet (arXiv 2112.10752, 2302.05543) from weights on this machine.

Nothing is fetched from anywhere, and no file's code is run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffboost3d.diffusion.autoencoder import AutoencoderCodec
from diffboost3d.diffusion.networks import ConditionalDenoiser, adapt_control_channels
from diffboost3d.diffusion.schedule import make_scheduler
from diffboost3d.diffusion.single_files import (
    CONTROL,
    Tensors,
    controlnet_from,
    has_part,
    read_checkpoint,
    text_encoder_from,
    unet_from,
    vae_from,
)
from diffboost3d.diffusion.text import ClipTokenizer
from diffboost3d.diffusion.weights import read_part
from diffboost3d.errors import ConfigError

TIMESTEPS = 1000
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "controlnet")  # folders below a base


def load_stable_diffusion(
    base: Path,
    control: Path | None,
    control_channels: int,
    tokenizer: Path | None = None,
    prediction: str = "epsilon",
    edge_channels: int = 1,
) -> tuple[ConditionalDenoiser, Any, AutoencoderCodec]:
    """(denoiser, scheduler, codec) on the CPU, in single precision, in evaluation mode.

    Args:
        base: a folder of `diffusers`, or a single file in the layout of ldm or cldm.
        control: a folder of a `ControlNetModel`, or a single file in the layout of cldm. None: the base's own where it has
            one, else a copy of the base's encoder that starts at no effect (random numbers: torch's global generator).
        control_channels: of our control images; see `networks.adapt_control_channels`.
        tokenizer: folder of the CLIP vocabulary. None: the base folder's.
        prediction: what a single-file base predicts, which it doesn't say; a folder's scheduler does.
        edge_channels: of the control channels those of a slice's edges and its neighbours', which come first.

    Raises:
        ConfigError: something is missing, is refused, or does not fit the base.
    """
    words = ClipTokenizer(_vocabulary(base, tokenizer))
    checkpoint = None if base.is_dir() else read_checkpoint(base)
    unet, vae, text_encoder = _from_folder(base) if checkpoint is None else _from_file(checkpoint, base)
    if unet.config.in_channels != vae.config.latent_channels:
        raise ConfigError(
            f"{base} reads {unet.config.in_channels} channels where its autoencoder has {vae.config.latent_channels}; give a "
            "plain base, not one for inpainting or depth"
        )
    controlnet = _control(base, checkpoint, control, unet, control_channels)
    adapt_control_channels(controlnet, control_channels, edge_channels)
    scheduler = _scheduler(base, prediction)
    codec = AutoencoderCodec(vae)
    reads = 2 ** (len(controlnet.config.conditioning_embedding_out_channels) - 1)
    if codec.factor != reads:
        raise ConfigError(
            f"{base} has an autoencoder of factor {codec.factor}; its ControlNet reads images of factor {reads}"
        )
    return ConditionalDenoiser(unet, controlnet, text_encoder, words, codec.factor).eval(), scheduler, codec


def weight_files(path: Path) -> list[Path]:
    """The files that `load_stable_diffusion` may read below a path, sorted: for a digest."""
    if path.is_file():
        return [path]
    folders = [path / part for part in PARTS if (path / part).is_dir()] or [path]
    return sorted(
        file for folder in folders for kind in ("safetensors", "json", "txt") for file in folder.glob(f"*.{kind}")
    )


def _from_folder(base: Path) -> tuple[Any, Any, Any]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    return (
        read_part(UNet2DConditionModel, base / "unet"),
        read_part(AutoencoderKL, base / "vae"),
        read_part(CLIPTextModel, base / "text_encoder"),
    )


def _from_file(checkpoint: Tensors, base: Path) -> tuple[Any, Any, Any]:
    return unet_from(checkpoint, base), vae_from(checkpoint, base), text_encoder_from(checkpoint, base)


def _control(base: Path, checkpoint: Tensors | None, control: Path | None, unet: Any, channels: int) -> Any:
    """The control branch: the one given, else the base's own, else a copy of the base's encoder."""
    from diffusers import ControlNetModel

    if control is not None and control.is_dir():
        controlnet = read_part(ControlNetModel, control)
    elif control is not None:
        controlnet = controlnet_from(read_checkpoint(control), control)
    elif (base / "controlnet").is_dir():
        controlnet = read_part(ControlNetModel, base / "controlnet")
    elif checkpoint is not None and has_part(checkpoint, CONTROL):
        controlnet = controlnet_from(checkpoint, base)
    else:
        return ControlNetModel.from_unet(unet, conditioning_channels=channels)
    for name in ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim"):
        has, needs = controlnet.config[name], unet.config[name]
        if _plain(has) != _plain(needs):
            raise ConfigError(
                f"{control or base}: the ControlNet has {name} {has}, {base} {needs}; give one made for that base"
            )
    return controlnet


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _scheduler(base: Path, prediction: str) -> Any:
    """DDIM of the schedule that the base was trained with; where its folder is silent, that of the published models."""
    from diffusers import DDIMScheduler

    if not base.is_dir():
        return make_scheduler(TIMESTEPS, "scaled_linear", prediction, zero_terminal_snr=False)
    path = base / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        raise ConfigError(f"{path} is missing; give a whole diffusers folder")
    config = json.loads(path.read_text(encoding="utf-8"))
    published = {"set_alpha_to_one": False, "steps_offset": 1}
    # latents aren't bounded by 1: diffusers' own pipeline refuses to clip them too
    return DDIMScheduler.from_config({**published, **config, "clip_sample": False})


def _vocabulary(base: Path, tokenizer: Path | None) -> Path:
    folder = tokenizer or base / "tokenizer"
    if tokenizer is None and not base.is_dir():
        raise ConfigError(
            f"{base} holds no vocabulary; give the folder of its CLIP tokenizer (vocab.json, merges.txt) as "
            "diffusion.weights.tokenizer"
        )
    lacking = [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
    if lacking and not (folder / "tokenizer.json").is_file():
        raise ConfigError(
            f"{folder / lacking[0]} is missing; give the folder of a CLIP tokenizer (vocab.json, merges.txt)"
        )
    return folder
