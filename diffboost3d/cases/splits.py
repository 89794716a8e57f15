"""Folds by patient: training (labelled and unlabelled), validation inside training, and test cases never seen by them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffboost3d.cases.layouts.table import is_table, read_patients
from diffboost3d.cases.records import SPLIT_PARTS, Case, Split
from diffboost3d.errors import DataError
from diffboost3d.seeds import generator


def patients_of(ids: Sequence[str], rule: str, told: Mapping[str, str] | None = None) -> dict[str, str]:
    """Case id -> patient.

    Args:
        ids: case ids.
        rule: "case" (each its own), "consecutive_numbers" (ids whose last numbers follow each other are one patient), a
            regular expression whose first group is the patient, or the name of a CSV file with columns `id` and `patient`.
        told: patients that the data folder tells of itself; they count where the rule is "case".

    Raises:
        DataError: an id doesn't match the rule, or isn't in the table.
    """
    if is_table(rule):
        table = read_patients(Path(rule).expanduser())
        if absent := [case for case in ids if case not in table]:
            raise DataError(f"data.patients={rule}: {len(absent)} cases are not in it, the first {absent[0]!r}")
        return {case: table[case] for case in ids}
    if rule == "case":
        return {case: (told or {}).get(case, case) for case in ids}
    if rule == "consecutive_numbers":
        return _runs(ids)
    patients = {}
    for case in ids:
        match = re.search(rule, case)
        if match is None:
            raise DataError(f"data.patients={rule!r} doesn't match the case {case!r}")
        patients[case] = match.group(1)
    return patients


def _runs(ids: Sequence[str]) -> dict[str, str]:
    numbered = []
    for case in ids:
        match = re.search(r"(\d+)\D*$", case)
        if match is None:
            raise DataError(f"data.patients=consecutive_numbers: the case {case!r} has no number")
        numbered.append((int(match.group(1)), case))
    patients: dict[str, str] = {}
    previous: tuple[int, str] | None = None
    for number, case in sorted(numbered):
        follows = previous is not None and number - previous[0] <= 1
        patients[case] = patients[previous[1]] if follows and previous else case
        previous = (number, case)
    return patients


def draw_splits(
    cases: Sequence[Case],
    folds: int,
    labelled: int | None,
    unlabelled: int | None,
    validation_fraction: float,
    seed: int,
    validation: int | None = None,
) -> list[Split]:
    """One split a fold: every labelled case is tested in just one fold.

    Where cases have strata, each fold has their shares of the patients, and so have, as nearly as whole patients allow, its
    training and validation cases.

    Args:
        labelled: training cases kept labelled; the others serve unlabelled. None: all.
        unlabelled: unlabelled images kept; None: all.
        validation_fraction: validation cases as a share of the labelled training cases (at least one), taken from the
            training side on top of them; other cases of their patients are left out of the fold.
        validation: that many validation cases instead.

    Raises:
        DataError: fewer patients than the folds, training and validation need.
    """
    with_label = _by_patient([case for case in cases if case.label is not None])
    patients = sorted(with_label)
    if len(patients) < max(folds, 3):
        raise DataError(
            f"{folds} folds need at least {max(folds, 3)} labelled patients (training, validation, test); "
            f"there are {len(patients)}"
        )
    generator(seed, "folds").shuffle(patients)
    strata = _strata([case for case in cases if case.label is not None])
    patients = _by_stratum(patients, strata, with_label, folds)
    return [
        _draw_split(
            cases,
            with_label,
            strata,
            patients,
            fold,
            folds,
            labelled,
            unlabelled,
            validation_fraction,
            seed,
            validation,
        )
        for fold in range(folds)
    ]


def nested_split(
    whole: Split,
    cases: Sequence[Case],
    fold: int,
    labelled: int,
    validation: int,
    unlabelled: int | None,
    seed: int,
) -> Split:
    """The part of a split that a training size has: some of its training and validation cases, the same test cases.

    Cases are taken in an order that the seed, the fold and `whole` alone decide, patient by patient, so that those of a smaller
    size are among those of a larger one. Those that aren't taken serve unlabelled, unless another case of their patient
    validates: after the unlabelled ones of `whole`, and the last in order first, so that all sizes have the same ones.

    Args:
        labelled, validation: how many cases of each are kept.
        unlabelled: unlabelled images kept; None: all.

    Raises:
        DataError: `whole` has fewer cases than that.
    """
    for part, wanted in (("training", labelled), ("validation", validation)):
        if wanted > len(getattr(whole, part)):
            raise DataError(
                f"fold {fold} has {len(getattr(whole, part))} labelled {part} cases, the study asks for {wanted}; lower "
                f"{'compare.sizes' if part == 'training' else 'compare.validation'}"
            )
    patients = {case.id: case.patient for case in cases}
    strata = _strata([case for case in cases if case.label is not None])
    training = _in_order(whole.training, patients, strata, seed, fold, "training")
    validated = _in_order(whole.validation, patients, strata, seed, fold, "validation")
    away = {patients[case] for case in validated[:validation]}
    spare = [case for case in training[labelled:] + validated[validation:] if patients[case] not in away]
    rest = list(whole.unlabelled)
    generator(seed, "nested", "unlabelled", fold).shuffle(rest)
    return Split(
        tuple(sorted(training[:labelled])),
        tuple(sorted((rest + spare[::-1])[:unlabelled])),
        tuple(sorted(validated[:validation])),
        whole.test,
    )


def _in_order(
    ids: Sequence[str], patients: dict[str, str], strata: dict[str, str], seed: int, fold: int, part: str
) -> list[str]:
    """Cases, patient by patient, in the order in which sizes take them."""
    order = sorted({patients[case] for case in ids})
    generator(seed, "nested", part, fold).shuffle(order)
    order = _evenly(order, strata)
    return sorted(ids, key=lambda case: (order.index(patients[case]), case))


def validation_count(labelled: int, fraction: float) -> int:
    """How many validation cases go with a number of training cases: a share of them, at least one."""
    return max(1, round(fraction * labelled))


def _by_patient(cases: Sequence[Case]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for case in cases:
        grouped.setdefault(case.patient, []).append(case.id)
    return grouped


def _strata(cases: Sequence[Case]) -> dict[str, str]:
    """Patient -> the stratum of most of the patient's cases, the first by name where that is not one."""
    found: dict[str, Counter[str]] = {}
    for case in sorted(cases, key=lambda case: case.stratum):
        found.setdefault(case.patient, Counter())[case.stratum] += 1
    return {patient: counts.most_common(1)[0][0] for patient, counts in found.items()}


def _by_stratum(patients: list[str], strata: dict[str, str], cases: dict[str, list[str]], folds: int) -> list[str]:
    """Patients so that the parts of every n-th differ by one patient of a stratum at most; one stratum: as given.

    A row of n has one patient for each part, of one stratum and of like numbers of cases; every second row is turned round, else
    the first part would have the largest of each. What is left of the strata comes last.
    """
    if len(set(strata.values())) < 2:
        return patients
    rows, rest = [], []
    for stratum in sorted(set(strata.values())):
        own = [patient for patient in patients if strata[patient] == stratum]
        own.sort(key=lambda patient: -len(cases[patient]))
        whole = len(own) - len(own) % folds
        rows += [own[first : first + folds] for first in range(0, whole, folds)]
        rest += own[whole:]
    turned = [patient for number, row in enumerate(rows) for patient in (row[::-1] if number % 2 else row)]
    return turned + rest


def _evenly(patients: list[str], strata: dict[str, str]) -> list[str]:
    """Patients so that the strata are spread evenly and any run of them has about their shares; one stratum: as given."""
    counts = Counter(strata[patient] for patient in patients)
    if len(counts) < 2:
        return patients
    seen = Counter[str]()
    places = {}
    for patient in patients:
        stratum = strata[patient]
        places[patient] = (seen[stratum] + 0.5) / counts[stratum]
        seen[stratum] += 1
    return sorted(patients, key=lambda patient: (places[patient], strata[patient]))


def _draw_split(
    cases: Sequence[Case],
    with_label: dict[str, list[str]],
    strata: dict[str, str],
    patients: list[str],
    fold: int,
    folds: int,
    labelled: int | None,
    unlabelled: int | None,
    validation_fraction: float,
    seed: int,
    validation: int | None = None,
) -> Split:
    tested = set(patients[fold::folds])
    side = [patient for patient in patients if patient not in tested]
    generator(seed, "training", fold).shuffle(side)
    side = _evenly(side, strata)
    available = sum(len(with_label[patient]) for patient in side)
    wanted = min(labelled or available, available)
    count = validation or validation_count(wanted, validation_fraction)
    validated, side = _take(side, with_label, count)
    training_patients, _ = _take(_evenly(side, strata), with_label, wanted)
    training = [case for patient in training_patients for case in with_label[patient]][:wanted]
    if not training:
        raise DataError(
            f"fold {fold} has no training case left beside its validation cases; give more labelled patients"
        )
    away = tested | set(validated)
    rest = [case.id for case in cases if case.patient not in away and case.id not in set(training)]
    generator(seed, "unlabelled", fold).shuffle(rest)
    return Split(
        tuple(sorted(training)),
        tuple(sorted(rest[:unlabelled])),
        tuple(sorted([case for patient in validated for case in with_label[patient]][:count])),
        tuple(sorted(case for patient in tested for case in with_label[patient])),
    )


def _take(patients: list[str], cases: dict[str, list[str]], wanted: int) -> tuple[list[str], list[str]]:
    """The first patients that together have `wanted` cases, and the others."""
    count, index = 0, 0
    while index < len(patients) and count < wanted:
        count += len(cases[patients[index]])
        index += 1
    return patients[:index], patients[index:]


def read_splits(path: Path, cases: Sequence[Case]) -> tuple[list[Split], list[str]]:
    """Splits that the user pins: a JSON list of folds, each {"training", "unlabelled", "validation", "test": [ids]}.

    Returns:
        The splits, and one line for every listed case that had to be left out (skipped by the checks).

    Raises:
        DataError: not of that form, a patient on two sides, an empty part.
    """
    lines: list[str] = []
    return [_pinned(path, index, fold, cases, lines) for index, fold in enumerate(folds_of(path))], lines


def folds_of(path: Path) -> list[dict[str, Any]]:
    """The folds of a file of splits, not yet held against cases.

    Raises:
        DataError: no such file, or none of that form.
    """
    if not path.is_file():
        raise DataError(f"data.splits={path}: no such file")
    try:
        folds = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path}: is no valid JSON ({error})") from error
    if not isinstance(folds, list) or not folds or not all(isinstance(fold, dict) for fold in folds):
        raise DataError(f"{path}: should be a list of folds, each with {', '.join(SPLIT_PARTS)}")
    return folds


def _pinned(path: Path, index: int, fold: dict[str, list[str]], cases: Sequence[Case], lines: list[str]) -> Split:
    if unknown := sorted(set(fold) - set(SPLIT_PARTS)):
        raise DataError(f"{path}: fold {index} has the unknown part {unknown[0]!r}; allowed: {', '.join(SPLIT_PARTS)}")
    for part, ids in fold.items():
        if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
            raise DataError(f"{path}: fold {index}, {part} should be a list of case ids, not {ids!r}")
        if twice := sorted({one for one in ids if ids.count(one) > 1}):
            raise DataError(f"{path}: fold {index}, {part} names {twice[0]!r} twice")
    if both := sorted(set(fold.get("training", ())) & set(fold.get("unlabelled", ()))):
        raise DataError(f"{path}: fold {index} has {both[0]!r} in both training and unlabelled")
    known = {case.id: case for case in cases}
    kept: dict[str, list[str]] = {}
    side_of: dict[str, str] = {}
    for part in SPLIT_PARTS:
        kept[part] = []
        for case in fold.get(part, []):
            if case not in known:
                lines.append(f"{path.name}: fold {index}, {part}: no usable case {case!r}; it is left out")
            elif part != "unlabelled" and known[case].label is None:
                lines.append(f"{path.name}: fold {index}, {part}: case {case!r} has no label; it is left out")
            else:
                kept[part].append(case)
                _check_side(path, index, part, known[case], side_of)
        if not kept[part] and part != "unlabelled":
            raise DataError(f"{path}: fold {index} has no usable {part} case")
    return Split.from_json(kept)


def _check_side(path: Path, index: int, part: str, case: Case, side_of: dict[str, str]) -> None:
    side = "training" if part == "unlabelled" else part
    if side_of.setdefault(case.patient, side) != side:
        raise DataError(
            f"{path}: fold {index} has the patient of {case.id!r} in both {side_of[case.patient]} and {side}; a patient "
            "may be on one side only"
        )
