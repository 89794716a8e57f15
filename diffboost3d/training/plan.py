"""The numbers of a training: steps, learning rates, the optimiser, and the device that it runs on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from diffboost3d.errors import ConfigError


@dataclass(frozen=True)
class TrainingPlan:
    """The numbers of a training; see the sections `diffusion.pretrain` and `train` of the configuration.

    Attributes:
        optimizer: adamw, or sgd with Nesterov momentum. betas: of adamw. momentum: of sgd.
        schedule: of the learning rate after the warm-up: cosine, or poly with the power `poly_power`.
        patience: validations without a better score before training ends; 0: never.
        workers: loader processes; 0: samples are made in the training process; None: see `loading.loader_workers`.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float
    accumulation: int
    ema_decay: float
    validate_every: int
    checkpoint_every: int
    images_every: int
    seed: int
    workers: int | None = 0
    patience: int = 0
    optimizer: str = "adamw"
    momentum: float = 0.99
    schedule: str = "cosine"
    poly_power: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)

    def rate_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then half a cosine, or a power of the share that is left, to zero."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        share = min(1.0, (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps))
        if self.schedule == "poly":
            return float(self.learning_rate * (1.0 - share) ** self.poly_power)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))


def make_optimizer(plan: TrainingPlan, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum, of the parameters that are trained."""
    if plan.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=plan.learning_rate,
            momentum=plan.momentum,
            nesterov=plan.momentum > 0,
            weight_decay=plan.weight_decay,
        )
    return torch.optim.AdamW(parameters, lr=plan.learning_rate, betas=plan.betas, weight_decay=plan.weight_decay)


def make_accelerator(device: str, precision: str, threads: int = 0) -> Any:
    """The Accelerate object of this process.

    Raises:
        ConfigError: the device asked for is not there.
    """
    from accelerate import Accelerator

    if threads:
        torch.set_num_threads(threads)
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device != "auto" and not present[device]:
        there = ", ".join(name for name, here in present.items() if here)
        raise ConfigError(f"runtime.device={device} is not on this machine; there is: {there}")
    return Accelerator(cpu=device == "cpu", mixed_precision=precision)
