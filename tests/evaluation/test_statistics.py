"""Statistics: planted differences are found, absent ones aren't, and the arithmetic matches hand-worked examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffboost3d.evaluation.statistics import bootstrap_mean, compare_paired, holm, signed_rank_p, smallest_holm_p


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(400):
        interval = bootstrap_mean(rng.normal(3.0, 2.0, size=40), seed=trial, resamples=400)
        covered += interval.low <= 3.0 <= interval.high
    assert 0.90 <= covered / 400 <= 0.97


def test_the_interval_has_the_width_theory_gives():
    values = np.random.default_rng(1).normal(0.0, 1.0, size=100)
    interval = bootstrap_mean(values)
    expected = 2 * 1.96 * values.std() / math.sqrt(100)
    assert interval.high - interval.low == pytest.approx(expected, rel=0.05)
    assert interval.mean == pytest.approx(values.mean())


def test_a_lower_level_gives_a_narrower_interval():
    values = np.random.default_rng(1).normal(size=30)
    wide, narrow = bootstrap_mean(values, level=0.95), bootstrap_mean(values, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_same_seed_gives_the_same_interval_and_the_global_generator_is_left_alone():
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    values = np.random.default_rng(0).normal(size=20)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)
    assert (np.random.get_state()[1] == before).all()


def test_drawing_in_chunks_keeps_the_number_of_resamples(monkeypatch):
    whole = bootstrap_mean([1.0, 2.0, 4.0], resamples=1000)
    monkeypatch.setattr("diffboost3d.evaluation.statistics._DRAWS_AT_ONCE", 10)
    assert bootstrap_mean([1.0, 2.0, 4.0], resamples=1000) == whole


def test_one_value_has_no_interval_and_none_has_no_mean():
    one, nothing = bootstrap_mean([0.7]), bootstrap_mean([])
    assert one.mean == 0.7
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert math.isnan(nothing.mean)


def test_equal_values_have_an_interval_of_no_width():
    interval = bootstrap_mean([0.5] * 6)
    assert (interval.low, interval.mean, interval.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="1 of 3 values"):
        bootstrap_mean([1.0, bad, 2.0])
    with pytest.raises(ValueError, match="1 of 3 values"):
        signed_rank_p([1.0, bad, 2.0])


def test_a_level_outside_zero_to_one_is_refused():
    with pytest.raises(ValueError, match="level"):
        bootstrap_mean([1.0, 2.0], level=95)


def test_the_signed_rank_test_matches_counting_by_hand():
    # Ranks 1 to 6, all positive: 2 of the 2^6 sign patterns are as extreme. With the smallest negative: 4 of 64.
    assert signed_rank_p([1, 2, 3, 4, 5, 6]) == pytest.approx(2 / 64)
    assert signed_rank_p([-1, 2, 3, 4, 5, 6]) == pytest.approx(4 / 64)


@pytest.mark.parametrize("differences", [[], [0.0], [0.0, 0.0, 0.0], [1e-17, -1e-17, 1e-16], [0.0, 0.0, 2.0], [2.0]])
def test_no_difference_or_a_single_one_gives_p_one_without_warnings(differences, recwarn):
    assert signed_rank_p(differences) == 1.0
    assert not recwarn


def test_some_zero_differences_do_not_hide_a_gain():
    assert signed_rank_p([0.0] * 3 + [0.01 * k for k in range(1, 21)]) < 0.001


def test_a_planted_gain_is_found_and_an_absent_one_is_not():
    rng = np.random.default_rng(4)
    gain, nothing = compare_paired(
        {("a", "none"): rng.normal(0.02, 0.03, size=50), ("b", "none"): rng.normal(0.0, 0.03, size=50)}
    )
    assert (gain.arm, gain.reference, gain.cases) == ("a", "none", 50)
    assert gain.p_holm < 0.01
    assert gain.difference.low > 0
    assert nothing.p_holm > 0.05
    assert nothing.difference.low < 0 < nothing.difference.high


def test_without_a_gain_the_test_is_significant_about_as_often_as_it_says():
    rng = np.random.default_rng(9)
    found = sum(signed_rank_p(rng.normal(size=25)) < 0.05 for _ in range(600))
    assert 0.02 <= found / 600 <= 0.08


def test_all_pairs_are_one_family():
    gains = [1, 2, 3, 4, 5, 6]
    alone = compare_paired({("a", "none"): gains})
    with_another = compare_paired({("a", "none"): gains, ("b", "none"): [1, -2, 3, -4, 5, -6]})
    assert alone[0].p_holm == alone[0].p_value
    assert with_another[0].p_holm == pytest.approx(2 * alone[0].p_value)


def test_a_pair_without_cases_and_no_pairs_at_all():
    (comparison,) = compare_paired({("a", "none"): []})
    assert (comparison.cases, comparison.p_value, comparison.p_holm) == (0, 1.0, 1.0)
    assert math.isnan(comparison.difference.mean)
    assert compare_paired({}) == ()


def test_holm_matches_a_hand_worked_example():
    # sorted 0.01, 0.02, 0.03, 0.04, times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04; never falling: 0.04, 0.06, 0.06, 0.06
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.04]) == [0.04]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_p_value_and_bonferroni_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1.0, len(p_values) * p) + 1e-12
    by_p = [q for _, q in sorted(zip(p_values, adjusted, strict=True))]
    assert by_p == sorted(by_p)


def test_the_smallest_reachable_p_is_the_one_of_differences_all_alike_in_sign():
    assert smallest_holm_p(6, 1) == pytest.approx(signed_rank_p([1, 2, 3, 4, 5, 6]))
    assert smallest_holm_p(6, 3) == pytest.approx(3 * 2 / 64)
    assert smallest_holm_p(1, 5) == 1.0
