"""Stratified splits: folds and parts have the shares of the strata, patients stay whole; without strata nothing changes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffboost3d.cases.duplicates import described, in_words, joined
from diffboost3d.cases.records import Case, Split
from diffboost3d.cases.splits import draw_splits, nested_split
from diffboost3d.imaging.fingerprints import Likeness, Twins
from diffboost3d.imaging.geometry import Grid
from diffboost3d.imaging.intensity import IntensityMap

GRID = Grid.of((2, 2, 1), np.eye(4))


def case(number: int, stratum: str = "", patient: str = "") -> Case:
    name = f"c{number:03d}"
    return Case(
        name, patient or name, f"{name}.png", "l", GRID, GRID, IntensityMap("percentiles", 0, 1), "d", (), stratum
    )


CASES = [case(number, "benign" if number < 60 else "malignant" if number < 90 else "normal") for number in range(99)]


def shares(ids: tuple[str, ...], cases: list[Case]) -> Counter[str]:
    strata = {one.id: one.stratum for one in cases}
    return Counter(strata[name] for name in ids)


def test_test_cases_have_the_shares_of_the_strata() -> None:
    for split in draw_splits(CASES, 3, None, None, 0.2, 0):
        assert shares(split.test, CASES) == {"benign": 20, "malignant": 10, "normal": 3}
        validation = shares(split.validation, CASES)
        assert abs(validation["benign"] - 13 * 60 / 99) <= 1
        assert validation["normal"] >= 1


@pytest.mark.parametrize("labelled", [5, 10, 22])
def test_few_labelled_cases_have_them_too(labelled: int) -> None:
    for split in draw_splits(CASES, 3, labelled, None, 0.2, 0):
        found = shares(split.training, CASES)
        assert sum(found.values()) == labelled
        assert abs(found["benign"] - labelled * 60 / 99) <= 1
        assert abs(found["malignant"] - labelled * 30 / 99) <= 1


def test_sizes_of_a_study_are_nested_and_have_them() -> None:
    largest = draw_splits(CASES, 3, 20, None, 0.2, 0, validation=4)[0]
    parts = [nested_split(largest, CASES, 0, size, 4, None, 0) for size in (5, 10, 20)]
    assert set(parts[0].training) < set(parts[1].training) < set(parts[2].training)
    for part, size in zip(parts, (5, 10, 20), strict=True):
        assert abs(shares(part.training, CASES)["benign"] - size * 60 / 99) <= 1.5


@settings(deadline=None, max_examples=40)
@given(
    patients=st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["a", "b", "c"])), min_size=9, max_size=40),
    folds=st.integers(2, 4),
    seed=st.integers(0, 5),
)
def test_patients_stay_whole_and_strata_differ_between_folds_by_one_of_them(
    patients: list[tuple[int, str]], folds: int, seed: int
) -> None:
    cases = [case(10 * p + n, stratum, f"p{p}") for p, (count, stratum) in enumerate(patients) for n in range(count)]
    owner = {one.id: one.patient for one in cases}
    splits = draw_splits(cases, folds, None, None, 0.2, seed)
    assert sorted(name for split in splits for name in split.test) == sorted(owner)
    strata = dict(zip((f"p{p}" for p in range(len(patients))), (stratum for _, stratum in patients), strict=True))
    counts = [Counter(strata[patient] for patient in {owner[name] for name in split.test}) for split in splits]
    for stratum in set(strata.values()):
        of_fold = [count[stratum] for count in counts]
        assert max(of_fold) - min(of_fold) <= 1
    for split in splits:
        sides = [{owner[name] for name in part} for part in (split.training, split.validation, split.test)]
        assert sum(map(len, sides)) == len(set().union(*sides))
    assert splits == draw_splits(cases, folds, None, None, 0.2, seed)


def test_splits_without_strata_are_those_of_before() -> None:
    cases = [case(number) for number in range(9)]
    first, *_ = draw_splits(cases, 3, 3, 2, 0.2, 0)
    assert first == Split(("c003", "c006", "c008"), ("c002", "c007"), ("c001",), ("c000", "c004", "c005"))


# --- near-duplicates -------------------------------------------------------------------------------------------------
def test_near_duplicates_and_their_patients_become_one_patient() -> None:
    cases = [case(0, "a", "x"), case(1, "a", "y"), case(2, "b", "x"), case(3, "b", "z"), case(4, "b", "w")]
    assert [one.patient for one in joined(cases, [Twins(1, 2, 0.97)])] == ["x", "x", "x", "z", "w"]


def test_groups_are_described_with_their_strata() -> None:
    cases = [case(0, "a"), case(1, "a"), case(2, "b")]
    told = described(cases, [Twins(0, 2, 0.97)], Likeness())
    (group,) = told["groups"]
    assert (group["cases"], group["strata"]) == (["c000", "c002"], {"a": 1, "b": 1})
    assert group["pairs"] == [{"cases": ["c000", "c002"], "similarity": 0.97, "mirrored": False}]
    assert in_words(told)[0] == "near-duplicates: 1 groups of 2 images; no split parts a group"
    assert "several classes" in in_words(told)[1]
    assert in_words(described(cases, [], Likeness())) == ["near-duplicates: none"]
