"""What the scores of a study rest on, in numbers: cases and patients, trainings, sets of synthetic volumes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from diffboost3d.cases.workspace import RECORD, Workspace
from diffboost3d.stages.study_jobs import Job
from diffboost3d.stages.synthetic_draws import MERGES, count_set

# words of a command that say where and how it ran, not what came out, and keys below them
NO_SETTINGS = (
    "workspace",
    "data.root",
    "compare.tables",
    "compare.processes",
    "compare.launcher",
    "compare.launcher_options",
)
FEWEST_VALIDATIONS = 3


def basis_of_study(cells: Sequence[Job], words: Sequence[str]) -> dict[str, Any]:
    """Of finished cells: {command, versions, cases, trainings, synthetic}.

    Args:
        words: the overrides of the command; `command` has those that shape what comes out.
    """
    kept = [word for word in words if not _is_no_setting(word.lstrip("+~").partition("=")[0])]
    return {
        "command": shlex.join(["diffboost3d", "compare", "data.root=FOLDER", "workspace=STUDY", *kept]),
        "versions": _versions(cells),
        "cases": count_cases(cells),
        "trainings": count_trainings(cells),
        "synthetic": count_sets_of_study(cells),
    }


def _is_no_setting(key: str) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in NO_SETTINGS)


def _versions(cells: Iterable[Job]) -> dict[str, str]:
    """Of the packages when the cells were trained; several with a stroke between them."""
    found: dict[str, set[str]] = {}
    for job in cells:
        for package, version in _training_record(job).get("versions", {}).items():
            found.setdefault(package, set()).add(version)
    return {package: " / ".join(sorted(versions)) for package, versions in found.items()}


def _training_record(job: Job) -> dict[str, Any]:
    """What the training of a cell left; nothing where it is gone, with the scores kept."""
    path = Workspace(job.config.workspace).segmenter(job.fold, job.arm, job.seed) / RECORD
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return record


def count_cases(cells: Iterable[Job]) -> list[dict[str, Any]]:
    """Of every variant, size and fold: how many cases train, validate, test and have no label, and of how many patients each.

    Returns:
        [{variant, size, fold, patients_told, training: {cases, patients}, unlabelled: ..., validation: ..., test: ...}];
        patients_told: whether any case has another patient's name than its own.
    """
    found: dict[tuple[str, int | None, int], dict[str, Any]] = {}
    for job in cells:
        key = (job.variant, job.size, job.fold)
        if key not in found:
            workspace = Workspace(job.config.workspace)
            patients = {case.id: case.patient for case in workspace.read_manifest().cases}
            split = workspace.read_split(job.fold)
            counts: dict[str, Any] = {"variant": job.variant, "size": job.size, "fold": job.fold}
            counts["patients_told"] = any(case != patient for case, patient in patients.items())
            for part in ("training", "unlabelled", "validation", "test"):
                cases = getattr(split, part)
                counts[part] = {"cases": len(cases), "patients": len({patients[case] for case in cases})}
            found[key] = counts
    return list(found.values())


def count_trainings(cells: Iterable[Job]) -> list[dict[str, Any]]:
    """Of every variant, size and arm: how many trainings, and of how many the best validation was the last, so that longer ones
    might have come further.

    Returns:
        [{variant, size, arm, trainings, best_last}]; those with fewer than three validations, of which the last is easily the
        best, aren't among `best_last`.
    """
    found: dict[tuple[str, int | None, str], dict[str, Any]] = {}
    for job in cells:
        new = {"variant": job.variant, "size": job.size, "arm": job.arm, "trainings": 0, "best_last": 0}
        counts = found.setdefault((job.variant, job.size, job.arm), new)
        counts["trainings"] += 1
        counts["best_last"] += _best_was_last(job, _training_record(job))
    return list(found.values())


def _best_was_last(job: Job, record: dict[str, Any]) -> bool:
    if not record:
        return False
    validations = -(-record["steps"] // job.config.train.validate_every)
    return bool(validations >= FEWEST_VALIDATIONS and record["best_step"] == record["steps"])


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
