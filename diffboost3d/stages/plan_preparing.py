"""How long `prepare` takes a case, tried on the first ones."""

from __future__ import annotations

import time

from diffboost3d.cases.preparation import Preparation
from diffboost3d.cases.workspace import Workspace
from diffboost3d.stages.edge_operator import device_of_prepare, edge_operator
from diffboost3d.stages.inputs import source_image
from diffboost3d.stages.plan_choices import Plan

TIMED_CASES = 2


def prepare_seconds(plan: Plan, workspace: Workspace) -> float:
    """Seconds that a case takes to read, resample and have its edges drawn, in one thread."""
    config, manifest = plan.config, plan.manifest
    known = manifest.preparation
    edges = edge_operator(config.prepare.edges, device_of_prepare(config))
    started = time.perf_counter()
    cases = manifest.cases[:TIMED_CASES]
    for case in cases:
        image = source_image(workspace, manifest, case)
        bounds = config.prepare.intensity
        preparation = known or Preparation(
            plan.spacing_mm,
            case.intensity.kind,
            (bounds.window_hu[0], bounds.window_hu[1]),
            (bounds.percentiles[0], bounds.percentiles[1]),
            config.prepare.image_interpolation,
        )
        array = preparation.image(image, case.source_grid, case.grid, *case.maps)
        edges(array, case.grid.spacing_mm, slice_axis=case.grid.slice_axis)
    return (time.perf_counter() - started) / len(cases)
