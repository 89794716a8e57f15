"""Folders and lists that people really have: own numbers of four digits, entries without names, lists that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffboost3d.cases.layouts import read_folder
from diffboost3d.cases.records import Case
from diffboost3d.cases.splits import draw_splits, patients_of, read_splits
from diffboost3d.errors import DataError
from diffboost3d.imaging.geometry import Grid
from diffboost3d.imaging.intensity import IntensityMap


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def write_facts(root: Path, **facts: Any) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")


# --- layouts -------------------------------------------------------------------------------------------------------
def test_four_digits_are_a_number_where_the_label_has_them_too(tmp_path: Path) -> None:
    for name in ("ct_2021", "ct_2022"):
        touch(tmp_path / "imagesTr" / f"{name}.nii.gz", tmp_path / "labelsTr" / f"{name}.nii.gz")
    folder = read_folder(tmp_path)
    assert [(pair.id, pair.missing) for pair in folder.pairs] == [("ct_2021", None), ("ct_2022", None)]


def test_nnunet_cases_without_a_channel_number_pair_as_they_are(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr" / "la_7.nii.gz", tmp_path / "labelsTr" / "la_7.nii.gz")
    (pair,) = read_folder(tmp_path).pairs
    assert (pair.id, pair.missing) == ("la_7", None)


@pytest.mark.parametrize(
    "labels",
    [{"0": "background", "3": "cyst", "1": "kidney"}, {"background": 0, "cyst": 3, "kidney": 1}],
    ids=["MSD", "nnU-Net"],
)
def test_labels_are_named_in_either_direction_and_ordered_by_value(labels: dict[str, Any], tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a.nii.gz")
    write_facts(tmp_path, labels=labels)
    found = read_folder(tmp_path).labels
    assert list((found or {}).items()) == [("background", 0), ("kidney", 1), ("cyst", 3)]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"training": [{"label": "labelsTr/a.nii.gz"}]}, "a training entry names no image"),
        ({"labels": {"0": "background", "one": "kidney"}}, "names and whole numbers"),
        ({"labels": ["background", "kidney"]}, "names and whole numbers"),
        ({"labels": {"background": 0, "both": []}}, "names and whole numbers"),
    ],
)
def test_a_dataset_json_that_can_not_be_understood_is_named(facts: dict[str, Any], said: str, tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr" / "a.nii.gz")
    write_facts(tmp_path, **facts)
    with pytest.raises(DataError, match=f"dataset.json: .*{said}") as refusal:
        read_folder(tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", ["", "[1]", "\x00", '{"labels": '])
def test_a_dataset_json_that_is_no_object_is_named(content: str, tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a.nii.gz")
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=r"dataset\.json: "):
        read_folder(tmp_path)


def test_json_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a.nii.gz")
    (tmp_path / "dataset.json").write_text('{"name": "Köpfe"}', encoding="utf-8-sig")
    assert read_folder(tmp_path).name == "Köpfe"
    fold = {"training": ["a1"], "validation": ["b1"], "test": ["c1"]}
    (tmp_path / "splits.json").write_text(json.dumps([fold]), encoding="utf-8-sig")
    (split,), _ = read_splits(tmp_path / "splits.json", [case(name) for name in ("a1", "b1", "c1")])
    assert split.test == ("c1",)


def test_a_missing_label_named_by_an_absolute_path_is_a_finding_not_a_crash(tmp_path: Path) -> None:
    touch(tmp_path / "data" / "imagesTr" / "a.nii.gz")
    entry = {"image": "./imagesTr/a.nii.gz", "label": str(tmp_path / "elsewhere" / "a.nii.gz")}
    write_facts(tmp_path / "data", training=[entry])
    (pair,) = read_folder(tmp_path / "data").pairs
    assert (pair.label, pair.missing) == (None, "../elsewhere/a.nii.gz")


def test_a_training_entry_without_a_label_is_unlabelled_on_purpose(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr" / "a.nii.gz", tmp_path / "imagesTr" / "b.nii.gz")
    write_facts(tmp_path, training=["./imagesTr/a.nii.gz", {"image": "./imagesTr/b.nii.gz"}])
    assert [(pair.id, pair.label, pair.missing) for pair in read_folder(tmp_path).pairs] == [
        ("a", None, None),
        ("b", None, None),
    ]


def test_the_layout_can_be_insisted_on(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a.png", tmp_path / "imagesTr" / "b_0000.nii.gz")
    assert [pair.id for pair in read_folder(tmp_path, "plain").pairs] == ["a"]
    assert [pair.id for pair in read_folder(tmp_path, "nnunet").pairs] == ["b"]
    with pytest.raises(DataError, match=r"no images found as data\.layout=msd has them; expected imagesTr/"):
        read_folder(tmp_path, "msd")


def test_a_folder_names_itself_and_its_modality_is_empty_without_dataset_json(tmp_path: Path) -> None:
    touch(tmp_path / "my scans ü" / "images" / "a.nii.gz")
    folder = read_folder(tmp_path / "my scans ü")
    assert (folder.name, folder.modality, folder.labels) == ("my scans ü", "", None)


# --- patients ------------------------------------------------------------------------------------------------------
def test_a_run_of_numbers_ends_at_a_gap_and_crosses_a_change_of_digits() -> None:
    patients = patients_of(["t9", "t10", "t12", "t13b"], "consecutive_numbers")
    assert patients == {"t9": "t9", "t10": "t9", "t12": "t12", "t13b": "t12"}


# --- splits --------------------------------------------------------------------------------------------------------
def case(name: str, patient: str | None = None, labelled: bool = True) -> Case:
    grid = Grid.of((2, 2, 2), np.eye(4))
    return Case(
        name, patient or name, "i", "l" if labelled else None, grid, grid, IntensityMap("percentiles", 0, 1), "d"
    )


def test_siblings_of_a_training_case_may_serve_unlabelled_but_never_those_of_others() -> None:
    cases = [case(f"{patient}{scan}", patient) for patient in "abcdefghi" for scan in "12"]
    for split in draw_splits(cases, 3, 3, None, 0.3, 0):
        assert len(split.training) == 3  # two scans of one patient, one of another, whose second is left
        away = {name[0] for name in split.validation + split.test}
        assert not away & {name[0] for name in split.training + split.unlabelled}
        assert {name[0] for name in split.training} & {name[0] for name in split.unlabelled}


def test_images_without_label_serve_unlabelled_in_every_fold_and_are_never_tested() -> None:
    cases = [case(f"c{number}") for number in range(9)] + [case(f"u{number}", labelled=False) for number in range(4)]
    for split in draw_splits(cases, 3, None, None, 0.2, 0):
        assert {"u0", "u1", "u2", "u3"} <= set(split.unlabelled)
    for split in draw_splits(cases, 3, None, 2, 0.2, 0):
        assert len(split.unlabelled) == 2
    assert all(split.unlabelled == () for split in draw_splits(cases, 3, None, 0, 0.2, 0))


def test_another_seed_draws_other_folds() -> None:
    cases = [case(f"c{number:02d}") for number in range(12)]
    assert draw_splits(cases, 3, None, None, 0.2, 0) != draw_splits(cases, 3, None, None, 0.2, 1)


def test_two_folds_of_three_patients_can_not_be_and_the_way_out_is_said() -> None:
    with pytest.raises(DataError, match=r"no training case left .*; give more labelled patients"):
        draw_splits([case(name) for name in "abc"], 2, None, None, 0.2, 0)


def test_a_pinned_patient_may_train_and_serve_unlabelled_but_not_be_tested(tmp_path: Path) -> None:
    cases = [case("a1", "a"), case("a2", "a"), case("b1", "b"), case("c1", "c")]
    path = tmp_path / "splits.json"
    fold = {"training": ["a1"], "unlabelled": ["a2"], "validation": ["b1"], "test": ["c1"]}
    path.write_text(json.dumps([fold]))
    ((split,), lines) = read_splits(path, cases)
    assert (split.training, split.unlabelled, lines) == (("a1",), ("a2",), [])
    path.write_text(json.dumps([{**fold, "unlabelled": [], "test": ["a2"]}]))
    with pytest.raises(DataError, match="patient of 'a2' in both training and test"):
        read_splits(path, cases)


@pytest.mark.parametrize("ids", [None, "c1", 3, [["c1"]], [1], {"c1": 1}])
def test_a_part_that_is_no_list_of_ids_is_refused(ids: Any, tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    path.write_text(json.dumps([{"training": ["a1"], "validation": ["b1"], "test": ids}]))
    with pytest.raises(DataError, match=r"splits\.json: fold 0, test should be a list of case ids"):
        read_splits(path, [case("a1"), case("b1"), case("c1")])
