"""What the merging arms of a study had to merge: how many volumes of their sets the gate accepted."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from diffboost3d.cases.workspace import RECORD, Workspace
from diffboost3d.stages.inputs import accepted_records
from diffboost3d.stages.study_jobs import Job
from diffboost3d.synthetic_sets import of_set


def synthetic_of_study(cells: Iterable[Job]) -> list[dict[str, Any]]:
    """Of every variant, size, fold and set on which one of these cells was trained: variant, size, fold, set, `arms`,
    `volumes` and of them `accepted`, `refused_for` {reason: refused draws, all attempts counted}."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for job in cells:
        arm = job.config.arm[job.arm]
        if arm.merge not in ("synthetic", "instead"):
            continue
        key = (job.variant, job.size, job.fold, arm.synthetic_set)
        if key not in found:
            found[key] = {"variant": job.variant, "size": job.size, "fold": job.fold, "set": arm.synthetic_set}
            found[key] |= {"arms": [], **_of_set(job, arm.synthetic_set)}
        if job.arm not in found[key]["arms"]:
            found[key]["arms"].append(job.arm)
    return list(found.values())


def _of_set(job: Job, name: str) -> dict[str, Any]:
    workspace = Workspace(job.config.workspace).of_set(name)
    samples = of_set(job.config, name).synthesize.samples
    cases = workspace.read_split(job.fold).training
    accepted = sum(len(accepted_records(workspace, job.fold, case, samples)) for case in cases)
    path = workspace.synthetic(job.fold) / RECORD
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    refused = {reason: count for reason, count in record.get("refused_for", {}).items() if count}
    return {"volumes": len(cases) * samples, "accepted": accepted, "refused_for": refused}
