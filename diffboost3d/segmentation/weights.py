"""Trained segmenters as files: weights, and in the metadata how the network is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from diffboost3d.segmentation.networks import VolumeNetwork, build_network
from diffboost3d.training import load_tensors


def load_segmenter(path: Path, device: torch.device) -> tuple[VolumeNetwork, tuple[int, int, int]]:
    """A network, ready to predict, and the patch (I, J, K) that it was trained on."""
    tensors, facts = load_tensors(path)
    patch: Any = tuple(facts["patch"])
    network = build_network(facts["network"], facts["spatial_dims"], facts["classes"], patch, facts["arguments"])
    network.load_state_dict(tensors)
    return network.to(device).eval(), patch
