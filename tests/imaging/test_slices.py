"""Slabs: cutting a volume up and putting it together is the identity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffboost3d.imaging import slices as module
from diffboost3d.imaging.slices import SliceGrid


def put_together(grid: SliceGrid, volume: torch.Tensor) -> np.ndarray:
    whole = np.full(grid.shape, np.nan, np.float32)
    cutter = grid.cutter(volume)
    grid.assembly(whole).add_all(cutter[number] for number in range(len(cutter)))
    return whole


@pytest.mark.parametrize("shape", [(5, 7, 4), (9, 3, 11), (6, 5, 1)])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("slab", "overlap"), [(1, 0), (2, 0), (3, 2), (4, 2), (5, 4), (64, 8)])
@pytest.mark.parametrize("window", [1, 3, 16])
def test_slabs_put_together_are_the_volume(monkeypatch, shape, axis, slab, overlap, window) -> None:
    monkeypatch.setattr(module, "WINDOW", window)
    volume = torch.rand(1, *shape)
    made = put_together(SliceGrid(shape, axis, slab, overlap), volume)
    if overlap:
        np.testing.assert_allclose(made, volume[0].numpy(), rtol=1e-6)
    else:
        assert np.array_equal(made, volume[0].numpy())


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.integers(0, 2), st.integers(1, 11), st.integers(0, 5))
def test_the_slabs_of_any_volume_cover_every_slice_and_have_one_size(shape, axis, slab, half) -> None:
    overlap = min(2 * half, (slab - 1) // 2 * 2)
    grid = SliceGrid(shape, axis, slab, overlap)
    covered = [slice_ for first in grid.firsts for slice_ in range(first, first + grid.slab)]
    assert set(covered) == set(range(len(grid)))
    assert grid.firsts == sorted(set(grid.firsts))
    assert grid.slab == min(slab, shape[axis])
    np.testing.assert_allclose(put_together(grid, torch.ones(1, *shape)), 1.0, rtol=1e-6)


def test_slices_come_first_to_last_with_all_channels() -> None:
    volume = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    grid = SliceGrid((3, 4, 5), 1)
    cutter = grid.cutter(volume)
    assert torch.equal(torch.cat([cutter[number] for number in range(4)]), volume.permute(2, 0, 1, 3))
    pair = SliceGrid((3, 4, 5), 1, 2).cutter(volume)
    assert torch.equal(pair[1], volume.permute(2, 0, 1, 3)[2:])


def test_the_last_slab_is_shifted_inwards() -> None:
    assert SliceGrid((3, 4, 8), 2, 3).firsts == [0, 3, 5]
    assert SliceGrid((3, 4, 8), 2, 4, 2).firsts == [0, 2, 4]
    assert SliceGrid((3, 4, 2), 2, 3, 2).firsts == [0]


def test_overlapping_slabs_blend_smoothly_along_the_axis_and_nowhere_else() -> None:
    """Slabs of 4 with an overlap of 2: Hann weights sin^2(pi n / 5), n = 1 to 4."""
    grid = SliceGrid((3, 2, 6), 2, 4, 2)
    whole = np.empty((3, 2, 6), np.float32)
    grid.assembly(whole).add_all([torch.zeros(4, 1, 3, 2), torch.ones(4, 1, 3, 2)])
    rising, falling = np.sin(np.pi * 1 / 5) ** 2, np.sin(np.pi * 2 / 5) ** 2
    share = rising / (rising + falling)
    np.testing.assert_allclose(whole[0, 0], [0, 0, share, 1 - share, 1, 1], atol=1e-6)
    np.testing.assert_allclose(whole, np.broadcast_to(whole[0, 0], whole.shape), atol=1e-7)


def test_an_array_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        SliceGrid((3, 2, 6), 2).assembly(np.empty((3, 2, 5), np.float32))
