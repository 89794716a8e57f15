"""Trained segmenters as files: weights, and in the metadata how the network is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from diffboost3d.segmentation.networks import NetworkSpec, VolumeNetwork, build_network
from diffboost3d.training import load_tensors, save_tensors


def save_segmenter(path: Path, tensors: dict[str, torch.Tensor], spec: NetworkSpec) -> None:
    """Write the weights of a `VolumeNetwork` (its `state_dict`), and how it is built."""
    save_tensors(path, tensors, spec.facts())


def load_segmenter(path: Path, device: torch.device) -> tuple[VolumeNetwork, tuple[int, int, int]]:
    """A network, ready to predict, and the patch (I, J, K) that it was trained on."""
    tensors, facts = load_tensors(path)
    spec: Any = NetworkSpec.from_facts(facts)
    network = build_network(spec)
    network.load_state_dict(tensors)
    return network.to(device).eval(), spec.patch
