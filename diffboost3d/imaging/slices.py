"""Volumes into slabs of slices and back, by TorchIO's grid sampler and aggregator (the only module that uses them)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

WINDOW = 16  # slabs that are put together at once, which bounds the memory


class SliceGrid:
    """Slabs of neighbouring slices of volumes along one axis, in order, and their reassembly.

    A volume that the slabs don't divide evenly has its last slab shifted inwards; one with fewer slices than a slab is one
    slab.

    Args:
        shape: (I, J, K) of the volume.
        axis: 0, 1 or 2; slices are the planes across it.
        slab: slices of a slab.
        overlap: slices that neighbouring slabs share; even, less than `slab`.

    Attributes:
        firsts: number of the first slice of every slab.
    """

    def __init__(self, shape: Sequence[int], axis: int, slab: int = 1, overlap: int = 0) -> None:
        import torch

        self.shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.axis = axis
        self.slab = min(slab, self.shape[axis])
        self.overlap = overlap if self.slab < self.shape[axis] else 0
        line = _sampler(torch.zeros(1, len(self), 1, 1), 0, self.slab, self.overlap)
        self.firsts = [int(location[0]) for location in line.locations]

    def __len__(self) -> int:
        return self.shape[self.axis]

    def cutter(self, volume: torch.Tensor) -> Cutter:
        """What cuts slabs from a volume (C, I, J, K), one at a time."""
        return Cutter(self, volume)

    def assembly(self, whole: NDArray[np.float32]) -> Assembly:
        """What puts slabs, first to last, together into the array `whole` (I, J, K)."""
        return Assembly(self, whole)


class Cutter:
    """Slab n is `cutter[n]`: slices (slab, C, A, B)."""

    def __init__(self, grid: SliceGrid, volume: torch.Tensor) -> None:
        self._axis = grid.axis
        self._sampler = _sampler(volume, grid.axis, grid.slab, grid.overlap)

    def __len__(self) -> int:
        return len(self._sampler)

    def __getitem__(self, number: int) -> torch.Tensor:
        import torchio as tio

        patch: torch.Tensor = self._sampler[number]["volume"][tio.DATA]
        return patch.movedim(self._axis + 1, 0)


class Assembly:
    """Slabs of one channel become a volume; where they overlap, they blend with Hann weights along the axis, which are above 0
    everywhere. The aggregator sees a line of slices, each with its voxels as channels, some slabs at a time.
    """

    def __init__(self, grid: SliceGrid, whole: NDArray[np.float32]) -> None:
        if whole.shape != grid.shape:
            raise ValueError(f"an array of shape {whole.shape} for slabs of a volume {grid.shape}")
        self._grid, self._target = grid, np.moveaxis(whole, grid.axis, 0)
        self._waiting: list[torch.Tensor] = []
        self._arrived = self._done = 0

    def add(self, slab: torch.Tensor) -> None:
        """The next slab, slices (slab, 1, A, B); the volume is complete after the last."""
        self._waiting.append(slab)
        self._arrived += 1
        if len(self._waiting) >= WINDOW or self._arrived == len(self._grid.firsts):
            self._put_together()

    def add_all(self, slabs: Iterable[torch.Tensor]) -> None:
        """Several."""
        for slab in slabs:
            self.add(slab)

    def _put_together(self) -> None:
        """Write the slices that no later slab adds to."""
        import torch
        import torchio as tio

        slab, firsts = self._grid.slab, self._grid.firsts[self._arrived - len(self._waiting) : self._arrived]
        start, stop = firsts[0], firsts[-1] + slab
        until = self._grid.firsts[self._arrived] if self._arrived < len(self._grid.firsts) else stop
        until = min(until, stop)
        line = _sampler(torch.zeros(1, stop - start, 1, 1), 0, slab, self._grid.overlap)
        aggregator = tio.GridAggregator(line, "hann" if self._grid.overlap else "crop")
        voxels = (
            torch.stack(self._waiting).cpu().flatten(2).movedim(2, 1)[..., None, None]
        )  # (slabs, voxels, slab, 1, 1)
        places = torch.tensor([[at - start, 0, 0, at - start + slab, 1, 1] for at in firsts])
        aggregator.add_batch(voxels, places)
        ready = aggregator.get_output_tensor()[:, self._done - start : until - start, 0, 0]
        plane = self._target.shape[1:]
        self._target[self._done : until] = ready.movedim(1, 0).reshape(-1, *plane).numpy()
        self._waiting = [one for one, at in zip(self._waiting, firsts, strict=True) if at + slab > until]
        self._done = until


def _sampler(volume: torch.Tensor, axis: int, slab: int, overlap: int) -> Any:
    import torchio as tio

    patch = [slab if index == axis else size for index, size in enumerate(volume.shape[1:])]
    shared = [overlap if index == axis else 0 for index in range(3)]
    return tio.GridSampler(tio.Subject(volume=tio.ScalarImage(tensor=volume)), tuple(patch), tuple(shared))
