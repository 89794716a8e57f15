"""Random models in the layout of Stable Diffusion 1 and 2, small enough for tests: folders of `diffusers`, and single files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]

WIDTHS = (32, 32, 64, 64)  # norms have 32 groups in this layout
TEXT_WIDTH, TEXT_LAYERS, LATENTS = 32, 2, 4
MERGES = (("m", "r"), ("mr", "i</w>"), ("c", "t</w>"))


def write_base(folder: Path, version: int = 1, seed: int = 0) -> Path:
    """A base as `diffusers` lays it out: unet, vae, text_encoder, tokenizer, scheduler."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary = write_vocabulary(folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=LATENTS,
            out_channels=LATENTS,
            block_out_channels=WIDTHS,
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=8 if version == 1 else (1, 1, 1, 1),
            use_linear_projection=version == 2,
        )
        vae = AutoencoderKL(
            block_out_channels=WIDTHS,
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            layers_per_block=2,
            latent_channels=LATENTS,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=TEXT_WIDTH,
                intermediate_size=2 * TEXT_WIDTH,
                num_hidden_layers=TEXT_LAYERS,
                num_attention_heads=1,
                hidden_act="quick_gelu" if version == 1 else "gelu",
                bos_token_id=vocabulary - 2,
                eos_token_id=vocabulary - 1,
            )
        )
        for name, parameter in text_encoder.named_parameters():
            if "embedding" in name:
                torch.nn.init.normal_(parameter)  # so that words differ
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    text_encoder.save_pretrained(folder / "text_encoder")
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        prediction_type="epsilon" if version == 1 else "v_prediction",
    )
    scheduler.save_pretrained(folder / "scheduler")
    return folder


def write_control(folder: Path, base: Path, seed: int = 1) -> Path:
    """A ControlNet of a base with 3 control channels, its zero convolutions filled and its control image strong."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        controlnet = ControlNetModel.from_unet(UNet2DConditionModel.from_pretrained(base / "unet"))
        for name, parameter in controlnet.named_parameters():
            if "cond_embedding" in name and parameter.ndim == 4:
                torch.nn.init.kaiming_normal_(parameter)
            elif not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    controlnet.save_pretrained(folder)
    return folder


def write_vocabulary(folder: Path) -> int:
    """A CLIP vocabulary of bytes and three merges (vocab.json, merges.txt); its size."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(byte) for byte in kept] + [chr(256 + number) for number in range(256 - len(kept))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in MERGES)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in MERGES)]) + "\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(words)


def ldm_tensors(base: Path, version: int = 1) -> Tensors:
    """A base in the names of the first code."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    unet = UNet2DConditionModel.from_pretrained(base / "unet").state_dict()
    vae = AutoencoderKL.from_pretrained(base / "vae").state_dict()
    text = CLIPTextModel.from_pretrained(base / "text_encoder").state_dict()
    text = {name.removeprefix("text_model."): value for name, value in text.items()}
    tensors = {f"model.diffusion_model.{_ldm_unet(name)}": value for name, value in unet.items()}
    tensors |= {f"first_stage_model.{_ldm_vae(name)}": _convolution(name, value) for name, value in vae.items()}
    if version == 1:
        tensors |= {f"cond_stage_model.transformer.text_model.{name}": value for name, value in text.items()}
        tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    else:
        tensors |= {f"cond_stage_model.model.{name}": value for name, value in _open_clip(text).items()}
    return {name: value.clone() for name, value in tensors.items()} | {"betas": torch.ones(1000)}


def cldm_tensors(control: Path, prefix: str = "control_model.") -> Tensors:
    """A ControlNet in the names of the first code."""
    from diffusers import ControlNetModel

    tensors = ControlNetModel.from_pretrained(control).state_dict()
    return {f"{prefix}{_ldm_unet(name)}": value.clone() for name, value in tensors.items()}


def _renamed(name: str, rules: tuple[tuple[str, Any], ...]) -> str:
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name


_RESNET = (
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
)


def _ldm_unet(name: str) -> str:
    if "resnets" in name:
        name = _renamed(name, _RESNET)
    return _renamed(
        name,
        (
            (r"^controlnet_cond_embedding\.conv_in", "input_hint_block.0"),
            (r"^controlnet_cond_embedding\.conv_out", "input_hint_block.14"),
            (r"^controlnet_cond_embedding\.blocks\.(\d)", lambda m: f"input_hint_block.{2 * int(m[1]) + 2}"),
            (r"^controlnet_down_blocks\.(\d+)", r"zero_convs.\1.0"),
            (r"^controlnet_mid_block", "middle_block_out.0"),
            (r"^conv_in", "input_blocks.0.0"),
            (r"^time_embedding\.linear_1", "time_embed.0"),
            (r"^time_embedding\.linear_2", "time_embed.2"),
            (r"^conv_norm_out", "out.0"),
            (r"^conv_out", "out.2"),
            (r"^down_blocks\.(\d)\.resnets\.(\d)", lambda m: f"input_blocks.{1 + 3 * int(m[1]) + int(m[2])}.0"),
            (r"^down_blocks\.(\d)\.attentions\.(\d)", lambda m: f"input_blocks.{1 + 3 * int(m[1]) + int(m[2])}.1"),
            (r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{3 + 3 * int(m[1])}.0.op"),
            (r"^mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
            (r"^mid_block\.attentions\.0", "middle_block.1"),
            (r"^up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.0"),
            (r"^up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.1"),
            (r"^up_blocks\.0\.upsamplers\.0", "output_blocks.2.1"),
            (r"^up_blocks\.(\d)\.upsamplers\.0", lambda m: f"output_blocks.{3 * int(m[1]) + 2}.2"),
        ),
    )


def _ldm_vae(name: str) -> str:
    if "attentions" in name:
        name = _renamed(name, ((r"group_norm", "norm"), (r"to_([qkv])", r"\1"), (r"to_out\.0", "proj_out")))
    return _renamed(
        name,
        (
            (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
            (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
            (r"up_blocks\.(\d)\.resnets", lambda m: f"up.{3 - int(m[1])}.block"),
            (r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample"),
            (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
            (r"mid_block\.attentions\.0", "mid.attn_1"),
            (r"conv_norm_out", "norm_out"),
            (r"conv_shortcut", "nin_shortcut"),
        ),
    )


def _convolution(name: str, value: torch.Tensor) -> torch.Tensor:
    """The first code has 1x1 convolutions where diffusers has linear layers."""
    return value[..., None, None] if "attentions" in name and value.ndim == 2 else value


def _open_clip(text: Tensors) -> Tensors:
    """Names of OpenCLIP, and the last layer that version 2 leaves out."""
    tensors: Tensors = {}
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    names |= {"self_attn.out_proj": "attn.out_proj"}
    for name, value in text.items():
        match = re.match(r"encoder\.layers\.(\d)\.(.+)\.(weight|bias)$", name)
        if match is None or match[2].endswith(("q_proj", "k_proj", "v_proj")):
            continue
        tensors[f"transformer.resblocks.{match[1]}.{names[match[2]]}.{match[3]}"] = value
    for layer in range(TEXT_LAYERS):
        for kind in ("weight", "bias"):
            parts = [text[f"encoder.layers.{layer}.self_attn.{one}_proj.{kind}"] for one in "qkv"]
            tensors[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
    last = f"resblocks.{TEXT_LAYERS - 1}."
    beyond = {name: torch.randn_like(value) for name, value in tensors.items() if last in name}
    tensors |= {name.replace(last, f"resblocks.{TEXT_LAYERS}."): value for name, value in beyond.items()}
    tensors["token_embedding.weight"] = text["embeddings.token_embedding.weight"]
    tensors["positional_embedding"] = text["embeddings.position_embedding.weight"]
    tensors |= {f"ln_final.{kind}": text[f"final_layer_norm.{kind}"] for kind in ("weight", "bias")}
    return tensors | {"text_projection": torch.eye(TEXT_WIDTH), "logit_scale": torch.ones(())}
