"""`run`: every stage in order; finished ones are kept."""

from __future__ import annotations

import os
import time
from importlib import import_module

from diffboost3d.cases.workspace import Workspace
from diffboost3d.config import to_yaml
from diffboost3d.schema import Config
from diffboost3d.synthetic_sets import of_set, refines, synthetic_sets

STAGES = (
    "prepare",
    "train-codec",
    "pretrain",
    "train-refiner",
    "finetune",
    "train-pix2pix",
    "synthesize",
    "train",
    "evaluate",
    "report",
)
DIFFUSION = {"train-codec", "pretrain", "train-refiner", "finetune"}


def run(config: Config, workspace: Workspace) -> None:
    """Run the stages; those of synthesis, its codec and its refiner only where an arm uses what they make."""
    begun = time.monotonic()
    resolved = to_yaml(config)
    for stage in needed_stages(config):
        started = time.monotonic()
        workspace.write_config(stage, resolved)
        import_module(f"diffboost3d.stages.{stage.replace('-', '_')}").run(config, workspace)
        _wait_for_everyone(config)
        workspace.log(f"{stage}: {_minutes(time.monotonic() - started)}")
        if stage == "prepare":
            import_module("diffboost3d.stages.segmenters").require_segmenter(config, workspace)
    workspace.log(f"all: {_minutes(time.monotonic() - begun)}")


def needed_stages(config: Config) -> tuple[str, ...]:
    """The stages that the arms asked for need, in order."""
    unused = _unused(config)
    return tuple(stage for stage in STAGES if stage not in unused)


def _unused(config: Config) -> set[str]:
    """Stages that nothing after them would read; an arm that merges warped real volumes needs none of synthesis."""
    sets = [of_set(config, name).synthesize for name in synthetic_sets(config)]
    generators = {one.generator for one in sets}
    unused = set() if generators else {"synthesize"}
    if "pix2pix" not in generators:
        unused.add("train-pix2pix")
    if "diffusion" not in generators:
        return unused | DIFFUSION
    if not any(refines(one) for one in sets):
        unused.add("train-refiner")
    diffusion = config.diffusion
    given = diffusion.family == "stable_diffusion" or diffusion.start_from or diffusion.codec.weights
    return unused if diffusion.codec.name == "vae" and not given else unused | {"train-codec"}


def _wait_for_everyone(config: Config) -> None:
    """Until every process has come here; `prepare` and `report` are the main one's alone."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        from diffboost3d.stages.inputs import accelerator_of

        accelerator_of(config).wait_for_everyone()


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
