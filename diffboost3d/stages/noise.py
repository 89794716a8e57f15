"""The noise that slices share: as configured, or measured on the fold's training cases."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from diffboost3d.cases.records import Case, Manifest
from diffboost3d.cases.workspace import Workspace
from diffboost3d.imaging.channels import channels_of
from diffboost3d.schema import Config
from diffboost3d.stages.inputs import prepared, slice_axis
from diffboost3d.synthesis.coherence import measured_rho

MEASURED_ON = 20  # cases at most


def with_measured_noise(config: Config, workspace: Workspace, manifest: Manifest, cases: Sequence[Case]) -> Config:
    """The configuration with a number for `synthesize.rho`, so that what is made tells it.

    Args:
        cases: labelled training cases of the fold.
    """
    if config.synthesize.rho is not None:
        return config
    rho = 0.0
    if config.synthesize.noise == "shared":
        axis = slice_axis(config, manifest)
        images = [one for case in cases[:MEASURED_ON] for one in channels_of(prepared(workspace, case, "image"))]
        rho = measured_rho(images, axis)
        workspace.log(f"slices share {rho} of their noise, as the texture of {min(len(cases), MEASURED_ON)} scans does")
    return dataclasses.replace(config, synthesize=dataclasses.replace(config.synthesize, rho=rho))
