"""Whether synthetic volumes are refined: as configured, or by how thick their slices are."""

from __future__ import annotations

import dataclasses

from diffboost3d.cases.records import Manifest
from diffboost3d.errors import ConfigError
from diffboost3d.schema import Config
from diffboost3d.synthetic_sets import DEFAULT_SET, of_set, synthetic_sets

USUAL = 0.2  # of [-1, 1]; chosen on 1 mm hippocampus (benchmarks: coherence_trials)
THICKEST = 3.0  # times the finest spacing; beyond, neighbouring slices share no fine texture


def with_refine(config: Config, manifest: Manifest) -> Config:
    """The configuration with a number for `synthesize.refine`, in every set too, so that what is made tells it.

    Raises:
        ConfigError: 2D pictures are to be refined that an arm uses.
    """
    settings, used = config.synthesize, synthetic_sets(config) or [DEFAULT_SET]
    sets = {
        name: {**changed, "refine": _number(of_set(config, name), manifest, name in used)}
        for name, changed in settings.sets.items()
    }
    refine = _number(config, manifest, DEFAULT_SET in used)
    return dataclasses.replace(config, synthesize=dataclasses.replace(settings, refine=refine, sets=sets))


def _number(config: Config, manifest: Manifest, is_used: bool) -> float:
    """Of one set; what the GAN makes is not refined."""
    asked, (least, most) = config.synthesize.refine, config.refiner.sigma
    if config.synthesize.generator != "diffusion":
        return 0.0
    if asked is None:
        return min(max(USUAL, least), most) if _refinable(manifest) else 0.0
    if asked and manifest.spatial_dims == 2 and is_used:
        raise ConfigError(
            f"synthesize.refine={asked:g} is refused, {manifest.name} has 2D pictures; allowed there: 0, null"
        )
    return asked


def _refinable(manifest: Manifest) -> bool:
    """Whether texture goes on through the slices (all cases share one spacing)."""
    spacing_mm = manifest.cases[0].grid.spacing_mm
    return manifest.spatial_dims == 3 and max(spacing_mm) <= THICKEST * min(spacing_mm)
