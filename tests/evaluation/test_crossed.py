"""Means over cases and seeds: worked examples, and intervals that hold the luck of both."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diffboost3d.evaluation.crossed import Part, _inverse_trigamma, _moderated, crossed_mean, luck_of_seeds


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


def drawn(seed_sd, number, cases=30, seeds=3):
    random = np.random.default_rng(number)
    return table(random.normal(0, seed_sd, seeds) + random.normal(0, 1, (cases, seeds)))


def test_the_luck_of_one_pair_is_its_own():
    values = drawn(2.0, 0)
    (luck,) = luck_of_seeds([values])
    assert crossed_mean(values, luck=luck) == crossed_mean(values)
    assert luck_of_seeds([table([[0.0], [1.0]])]) == [[]]  # one seed says nothing
    assert luck_of_seeds([]) == []


def test_pairs_that_are_alike_lend_each_other_certainty():
    shifts = np.array([-1.0, 0.0, 1.0])
    pairs = [table(turn * shifts + np.linspace(-1, 1, 30)[:, None]) for turn in (1, -1, 1, -1, 1, -1)]
    lucks = luck_of_seeds(pairs)
    for values, (part,) in zip(pairs, lucks, strict=True):
        assert part.variance == pytest.approx(1 / 3)  # of the mean of three seeds
        assert part.freedom == pytest.approx(2 + 2)  # others never weigh more
        assert crossed_mean(values, luck=[part]).interval.high < crossed_mean(values).interval.high


def test_a_steady_pair_does_not_take_the_luck_of_unsteady_ones():
    steady, unsteady = drawn(0.0, 1, cases=400), [drawn(20.0, number, cases=400) for number in range(2, 5)]
    ((part,), *others) = luck_of_seeds([steady, *unsteady])
    assert all(part.variance < 0.05 * other.variance for (other,) in others)


def test_a_copy_of_an_arm_has_no_interval_and_lends_nothing():
    copy = table(np.zeros((30, 3)))
    pairs = [drawn(1.0, number) for number in range(4)]
    assert crossed_mean(copy, luck=luck_of_seeds([copy, *pairs])[0]).interval.high == 0.0
    assert luck_of_seeds([copy, *pairs])[1:] == luck_of_seeds(pairs)


@pytest.mark.parametrize("number", range(20))
def test_scatter_that_nearly_cancels_the_luck_leaves_a_sensible_interval(number):
    random = np.random.default_rng(number)
    values = table(random.normal(0, 0.02, (60, 1)) + random.normal(0, 1, (60, 3)))
    result = crossed_mean(values)
    error = math.hypot(result.se_cases, result.se_seeds)
    assert result.interval.high - result.interval.mean <= 4.303 * error * (
        1 + 1e-3
    )  # t(0.975; 2), the fewest there are


def test_moderated_variances_are_those_of_the_published_formulas():
    # Smyth 2004: z = log s^2, e = z - digamma(d/2) + log(d/2); trigamma(d0/2) = var(e) - trigamma(d/2);
    # log s0^2 = mean(e) + digamma(d0/2) - log(d0/2); moderated (d0 s0^2 + d s^2) / (d0 + d)
    from scipy.special import digamma, polygamma

    variances, d = np.array([0.01, 0.1, 1.0, 10.0]), 2.0
    e = np.log(variances) - digamma(1) + np.log(1)
    wanted = e.var(ddof=1) - polygamma(1, 1)
    d0 = 2 * _inverse_trigamma(wanted)
    assert polygamma(1, d0 / 2) == pytest.approx(wanted, rel=1e-6)
    prior = np.exp(e.mean() + digamma(d0 / 2) - np.log(d0 / 2))
    moderated = _moderated([Part(float(v), d) for v in variances])
    assert [part.variance for part in moderated] == pytest.approx(list((d0 * prior + d * variances) / (d0 + d)))
    assert [part.freedom for part in moderated] == pytest.approx([d0 + d] * 4)


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


def test_the_p_value_fits_the_interval():
    """At the level 1 - p the interval ends at 0."""
    random = np.random.default_rng(0)
    values = {
        f"c{case}": {(0, seed): 0.3 + shift + float(random.normal()) for seed, shift in enumerate((0.1, -0.2, 0.1))}
        for case in range(12)
    }
    found = crossed_mean(values)
    assert 0 < found.p_value < 1
    edge = crossed_mean(values, level=1 - found.p_value).interval
    assert min(abs(edge.low), abs(edge.high)) == pytest.approx(0, abs=1e-9)
    assert crossed_mean({"a": {(0, 0): 1.0}}).p_value == 1.0  # nothing is known of its spread
