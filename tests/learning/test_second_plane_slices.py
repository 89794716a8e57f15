"""A second plane in training: slices of both planes, with the control of the plane that was drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffboost3d.diffusion.batches import SliceDataset, SlicePlan, SliceSource, training_size
from diffboost3d.diffusion.codecs import PackingCodec
from diffboost3d.diffusion.text import ByteTokenizer

SHAPE = (11, 9, 6)
PLAN = SlicePlan((12, 12), 2, 10.0, (0.9, 1.1), 0.1, 0.1, 1000, 0, "pretrain", jitter=0.3)


def ramps(second_axis, axis=2, stack=1):
    """A volume that counts along the first axis of slicing with control alike, and along the second with another control."""
    places = np.indices(SHAPE).astype(np.float32)
    control, other = np.stack([places[axis] / 20] * 2), np.stack([1 - places[second_axis] / 20] * 2)
    source = SliceSource(places[axis] + 100 * places[second_axis], control, 1.0, other)
    plan = replace(PLAN, axis=axis, second_axis=second_axis, jitter=0.0, drop_control=0.0, stack=stack)
    return SliceDataset([source], "MRI", ByteTokenizer(12), PackingCodec("pixel", 1), plan)


@pytest.mark.parametrize(("axis", "second"), [(2, 0), (0, 1), (1, 2)])
@pytest.mark.parametrize("stack", [1, 3])
def test_slices_of_both_planes_and_their_controls_are_those_of_the_drawn_place(axis, second, stack):
    items, seen = ramps(second, axis, stack), set()
    for number in range(16):
        item, draw = items[number], items.draw(number)
        seen.add(draw.axis)
        images, controls = item["image"].view(stack, 12, 12), item["control"].view(stack, 2, 12, 12)
        for at in range(stack):
            place, first = draw.position + at, draw.axis == axis
            count = images[at] % 100 if first else images[at] // 100
            assert count.unique().tolist() == [place]
            expected = place / 20 if first else 1 - place / 20
            torch.testing.assert_close(controls[at], torch.full((2, 12, 12), expected))
    assert seen == {axis, second}


def test_half_of_the_slices_are_of_each_plane():
    axes = [ramps(0).draw(number).axis for number in range(1000)]
    assert 450 < axes.count(0) < 550
    assert set(axes) == {0, 2}


def test_where_the_first_plane_is_drawn_a_second_axis_changes_nothing():
    plain = SliceDataset(ramps(0).sources, "MRI", ByteTokenizer(12), PackingCodec("pixel", 1), replace(PLAN))
    both = SliceDataset(plain.sources, "MRI", ByteTokenizer(12), PackingCodec("pixel", 1), replace(PLAN, second_axis=0))
    same = [number for number in range(30) if both.draw(number).axis == 2]
    assert same
    for number in same:
        assert plain.draw(number) == both.draw(number)
        assert all(torch.equal(plain[number][name], both[number][name]) for name in plain[number])


def test_slices_of_a_second_plane_need_their_control():
    items = ramps(0)
    items.sources = [replace(items.sources[0], second_control=None)]
    with pytest.raises(ValueError, match="their own control"):
        [items[number] for number in range(20)]


def test_the_window_covers_slices_of_both_planes():
    shapes = [(35, 51, 40), (36, 30, 20)]
    assert training_size(shapes, 2, 8, 256) == (40, 56)
    assert training_size(shapes, 2, 8, 256, second_axis=0) == (56, 56)
    assert training_size(shapes, 2, 8, 256, second_axis=1) == (40, 56)
    assert training_size(shapes, 0, 8, 48, second_axis=1) == (48, 40)
