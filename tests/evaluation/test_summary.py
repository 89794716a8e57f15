"""Summary: means, intervals, comparisons and notes from made-up scores whose answers are plain."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from diffboost3d.cases.records import Score
from diffboost3d.evaluation.summary import case_values, summarise

UNITS = {"dice": "", "hd95": "mm"}


def score(arm, case, value, label="organ", metric="dice", seed=0, fold=0):
    return Score(arm=arm, fold=fold, seed=seed, case=case, label=label, metric=metric, value=value, unit=UNITS[metric])


def made_up(gains, cases=30, seeds=(0, 1), labels=("near", "far")):
    """Scores of each arm: a base of the case, the arm's planted gain, and noise."""
    rng = np.random.default_rng(0)
    scores = []
    for case in range(cases):
        base = rng.uniform(0.6, 0.8)
        for arm, gain in gains.items():
            for seed in seeds:
                for label in labels:
                    dice = base + gain + rng.normal(0, 0.02)
                    key = {"case": f"case{case:02d}", "label": label, "seed": seed, "fold": case % 3}
                    scores.append(score(arm, value=dice, **key))
                    scores.append(score(arm, value=20 * (1 - dice), metric="hd95", **key))
    return scores


def comparison(summary, arm, reference="none", metric="dice"):
    wanted = (arm, reference, metric)
    return next(row for row in summary["comparisons"] if (row["arm"], row["reference"], row["metric"]) == wanted)


def test_means_are_those_worked_out_by_hand():
    summary = summarise(
        [
            score("none", "a", 0.2, label="near"),
            score("none", "a", 0.4, label="far"),
            score("none", "a", 0.6, label="near", seed=1),
            score("none", "a", 0.8, label="far", seed=1),
            score("none", "b", 0.9, label="near", fold=1),
            score("none", "b", 0.7, label="far", fold=1),
            score("none", "b", 0.5, label="near", seed=1, fold=1),
            score("none", "b", 0.3, label="far", seed=1, fold=1),
        ]
    )
    dice = summary["arms"]["none"]["dice"]
    assert dice["mean"] == pytest.approx((0.5 + 0.6) / 2)
    assert (dice["low"], dice["high"]) == pytest.approx((0.5, 0.6))
    assert dice["cases"] == 2
    assert dice["labels"]["near"]["mean"] == pytest.approx((0.4 + 0.7) / 2)
    assert dice["seeds"] == pytest.approx({"0": (0.3 + 0.8) / 2, "1": (0.7 + 0.4) / 2})
    assert (summary["cases"], summary["folds"], summary["seeds"]) == (2, [0, 1], [0, 1])
    assert summary["labels"] == ["near", "far"]


def test_a_planted_gain_helps_and_a_planted_loss_hurts_and_an_equal_arm_does_neither():
    summary = summarise(made_up({"none": 0, "diffboost": 0.04, "cutmix": -0.04, "classical": 0}))
    assert comparison(summary, "diffboost")["verdict"].startswith("diffboost helps: +")
    assert comparison(summary, "diffboost")["verdict"].endswith("n = 30 cases, 2 seeds)")
    assert comparison(summary, "cutmix")["verdict"].startswith("cutmix hurts: -")
    assert comparison(summary, "classical")["verdict"].startswith("classical brings no detectable gain: ")
    assert comparison(summary, "diffboost")["difference"]["mean"] == pytest.approx(0.04, abs=0.01)


def test_distances_are_compared_too_but_get_no_verdict():
    row = comparison(summarise(made_up({"none": 0, "diffboost": 0.04})), "diffboost", metric="hd95")
    assert row["difference"]["high"] < 0
    assert row["verdict"] is None


def test_holm_counts_the_comparisons_within_a_metric():
    summary = summarise(made_up({"none": 0, "classical": 0.001, "diffboost_classical": 0.02}))
    rows = [row for row in summary["comparisons"] if row["metric"] == "dice"]
    assert len(rows) == 3
    smallest = min(rows, key=lambda row: row["p_value"])
    assert smallest["p_holm"] == pytest.approx(min(1, 3 * smallest["p_value"]))


def test_cases_missing_in_an_arm_stay_out_of_the_pair_and_are_counted():
    scores = made_up({"none": 0, "diffboost": 0.04}, cases=12)
    kept = [s for s in scores if not (s.arm == "diffboost" and s.case == "case03")]
    kept = [s for s in kept if not (s.arm == "none" and s.case == "case05" and s.seed == 1)]
    summary = summarise(kept)
    row = comparison(summary, "diffboost")
    assert (row["cases"], row["left_out"]) == (10, 2)
    assert summary["notes"] == [
        "diffboost against none: left out 2 cases not scored in both on the same folds, seeds and labels"
    ]
    assert summary["arms"]["none"]["dice"]["cases"] == 12


def test_arms_without_a_common_case_are_said_to_be_incomparable():
    summary = summarise([score("none", "a", 0.5), score("diffboost", "b", 0.9)])
    row = comparison(summary, "diffboost")
    assert (row["cases"], row["left_out"], row["difference"]["mean"]) == (0, 2, None)
    assert "can't be compared" in row["verdict"]


def test_scores_that_are_not_finite_are_left_out_and_counted():
    scores = made_up({"none": 0, "diffboost": 0.04}, cases=8)
    spoilt = [*scores, score("none", "extra", math.nan), score("none", "extra", math.inf, metric="hd95")]
    summary = summarise(spoilt)
    assert summary["notes"] == ["2 scores aren't finite numbers and were left out"]
    assert summary["arms"] == summarise(scores)["arms"]


def test_the_summary_is_strict_json_even_for_one_case():
    summary = summarise([score("none", "a", 0.5), score("diffboost", "a", 0.6)])
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["arms"]["none"]["dice"]["low"] is None


def test_no_scores_give_an_empty_summary():
    summary = summarise([])
    assert (summary["arms"], summary["comparisons"], summary["metrics"], summary["notes"]) == ({}, [], [], [])


def test_a_missing_reference_is_noted():
    summary = summarise([score("classical", "a", 0.5), score("classical", "b", 0.6)])
    assert summary["notes"] == ["the reference arm none has no scores, so no arm is compared with it"]


def test_the_reference_comes_first_and_metrics_in_their_usual_order():
    summary = summarise(list(reversed(made_up({"none": 0, "diffboost": 0.04}, cases=3))))
    assert list(summary["arms"]) == ["none", "diffboost"]
    assert [metric["name"] for metric in summary["metrics"]] == ["dice", "hd95"]
    assert summary["metrics"][1] == {"name": "hd95", "unit": "mm", "higher_is_better": False}


def test_the_order_of_the_scores_changes_no_number():
    scores = made_up({"none": 0, "diffboost": 0.01}, cases=9)
    shuffled = [scores[i] for i in np.random.default_rng(1).permutation(len(scores))]
    one, other = summarise(scores), summarise(shuffled)
    for name in ("mean", "low", "high"):
        assert other["arms"]["none"]["dice"][name] == pytest.approx(one["arms"]["none"]["dice"][name])
    one_row, other_row = comparison(one, "diffboost"), comparison(other, "diffboost")
    assert other_row["difference"] == pytest.approx(one_row["difference"])
    assert other_row["verdict"] == one_row["verdict"]


def test_a_score_given_twice_is_refused_by_name():
    with pytest.raises(ValueError, match="case a, label organ is scored twice in arm none"):
        summarise([score("none", "a", 0.5), score("none", "a", 0.5)])


def test_a_metric_in_two_units_is_refused():
    scores = [score("none", "a", 3.0, metric="hd95")]
    scores.append(Score("none", 0, 0, "b", "organ", "hd95", 3.0, "px"))
    with pytest.raises(ValueError, match="mm, px"):
        summarise(scores)


def test_case_values_hold_one_number_a_case():
    values = case_values(made_up({"none": 0, "diffboost": 0.04}, cases=4), "dice")
    assert {arm: len(cases) for arm, cases in values.items()} == {"none": 4, "diffboost": 4}
