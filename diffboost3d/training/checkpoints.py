"""Weights and the state of a training as safetensors files with JSON facts; written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from diffboost3d.cases.atomic import replacing

Tensors = dict[str, torch.Tensor]
STATE, BEST = "state.safetensors", "best.safetensors"


def save_tensors(path: Path, tensors: Tensors, facts: dict[str, Any]) -> None:
    """Write tensors and JSON facts as one safetensors file; atomic."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(plain, str(temporary), {"diffboost3d": json.dumps(facts)})


def load_tensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Inverse of `save_tensors`, on the CPU."""
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        facts = json.loads(file.metadata()["diffboost3d"])
        return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """The state of an optimiser as tensors by name: `<number of the parameter>.<what>`."""
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Inverse of `optimizer_tensors`; learning rates and the like stay as they are."""
    states: dict[int, Tensors] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        states.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def parts_of(tensors: Tensors) -> dict[str, Tensors]:
    """Tensors by the first word of their names: `module.a.b` is `a.b` of `module`."""
    parts: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    return parts


def last_weights(folder: Path) -> Tensors:
    """Weights and buffers of the trained module after the last step of the training in `folder`; averaged where it averages.

    Locked weights, which no checkpoint holds, are left out.
    """
    part = parts_of(load_tensors(folder / "checkpoint" / STATE)[0])
    return {**part["module"], **part.get("average", {})}
