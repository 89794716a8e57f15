"""Control images and slices along every axis, and edges at the scale that was asked for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from diffboost3d.imaging.edges import (
    ControlSlices,
    control_channels,
    control_image,
    label_boundaries,
    soft_edges,
)

SHAPE = (4, 6, 5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("neighbours", [0, 1, 2])
def test_neighbours_come_in_order_along_the_slice_axis_and_end_slices_repeat(axis: int, neighbours: int) -> None:
    size = SHAPE[axis]
    numbers = np.moveaxis(np.broadcast_to(np.arange(size), (*np.delete(SHAPE, axis), size)), -1, axis) / 10
    control = control_image(numbers.astype(np.float32), None, [1], axis, neighbours, "separate")
    assert len(control) == control_channels(1, neighbours, "separate") == 2 * neighbours + 2
    for channel, shift in enumerate(range(-neighbours, neighbours + 1)):
        line = np.moveaxis(control[channel], axis, 0)[:, 0, 0]
        assert line * 10 == pytest.approx([min(max(at + shift, 0), size - 1) for at in range(size)])
    assert not control[-1].any()


@pytest.mark.parametrize("control", ["separate", "added"])
def test_channels_are_as_many_as_said_and_between_0_and_1(control: str) -> None:
    random = np.random.default_rng(0)
    edge, label = random.random(SHAPE).astype(np.float32), random.integers(0, 4, SHAPE)
    image = control_image(edge, label, [1, 2, 3], 0, 1, control)
    assert image.shape == (control_channels(3, 1, control), *SHAPE)
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert image.max() <= 1


def test_without_a_label_the_added_control_is_the_edge() -> None:
    edge = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    assert np.array_equal(control_image(edge, None, [1, 2], 2, 0, "added"), edge[None])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_border_is_as_strong_inside_as_outside_and_touches_no_other_label(axis: int) -> None:
    label = np.zeros((16, 16, 16), np.uint8)
    np.moveaxis(label, axis, 0)[8:] = 5
    (boundary,) = label_boundaries(label, [5])
    profile = np.moveaxis(boundary, axis, 0)[:, 8, 8]
    assert profile == pytest.approx(profile[::-1], abs=1e-6)
    assert profile.argmax() in (7, 8)
    assert set(np.argsort(profile)[-2:]) == {7, 8}


def test_a_label_that_fills_the_volume_has_no_border_and_a_flat_one_has_its_outline() -> None:
    assert not label_boundaries(np.ones((6, 6, 6), np.uint8), [1]).any()
    label = np.zeros((20, 20, 1), np.uint8)
    label[5:15, 5:15] = 1
    (boundary,) = label_boundaries(label, [1])
    assert boundary.shape == (20, 20, 1)
    assert boundary[5, 10, 0] > 0.5
    assert boundary[10, 10, 0] < 0.01


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.5, 3.0)])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("position", [7, 10])
def test_a_step_is_marked_within_one_voxel_on_any_grid(
    spacing: tuple[float, float, float], axis: int, position: int
) -> None:
    image = np.full((17, 18, 19), -0.6, np.float32)
    np.moveaxis(image, axis, 0)[position:] = 0.4
    edges = np.moveaxis(soft_edges(image, spacing, (1.0, 2.0)), axis, 0)
    strongest = edges.argmax(axis=0)
    assert ((strongest >= position - 1) & (strongest <= position)).all()
    assert np.moveaxis(edges, 0, 0)[: position - 4].max() < 0.05
    assert edges[position + 4 :].max() < 0.05


def test_a_stronger_step_is_a_stronger_edge_in_one_and_the_same_volume() -> None:
    image = np.zeros((40, 12, 12), np.float32)
    image[12:28] = 0.2
    image[28:] = 1.0
    edges = soft_edges(image, (1.0, 1.0, 1.0), (1.0,), quantile=1.0)
    assert edges[26:30].max() == pytest.approx(1.0)
    assert edges[10:14].max() == pytest.approx(0.25, abs=0.05)  # 0.2 of 0.8


@pytest.mark.parametrize("change", [(1.0, 0.3), (0.5, -0.2), (-1.0, 0.0)])
def test_edges_do_not_depend_on_offset_contrast_or_sign(change: tuple[float, float]) -> None:
    image = np.tanh(np.random.default_rng(0).normal(size=(9, 10, 11))).astype(np.float32)
    factor, offset = change
    assert np.allclose(
        soft_edges(factor * image + offset, (1.0, 1.2, 2.0)), soft_edges(image, (1.0, 1.2, 2.0)), atol=2e-3
    )


def test_a_flat_image_has_the_edges_of_its_plane() -> None:
    image = np.full((20, 24, 1), -1.0, np.float32)
    image[8:, :, 0] = 1.0
    edges = soft_edges(image, (0.5, 0.5, 1.0))
    assert edges.shape == image.shape
    assert (edges.argmax(axis=0) // 1 >= 7).all()
    assert (edges.argmax(axis=0) <= 8).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("control", ["separate", "added"])
@pytest.mark.parametrize("neighbours", [0, 1, 2])
@pytest.mark.parametrize("shape", [(9, 7, 12), (12, 9, 1)])
def test_control_made_slice_by_slice_is_that_of_the_whole_volume(axis, control, neighbours, shape) -> None:
    random = np.random.default_rng(0)
    edge, label = random.random(shape, np.float32), random.integers(0, 3, shape).astype(np.uint8)
    whole = np.moveaxis(control_image(edge, label, [1, 2], axis, neighbours, control), axis + 1, 0)
    slices = ControlSlices(edge, label, [1, 2], axis, neighbours, control)
    boundaries = np.moveaxis(label_boundaries(label, [1, 2]), axis + 1, 0)
    for first, stop in itertools.combinations(range(shape[axis] + 1), 2):
        part = slices.slices(first, stop)
        assert np.array_equal(part, whole[first:stop])
        if control == "separate":
            assert np.array_equal(part[:, 2 * neighbours + 1 :], boundaries[first:stop])
        else:
            middle = np.moveaxis(edge, axis, 0)[first:stop] + boundaries[first:stop].sum(axis=1)
            np.testing.assert_array_equal(part[:, neighbours], np.clip(middle, 0, 1))


@pytest.mark.parametrize("neighbours", [0, 1])
def test_edges_alone_follow_no_label(neighbours):
    edge = np.random.default_rng(0).random((6, 5, 4)).astype(np.float32)
    label = np.zeros((6, 5, 4), np.uint8)
    label[2:4, 2:4, 1:3] = 1
    made = control_image(edge, label, [1, 2], 2, neighbours, "edges")
    assert made.shape[0] == control_channels(2, neighbours, "edges") == 2 * neighbours + 1
    assert np.array_equal(made[neighbours], edge)
    assert np.array_equal(made, control_image(edge, None, [1, 2], 2, neighbours, "edges"))
