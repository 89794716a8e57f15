"""Generators on disk: a `diffusers` folder (unet/, controlnet/, text_encoder/, scheduler/, vae/) of safetensors, and the codec.

A generator of the Stable Diffusion family has its tokenizer/ and model_index.json too, so that
`diffusers.StableDiffusionControlNetPipeline` opens it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from diffboost3d.cases.atomic import replacing_folder, write_json
from diffboost3d.diffusion.autoencoder import AutoencoderCodec
from diffboost3d.diffusion.codecs import ChannelsCodec, Codec, PackingCodec, parts_of
from diffboost3d.diffusion.lora import Adapter
from diffboost3d.diffusion.networks import ConditionalDenoiser
from diffboost3d.diffusion.text import ByteTokenizer, ClipTokenizer, Tokenizer
from diffboost3d.errors import ConfigError

FOLDER = "model"
MIXER = "stack_mixer.safetensors"  # layers along the slice axis, which `diffusers` doesn't know


def save_generator(
    folder: Path, denoiser: ConditionalDenoiser, scheduler: Any, codec: Codec, adapter: Adapter | None = None
) -> None:
    """Write everything that sampling needs to `folder`/model; atomic.

    Args:
        adapter: written to lora/ beside the weights that it was merged into.
    """
    tokenizer = denoiser.tokenizer
    first, *others = parts_of(codec)
    with replacing_folder(folder / FOLDER) as temporary:
        denoiser.unet.save_pretrained(temporary / "unet", safe_serialization=True)
        denoiser.controlnet.save_pretrained(temporary / "controlnet", safe_serialization=True)
        denoiser.text_encoder.save_pretrained(temporary / "text_encoder", safe_serialization=True)
        scheduler.save_pretrained(temporary / "scheduler")
        facts: dict[str, Any] = {
            "codec": {"name": codec.name, "factor": codec.factor, "scales": getattr(first, "scales", None)},
            "tokenizer": {
                "name": "clip" if isinstance(tokenizer, ClipTokenizer) else "bytes",
                "length": tokenizer.length,
            },
        }
        if others:
            facts["codec"]["channels"] = [getattr(part, "scales", None) for part in parts_of(codec)]
        if isinstance(codec, ChannelsCodec) and codec.mixing is not None:
            facts["codec"] |= {"mixing": codec.mixing.tolist(), "mixed_share": codec.share}
        if isinstance(first, AutoencoderCodec):
            first.save(temporary / "vae")
        if denoiser.mixer is not None:
            save_file(denoiser.mixer.state_dict(), temporary / MIXER)
        if isinstance(tokenizer, ClipTokenizer):
            tokenizer.save(temporary / "tokenizer")
            if not others:  # the pipeline of `diffusers` knows one image only
                _write_index(temporary, denoiser, scheduler, codec)
        if adapter is not None:
            adapter.save(temporary / "lora")
        write_json(temporary / "diffboost3d.json", facts)


def load_generator(folder: Path) -> tuple[ConditionalDenoiser, Any, Codec]:
    """Inverse of `save_generator`, on the CPU, in evaluation mode; never unpickles."""
    from diffusers import ControlNetModel, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel

    model = folder / FOLDER
    facts = json.loads((model / "diffboost3d.json").read_text(encoding="utf-8"))
    codec = _codec(facts["codec"], model)
    denoiser = ConditionalDenoiser(
        read_part(UNet2DConditionModel, model / "unet"),
        read_part(ControlNetModel, model / "controlnet"),
        read_part(CLIPTextModel, model / "text_encoder"),
        _tokenizer(facts["tokenizer"], model),
        codec.factor,
    )
    if (model / MIXER).is_file():
        denoiser.mix_along_slices()
        denoiser.mixer.load_state_dict(load_file(model / MIXER))  # type: ignore[union-attr]
    scheduler = DDIMScheduler.from_pretrained(model / "scheduler", local_files_only=True)
    return denoiser.eval(), scheduler, codec


def read_part(kind: Any, folder: Path) -> Any:
    """A model of `diffusers` or `transformers` from its local folder, in single precision.

    Raises:
        ConfigError: the folder lacks its config.json or its weights as safetensors.
    """
    _hide_file_bars()
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise ConfigError(
            f"{folder} lacks config.json or *.safetensors; give a whole diffusers folder (pickles are not read)"
        )
    extra = {"variant": "fp16"} if all(".fp16" in name for name in weights) else {}
    model = kind.from_pretrained(folder, use_safetensors=True, local_files_only=True, **extra).float()
    if hasattr(model, "register_to_config"):
        model.register_to_config(_name_or_path="")  # diffusers would save where it was read from
    return model


def _hide_file_bars() -> None:
    """Small files need no progress bars of the libraries between ours."""
    from diffusers.utils.logging import disable_progress_bar as hide_in_diffusers
    from transformers.utils.logging import disable_progress_bar as hide_in_transformers

    hide_in_diffusers()
    hide_in_transformers()


def _codec(facts: dict[str, Any], model: Path) -> Codec:
    channels = facts.get("channels", [facts["scales"]])
    parts: list[Codec]
    if facts["name"] == AutoencoderCodec.name:
        parts = [AutoencoderCodec.load(model / "vae")] * len(channels)
    else:
        parts = [PackingCodec(facts["name"], facts["factor"], scales) for scales in channels]
    if len(parts) == 1:
        return parts[0]
    apart = torch.eye(len(parts)).expand(parts[0].channels, -1, -1).tolist()
    mixing = torch.tensor(facts.get("mixing", apart), dtype=torch.float64)
    return ChannelsCodec(parts, mixing, facts.get("mixed_share", 0.0))


def _tokenizer(facts: dict[str, Any], model: Path) -> Tokenizer:
    return ClipTokenizer(model / "tokenizer") if facts["name"] == "clip" else ByteTokenizer(facts["length"])


def _write_index(folder: Path, denoiser: ConditionalDenoiser, scheduler: Any, codec: Any) -> None:
    """model_index.json, which says what the folder's parts are."""
    from diffusers import StableDiffusionControlNetPipeline

    pipeline = StableDiffusionControlNetPipeline(
        vae=codec.vae,
        text_encoder=denoiser.text_encoder,
        tokenizer=denoiser.tokenizer.clip,  # type: ignore[attr-defined]
        unet=denoiser.unet,
        controlnet=denoiser.controlnet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_config(folder)
