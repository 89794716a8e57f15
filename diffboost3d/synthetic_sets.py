"""Sets of synthetic volumes: the section `synthesize` with what differs in each of `synthesize.sets`."""

from __future__ import annotations

import dataclasses

from diffboost3d.errors import ConfigError
from diffboost3d.schema import Config, SynthesizeConfig

DEFAULT_SET = "default"


def of_set(config: Config, name: str) -> Config:
    """The configuration with which a set of synthetic volumes is made: `synthesize` with what differs in `synthesize.sets`.

    Raises:
        ConfigError: there is no such set, or a key or type in it is refused.
    """
    if name == DEFAULT_SET:
        return config
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if name not in config.synthesize.sets:
        known = ", ".join([DEFAULT_SET, *config.synthesize.sets])
        raise ConfigError(f"synthetic_set={name} is unknown; allowed: {known}; +synthesize.sets.NAME={{...}} adds one")
    try:
        changed = OmegaConf.merge(OmegaConf.structured(config.synthesize), config.synthesize.sets[name])
        section: SynthesizeConfig = OmegaConf.to_object(changed)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(f"synthesize.sets.{name}: {str(error).splitlines()[0]}") from error
    return dataclasses.replace(config, synthesize=dataclasses.replace(section, sets={}))


def refines(section: SynthesizeConfig) -> bool:
    """Whether the volumes of a set are, or with refine=null may be, gone over by a refiner; what the GAN makes is not."""
    return section.generator == "diffusion" and section.refine != 0


def synthetic_sets(config: Config) -> list[str]:
    """The sets of synthetic volumes that the arms train on, in the order of the arms; maybe none."""
    arms = [config.arm[name] for name in config.arms]
    return list(dict.fromkeys(arm.synthetic_set for arm in arms if arm.merge in ("synthetic", "instead")))
