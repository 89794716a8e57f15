"""Whether synthetic volumes are refined: as configured, or by how thick their slices are."""

from __future__ import annotations

import dataclasses

from diffboost3d.cases.records import Manifest
from diffboost3d.errors import ConfigError
from diffboost3d.schema import Config

USUAL = 0.2  # of [-1, 1]; chosen on 1 mm hippocampus (benchmarks: coherence_trials)
THICKEST = 3.0  # times the finest spacing; beyond, neighbouring slices share no fine texture


def with_refine(config: Config, manifest: Manifest) -> Config:
    """The configuration with a number for `synthesize.refine`, so that what is made tells it.

    Raises:
        ConfigError: 2D pictures are to be refined.
    """
    asked = config.synthesize.refine
    if asked and manifest.spatial_dims == 2:
        raise ConfigError(
            f"synthesize.refine={asked:g} is refused, {manifest.name} has 2D pictures; allowed there: 0, null"
        )
    if asked is None:
        asked = USUAL if _refinable(manifest) else 0.0
    return dataclasses.replace(config, synthesize=dataclasses.replace(config.synthesize, refine=asked))


def _refinable(manifest: Manifest) -> bool:
    """Whether texture goes on through the slices (all cases share one spacing)."""
    spacing_mm = manifest.cases[0].grid.spacing_mm
    return manifest.spatial_dims == 3 and max(spacing_mm) <= THICKEST * min(spacing_mm)
