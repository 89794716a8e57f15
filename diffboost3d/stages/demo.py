"""`demo`: the whole way on a built-in cohort, written beside the workspace as an ordinary folder."""

from __future__ import annotations

import dataclasses

from diffboost3d.cases.workspace import Workspace
from diffboost3d.cohort import write_cohort
from diffboost3d.schema import Config
from diffboost3d.stages import run as run_stages

CASES = 24
FOLDER = "cohort"


def run(config: Config, workspace: Workspace) -> None:
    """Write the cohort named by `cohort` into the workspace, then run every stage on it."""
    root = workspace.root / FOLDER
    workspace.log(f"demo: {CASES} built-in cases of the cohort {config.cohort} in {root}")
    if workspace.main:
        write_cohort(config.cohort, root, CASES, seed=config.seed)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(root)))
    run_stages.run(config, workspace)
    workspace.log(
        f"demo: {config.train.steps} steps of training on made-up organs show that every stage works, "
        "and say nothing about the method"
    )
