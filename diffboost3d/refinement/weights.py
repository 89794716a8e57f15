"""The file of a trained refiner."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from diffboost3d.refinement.networks import Refiner, RefinerPlan
from diffboost3d.training import load_tensors, save_tensors

FILE = "refiner.safetensors"


def save_refiner(folder: Path, refiner: Refiner) -> None:
    """Write the weights and the sizes of the network."""
    save_tensors(folder / FILE, refiner.state_dict(), {"plan": dataclasses.asdict(refiner.plan)})


def load_refiner(folder: Path) -> Refiner:
    """Inverse of `save_refiner`, on the CPU, ready to refine."""
    tensors, facts = load_tensors(folder / FILE)
    plan: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in facts["plan"].items()
    }
    refiner = Refiner(RefinerPlan(**plan))
    refiner.load_state_dict(tensors)
    return refiner.eval()
