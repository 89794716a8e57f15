"""Splits: a patient is on one side, every labelled case is tested once, and budgets are kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffboost3d.cases.records import Case
from diffboost3d.cases.splits import draw_splits, patients_of
from diffboost3d.errors import DataError
from diffboost3d.imaging.geometry import Grid
from diffboost3d.imaging.intensity import IntensityMap

GRID = Grid.of((2, 2, 2), np.eye(4))


def case(number: int, patient: str, labelled: bool = True) -> Case:
    name = f"c{number:03d}"
    return Case(name, patient, "i", "l" if labelled else None, GRID, GRID, IntensityMap("percentiles", 0, 1), "d")


@settings(deadline=None, max_examples=60)
@given(
    patients=st.lists(st.integers(1, 3), min_size=6, max_size=20),
    unlabelled=st.integers(0, 5),
    folds=st.integers(2, 3),
    labelled=st.one_of(st.none(), st.integers(1, 8)),
    kept=st.one_of(st.none(), st.integers(0, 4)),
    seed=st.integers(0, 5),
)
def test_splits_keep_patients_apart_and_budgets(
    patients: list[int], unlabelled: int, folds: int, labelled: int | None, kept: int | None, seed: int
) -> None:
    cases = [case(10 * p + n, f"p{p}") for p, count in enumerate(patients) for n in range(count)]
    cases += [case(900 + n, f"u{n}", labelled=False) for n in range(unlabelled)]
    patient_of = {one.id: one.patient for one in cases}
    splits = draw_splits(cases, folds, labelled, kept, 0.2, seed)
    tested = [name for split in splits for name in split.test]
    assert sorted(tested) == sorted(one.id for one in cases if one.label)
    for split in splits:
        sides = [
            {patient_of[name] for name in part}
            for part in (split.training + split.unlabelled, split.validation, split.test)
        ]
        assert sum(len(side) for side in sides) == len(set().union(*sides))
        assert split.training
        assert split.validation
        assert not set(split.training) & set(split.unlabelled)
        if labelled is not None:
            assert len(split.training) <= labelled
        if kept is not None:
            assert len(split.unlabelled) <= kept
    assert splits == draw_splits(cases, folds, labelled, kept, 0.2, seed)


def test_the_wanted_number_of_cases_stays_labelled_and_the_others_serve_unlabelled() -> None:
    cases = [case(number, f"p{number}") for number in range(30)]
    (split, *_) = draw_splits(cases, 3, 5, None, 0.4, 0)
    assert (len(split.training), len(split.validation), len(split.test)) == (5, 2, 10)
    assert len(split.unlabelled) == 30 - 5 - 2 - 10


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(DataError, match="at least 3 labelled patients"):
        draw_splits([case(0, "a"), case(1, "a"), case(2, "b")], 2, None, None, 0.2, 0)


def test_patients_by_rule() -> None:
    assert patients_of(["a", "b"], "case") == {"a": "a", "b": "b"}
    heart = patients_of(["patient001_ED", "patient001_ES", "patient002_ED"], r"(patient\d+)_")
    assert heart == {"patient001_ED": "patient001", "patient001_ES": "patient001", "patient002_ED": "patient002"}
    runs = patients_of(["h_011", "h_006", "h_007", "h_008", "h_010"], "consecutive_numbers")
    assert runs == {"h_006": "h_006", "h_007": "h_006", "h_008": "h_006", "h_010": "h_010", "h_011": "h_010"}


def test_a_case_that_no_rule_fits_is_named() -> None:
    with pytest.raises(DataError, match="'scan'"):
        patients_of(["scan"], r"(patient\d+)_")
    with pytest.raises(DataError, match="has no number"):
        patients_of(["scan"], "consecutive_numbers")
