"""Segmenting whole volumes: sliding window with Gaussian weights, and the way back to the original grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffboost3d.cases.records import Case
from diffboost3d.imaging.geometry import resample


def probabilities(
    network: torch.nn.Module,
    image: NDArray[np.float32],
    patch: tuple[int, int, int],
    overlap: float,
    device: torch.device,
    batch: int = 4,
) -> NDArray[np.float32]:
    """Class probabilities (classes, I, J, K) of a prepared image (I, J, K) in [-1, 1]."""
    result: NDArray[np.float32] = _logits(network, image, patch, overlap, device, batch).softmax(dim=0).cpu().numpy()
    return result


def most_probable(
    network: torch.nn.Module,
    image: NDArray[np.float32],
    patch: tuple[int, int, int],
    overlap: float,
    device: torch.device,
    batch: int = 4,
) -> NDArray[np.uint8]:
    """The most probable class (I, J, K) of a prepared image (I, J, K) in [-1, 1]; half the memory of `probabilities`."""
    classes = _logits(network, image, patch, overlap, device, batch).argmax(dim=0)
    result: NDArray[np.uint8] = classes.to(torch.uint8).cpu().numpy()
    return result


@torch.no_grad()
def _logits(
    network: torch.nn.Module,
    image: NDArray[np.float32],
    patch: tuple[int, int, int],
    overlap: float,
    device: torch.device,
    batch: int,
) -> torch.Tensor:
    """(classes, I, J, K)."""
    from monai.inferers import sliding_window_inference

    network.eval()
    logits: Any = sliding_window_inference(
        torch.from_numpy(np.ascontiguousarray(image))[None, None].to(device),
        patch,
        batch,
        network,
        overlap=overlap,
        mode="gaussian",
        padding_mode="constant",
        cval=-1.0,
    )
    whole: torch.Tensor = logits[0].float()
    return whole


def label_in_source(classes: NDArray[np.float32], case: Case, values: list[int]) -> NDArray[np.int64]:
    """The most probable label (I, J, K) on the case's own grid, in the user's label values.

    Probabilities, not labels, are resampled, so that borders fall between voxels where they belong.

    Args:
        classes: (classes, I, J, K) on `case.grid`. values: the user's value of each class.
    """
    moved = np.stack([resample(one, case.grid, case.source_grid, "linear") for one in classes])
    label: NDArray[np.int64] = np.asarray(values, dtype=np.int64)[moved.argmax(axis=0)]
    return label
