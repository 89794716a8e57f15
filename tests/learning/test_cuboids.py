"""Cuboids: how many are real, how large they are in voxels and mm, where they begin, and how their borders blend."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffboost3d.augmentation.cuboids import (
    CuboidPlan,
    Cuboids,
    cell_in_voxels,
    draw_cuboids,
    foreground_of,
    masks,
    merge_images,
    merge_labels,
)

shapes = st.tuples(st.integers(1, 15), st.integers(1, 14), st.integers(1, 9))
cells = st.tuples(*[st.integers(1, 20)] * 3)
spacings = st.tuples(*[st.floats(0.3, 8)] * 3)
seeds = st.integers(0, 10**6)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def along(values, cell, axis, offset=0, sigma=0.0, size=None):
    """A volume with cuboids along one axis only, and its shape."""
    counts, edges, shifts, sigmas, shape = [1, 1, 1], [99, 99, 99], [0, 0, 0], [0.0] * 3, [3, 3, 3]
    counts[axis], edges[axis], shifts[axis], sigmas[axis] = len(values), cell, offset, sigma
    shape[axis] = size or len(values) * cell - offset
    return Cuboids(tuple(edges), tuple(shifts), tuple(counts), "".join(map(str, values)), tuple(sigmas)), shape


# --- which cuboids are real ------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(shape=shapes, cell=cells, seed=seeds)
def test_a_cuboid_has_one_source_and_cuboids_fill_the_volume(shape, cell, seed):
    cuboids = draw_cuboids(shape, cell, 0.5, seeded(seed))
    mask, grid = cuboids.mask(shape), cuboids.grid
    assert mask.shape == shape
    assert all(0 <= cut < edge for cut, edge in zip(cuboids.offset, cell, strict=True))
    for place in torch.cartesian_prod(*(torch.arange(size) for size in shape)).reshape(-1, 3)[::7].tolist():
        number = [(at + cut) // edge for at, cut, edge in zip(place, cuboids.offset, cell, strict=True)]
        assert mask[tuple(place)] == grid[tuple(number)]


@settings(max_examples=30, deadline=None)
@given(alpha=st.floats(0, 1), cell=st.tuples(*[st.integers(1, 3)] * 3), seed=seeds)
def test_a_cuboid_is_real_with_probability_alpha(alpha, cell, seed):
    real = draw_cuboids((60, 50, 40), cell, alpha, seeded(seed)).grid.double()
    assert abs(float(real.mean()) - alpha) <= 5.5 * math.sqrt(alpha * (1 - alpha) / real.numel()) + 1e-9


@settings(max_examples=10, deadline=None)
@given(alpha=st.floats(0.1, 0.9), cell_mm=st.floats(2, 30), spacing=spacings, seed=seeds)
def test_a_voxel_is_real_with_probability_alpha_for_any_cell(alpha, cell_mm, spacing, seed):
    plan, random, draws = CuboidPlan(alpha, cell_mm=cell_mm), seeded(seed), 400
    corner = [bool(plan.draw((9, 8, 7), spacing, random).mask((9, 8, 7))[4, 0, 6]) for _ in range(draws)]
    assert abs(sum(corner) / draws - alpha) <= 5 * math.sqrt(alpha * (1 - alpha) / draws)


def test_cuboids_are_drawn_independently_of_their_neighbours():
    real = draw_cuboids((60, 60, 60), (2, 2, 2), 0.6, seeded(0)).grid.double()
    for axis in range(3):
        pairs = real.narrow(axis, 1, real.shape[axis] - 1) * real.narrow(axis, 0, real.shape[axis] - 1)
        assert abs(float(pairs.mean()) - 0.36) < 0.02


def test_a_range_of_alpha_is_drawn_from_evenly_for_every_draw():
    plan, random = CuboidPlan((0.2, 0.8), cell=(1,)), seeded(3)
    shares = torch.tensor([plan.draw((20, 20, 20), (1, 1, 1), random).grid.double().mean() for _ in range(600)])
    noise = 5 * 0.5 / math.sqrt(8000)
    assert 0.2 - noise < shares.min() < 0.22 + noise
    assert 0.78 - noise < shares.max() < 0.8 + noise
    for share in (0.35, 0.5, 0.65):  # even: as many below as the range says
        expected = (share - 0.2) / 0.6
        assert abs(float((shares < share).double().mean()) - expected) < 5 * math.sqrt(expected * (1 - expected) / 600)


@pytest.mark.parametrize(("alpha", "real"), [(0.0, "0"), (1.0, "1"), ((0.0, 0.0), "0"), ((1.0, 1.0), "1")])
def test_alpha_zero_and_one_are_exact(alpha, real):
    for seed in range(20):
        assert set(CuboidPlan(alpha, (3,)).draw((9, 8, 5), (1, 1, 1), seeded(seed)).real) == {real}


def test_borders_fall_at_every_voxel_alike():
    draws = [draw_cuboids((8, 8, 8), (4, 4, 4), 0.5, seeded(seed)) for seed in range(400)]
    for axis in range(3):
        counts = torch.bincount(torch.tensor([draw.offset[axis] for draw in draws]), minlength=4)
        assert counts.min() > 100 - 5 * math.sqrt(75)


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 5)] * 3), cell=st.integers(6, 500), seed=seeds)
def test_volumes_smaller_than_a_cell_have_at_most_one_border_an_axis(shape, cell, seed):
    cuboids = draw_cuboids(shape, (cell,) * 3, 0.5, seeded(seed))
    assert max(cuboids.counts) <= 2
    mask = cuboids.mask(shape)
    assert mask.shape == shape
    for axis in range(3):
        assert (mask.int().diff(dim=axis) != 0).flatten().sum() <= mask.numel() / shape[axis]


# --- how large they are ----------------------------------------------------------------------------------------------
@settings(max_examples=100, deadline=None)
@given(edge=st.floats(0.2, 80), spacing=spacings)
def test_cuboids_in_mm_have_that_edge_to_half_a_voxel_on_any_spacing(edge, spacing):
    for voxels, space in zip(cell_in_voxels((16,), edge, spacing), spacing, strict=True):
        assert voxels >= 1
        assert abs(voxels * space - edge) <= space / 2 + 1e-9 or (voxels == 1 and edge < space)


def test_cells_in_voxels_or_mm_are_one_number_or_one_an_axis():
    assert cell_in_voxels((5,), None, (1, 2, 3)) == (5, 5, 5)
    assert cell_in_voxels((5, 6, 7), None, (1, 2, 3)) == (5, 6, 7)
    assert cell_in_voxels((5,), 12.0, (1, 2, 4)) == (12, 6, 3)
    assert cell_in_voxels((5,), (12.0, 2.0, 8.0), (1, 2, 4)) == (12, 1, 2)


# --- plain values ----------------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(shape=shapes, cell=cells, seed=seeds, feather=st.sampled_from([0.0, 1.5]))
def test_a_draw_is_plain_values_that_json_keeps(shape, cell, seed, feather):
    cuboids = draw_cuboids(shape, cell, 0.5, seeded(seed), (feather,) * 3)
    read = json.loads(json.dumps(dataclasses.asdict(cuboids)))
    again = Cuboids(**{name: value if isinstance(value, str) else tuple(value) for name, value in read.items()})
    assert again == cuboids
    assert torch.equal(again.mask(shape), cuboids.mask(shape))


@pytest.mark.parametrize("real", ["01", "0101x101", "010101012"])
def test_a_draw_that_does_not_fit_its_counts_is_refused(real):
    with pytest.raises(ValueError, match="real must be 8 characters of 0 and 1"):
        Cuboids((2, 2, 2), (0, 0, 0), (2, 2, 2), real)


def test_cuboids_of_a_smaller_volume_are_refused():
    cuboids = draw_cuboids((8, 8, 8), (4, 4, 4), 0.5, seeded(0))
    with pytest.raises(ValueError, match="drawn on a smaller volume"):
        cuboids.mask((8, 30, 8))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"alpha": -0.01}, "alpha must be from 0 to 1"),
        ({"alpha": math.nan}, "alpha must be from 0 to 1"),
        ({"alpha": (0.6, 0.2)}, "alpha must be from 0 to 1"),
        ({"alpha": (0.6, 1.2)}, "alpha must be from 0 to 1"),
        ({"cell": (0,)}, "one or three numbers"),
        ({"cell": (4, 4)}, "one or three numbers"),
        ({"cell_mm": 0.0}, "cell_mm must be one or three numbers above 0"),
        ({"cell_mm": (4.0, 4.0)}, "cell_mm must be one or three numbers above 0"),
        ({"cell_mm": math.inf}, "cell_mm must be one or three numbers above 0"),
        ({"feather": -1.0}, "feather must be at least 0"),
        ({"feather_mm": math.nan}, "feather_mm must be at least 0"),
    ],
)
def test_a_plan_that_can_not_be_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        CuboidPlan(**given)


# --- feathered borders -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sigma", [0.3, 2.0, 7.0])
def test_the_weight_at_a_plane_border_is_the_gaussian_integral(axis, sigma):
    cuboids, shape = along([0, 1], 25, axis, offset=5, sigma=sigma)
    distance = torch.arange(shape[axis], dtype=torch.float64) - 19.5  # the border is before voxel 20
    expected = 0.5 * (1 + torch.erf(distance / (sigma * math.sqrt(2))))
    weight = cuboids.weight(shape).movedim(axis, 0)
    assert (weight.double() - expected[:, None, None]).abs().max() < 3e-6


def test_a_thin_cuboid_between_two_others_is_the_difference_of_two_borders():
    cuboids, shape = along([0, 1, 0], 4, 1, sigma=3.0)
    centres = torch.arange(12, dtype=torch.float64) + 0.5
    steps = [0.5 * (1 + torch.erf((centres - border) / (3.0 * math.sqrt(2)))) for border in (4, 8)]
    torch.testing.assert_close(cuboids.weight(shape)[1, :, 1].double(), steps[0] - steps[1], atol=3e-6, rtol=0)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, cell=cells, seed=seeds, sigma=st.tuples(*[st.sampled_from([0.0, 0.4, 1.5, 6.0])] * 3))
def test_weights_of_real_and_other_add_up_to_one(shape, cell, seed, sigma):
    cuboids = draw_cuboids(shape, cell, 0.5, seeded(seed), sigma)
    swapped = dataclasses.replace(cuboids, real=cuboids.real.translate(str.maketrans("01", "10")))
    weight = cuboids.weight(shape)
    assert 0 <= float(weight.min()) <= float(weight.max()) <= 1
    torch.testing.assert_close(weight + swapped.weight(shape), torch.ones(shape))
    if not any(sigma):
        assert torch.equal(weight, cuboids.mask(shape).float())


@settings(max_examples=20, deadline=None)
@given(shape=shapes, alpha=st.sampled_from([0.0, 1.0]), seed=seeds)
def test_feathering_leaves_a_volume_of_one_source_exactly_as_it_is(shape, alpha, seed):
    cuboids = draw_cuboids(shape, (3, 4, 2), alpha, seeded(seed), (1.5,) * 3)
    real, other = torch.randn(2, *shape), torch.randn(2, *shape)
    assert torch.equal(merge_images(cuboids.weight(shape), real, other), real if alpha else other)


def test_feather_in_mm_is_as_wide_in_space_along_every_axis():
    plan = CuboidPlan(0.5, feather=9.0, feather_mm=3.0)
    assert plan.sigma((1.0, 0.5, 4.0)) == (3.0, 6.0, 0.75)
    assert plan.draw((4, 4, 4), (1.0, 0.5, 4.0)).sigma == (3.0, 6.0, 0.75)
    assert CuboidPlan(0.5, feather=2.0).sigma((1.0, 0.5, 4.0)) == (2.0, 2.0, 2.0)


# --- what is kept real -----------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(shape=shapes, cell=cells, seed=seeds, feather=st.sampled_from([0.0, 1.2]))
def test_the_foreground_is_real_and_the_rest_as_without_it(shape, cell, seed, feather):
    cuboids = draw_cuboids(shape, cell, 0.4, seeded(seed), (feather,) * 3)
    foreground = torch.rand(shape, generator=seeded(seed + 1)) < 0.2
    hard, soft = masks(cuboids, shape, foreground)
    assert torch.equal(hard, cuboids.mask(shape) | foreground)
    assert (soft[foreground] == 1).all()
    if not feather:
        assert soft is hard
    else:
        assert (soft >= cuboids.weight(shape)).all()


def test_around_the_foreground_the_blend_lies_outside_and_has_no_step():
    cuboids, shape = along([0, 0], 20, 0, sigma=2.0)
    foreground = torch.zeros(shape, dtype=torch.bool)
    foreground[:15] = True
    _, soft = masks(cuboids, shape, foreground)
    line = soft[:, 1, 1]
    assert (line[:15] == 1).all()
    outside = torch.arange(25, dtype=torch.float64) + 0.5
    expected = 1 - torch.erf(outside / (2.0 * math.sqrt(2)))  # twice the share of the Gaussian inside
    assert (line[15:].double() - expected).abs().max() < 0.02
    assert (line.diff() <= 0).all()


@pytest.mark.parametrize(
    ("kept", "expected"), [(True, [0, 1, 1, 1]), ([2], [0, 0, 1, 0]), ((1, 7), [0, 1, 0, 1]), ([300], [0, 0, 0, 0])]
)
def test_foreground_is_every_label_or_the_values_given(kept, expected):
    label = torch.tensor([0, 1, 2, 7], dtype=torch.uint8).reshape(1, 4, 1, 1)
    assert foreground_of(label, kept).flatten().int().tolist() == expected


def test_foreground_of_label_maps_with_channels_is_refused():
    with pytest.raises(ValueError, match="one channel, got 3 channels"):
        foreground_of(torch.zeros(3, 2, 2, 2), True)


# --- types -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [torch.int16, torch.uint8, torch.float16, torch.float32, torch.float64])
def test_hard_merging_keeps_types_and_blending_makes_numbers_of_fractions(kind):
    real, other = torch.full((1, 2, 1, 1), 3, dtype=kind), torch.full((1, 2, 1, 1), 5, dtype=kind)
    hard = merge_images(torch.tensor([True, False]).reshape(2, 1, 1), real, other)
    assert (hard.dtype, hard.flatten().tolist()) == (kind, [3, 5])
    soft = merge_images(torch.tensor([0.25, 0.5]).reshape(2, 1, 1), real, other)
    assert soft.dtype == (kind if kind.is_floating_point else torch.float32)
    assert soft.flatten().tolist() == [4.5, 4.0]
    assert merge_labels(torch.tensor([True, False]).reshape(2, 1, 1), real, other).flatten().tolist() == [3, 5]
