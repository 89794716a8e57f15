"""Information that channels have in common: known answers, and what happens where channels contradict each other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diffboost3d.evaluation.channels import channel_information, information_ratio, mutual_information


def test_four_equally_frequent_values_tell_log_4_of_themselves_and_log_2_of_their_halves():
    values = np.tile([-0.9, -0.3, 0.3, 0.9], 5000)
    chance = (4 - 4 - 4 + 1) / (2 * values.size)  # of 4 filled cells in 4 rows and columns; next to nothing
    assert mutual_information(values, values) == pytest.approx(math.log(4) - chance, abs=1e-12)
    assert mutual_information(values, -values) == pytest.approx(math.log(4), abs=1e-3)
    assert mutual_information(values, np.sign(values)) == pytest.approx(math.log(2), abs=1e-3)


def test_a_binary_symmetric_channel_has_its_textbook_information():
    """log 2 less the entropy of a flip of probability 0.1: 0.368 nats."""
    random = np.random.default_rng(0)
    sent = random.choice([-0.5, 0.5], 200_000)
    received = np.where(random.random(sent.size) < 0.1, -sent, sent)
    flip = -(0.1 * math.log(0.1) + 0.9 * math.log(0.9))
    assert mutual_information(sent, received) == pytest.approx(math.log(2) - flip, abs=5e-3)


def test_independent_noise_has_none_and_a_shuffle_takes_it_away():
    random = np.random.default_rng(1)
    first, second = random.uniform(-1, 1, (2, 40_000))
    assert abs(mutual_information(first, second)) < 2e-3
    assert mutual_information(first, random.permutation(first)) == pytest.approx(0, abs=2e-3)


def test_only_voxels_of_the_mask_count():
    random = np.random.default_rng(2)
    first = random.uniform(-1, 1, (20, 20, 50))
    second = random.uniform(-1, 1, first.shape)
    inside = np.zeros(first.shape, bool)
    inside[:10] = True
    second[inside] = first[inside]
    assert mutual_information(first, second, inside) > 2.5
    assert mutual_information(first, second, ~inside) < 0.05


def test_one_voxel_says_nothing_and_none_is_refused():
    assert mutual_information(np.zeros(1), np.ones(1)) == 0
    with pytest.raises(ValueError, match="no voxel"):
        mutual_information(np.zeros(4), np.zeros(4), np.zeros(4, bool))
    with pytest.raises(ValueError, match="several channels"):
        channel_information(np.zeros((4, 4, 4)))


def test_the_ratio_is_one_for_the_image_itself_and_falls_where_a_channel_is_another_case_s():
    random = np.random.default_rng(3)
    real = np.stack([(own := random.uniform(-1, 1, (24, 24, 12))), -own])
    assert information_ratio(real, real) == pytest.approx(1)
    assert information_ratio(real, np.stack([real[0], real[1][::-1]])) < 0.1
