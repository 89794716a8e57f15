"""What does our training loop cost beside a bare PyTorch loop with the same network, loss, optimiser and batch?

    python benchmarks/training_overhead.py

Ours is `training.fit` with everything that a training has: patches cut from volumes by `PatchDataset` and its loader, learning
rate, seed of the step, clipping, averaged weights, checks for numbers that aren't finite, TensorBoard, clocks. Bare is zero_grad,
forward, backward, clipping and step on batches of the same size that lie in memory. Both start from the same weights and run in
one process, by turns in blocks of steps: two threads hand the turn to each other. Validation, pictures and checkpoints, whose
number the user chooses, are outside the blocks. Freed memory is kept for both (`training/memory.py`; only ours asks for it).
The ratio is the median over pairs of blocks. By default without the classical stack, whose work is not the loop's;
`--classical` adds it. Writes `benchmarks/results/training_overhead.json` (`training_overhead_classical.json`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from held_out import RESULTS, commit
from merge_cost import BATCH, CASES, PATCH, SPACING, case

from diffboost3d.cases.workspace import versions
from diffboost3d.config import compose
from diffboost3d.schema import ArmConfig
from diffboost3d.segmentation.batches import MergePlan, PatchDataset
from diffboost3d.segmentation.learning import SegmentationLearner, SegmentationObjective
from diffboost3d.segmentation.losses import make_loss
from diffboost3d.segmentation.networks import NetworkSpec, build_network
from diffboost3d.stages.arms import augmentations_of
from diffboost3d.stages.inputs import training_plan
from diffboost3d.training import TrainingPlan, fit, make_accelerator, make_optimizer

LIMIT = 1.05
VOLUME = (64, 80, 64)
WARM_UP = 2  # blocks of each that are not counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="unet", help="as network=... on the command line")
    parser.add_argument("--block", type=int, default=10, help="steps of a block")
    parser.add_argument("--pairs", type=int, default=12, help="blocks of each that are counted")
    parser.add_argument("--workers", type=int, default=0, help="loader processes (runtime.workers)")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--classical", action="store_true", help="the classical stack in our loader")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    spans, waited = measure(given)
    ratios = {clock: spans["ours"][:, at] / spans["bare"][:, at] for at, clock in enumerate(("wall", "processor"))}
    middle = {clock: round(float(np.median(values)), 4) for clock, values in ratios.items()}
    half = [round(float(value), 4) for value in np.percentile(ratios["wall"], [25, 75])]
    result = {
        "ratio": middle["wall"],
        "ratio_of_processor_time": middle["processor"],
        "limit": LIMIT,
        "middle_half": half,
        "ms_a_step": {name: round(1000 * float(np.median(values[:, 0])), 2) for name, values in spans.items()},
        "data_wait_share": waited,
        "network": given.network,
        "batch": [BATCH, 1, *PATCH],
        "classical": given.classical,
        "workers": given.workers,
        "steps": {"block": given.block, "pairs": given.pairs},
        "seeds": [given.seed],
        "device": "cpu",
        "threads": given.threads,
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "command": command(given, parser),
        "commit": commit(),
        "versions": versions(),
    }
    print(json.dumps(result, indent=1))
    name = "training_overhead_classical" if given.classical else "training_overhead"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    if result["ratio"] > LIMIT and not given.classical:
        raise SystemExit(f"a step takes more than {LIMIT} of a bare one")


def command(given: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """The command line, without what is as by default."""
    words = [
        f"--{name}" if value is True else f"--{name} {value}"
        for name, value in vars(given).items()
        if value != parser.get_default(name)
    ]
    return " ".join(["python benchmarks/training_overhead.py", *words])


class Turns:
    """Two loops that take turns, block by block; seconds a step of each block, on the wall and of the processor."""

    def __init__(self, block: int, blocks: int) -> None:
        self.block, self.blocks = block, blocks
        self.spans: dict[str, list[tuple[float, float]]] = {"bare": [], "ours": []}
        self._turn = {name: threading.Semaphore(name == "bare") for name in self.spans}
        self._started = (0.0, 0.0)

    def begin(self, name: str) -> None:
        """Wait for the turn, then start the clocks."""
        self._turn[name].acquire()
        self._started = (time.perf_counter(), time.process_time())

    def end(self, name: str) -> None:
        """Stop the clocks and give the turn away."""
        ended = (time.perf_counter(), time.process_time())
        wall, busy = ((end - start) / self.block for end, start in zip(ended, self._started, strict=True))
        self.spans[name].append((wall, busy))
        self._turn["ours" if name == "bare" else "bare"].release()


class TurningLearner(SegmentationLearner):
    """Its validation, which `fit` calls every block of steps, is the moment in which the turn changes."""

    turns: Turns

    def validate(self, device: torch.device) -> dict[str, float]:
        self.turns.end("ours")
        if len(self.turns.spans["ours"]) < self.turns.blocks:
            self.turns.begin("ours")
        return {}

    def images(self, device: torch.device) -> dict[str, Any]:
        return {}


def measure(given: argparse.Namespace) -> tuple[dict[str, Any], float]:
    """By loop, seconds a step (pairs, 2); and the share of waiting for data of ours."""
    config = compose([f"network={given.network}", "runtime.device=cpu"])
    turns = Turns(given.block, given.pairs + WARM_UP)
    steps = given.block * turns.blocks
    samples = patches(given)
    spec = NetworkSpec(
        config.network.name, 3, 3, PATCH, config.network.arguments, SPACING, divisor=config.network.divisor
    )
    section = config.train
    section.steps, section.batch, section.validate_every = steps, BATCH, given.block
    section.checkpoint_every = section.images_every = 10 * steps
    plan = training_plan(section, given.seed, given.workers)
    loss = make_loss(section.loss, section.include_background, section.loss_arguments)
    torch.manual_seed(given.seed)
    network = build_network(spec)
    bare = build_network(spec)
    bare.load_state_dict(network.state_dict())
    learner = TurningLearner(network, samples, [], ["one", "two"], 0.5, section.include_background, loss)
    learner.turns = turns
    other = threading.Thread(target=bare_loop, args=(turns, bare, loss, samples, plan))
    other.start()
    with tempfile.TemporaryDirectory() as folder:
        turns.begin("ours")
        facts = fit(learner, plan, Path(folder), "overhead", make_accelerator("cpu", "no"), "ours", print)
    other.join()
    return {name: np.array(values[WARM_UP:]) for name, values in turns.spans.items()}, facts["data_wait_share"]


def patches(given: argparse.Namespace) -> PatchDataset:
    """Patches of MR-like volumes that are larger than these."""
    cases = [case(given.seed + number, VOLUME) for number in range(CASES)]
    alone = MergePlan("none", 1.0, (1,), None, 0.0, "image")
    stack = augmentations_of(compose(), ArmConfig(classical=given.classical), PATCH, SPACING, 3)
    return PatchDataset(cases, PATCH, SPACING, alone, stack, 0.5, given.seed)


def bare_loop(turns: Turns, network: torch.nn.Module, loss: Any, samples: PatchDataset, plan: TrainingPlan) -> None:
    """What a script on one page does."""
    torch.set_num_threads(torch.get_num_threads())  # OpenMP counts for each thread
    batches = [
        torch.utils.data.default_collate([samples[BATCH * number + at] for at in range(BATCH)]) for number in range(8)
    ]
    objective = SegmentationObjective(network, False, loss).train()
    optimizer = make_optimizer(plan, objective.parameters())
    number = 0
    for _ in range(turns.blocks):
        turns.begin("bare")
        for _ in range(turns.block):
            optimizer.zero_grad(set_to_none=True)
            objective(batches[number % len(batches)])["loss"].backward()
            torch.nn.utils.clip_grad_norm_(objective.parameters(), plan.clip_norm)
            optimizer.step()
            number += 1
        turns.end("bare")


if __name__ == "__main__":
    main()
