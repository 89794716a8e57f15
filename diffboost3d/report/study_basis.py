"""What the scores of a study rest on, as tables, and as sentences where that is little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffboost3d.report.study_parts import has_sizes, part_cells, part_columns, where_of
from diffboost3d.report.tables import MISSING, Table

FEW_VALIDATION_CASES = 4  # with fewer, the choice of the checkpoint is largely luck


def synthetic_table(summary: Mapping[str, Any]) -> Table:
    """A row a set of synthetic volumes, part and fold: how many train, and what the gate refused draws for."""
    rows = [
        (
            *part_cells(summary, one),
            str(one["fold"]),
            one["set"],
            ", ".join(one["arms"]),
            _judgement(one),
            str(one["refused_draws"]),
            str(one["volumes"]),
            MISSING if one["accepted"] is None else str(one["accepted"]),
        )
        for one in summary.get("synthetic", ())
    ]
    names = ("fold", "set", "arms", "gate", "draws refused", "volumes", "accepted")
    columns = (*part_columns(summary), *names)
    return Table(columns, tuple(rows), len(columns) - 3)


def _judgement(one: Mapping[str, Any]) -> str:
    if not one["judged"]:
        return "judged nothing"
    said = [f"{kind} {count}" for kind, count in one["refused_for"].items()]
    return ", ".join([*said, *(f"{kind} not checked" for kind in one["not_checked"])]) or MISSING


def cases_table(summary: Mapping[str, Any]) -> Table:
    """A row a part and fold: how many cases train, validate, test and have no label, with their patients in brackets."""
    kinds = ("training", "validation", "unlabelled", "test")
    rows = [
        (*part_cells(summary, one), str(one["fold"]), *(_counted(one[kind]) for kind in kinds))
        for one in summary.get("cases", ())
    ]
    columns = (*part_columns(summary), "fold", "labelled training", *kinds[1:])
    return Table(columns, tuple(rows), len(columns) - 4)


def about_cases(summary: Mapping[str, Any]) -> str:
    """What the table of cases has in brackets, and what n is."""
    told = any(one["patients_told"] for one in summary.get("cases", ()))
    text = "Cases, in brackets the patients that they are of."
    if not told:
        text = "No patients are told (data.patients), so that each case counts as one; if they aren't, intervals are too narrow."
    return text + (" n are the labelled training cases." if has_sizes(summary) else "")


def _counted(part: Mapping[str, int]) -> str:
    return f"{part['cases']} ({part['patients']})"


def trainings_table(summary: Mapping[str, Any]) -> Table:
    """A row an arm and part: how many trainings, and of how many the best validation was the last."""
    rows = [
        (*part_cells(summary, one), one["arm"], str(one["trainings"]), str(one["best_last"]))
        for one in summary.get("trainings", ())
    ]
    columns = (*part_columns(summary), "arm", "trainings", "best validation was the last")
    return Table(columns, tuple(rows), len(columns) - 2)


def basis_lines(summary: Mapping[str, Any]) -> list[str]:
    """Sentences on what makes a study weak: few validation cases, one patient, short trainings, arms without volumes."""
    return [*_thin_lines(summary), *_short_lines(summary), *unmerged_lines(summary)]


def _thin_lines(summary: Mapping[str, Any]) -> list[str]:
    """Of few validation cases or one patient, each with the parts and folds that it is true of."""
    found: dict[str, list[str]] = {}
    for one in summary.get("cases", ()):
        where = ", ".join([*filter(None, [where_of(summary, one)]), f"fold {one['fold']}"])
        for line in (*_few_validation_cases(one["validation"]["cases"]), *_one_patient(one)):
            found.setdefault(line, []).append(where)
    return [f"{'; '.join(places)}: {line}" for line, places in found.items()]


def _few_validation_cases(count: int) -> list[str]:
    if count >= FEW_VALIDATION_CASES:
        return []
    choose = "validation case chooses" if count == 1 else "validation cases choose"
    return [
        f"only {count} {choose} the checkpoint, largely by luck; a new study with compare.validation={FEW_VALIDATION_CASES} "
        "has as many"
    ]


def _one_patient(one: Mapping[str, Any]) -> list[str]:
    kinds = {"training": "labelled training", "test": "test"}
    return [
        f"all {one[kind]['cases']} {name} cases are of one patient"
        for kind, name in kinds.items()
        if one[kind]["patients"] == 1 < one[kind]["cases"]
    ]


def _short_lines(summary: Mapping[str, Any]) -> list[str]:
    """Where in most trainings of an arm the best validation was the last."""
    lines = []
    for part in summary["parts"]:
        short = [
            f"{one['arm']} ({one['best_last']} of {one['trainings']})"
            for one in summary.get("trainings", ())
            if (one["variant"], one["size"]) == (part["variant"], part["size"])
            and 2 * one["best_last"] > one["trainings"]
        ]
        if short:
            where = where_of(summary, part)
            lines.append(
                f"{where + ': ' if where else ''}the best validation was the last one in most trainings of {', '.join(short)}: "
                "more train.steps may bring them further"
            )
    return lines


def unmerged_lines(summary: Mapping[str, Any]) -> list[str]:
    """A sentence for every set of which nothing was accepted: its arms merged nothing."""
    lines = []
    for one in summary.get("synthetic", ()):
        if one["accepted"] == 0:
            where = where_of(summary, one)
            lines.append(f"{where + ', ' if where else ''}{nothing_accepted(one)}")
    return lines


def nothing_accepted(one: Mapping[str, Any]) -> str:
    """The sentence for a set of a fold, as `count_set` has it with `arms`."""
    return (
        f"fold {one['fold']}: the gate accepted none of the {one['volumes']} volumes of the set {one['set']}; "
        f"{', '.join(one['arms'])} had nothing to merge and trained on real images alone"
    )


def arms_without_volumes(summary: Mapping[str, Any], part: Mapping[str, Any]) -> set[str]:
    """The arms of a part that merged nothing in any fold."""
    rows = [
        one for one in summary.get("synthetic", ()) if (one["variant"], one["size"]) == (part["variant"], part["size"])
    ]
    merged = {arm for one in rows if one["accepted"] != 0 for arm in one["arms"]}
    return {arm for one in rows for arm in one["arms"]} - merged
