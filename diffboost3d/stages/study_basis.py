"""What the scores of a study rest on, in numbers: cases and patients, trainings, sets of synthetic volumes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from diffboost3d.cases.workspace import RECORD, Workspace, versions
from diffboost3d.stages.study_jobs import Job
from diffboost3d.stages.synthetic_draws import MERGES, count_set

# words of a command that say where and how it ran, not what came out
NO_SETTINGS = (
    "workspace",
    "data.root",
    "compare.tables",
    "compare.processes",
    "compare.launcher",
    "compare.launcher_options",
)


def basis_of_study(cells: Sequence[Job], words: Sequence[str]) -> dict[str, Any]:
    """Of finished cells: {command, versions, cases, trainings, synthetic}.

    Args:
        words: the overrides of the command; `command` has those that shape what comes out.
    """
    kept = [word for word in words if word.lstrip("+").partition("=")[0] not in NO_SETTINGS]
    return {
        "command": shlex.join(["diffboost3d", "compare", *kept]),
        "versions": versions(),
        "cases": count_cases(cells),
        "trainings": count_trainings(cells),
        "synthetic": count_sets_of_study(cells),
    }


def count_cases(cells: Iterable[Job]) -> list[dict[str, Any]]:
    """Of every size and fold: how many cases train, validate, test and have no label, and of how many patients each.

    Returns:
        [{size, fold, training: {cases, patients}, unlabelled: ..., validation: ..., test: ...}], the same for all variants.
    """
    found: dict[tuple[int | None, int], dict[str, Any]] = {}
    for job in cells:
        if (job.size, job.fold) not in found:
            workspace = Workspace(job.config.workspace)
            patients = {case.id: case.patient for case in workspace.read_manifest().cases}
            split = workspace.read_split(job.fold)
            counts: dict[str, Any] = {"size": job.size, "fold": job.fold}
            for part in ("training", "unlabelled", "validation", "test"):
                cases = getattr(split, part)
                counts[part] = {"cases": len(cases), "patients": len({patients[case] for case in cases})}
            found[job.size, job.fold] = counts
    return list(found.values())


def count_trainings(cells: Iterable[Job]) -> list[dict[str, Any]]:
    """Of every variant, size and arm: how many trainings, and of how many the best validation was the last, so that longer ones
    might have come further.

    Returns:
        [{variant, size, arm, trainings, best_last}]; those without validation aren't among `best_last`.
    """
    found: dict[tuple[str, int | None, str], dict[str, Any]] = {}
    for job in cells:
        folder = Workspace(job.config.workspace).segmenter(job.fold, job.arm, job.seed)
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        new = {"variant": job.variant, "size": job.size, "arm": job.arm, "trainings": 0, "best_last": 0}
        counts = found.setdefault((job.variant, job.size, job.arm), new)
        counts["trainings"] += 1
        counts["best_last"] += record["best_score"] is not None and record["best_step"] == record["steps"]
    return list(found.values())


def count_sets_of_study(cells: Iterable[Job]) -> list[dict[str, Any]]:
    """`count_set` of every variant, size, fold and set on which one of these cells was trained, with variant, size and `arms`."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for job in cells:
        arm = job.config.arm[job.arm]
        if arm.merge not in MERGES:
            continue
        key = (job.variant, job.size, job.fold, arm.synthetic_set)
        if key not in found:
            counts = count_set(job.config, Workspace(job.config.workspace), job.fold, arm.synthetic_set)
            found[key] = {"variant": job.variant, "size": job.size, **counts, "arms": []}
        if job.arm not in found[key]["arms"]:
            found[key]["arms"].append(job.arm)
    return list(found.values())
