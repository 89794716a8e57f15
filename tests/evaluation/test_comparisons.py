"""Comparisons: which arms meet, which cases enter, and what the sentence says."""

from __future__ import annotations

import math

import pytest

from diffboost3d.evaluation.comparisons import arm_pairs, case_mean, pair_cases, points, verdict
from diffboost3d.evaluation.statistics import Interval, PairedComparison

ARMS = ["none", "classical", "cutmix", "cutmix_classical", "diffboost", "diffboost_classical"]


def comparison(mean, low, high, p_holm, cases=50, p_crossed=None, p_value=None):
    p_crossed = p_holm if p_crossed is None else p_crossed
    return PairedComparison(
        "diffboost",
        "none",
        Interval(mean, low, high),
        p_holm / 5 if p_value is None else p_value,
        p_holm,
        cases,
        p_crossed_holm=p_crossed,
    )


def test_every_arm_meets_the_reference_and_combined_arms_their_parts():
    assert arm_pairs(ARMS, "none") == [
        ("classical", "none"),
        ("cutmix", "none"),
        ("cutmix_classical", "none"),
        ("cutmix_classical", "classical"),
        ("diffboost", "none"),
        ("diffboost", "cutmix"),
        ("diffboost_classical", "none"),
        ("diffboost_classical", "classical"),
        ("diffboost_classical", "cutmix_classical"),
    ]


def test_new_anatomy_meets_what_it_adds_to():
    arms = ["none", "warp_only", "diffboost", "diffboost_anatomy"]
    assert [other for arm, other in arm_pairs(arms, "none") if arm == "diffboost_anatomy"] == [
        "none",
        "diffboost",
        "warp_only",
    ]


def test_absent_arms_are_not_compared():
    assert arm_pairs(["none", "diffboost"], "none") == [("diffboost", "none")]
    assert arm_pairs(["classical", "diffboost_classical"], "none") == [("diffboost_classical", "classical")]
    assert arm_pairs(["none"], "none") == []
    assert arm_pairs([], "none") == []


def test_a_pair_wanted_for_two_reasons_occurs_once_and_the_reference_is_no_challenger():
    assert arm_pairs(["none", "warp_only", "diffboost"], "none")[-1] == ("diffboost", "warp_only")
    assert arm_pairs(["none", "classical", "cutmix_classical"], "classical") == [
        ("none", "classical"),
        ("cutmix_classical", "classical"),
    ]


def test_a_case_is_averaged_over_labels_and_then_over_seeds():
    # seed 1 has two labels, seed 2 one: (0.2 + 0.4) / 2 = 0.3, then (0.3 + 0.9) / 2; a flat mean would give 0.5
    assert case_mean({(0, 1, "a"): 0.2, (0, 1, "b"): 0.4, (0, 2, "a"): 0.9}) == pytest.approx(0.6)


def test_only_cases_with_the_same_seeds_and_labels_are_paired():
    both = {(0, 1, "a"): 0.5, (0, 2, "a"): 0.7}
    pairs = pair_cases(
        {"same": {key: value + 0.1 for key, value in both.items()}, "one seed": {(0, 1, "a"): 0.9}, "here only": both},
        {"same": both, "one seed": both, "there only": both},
    )
    assert pairs.differences == pytest.approx({"same": 0.1})
    assert pairs.left_out == ("here only", "one seed", "there only")


def test_a_clear_gain_is_said_to_help():
    assert verdict(comparison(0.021, 0.010, 0.032, 0.004), seeds=2, comparisons=5) == (
        "diffboost helps: +2.1 Dice points over none (95 % interval 1.0 to 3.2, n = 50 cases, 2 seeds)"
    )


def test_a_clear_loss_is_said_to_hurt():
    said = verdict(comparison(-0.021, -0.032, -0.010, 0.004), seeds=1, comparisons=5)
    assert said == (
        "diffboost hurts in this one training: -2.1 Dice points over none (95 % interval over cases, not over the luck of "
        "training, -3.2 to -1.0, n = 50 cases, 1 seed)"
    )


@pytest.mark.parametrize(
    ("p_crossed", "p_holm"), [(0.2, 0.01), (0.01, 0.2)], ids=["seeds may have made it", "cases may have made it"]
)
def test_a_gain_is_claimed_only_when_both_p_values_agree(p_crossed, p_holm):
    seen = comparison(0.01, 0.001, 0.02, p_holm, p_crossed=p_crossed)
    assert "no detectable gain among 5 comparisons: +1.0" in verdict(seen, seeds=2, comparisons=5)


def test_where_the_rank_test_alone_sees_nothing_the_table_is_not_blamed():
    seen = comparison(0.01, 0.001, 0.02, 0.2, p_value=0.2)
    assert "no detectable gain by Wilcoxon's test: +1.0" in verdict(seen, seeds=2, comparisons=1)
    assert "no detectable gain: +1.0" in verdict(comparison(0.01, -0.001, 0.02, 0.2), seeds=2, comparisons=1)


def test_too_few_cases_are_called_that_and_not_no_gain():
    assert "too few cases to tell" in verdict(comparison(0.1, 0.05, 0.2, 0.3125, cases=5), seeds=1, comparisons=5)
    assert "no detectable gain" in verdict(comparison(0.1, 0.05, 0.2, 0.3125, cases=9), seeds=1, comparisons=5)


def test_one_case_and_no_case_are_said_without_an_interval():
    one = verdict(comparison(0.1, math.nan, math.nan, 1.0, cases=1), seeds=1, comparisons=1)
    assert one == "diffboost: too few cases to tell: +10.0 Dice points over none (n = 1 case)"
    none = verdict(comparison(math.nan, math.nan, math.nan, 1.0, cases=0), seeds=0, comparisons=1)
    assert "can't be compared" in none
    assert "nan" not in none


def test_points_have_no_negative_zero():
    assert points(-0.0001, sign=True) == "+0.0"
    assert points(-0.0001) == "0.0"
