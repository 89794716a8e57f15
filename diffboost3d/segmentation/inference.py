"""Segmenting whole volumes: sliding window with Gaussian weights, mirroring, ensembles, and the way back to the original grid.

Memory: with C classes, sums take C x 4 bytes for each prepared voxel, once for one network and twice for several. For volumes of
more than `STITCHED_ON_DEVICE` voxels they lie in main memory, so that a GPU holds the networks and `batch` windows. The way back
goes slab by slab (`SLAB_BYTES`), and leaves one byte for each voxel of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffboost3d.cases.records import Case
from diffboost3d.imaging.channels import channels_of
from diffboost3d.imaging.geometry import Grid, resample_slab

Size = tuple[int, int, int]
STITCHED_ON_DEVICE = 2**22  # voxels; larger volumes are put together in main memory
SLAB_BYTES = 2**28  # of class probabilities that are moved to the original grid at once
PRECISIONS = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Member:
    """A trained network of an ensemble, and the patch (I, J, K) that it was trained on."""

    network: torch.nn.Module
    patch: Size


@dataclass(frozen=True)
class WindowPlan:
    """How a volume is gone through.

    Attributes:
        overlap: of neighbouring windows, as a share of the patch.
        mirror_axes: axes along which each window is mirrored too; the logits of all mirrored passes are averaged.
        batch: windows at once. precision: no, bf16 or fp16 for the network's passes; sums are float32 always.
    """

    overlap: float
    mirror_axes: tuple[int, ...] = ()
    batch: int = 4
    precision: str = "no"


def mean_probabilities(
    members: Sequence[Member], image: NDArray[np.float32], plan: WindowPlan, device: torch.device
) -> NDArray[np.float32]:
    """Class probabilities (classes, I, J, K) of a prepared image (I, J, K) or (C, I, J, K) in [-1, 1].

    The mean over the members' softmax.
    """
    total: torch.Tensor | None = None
    for member in members:
        logits = _logits(member, image, plan, device)
        for first in range(
            0, logits.shape[-1], 16
        ):  # in place, so that nothing of the whole volume's size is made twice
            part = logits[..., first : first + 16]
            part.copy_(part.softmax(dim=0))
        total = logits if total is None else total.add_(logits)
    assert total is not None  # an ensemble has a member
    result: NDArray[np.float32] = (total if len(members) == 1 else total.div_(len(members))).cpu().numpy()
    return result


def probabilities(
    network: torch.nn.Module,
    image: NDArray[np.float32],
    patch: Size,
    overlap: float,
    device: torch.device,
    batch: int = 4,
) -> NDArray[np.float32]:
    """Class probabilities (classes, I, J, K) of a prepared image (I, J, K) or (C, I, J, K) in [-1, 1], by one network."""
    return mean_probabilities([Member(network, patch)], image, WindowPlan(overlap, batch=batch), device)


def most_probable(
    network: torch.nn.Module,
    image: NDArray[np.float32],
    patch: Size,
    overlap: float,
    device: torch.device,
    batch: int = 4,
) -> NDArray[np.uint8]:
    """The most probable class (I, J, K) of a prepared image (I, J, K) or (C, I, J, K) in [-1, 1], by one network."""
    classes = _logits(Member(network, patch), image, WindowPlan(overlap, batch=batch), device).argmax(dim=0)
    result: NDArray[np.uint8] = classes.to(torch.uint8).cpu().numpy()
    return result


@torch.no_grad()
def _logits(member: Member, image: NDArray[np.float32], plan: WindowPlan, device: torch.device) -> torch.Tensor:
    """(classes, I, J, K), float32; on the CPU where the volume is large."""
    from monai.inferers import sliding_window_inference

    member.network.eval()
    axes = [axis + 2 for axis in plan.mirror_axes if member.patch[axis] > 1]  # a picture has nothing to mirror along k

    def predict(windows: torch.Tensor) -> torch.Tensor:
        with _autocast(device, plan.precision):
            return mirrored(member.network, windows, axes)

    channels = channels_of(image)
    logits: Any = sliding_window_inference(
        torch.from_numpy(np.ascontiguousarray(channels))[None],
        member.patch,
        plan.batch,
        predict,
        overlap=plan.overlap,
        mode="gaussian",
        padding_mode="constant",
        cval=-1.0,
        sw_device=device,
        device=device if channels[0].size <= STITCHED_ON_DEVICE else torch.device("cpu"),
    )
    whole: torch.Tensor = logits[0]
    return whole


def _autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    kind = PRECISIONS[precision]
    return nullcontext() if kind is None else torch.autocast(device.type, kind)


def mirrored(network: torch.nn.Module, windows: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    """Logits (B, classes, ...) of windows (B, C, ...), float32, averaged over all mirrorings along dimensions `axes`.

    Two by two, so that the average of equal logits is just these, and a mirrored window gives just the mirrored logits.
    """
    if not axes:
        logits: torch.Tensor = network(windows)
        return logits.float()
    axis, rest = axes[0], axes[1:]
    return (mirrored(network, windows, rest) + mirrored(network, windows.flip(axis), rest).flip(axis)) / 2


# --- the way back ----------------------------------------------------------------------------------------------------
def classes_in_source(classes: NDArray[np.float32], grid: Grid, source: Grid) -> NDArray[np.uint8]:
    """The most probable class (I, J, K) on the grid `source` of the file, from probabilities (classes, I, J, K) on `grid`.

    Probabilities, not labels, are resampled, so that borders fall between voxels where they belong. Slab by slab: all classes
    on a large grid would need more memory than the rest of the work.
    """
    label = np.empty(source.shape, np.uint8)
    for first, stop in _slabs(len(classes), source):
        moved = np.stack([resample_slab(one, grid, source, first, stop) for one in classes])
        label[:, :, first:stop] = moved.argmax(axis=0)
    return label


def slabs_in_source(one: NDArray[np.float32], grid: Grid, source: Grid) -> Iterator[NDArray[np.float32]]:
    """The probability (I, J, K) of one class on the grid of the file, in slabs (I, J, n) along k."""
    for first, stop in _slabs(1, source):
        yield resample_slab(one, grid, source, first, stop)


def _slabs(classes: int, grid: Grid) -> Iterator[tuple[int, int]]:
    """First slice and the one after the last of each slab along k."""
    i, j, k = grid.shape
    thick = max(1, SLAB_BYTES // (4 * classes * i * j))
    for first in range(0, k, thick):
        yield first, min(first + thick, k)


def label_in_source(classes: NDArray[np.float32], case: Case, values: list[int]) -> NDArray[np.int64]:
    """The most probable label (I, J, K) on the case's own grid, in the user's label values.

    Args:
        classes: probabilities (classes, I, J, K) on `case.grid`. values: the user's value of each class.
    """
    label: NDArray[np.int64] = np.asarray(values, dtype=np.int64)[
        classes_in_source(classes, case.grid, case.source_grid)
    ]
    return label
