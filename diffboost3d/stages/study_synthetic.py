"""The sets of synthetic volumes on which the cells of a study were trained, in numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from diffboost3d.cases.workspace import Workspace
from diffboost3d.stages.study_jobs import Job
from diffboost3d.stages.synthetic_draws import MERGES, count_set


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
