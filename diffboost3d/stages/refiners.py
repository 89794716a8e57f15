"""The refiner of a fold: what later stages must agree on, and the trained one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.workspace import Workspace
from diffboost3d.errors import ConfigError
from diffboost3d.refinement.batches import spread_of_images
from diffboost3d.refinement.networks import Refiner, RefinerPlan
from diffboost3d.refinement.sampling import RefinePlan
from diffboost3d.refinement.texture import spread_of, texture_of
from diffboost3d.refinement.weights import load_refiner
from diffboost3d.schema import Config
from diffboost3d.seeds import seed_of
from diffboost3d.synthesis.refining import Refining
from diffboost3d.synthetic_sets import refines

STAGE = "train-refiner"


def shape_of_refiner(config: Config) -> dict[str, Any]:
    """What a refiner is: synthesis must ask for the same."""
    wanted = config.refiner
    return {"channels": list(wanted.channels), "blocks": wanted.blocks, "sigma": list(wanted.sigma)}


def require_refiner(config: Config, workspace: Workspace, fold: int) -> str:
    """The digest of the fold's refiner; "" where none is asked for.

    Args:
        config: with a number for `synthesize.refine`.

    Raises:
        WorkspaceError: not trained yet. ConfigError: trained with another `refiner` than this command was given.
    """
    if not refines(config.synthesize):
        return ""
    record = workspace.require(workspace.refiner(fold), STAGE)
    for key, asked in shape_of_refiner(config).items():
        if record["shape"][key] != asked:
            raise ConfigError(
                f"the refiner in {workspace.relative(workspace.refiner(fold))} was trained with refiner.{key}="
                f"{record['shape'][key]}, not {asked}; give both commands the same overrides"
            )
    return str(record["digest"])


def new_refiner(config: Config, images: Sequence[NDArray[np.float32]], seed: int) -> Refiner:
    """A refiner of first weights, with the units of its training images."""
    import torch

    wanted = config.refiner
    mean, spread = spread_of([texture_of(image) for image in images])
    plan = RefinerPlan(
        channels=tuple(wanted.channels),
        blocks=wanted.blocks,
        sigma=(wanted.sigma[0], wanted.sigma[1]),
        spread=spread_of_images(images),
        texture_mean=mean,
        texture_spread=spread,
        image_channels=1 if images[0].ndim == 3 else len(images[0]),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "network"))
        return Refiner(plan)


def refining_of(config: Config, workspace: Workspace, device: Any, fold: int) -> Refining | None:
    """What refines the fold's volumes; None where nothing does. `synthesize.refine` has to be a number."""
    settings = config.synthesize
    if not settings.refine:
        return None
    plan = RefinePlan(settings.refine, settings.refine_steps, settings.batch_voxels)
    return Refining(load_refiner(workspace.refiner(fold)), plan, device, config.runtime.precision)
