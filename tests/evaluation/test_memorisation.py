"""Similarity of fine detail: copies are found wherever they lie, unlike noise and shared shapes are not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diffboost3d.evaluation.memorisation import (
    DetailIndex,
    correlation,
    detail_blocks,
    fine_detail,
    places,
    shared_detail,
    upper_limit,
)

SHAPE, SPACING = (24, 30, 14), (1.0, 1.0, 2.5)
WHERE = places(SHAPE, 1000, 8, 3)


def noise(number, shape=SHAPE):
    return np.random.default_rng(number).normal(0, 0.2, shape).astype(np.float32)


def ball(shape=SHAPE, radius=0.6):
    at = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    return np.where(np.sqrt(sum(axis**2 for axis in at)) < radius, 0.5, -0.5).astype(np.float32)


@pytest.fixture(scope="module")
def index():
    return DetailIndex([noise(number) for number in range(5)], SPACING, WHERE)


# --- places ----------------------------------------------------------------------------------------------------------
def test_blocks_are_cubes_where_there_is_room_and_whole_along_short_axes():
    assert places((35, 50, 35), 4096, 99, 8).block == (16, 16, 16)
    assert places((200, 200, 8), 4096, 99, 8).block == (23, 22, 8)
    assert places((200, 200, 1), 4096, 99, 8).block == (64, 64, 1)
    assert places((5, 6, 4), 4096, 99, 8).block == (5, 6, 4)


def test_places_lie_evenly_about_the_centre_and_are_no_more_than_asked_for():
    found = places((35, 50, 35), 4096, 99, 8)
    assert len(found.offsets) == 2 * 3 * 2
    assert np.allclose(np.mean(found.offsets, axis=0), 0)
    fewer = places((35, 50, 35), 4096, 5, 8)
    assert len(set(fewer.offsets)) == 5
    assert {fewer.offsets[0], fewer.offsets[-1]} == {found.offsets[0], found.offsets[-1]}


def test_pictures_are_not_searched_across_their_plane():
    assert places((60, 60, 1), 400, 9, 5).search == (5, 5, 0)


# --- detail ----------------------------------------------------------------------------------------------------------
def test_even_and_slowly_changing_volumes_have_no_detail():
    assert np.abs(fine_detail(np.full(SHAPE, -1.0), SPACING)).max() == 0
    slope = np.broadcast_to(np.linspace(-1, 1, SHAPE[1])[None, :, None], SHAPE)
    assert np.abs(fine_detail(slope, SPACING)[:, 4:-4]).max() < 0.01


def test_contrast_and_brightness_change_detail_little():
    volume = noise(0)
    assert np.abs(fine_detail(0.3 * volume + 0.5, SPACING) - fine_detail(volume, SPACING)).max() < 0.05


def test_blocks_are_those_of_the_detail_of_the_whole_volume():
    volume = np.random.default_rng(1).normal(0, 0.2, (61, 47, 40)).astype(np.float32)
    where = places(volume.shape, 1000, 99, 2)
    whole = fine_detail(volume, SPACING)
    made = detail_blocks(volume, where, where.block, SPACING)
    for block, offset in zip(made, where.offsets, strict=True):
        first = [
            round(side / 2 + move - own / 2 - 1e-9)
            for side, move, own in zip(volume.shape, offset, where.block, strict=True)
        ]
        cuts = [
            whole[tuple(slice(start + step, start + step + own) for start, own in zip(first, where.block, strict=True))]
            for step in (0, 1)
        ]
        assert min(np.abs(block - cut).max() for cut in cuts if cut.shape == block.shape) < 1e-5


def test_beyond_a_volume_there_is_nothing():
    blocks = detail_blocks(noise(0, (8, 8, 8)), WHERE, (20, 20, 20), SPACING)
    assert all((block == 0).mean() > 0.5 for block in blocks)


# --- search ----------------------------------------------------------------------------------------------------------
def test_a_copy_is_found_and_named(index):
    found = index.nearest(noise(3))
    assert (found.image, found.shift) == (3, (0, 0, 0))
    assert found.similarity == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("shift", [(2, -3, 1), (-1, 0, -3)])
def test_a_moved_copy_is_found_with_its_move(index, shift):
    found = index.nearest(np.roll(noise(2), shift, axis=(0, 1, 2)))
    assert (found.image, found.shift) == (2, tuple(-step for step in shift))
    assert found.similarity > 0.8


def test_a_copy_in_other_contrast_under_some_noise_is_found(index):
    found = index.nearest(0.4 * noise(1) + 0.3 + 0.1 * noise(99))
    assert found.image == 1
    assert found.similarity > 0.85


def test_one_copied_block_is_enough(index):
    volume = noise(77)
    volume[:, :15] = noise(4)[:, :15]
    assert index.nearest(volume).image == 4
    assert index.nearest(volume).similarity > 0.8


def test_a_copy_of_another_size_is_found(index):
    assert index.nearest(np.pad(noise(2), ((2, 2), (0, 0), (1, 1)))).image == 2


def test_unlike_noise_is_unlike(index):
    assert index.nearest(noise(50)).similarity < 0.3


def test_the_same_shape_in_other_noise_is_no_copy():
    shape = (32, 32, 32)
    where = places(shape, 4096, 8, 3)
    found = DetailIndex([ball(shape) + 0.3 * noise(1, shape)], (1, 1, 1), where).nearest(
        ball(shape) + 0.3 * noise(2, shape)
    )
    assert 0 < found.similarity < 0.85


def test_only_the_images_asked_about_count(index):
    assert index.nearest(noise(3), [0, 1]).similarity < 0.3
    assert index.nearest(noise(3), []).similarity == -1


def test_similarity_is_that_of_the_definition():
    """One block over the whole volume, no search: the correlation about zero of the two details."""
    where = places(SHAPE, 10**9, 1, 0)
    one, other = noise(0), 0.7 * noise(0) + noise(1)
    a, b = fine_detail(one, SPACING), fine_detail(other, SPACING)
    expected = float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    assert DetailIndex([other], SPACING, where).nearest(one).similarity == pytest.approx(expected, abs=1e-4)
    assert shared_detail(one, other, SPACING, where) == pytest.approx(expected, abs=1e-4)


def test_volumes_without_detail_are_like_nothing():
    empty = np.full(SHAPE, -1.0, np.float32)
    assert abs(DetailIndex([empty, noise(0)], SPACING, WHERE).nearest(empty).similarity) < 1e-3
    assert shared_detail(empty, empty, SPACING, WHERE) == 0
    with pytest.raises(ValueError, match="no images"):
        DetailIndex([], SPACING, WHERE)


def test_pictures_are_compared_like_volumes():
    shape, spacing = (64, 48, 1), (1.0, 1.0, 1.0)
    where = places(shape, 400, 9, 4)
    found = DetailIndex([noise(number, shape) for number in range(3)], spacing, where).nearest(
        np.roll(noise(1, shape), 3, axis=0)
    )
    assert (found.image, found.shift) == (1, (-3, 0, 0))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_shared_detail_is_the_share_of_equal_noise(share):
    """Of a x + b y with unlike x, y of one strength, a / sqrt(a^2 + b^2) is x's."""
    mixed = share * noise(0) + math.sqrt(1 - share**2) * noise(1)
    assert shared_detail(mixed, noise(0), SPACING, WHERE) == pytest.approx(share, abs=0.06)


def test_shared_detail_asks_for_one_grid():
    with pytest.raises(ValueError, match="shapes differ"):
        shared_detail(noise(0), noise(0, (24, 30, 15)), SPACING, WHERE)


def test_plain_correlation_lays_centre_on_centre():
    volume = noise(0)
    assert correlation(volume, 2 * volume + 1) == pytest.approx(1)
    assert correlation(np.pad(volume, 2), volume) == pytest.approx(1)
    assert correlation(volume, -volume) == pytest.approx(-1)
    assert correlation(volume, np.zeros(SHAPE)) == 0


# --- limits ----------------------------------------------------------------------------------------------------------
def test_the_limit_is_students_prediction_limit():
    """Transforms 0, 1, 2: mean 1, s 1; t(0.95; 2) = 2.920; 1 + 2.920 sqrt(4 / 3) = 4.372."""
    values = [math.tanh(number) for number in (0, 1, 2)]
    assert math.atanh(upper_limit(values, 0.05, 1.0)) == pytest.approx(4.372, abs=0.002)


def test_few_references_allow_much_and_none_all_but_copies():
    few, many = ([0.4, 0.41, 0.42][:count] * times for count, times in ((3, 1), (3, 20)))
    assert upper_limit(few, 0.01, 0.9) > upper_limit(many, 0.01, 0.9) > 0.42
    assert upper_limit([0.4], 0.01, 0.9) == upper_limit([], 0.01, 0.9) == 0.9


def test_the_limit_is_not_below_the_largest_reference_nor_above_that_of_copies():
    assert upper_limit([0.1] * 40 + [0.5], 0.5, 0.9) == 0.5
    assert upper_limit([0.99, 0.98, 0.97], 0.01, 0.9) == 0.9


@pytest.mark.parametrize("count", [3, 10])
def test_innocent_values_are_flagged_as_seldom_as_asked(count):
    random = np.random.default_rng(count)
    draws = np.tanh(random.normal(0.5, 0.1, (3000, count + 1)))
    flagged = np.mean([values[-1] > upper_limit(values[:-1], 0.05, 1.0) for values in draws])
    assert flagged < 0.065
