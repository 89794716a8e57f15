"""Near-duplicates among the cases of a data set: joined into one patient, so that no split parts them, and written down."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from diffboost3d.cases.records import Case
from diffboost3d.imaging.fingerprints import Likeness, Twins, groups_of


def joined(cases: Sequence[Case], twins: Sequence[Twins]) -> list[Case]:
    """The cases with one patient for all whose images hang together, or whose patients' do: that of the first of them."""
    first_of: dict[str, int] = {}
    links = list(twins)
    for number, case in enumerate(cases):
        first = first_of.setdefault(case.patient, number)
        if first != number:
            links.append(Twins(first, number, 1.0))
    patients = [case.patient for case in cases]
    for group in groups_of(len(cases), links):
        for number in group:
            patients[number] = cases[group[0]].patient
    return [dataclasses.replace(case, patient=patient) for case, patient in zip(cases, patients, strict=True)]


def described(cases: Sequence[Case], twins: Sequence[Twins], likeness: Likeness) -> dict[str, Any]:
    """What duplicates.json holds: the settings, and of each group its cases, their pairs and their strata."""
    groups = []
    for group in groups_of(len(cases), twins):
        own = [
            {
                "cases": [cases[one.first].id, cases[one.second].id],
                "similarity": one.similarity,
                "mirrored": one.flipped,
            }
            for one in twins
            if one.first in group
        ]
        strata = dict(sorted(Counter(cases[number].stratum for number in group if cases[number].stratum).items()))
        groups.append({"cases": [cases[number].id for number in group], "strata": strata, "pairs": own})
    return {**dataclasses.asdict(likeness), "groups": groups}


def in_words(told: dict[str, Any]) -> list[str]:
    """What `described` says, in lines to log."""
    groups = told["groups"]
    count = sum(len(group["cases"]) for group in groups)
    found = f"{len(groups)} groups of {count} images; no split parts a group" if groups else "none"
    lines = [f"near-duplicates: {found}"]
    if mixed := [group for group in groups if len(group["strata"]) > 1]:
        first = mixed[0]
        lines.append(
            f"! {len(mixed)} groups of near-duplicates have images of several classes, e.g. {', '.join(first['cases'][:4])} "
            f"({', '.join(first['strata'])})"
        )
    return lines
