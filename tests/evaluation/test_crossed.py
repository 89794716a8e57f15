"""Means over cases and seeds: worked examples, and intervals that hold the luck of both."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diffboost3d.evaluation.crossed import crossed_mean, luck_of_seeds


def table(array, fold=0):
    """{case: {(fold, seed): value}} of an array (cases, seeds)."""
    return {f"{fold}-{c}": {(fold, s): float(v) for s, v in enumerate(row)} for c, row in enumerate(np.asarray(array))}


def test_one_seed_gives_the_ordinary_t_interval_over_cases():
    result = crossed_mean(table([[1.0], [2.0], [4.0], [5.0]]))
    # mean 3, standard deviation sqrt(10 / 3), standard error sqrt(10 / 12), t(0.975; 3) = 3.182446
    assert result.interval.mean == 3.0
    assert result.se_cases == pytest.approx(math.sqrt(10 / 12))
    assert result.interval.high - 3.0 == pytest.approx(3.182446 * math.sqrt(10 / 12), rel=1e-6)
    assert math.isnan(result.se_seeds)
    assert math.isnan(result.seed_sd)


def test_seeds_that_shift_all_cases_alike_are_a_second_source_of_chance():
    # case means 1, 3 and seeds at -1, +1: variance of the mean 1 by cases, 1 by seeds, nothing left over
    result = crossed_mean(table([[0.0, 2.0], [2.0, 4.0]]))
    assert result.se_cases == pytest.approx(1.0)
    assert result.se_seeds == pytest.approx(1.0)
    assert result.seed_sd == pytest.approx(math.sqrt(2.0))
    # variance 2 on (1 + 1)^2 / (1 / 1 + 1 / 1) = 2 degrees of freedom: t(0.975; 2) = 4.302653
    assert result.interval.high - 2.0 == pytest.approx(4.302653 * math.sqrt(2), rel=1e-6)


def test_scatter_of_single_cases_between_seeds_is_not_counted_twice():
    # each case flips sign between seeds: seed means are equal, so seeds as such make no difference
    result = crossed_mean(table([[0.0, 2.0], [4.0, 2.0], [1.0, 3.0], [5.0, 3.0]]))
    assert result.se_seeds == 0.0
    assert result.interval == crossed_mean(table([[1.0], [3.0], [2.0], [4.0]])).interval


def test_cases_of_a_patient_count_as_one():
    values = table([[1.0], [1.0], [3.0], [3.0]])
    patients = dict(zip(values, ("a", "a", "b", "b"), strict=True))
    result = crossed_mean(values, patients)
    assert result.patients == 2
    assert result.se_cases == pytest.approx(1.0)  # that of two patients at 1 and 3
    assert crossed_mean(values).se_cases == pytest.approx(math.sqrt(4 / 3 / 4))


def test_folds_have_seeds_of_their_own():
    same = crossed_mean({**table([[0.0, 2.0], [2.0, 4.0]], 0), **table([[2.0, 0.0], [4.0, 2.0]], 1)})
    # each fold weighs a half: 2 x (1/2)^2 x 2 / 2
    assert same.se_seeds == pytest.approx(math.sqrt(0.5))


def test_the_luck_of_seeds_of_a_difference_is_twice_the_mean_of_what_the_arms_have():
    # seed means 1, 3 in one arm and 2, 2 in the other, no scatter: variances 2 and 0, of the mean of two seeds 1 and 0
    runs, rest = luck_of_seeds([table([[0.0, 2.0], [2.0, 4.0]]), table([[1.0, 1.0], [3.0, 3.0]])])
    assert (runs.variance, runs.freedom) == (pytest.approx(2 * (1 + 0) / 2), 2.0)
    assert (abs(rest.variance), rest.freedom) == (pytest.approx(0.0), 2.0)
    assert luck_of_seeds([table([[0.0], [1.0]])]) == []  # one seed says nothing
    assert luck_of_seeds([]) == []


def test_luck_known_from_elsewhere_takes_the_place_of_its_own():
    values = table([[0.0, 2.0], [2.0, 4.0]])
    assert crossed_mean(values, luck=[]).se_seeds == 0.0
    other = luck_of_seeds([values] * 10)
    assert crossed_mean(values, luck=other).interval.low > crossed_mean(values).interval.low  # more degrees of freedom


def test_equal_values_give_an_interval_of_no_width_and_a_single_case_none():
    assert crossed_mean(table([[0.5, 0.5], [0.5, 0.5]])).interval.low == 0.5
    one = crossed_mean(table([[0.5, 0.7]])).interval
    assert one.mean == pytest.approx(0.6)
    assert math.isnan(one.low)
    assert math.isnan(crossed_mean({}).interval.mean)


def test_what_is_not_finite_or_missing_is_refused():
    with pytest.raises(ValueError, match="finite"):
        crossed_mean({"a": {(0, 0): math.nan}, "b": {(0, 0): 1.0}})
    with pytest.raises(ValueError, match="finite"):
        crossed_mean({"a": {}})
    with pytest.raises(ValueError, match="level"):
        crossed_mean(table([[1.0]]), level=1.0)


@pytest.mark.parametrize("seed_sd", [0.0, 0.5, 1.0])
def test_the_interval_covers_the_truth_with_and_without_luck_of_the_seeds(seed_sd):
    random, covered = np.random.default_rng(3), 0
    for _ in range(400):
        drawn = random.normal(0, 2, (40, 1)) + random.normal(0, seed_sd, 3) + random.normal(0, 1, (40, 3))
        interval = crossed_mean(table(drawn)).interval
        covered += interval.low <= 0 <= interval.high
    assert covered / 400 >= 0.92
