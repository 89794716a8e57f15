"""The file of a trained translator."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from diffboost3d.training import load_tensors, save_tensors
from diffboost3d.translation.networks import Translator, TranslatorPlan

FILE = "translator.safetensors"


def save_translator(folder: Path, translator: Translator) -> None:
    """Write the weights and the sizes of the networks."""
    save_tensors(folder / FILE, translator.state_dict(), {"plan": dataclasses.asdict(translator.plan)})


def load_translator(folder: Path) -> Translator:
    """Inverse of `save_translator`, on the CPU, ready to translate."""
    tensors, facts = load_tensors(folder / FILE)
    translator = Translator(TranslatorPlan(**facts["plan"]))
    translator.load_state_dict(tensors)
    return translator.eval()
