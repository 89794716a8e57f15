"""Volumes into slices and back, by TorchIO's grid sampler and aggregator (the only module that uses them)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class SliceGrid:
    """All slices of volumes (C, I, J, K) along one axis, in order, and their reassembly.

    Args:
        shape: (I, J, K) of the volume.
        axis: 0, 1 or 2; slices are the planes across it.
    """

    def __init__(self, shape: tuple[int, int, int], axis: int) -> None:
        self.shape = shape
        self.axis = axis
        self._patch = tuple(1 if index == axis else size for index, size in enumerate(shape))

    def __len__(self) -> int:
        return self.shape[self.axis]

    def slices(self, volume: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(slices (S, C, A, B), locations (S, 6)) of a volume (C, I, J, K), first slice first."""
        import torch
        import torchio as tio

        sampler = tio.GridSampler(tio.Subject(volume=tio.ScalarImage(tensor=volume)), self._patch)
        patches = [sampler[index] for index in range(len(sampler))]
        slices = torch.stack([patch["volume"][tio.DATA] for patch in patches]).squeeze(self.axis + 2)
        return slices, torch.stack([patch[tio.LOCATION] for patch in patches])

    def assemble(self, parts: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """The volume (C, I, J, K) of (slices (S, C, A, B), locations), as `slices` gave them."""
        import torch
        import torchio as tio

        whole = tio.ScalarImage(tensor=torch.zeros(1, *self.shape))
        aggregator = tio.GridAggregator(tio.GridSampler(tio.Subject(volume=whole), self._patch))
        for slices, locations in parts:
            aggregator.add_batch(slices.unsqueeze(self.axis + 2).cpu(), locations)
        output: torch.Tensor = aggregator.get_output_tensor()
        return output
