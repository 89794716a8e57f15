"""Nested splits: smaller sizes lie in larger ones, nobody changes sides, and the test cases stay."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffboost3d.cases.records import Split
from diffboost3d.cases.splits import draw_splits, nested_split, patients_of
from diffboost3d.errors import DataError


def cohort(patients=30, each=2):
    return [
        SimpleNamespace(id=f"p{patient:02d}_{one}", patient=f"p{patient:02d}", label="label.nii.gz", stratum="")
        for patient in range(patients)
        for one in range(each)
    ]


CASES = cohort()
PATIENT = {case.id: case.patient for case in CASES}


def nested(size, validation=2, fold=0, unlabelled=None, seed=0):
    whole = draw_splits(CASES, 3, None, None, 0.2, seed, validation=4)[fold]
    return nested_split(whole, CASES, fold, size, validation, unlabelled, seed)


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_the_cases_of_a_smaller_size_are_among_those_of_a_larger_one(fold):
    sizes = [nested(size, fold=fold) for size in (2, 3, 5, 10)]
    assert [len(split.training) for split in sizes] == [2, 3, 5, 10]
    for small, large in itertools.pairwise(sizes):
        assert set(small.training) < set(large.training)
        assert set(small.unlabelled) > set(large.unlabelled)


def test_all_sizes_have_the_same_test_cases_and_folds_test_every_case_once():
    for fold in range(3):
        assert len({nested(size, fold=fold).test for size in (1, 4, 10)}) == 1
    tested = [case for fold in range(3) for case in nested(3, fold=fold).test]
    assert sorted(tested) == sorted(case.id for case in CASES)


@pytest.mark.parametrize("size", [1, 3, 9, 10])
@pytest.mark.parametrize("validation", [1, 3, 4])
def test_no_patient_is_on_two_sides_and_no_case_in_two_parts(size, validation):
    split = nested(size, validation)
    parts = [split.training, split.unlabelled, split.validation, split.test]
    cases = [case for part in parts for case in part]
    assert len(cases) == len(set(cases))
    training = {PATIENT[case] for case in (*split.training, *split.unlabelled)}
    validated, tested = ({PATIENT[case] for case in part} for part in (split.validation, split.test))
    assert not training & validated
    assert not (training | validated) & tested


def test_what_a_smaller_size_leaves_serves_unlabelled():
    largest, smallest = nested(10, 4), nested(1, 4)
    assert set(smallest.unlabelled) == {*largest.unlabelled, *largest.training} - set(smallest.training)
    sides = [{*split.training, *split.unlabelled} for split in (largest, smallest)]
    assert sides[0] == sides[1]  # one pre-training serves both


def test_a_size_that_takes_all_of_a_split_is_that_split():
    largest = draw_splits(CASES, 3, 10, None, 0.2, 0, validation=4)[1]
    assert nested_split(largest, CASES, 1, 10, 4, None, 0) == largest


def test_validation_cases_are_nested_too():
    assert set(nested(5, 1).validation) < set(nested(5, 2).validation) < set(nested(5, 4).validation)


def test_fewer_unlabelled_images_are_kept_where_asked_and_are_the_same_for_all_sizes():
    few = [nested(size, unlabelled=6).unlabelled for size in (2, 5, 10)]
    assert [len(one) for one in few] == [6, 6, 6]
    assert few[0] == few[1] == few[2]


def test_another_seed_draws_other_cases():
    assert nested(5, seed=0).training != nested(5, seed=1).training


def test_more_than_there_are_is_refused_by_the_key():
    split = Split(("p00_0", "p01_0"), (), ("p02_0",), ("p03_0",))
    with pytest.raises(DataError, match=r"2 labelled training cases, the study asks for 3; lower compare\.sizes"):
        nested_split(split, CASES, 0, 3, 1, None, 0)
    with pytest.raises(
        DataError, match=r"1 labelled validation cases, the study asks for 2; lower compare\.validation"
    ):
        nested_split(split, CASES, 0, 2, 2, None, 0)


@pytest.mark.parametrize(
    ("size", "numbers"), [(3, [148, 149, 150]), (5, [148, 149, 150, 223, 224]), (10, [148, 149, 150, *range(223, 230)])]
)
def test_the_committed_study_keeps_its_cases(size, numbers):
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "hippocampus_low_data_splits.json"
    folds = [Split.from_json(fold) for fold in json.loads(path.read_text())]
    ids = sorted({case for fold in folds for part in dataclasses.astuple(fold) for case in part})
    patients = patients_of(ids, "consecutive_numbers")
    cases = [SimpleNamespace(id=one, patient=patients[one], label="label.nii.gz", stratum="") for one in ids]
    split = nested_split(folds[0], cases, 0, size, 4, None, 0)
    assert split.training == tuple(f"hippocampus_{number}" for number in numbers)
    assert (split.validation, split.test) == (folds[0].validation, folds[0].test)
