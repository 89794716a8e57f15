"""What does CuboidMerge cost beside the training step that its batch is for?

    python benchmarks/merge_cost.py

The default segmenter (configs/network/unet.yaml) and loss on batches of 2 patches of 48 x 64 x 48 voxels of the built-in MR-like
cohort: forward, backward, clipping, AdamW; without data loading and averaged weights, so that the step is not made to look
dearer. The merge of the same batch is timed in the same process by turns with the step: TorchIO subjects built of tensors, the
transform called as anyone would (with its copy and its history), results taken out. Shares are of medians of processor time
on one thread, which other work on the machine disturbs less than the clock on the wall; that stands beside it. Also: what
merging adds to the samples of `PatchDataset`, and how much longer a step with merge.at=prediction is (two passes).
Writes `benchmarks/results/merge_cost.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchio as tio
from held_out import RESULTS, Float, commit

from diffboost3d import CuboidMerge
from diffboost3d.augmentation.cuboids import CuboidPlan, masks
from diffboost3d.cases.workspace import versions
from diffboost3d.cohort.volumes import make_mr
from diffboost3d.config import compose
from diffboost3d.segmentation.batches import MergePlan, PatchDataset, TrainingCase
from diffboost3d.segmentation.learning import SegmentationObjective
from diffboost3d.segmentation.networks import NetworkSpec, build_network

PATCH, BATCH, SPACING, CASES = (48, 64, 48), 2, (1.5, 1.5, 2.5), 8
LIMIT = 0.05
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "without_copy": {"copy": False},
    "alpha_range": {"alpha": (0.4, 0.8)},
    "cell_mm": {"cell_mm": 24.0},
    "cell_1": {"cell": 1},
    "mask_foreground": {"mask_foreground": True},
    "feather": {"feather": 1.5},
    "feather_6": {"feather": 6.0},
    "mask_foreground_feather": {"mask_foreground": True, "feather": 1.5},
    "mask_foreground_feather_4": {"mask_foreground": True, "feather": 4.0},
    "all_at_cell_1": {"mask_foreground": True, "feather": 4.0, "cell": 1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    times = measure(given.repeats, given.seed)
    wall, processor = (shares({name: values[:, clock] for name, values in times.items()}) for clock in (0, 1))
    result = {
        "share_of_step": processor["default"],
        "share_of_step_worst_option": max(processor[name] for name in OPTIONS),
        "share_of_step_on_the_wall": wall["default"],
        "limit": LIMIT,
        "shares": processor,
        "shares_on_the_wall": wall,
        "ms": {name: spread(values[:, 1]) for name, values in times.items()},
        "ms_on_the_wall": {name: spread(values[:, 0]) for name, values in times.items()},
        "batch": [BATCH, 1, *PATCH],
        "cases": CASES,
        "repeats": given.repeats,
        "seeds": [given.seed],
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "command": f"python benchmarks/merge_cost.py --repeats {given.repeats}"
        + (f" --seed {given.seed}" if given.seed else ""),
        "commit": commit(),
        "versions": versions() | {"torchio": tio.__version__},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "merge_cost.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if result["share_of_step"] > LIMIT:
        raise SystemExit(f"the merge takes more than {LIMIT:.0%} of a step")


def shares(times: dict[str, Float]) -> dict[str, float]:
    """Median of every option over that of a step, of what merging adds in training, and of a step that merges predictions."""
    medians = {name: float(np.median(values)) for name, values in times.items()}
    found = {name: medians[name] for name in OPTIONS}
    found["in_training"] = medians["samples_merged"] - medians["samples"]
    found["step_at_prediction"] = medians["step_at_prediction"]
    return {name: round(value / medians["step"], 5) for name, value in found.items()}


def measure(repeats: int, seed: int) -> dict[str, Float]:
    """By name, milliseconds (rounds, 2) on the wall and of the processor; each round runs everything once, on one batch."""
    cases = [case(seed + number) for number in range(CASES)]
    config = compose()
    step = TrainingStep(config.network, config.train)
    bare, merging = (dataset(cases, source, seed) for source in ("none", "synthetic"))
    transforms = {name: CuboidMerge(**options) for name, options in OPTIONS.items()}
    times: dict[str, list[tuple[float, float]]] = {}

    def timed(name: str, work: Callable[[], Any]) -> None:
        started, busy = time.perf_counter(), time.process_time()
        work()
        spent = (1000 * (time.perf_counter() - started), 1000 * (time.process_time() - busy))
        times.setdefault(name, []).append(spent)

    for number in range(-2, repeats):
        if number == 0:
            times.clear()  # the first rounds warm up
        chosen = [cases[(BATCH * number + at) % CASES] for at in range(BATCH)]
        batch = {
            name: torch.stack([torch.from_numpy(getattr(one, name))[None] for one in chosen])
            for name in ("image", "label")
        }
        batch["label"] = batch["label"].long()
        timed("step", lambda batch=batch: step(batch))
        for name, transform in transforms.items():
            timed(name, lambda transform=transform, chosen=chosen: merge(transform, chosen))
        timed("samples", lambda number=number: [bare[BATCH * number + at] for at in range(BATCH)])
        timed("samples_merged", lambda number=number: [merging[BATCH * number + at] for at in range(BATCH)])
        both = {**batch, "other": batch["image"].flip(0), "other_label": batch["label"], "mask": some_mask()}
        timed("step_at_prediction", lambda both=both: step(both))
    return {name: np.array(values) for name, values in times.items()}


class TrainingStep:
    """Forward, backward, clipping and AdamW of the default segmenter."""

    def __init__(self, network: Any, settings: Any) -> None:
        built = build_network(NetworkSpec(network.name, 3, 3, PATCH, network.arguments, SPACING))
        self.objective = SegmentationObjective(built, settings.include_background)
        self.optimizer = torch.optim.AdamW(
            self.objective.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.clip_norm = settings.clip_norm

    def __call__(self, batch: dict[str, torch.Tensor]) -> float:
        loss = self.objective(batch)["loss"]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.clip_norm)
        self.optimizer.step()
        return float(loss.detach())


def case(seed: int, shape: tuple[int, int, int] = PATCH) -> TrainingCase:
    """An MR-like case in [-1, 1] with a stand-in for a synthetic volume."""
    phantom = make_mr(np.random.default_rng(seed), shape)
    low, high = np.percentile(phantom.image, [0.5, 99.5])
    image = np.clip(2 * (phantom.image - low) / (high - low) - 1, -1, 1).astype(np.float32)
    return TrainingCase(image, phantom.label, (-image,))


def dataset(cases: list[TrainingCase], source: str, seed: int) -> PatchDataset:
    plan = MergePlan(source, 0.6, (16,), None, 0.0, "image")
    return PatchDataset(cases, PATCH, SPACING, plan, None, 0.5, seed)


def merge(transform: CuboidMerge, cases: list[TrainingCase]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What a TorchIO pipeline does for a batch: subjects, transform, tensors. The synthetic volume has a label of its own."""
    affine = np.diag([*SPACING, 1.0])
    merged = []
    for one in cases:
        subject = tio.Subject(
            image=tio.ScalarImage(tensor=torch.from_numpy(one.image)[None], affine=affine),
            synthetic=tio.ScalarImage(tensor=torch.from_numpy(one.synthetic[0])[None], affine=affine),
            label=tio.LabelMap(tensor=torch.from_numpy(one.label)[None], affine=affine),
            synthetic_label=tio.LabelMap(tensor=torch.from_numpy(one.label)[None], affine=affine),
        )
        done = transform(subject)
        merged.append((done["image"].data, done["label"].data))
    return merged


def some_mask() -> torch.Tensor:
    """(B, 1, I, J, K) of default cuboids."""
    hard = [masks(CuboidPlan().draw(PATCH, SPACING), PATCH)[0] for _ in range(BATCH)]
    return torch.stack(hard)[:, None].to(torch.uint8)


def spread(values: Float) -> dict[str, float]:
    """Median and the middle half, in ms."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": round(float(median), 3), "from": round(float(low), 3), "to": round(float(high), 3)}


if __name__ == "__main__":
    main()
