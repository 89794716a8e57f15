"""Generators on disk: a `diffusers` folder (unet/, controlnet/, text_encoder/, scheduler/) of safetensors, and the codec."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from diffboost3d.cases.atomic import replacing_folder, write_json
from diffboost3d.diffusion.codecs import Codec
from diffboost3d.diffusion.networks import ConditionalDenoiser, DenoiserPlan

FOLDER = "model"


def save_generator(folder: Path, denoiser: ConditionalDenoiser, scheduler: Any, codec: Codec) -> None:
    """Write everything that sampling needs to `folder`/model; atomic."""
    with replacing_folder(folder / FOLDER) as temporary:
        denoiser.unet.save_pretrained(temporary / "unet", safe_serialization=True)
        denoiser.controlnet.save_pretrained(temporary / "controlnet", safe_serialization=True)
        denoiser.text_encoder.save_pretrained(temporary / "text_encoder", safe_serialization=True)
        scheduler.save_pretrained(temporary / "scheduler")
        facts = {
            "codec": codec.name,
            "factor": codec.factor,
            "tokenizer": "bytes",
            "denoiser": dataclasses.asdict(denoiser.plan),
        }
        write_json(temporary / "diffboost3d.json", facts)


def _hide_file_bars() -> None:
    """Small files need no progress bars of the libraries between ours."""
    from diffusers.utils.logging import disable_progress_bar as hide_in_diffusers
    from transformers.utils.logging import disable_progress_bar as hide_in_transformers

    hide_in_diffusers()
    hide_in_transformers()


def load_generator(folder: Path) -> tuple[ConditionalDenoiser, Any, Codec]:
    """Inverse of `save_generator`, on the CPU, in evaluation mode; never unpickles."""
    from diffusers import ControlNetModel, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel

    _hide_file_bars()
    model = folder / FOLDER
    facts = json.loads((model / "diffboost3d.json").read_text(encoding="utf-8"))
    plan = DenoiserPlan(**{**facts["denoiser"], "channels": tuple(facts["denoiser"]["channels"])})
    denoiser = ConditionalDenoiser(plan)
    denoiser.unet = UNet2DConditionModel.from_pretrained(model / "unet", use_safetensors=True)
    denoiser.controlnet = ControlNetModel.from_pretrained(model / "controlnet", use_safetensors=True)
    denoiser.text_encoder = CLIPTextModel.from_pretrained(model / "text_encoder", use_safetensors=True)
    scheduler = DDIMScheduler.from_pretrained(model / "scheduler")
    _hide_file_bars()
    for part in (denoiser.unet, denoiser.controlnet):
        part.register_to_config(_name_or_path="")  # diffusers would save where it was read from
    return denoiser.eval(), scheduler, Codec(facts["codec"], facts["factor"])
