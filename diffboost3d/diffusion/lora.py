"""Low-rank adapters on the U-Net's attention (arXiv 2106.09685), through PEFT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffboost3d.errors import ConfigError

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class LoraPlan:
    """The adapters: weight changes of a rank, scaled by alpha / rank, on the layers whose names end so.

    Attributes:
        seed: of their first random numbers; they start at no effect all the same.
    """

    rank: int = 8
    alpha: float = 8.0
    targets: tuple[str, ...] = ATTENTION
    seed: int = 0


@dataclass(frozen=True)
class Adapter:
    """Trained adapters apart from their network: tensors and PEFT's settings."""

    tensors: dict[str, torch.Tensor]
    settings: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write pytorch_lora_weights.safetensors, which `load_lora_weights` of a `diffusers` pipeline reads."""
        from diffusers import StableDiffusionPipeline

        StableDiffusionPipeline.save_lora_weights(
            folder,
            unet_lora_layers=self.tensors,
            unet_lora_adapter_metadata=dict(self.settings),
            safe_serialization=True,
        )


def add_adapters(unet: Any, plan: LoraPlan) -> None:
    """Put adapters into a locked U-Net, in place; they alone are trained, in single precision.

    Raises:
        ConfigError: PEFT is not installed, or no layer has such a name.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ConfigError("trained=lora needs PEFT; install it with: pip install peft") from error
    config = LoraConfig(r=plan.rank, lora_alpha=plan.alpha, target_modules=list(plan.targets))  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        try:
            unet.add_adapter(config)
        except ValueError as error:
            raise ConfigError(
                f"diffusion.lora.targets={list(plan.targets)}: no layer of the U-Net has such a name"
            ) from error
    for parameter in unet.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def merge_adapters(unet: Any) -> Adapter | None:
    """Add the adapters to the U-Net's weights, in place, and give them back apart; None where there are none."""
    if not getattr(unet, "peft_config", None):
        return None
    from peft.utils import get_peft_model_state_dict

    unet.float()  # in half precision the sum would be rounded
    tensors = {name: value.detach().cpu().clone() for name, value in get_peft_model_state_dict(unet).items()}
    settings = unet.peft_config["default"].to_dict()
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    unet.fuse_lora()
    unet.unload_lora()
    return Adapter(tensors, plain)
