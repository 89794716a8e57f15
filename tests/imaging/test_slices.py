"""Slices: cutting a volume up and putting it together is the identity."""

from __future__ import annotations

import pytest
import torch

from diffboost3d.imaging.slices import SliceGrid


@pytest.mark.parametrize("shape", [(5, 7, 4), (9, 3, 11), (6, 5, 1)])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_slices_put_together_are_the_volume(shape: tuple[int, int, int], axis: int, batch: int) -> None:
    volume = torch.rand(1, *shape)
    grid = SliceGrid(shape, axis)
    slices, locations = grid.slices(volume)
    parts = zip(slices.split(batch), locations.split(batch), strict=True)
    assert torch.equal(grid.assemble(parts), volume)
    assert len(grid) == len(slices) == shape[axis]


def test_slices_come_first_to_last_with_all_channels() -> None:
    volume = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    slices, _ = SliceGrid((3, 4, 5), 1).slices(volume)
    assert torch.equal(slices, volume.permute(2, 0, 1, 3))
