"""Studies: which arms meet, what is claimed, effects by label and size, and families of tests."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from diffboost3d.cases.study import StudyScore
from diffboost3d.evaluation.study import TERCILES, study_pairs, summarise_study

ARMS = ["none", "classical", "cutmix", "diffboost", "diffboost_classical"]


def scores(gains, cases=24, seeds=3, size=5, variant="base", labels=("a", "b"), spread=0.01, per_patient=1, luck=0.0):
    """Dice of 0.7 + gain + chance; case 0 has the smallest labels."""
    found = []
    for arm, gain in gains.items():
        shifts = np.random.default_rng(len(arm)).normal(0, luck, seeds)
        for seed in range(seeds):
            random = np.random.default_rng([seed, len(arm), size])
            for case in range(cases):
                for label in labels:
                    value = 0.7 + gain + 0.002 * case + shifts[seed] + random.normal(0, spread)
                    found.append(
                        StudyScore(variant, size, arm, 0, seed, f"c{case:02d}", f"p{case // per_patient:02d}", label,
                                   100.0 + case, "dice", value, "")
                    )  # fmt: skip
    return found


def row(summary, arm, reference, part=0):
    return next(
        one for one in summary["parts"][part]["comparisons"] if (one["arm"], one["reference"]) == (arm, reference)
    )


def test_every_arm_meets_every_reference_once_and_its_twin():
    assert study_pairs(ARMS, ["none", "classical"]) == [
        ("classical", "none"),
        ("cutmix", "none"),
        ("cutmix", "classical"),
        ("diffboost", "none"),
        ("diffboost", "classical"),
        ("diffboost", "cutmix"),
        ("diffboost_classical", "none"),
        ("diffboost_classical", "classical"),
    ]
    assert study_pairs(["none"], ["none", "classical"]) == []
    assert study_pairs(["cutmix", "mine"], ["none"]) == []


def test_a_planted_gain_helps_a_planted_loss_hurts_and_equal_arms_do_neither():
    summary = summarise_study(scores({"none": 0.0, "better": 0.03, "worse_one": -0.03, "same": 0.0}), ["none"])
    claims = {one["arm"]: one["claim"] for one in summary["parts"][0]["comparisons"]}
    assert claims == {"better": "helps", "worse_one": "hurts", "same": "no detectable gain"}
    assert row(summary, "better", "none")["difference"]["mean"] == pytest.approx(0.03, abs=0.004)
    assert "better helps: +3.0 Dice points over none (95 % interval over cases and seeds" in (
        row(summary, "better", "none")["verdict"].replace("+2.9", "+3.0").replace("+3.1", "+3.0")
    )


def test_a_gain_that_the_luck_of_two_trainings_could_make_is_not_claimed():
    lucky = scores({"none": 0.0, "other": 0.0}, seeds=2, luck=0.02)
    found = row(summarise_study(lucky, ["none"]), "other", "none")
    assert found["p_holm"] < 0.05  # over cases alone it is clear
    assert found["over_cases"]["low"] > 0 or found["over_cases"]["high"] < 0
    assert found["claim"] == "no detectable gain"
    assert found["se_seeds"] > found["se_cases"]


def test_both_intervals_are_of_the_same_mean_where_patients_have_different_numbers_of_cases():
    gains = {"none": 0.0, "better": 0.03}
    unequal = [
        dataclasses.replace(
            one,
            patient="p00" if int(one.case[1:]) < 15 else one.patient,
            value=one.value + 0.1 * (one.arm == "better" and int(one.case[1:]) < 15),
        )
        for one in scores(gains)
    ]
    found = row(summarise_study(unequal, ["none"]), "better", "none")
    assert found["over_cases"]["mean"] == pytest.approx(found["difference"]["mean"])
    assert found["over_cases"]["low"] < found["difference"]["mean"] < found["over_cases"]["high"]


def test_one_seed_is_said_to_be_one():
    found = row(summarise_study(scores({"none": 0.0, "better": 0.03}, seeds=1), ["none"]), "better", "none")
    assert found["verdict"].startswith(
        "better helps in this one training: +2.7 Dice points over none (95 % interval over cases, "
    )
    assert "not over the luck of training" in found["verdict"]
    assert found["se_seeds"] is None


def test_cases_of_a_patient_are_one_in_tests_and_intervals():
    found = row(summarise_study(scores({"none": 0.0, "better": 0.03}, per_patient=6), ["none"]), "better", "none")
    assert (found["cases"], found["patients"]) == (24, 4)
    assert found["claim"] == "too few cases"  # four differences can't reach 0.05
    assert "24 cases of 4 patients" in found["verdict"]


def test_effects_are_given_by_label_and_by_thirds_of_its_volume():
    small_gains = [
        one if one.arm == "none" or one.label == "b" or int(one.case[1:]) >= 8
        else StudyScore(**{**vars(one), "value": one.value + 0.1})
        for one in scores({"none": 0.0, "better": 0.0}, spread=0.0)
    ]  # fmt: skip
    found = row(summarise_study(small_gains, ["none"]), "better", "none")
    assert found["labels"]["a"]["mean"] == pytest.approx(0.1 / 3)
    assert found["labels"]["b"]["mean"] == pytest.approx(0.0)
    assert [found["terciles"]["a"][third]["mean"] for third in TERCILES] == pytest.approx([0.1, 0.0, 0.0])
    assert [found["terciles"]["a"][third]["cases"] for third in TERCILES] == [8, 8, 8]


def test_cases_without_a_label_are_of_no_third_of_its_volume():
    given = scores({"none": 0.0, "better": 0.02})
    absent = [
        dataclasses.replace(one, volume=0.0) if int(one.case[1:]) < 6 and one.label == "a" else one for one in given
    ]
    found = row(summarise_study(absent, ["none"]), "better", "none")["terciles"]
    assert [found["a"][third]["cases"] for third in TERCILES] == [6, 6, 6]
    assert [found["b"][third]["cases"] for third in TERCILES] == [8, 8, 8]
    nowhere = [dataclasses.replace(one, volume=0.0) if one.label == "a" else one for one in given]
    assert set(row(summarise_study(nowhere, ["none"]), "better", "none")["terciles"]) == {"b"}


def test_families_are_parts_so_that_another_size_changes_no_p_value():
    one = scores({"none": 0.0, "better": 0.01, "same": 0.0})
    both = summarise_study(one + scores({"none": 0.0, "better": 0.0, "same": 0.0}, size=10), ["none"])
    alone = summarise_study(one, ["none"])
    assert row(alone, "better", "none") == row(both, "better", "none")
    assert both["sizes"] == [5, 10]


def test_variants_are_compared_with_the_first_where_they_differ():
    base = scores({"none": 0.0, "better": 0.0}, variant="alpha_6")
    other = scores({"none": 0.0, "better": 0.03}, variant="alpha_2")
    found = summarise_study(base + other, ["none"])["between_variants"]
    assert [(one["arm"], one["reference"], one["claim"]) for one in found] == [
        ("alpha_2/better", "alpha_6/better", "helps")
    ]


def test_an_arm_has_its_mean_its_seeds_and_the_spread_between_them():
    summary = summarise_study(scores({"none": 0.0}, spread=0.0), ["none"])
    arm = summary["parts"][0]["arms"]["none"]["dice"]
    assert arm["mean"] == pytest.approx(0.7 + 0.002 * 11.5)
    assert arm["seed_sd"] == pytest.approx(0.0)
    assert arm["seeds"] == pytest.approx(dict.fromkeys("012", arm["mean"]))
    assert arm["low"] < arm["mean"] < arm["high"]
    assert json.dumps(summary, allow_nan=False)


def test_scores_that_are_not_finite_are_left_out_and_counted_and_none_are_no_mistake():
    assert summarise_study([], ["none"])["parts"] == []
    bad = StudyScore("base", 5, "none", 0, 0, "c", "c", "a", 1.0, "hd95", float("nan"), "mm")
    assert summarise_study([*scores({"none": 0.0}), bad], ["none"])["left_out"] == 1
