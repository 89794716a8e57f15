"""Are our segmenters good? All training cases of MSD Task04 hippocampus, the classical stack, a fixed test fold, two cores.

    python benchmarks/hippocampus_full.py --data PATH/hippocampus --workspace ws-full

Of five folds (runs of consecutive numbers kept together) the first is tested, once; of the others a twentieth validates. The
default U-Net trains for 6,000 steps, UNETR, whose steps take longer, for 1,500; each has a workspace in the folder. With
`--environment FOLDER` or `--nnunet-python PATH` nnU-Net v2 trains too (`vs_nnunet.py`): on the same training and validation
cases, for the wall clock of the U-Net's training, on the same two cores: with the plan it makes, and with a batch as small as
ours in it, of which it takes more steps. Every score is on the original files. Stages that
are finished are not run again. Writes `benchmarks/results/hippocampus_full.json`, and a CSV of every test case; with more
overrides only prints.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from held_out import RESULTS, commit
from vs_nnunet import CORES, add_environment, environment_of, keep_to_cores, nnunet_scores

from diffboost3d.cases.records import Score
from diffboost3d.cases.workspace import Workspace, versions

LIMIT = 0.87
ARM, FOLD, SEED = "classical", 0, 0
STEPS = {"unet": 6000, "unetr": 1500}  # a step of UNETR takes four times as long
NETWORKS = tuple(STEPS)
NNUNETS = {"nnunet": None, "nnunet_batch_2": 2}  # samples a step; None: as it plans
OVERRIDES = (
    "data=hippocampus",
    "prompt=Hippocampus, MRI",
    "data.folds=5",
    "data.validation_fraction=0.05",
    f"folds=[{FOLD}]",
    f"arms=[{ARM}]",
    f"evaluate.reference={ARM}",
    "train.patch_share=1",
    "train.validate_every=500",
    "train.checkpoint_every=250",
    "train.ema_decay=0.999",
    f"runtime.threads={CORES}",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of MSD Task04 hippocampus")
    parser.add_argument("--workspace", type=Path, required=True, help="holds a workspace for each network")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help="network=... of the command line")
    add_environment(parser)
    parser.add_argument("overrides", nargs="*", help="more overrides; the results are then printed, not kept")
    given = parser.parse_args()
    keep_to_cores()
    scores: dict[str, list[Score]] = {}
    seconds: dict[str, float] = {}
    steps: dict[str, Any] = {}
    python = environment_of(given)
    for number, network in enumerate(given.networks):
        workspace = trained(given, network)
        scores[network] = workspace.read_scores()
        record = json.loads((workspace.segmenter(FOLD, ARM, SEED) / "record.json").read_text())
        seconds[network] = seconds_of(record)
        steps[network] = {
            name: record[name] for name in ("steps", "best_step", "best_score", "data_wait_share", "patch")
        }
        if python is not None and number == 0:
            for name, batch in NNUNETS.items():
                made = nnunet_scores(python, workspace, given.workspace / name, seconds[network], FOLD, batch)
                scores[name], seconds[name], steps[name] = made
    figures = {f"dice_{name}": mean_dice(values) for name, values in scores.items()}
    result = {
        **figures,
        "seconds_each": {name: round(value, 1) for name, value in seconds.items()},
        "limit": LIMIT,
        "dice_by_label": {name: by_label(values) for name, values in scores.items()},
        "test_cases": {name: len({one.case for one in values}) for name, values in scores.items()},
        "training": {network: [*OVERRIDES, *of_network(network)] for network in given.networks},
        "steps": steps,
        "split": split_sizes(Workspace(given.workspace / given.networks[0])),
        "seeds": [SEED],
        "machine": {"cores": os.cpu_count(), "cores_used": CORES, "processor": platform.machine(), "device": "cpu"},
        "command": "python benchmarks/hippocampus_full.py --data PATH/hippocampus --workspace WORKSPACE"
        + (" --environment FOLDER" if python else ""),
        "commit": commit(),
        "versions": versions(),
    }
    print(json.dumps(result, indent=1))
    if given.overrides or given.networks != list(NETWORKS):
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "hippocampus_full.json").write_text(json.dumps(result, indent=1) + "\n")
    write_csv(RESULTS / "hippocampus_full.csv", scores)
    if figures["dice_unet"] < LIMIT:
        raise SystemExit(f"the U-Net's mean Dice is below {LIMIT}")


def trained(given: argparse.Namespace, network: str) -> Workspace:
    """The workspace of a network, after prepare, train and evaluate."""
    folder = given.workspace / network
    words = [*OVERRIDES, f"data.root={given.data}", f"workspace={folder}", *of_network(network), *given.overrides]
    for stage in ("prepare", "train", "evaluate"):
        subprocess.run([sys.executable, "-m", "diffboost3d", stage, *words], check=True)
    return Workspace(folder)


def of_network(network: str) -> list[str]:
    """Overrides."""
    return [f"network={network}", f"train.steps={STEPS.get(network, STEPS['unet'])}"]


def seconds_of(record: dict[str, Any]) -> float:
    """Wall clock of a training that was not interrupted."""
    started, ended = (datetime.fromisoformat(record[name]) for name in ("started", "ended"))
    return (ended - started).total_seconds()


def mean_dice(scores: list[Score]) -> float:
    """Over cases and labels."""
    return round(float(np.mean([one.value for one in scores if one.metric == "dice"])), 4)


def by_label(scores: list[Score]) -> dict[str, float]:
    """Mean Dice of each label."""
    labels = sorted({one.label for one in scores})
    return {label: mean_dice([one for one in scores if one.label == label]) for label in labels}


def split_sizes(workspace: Workspace) -> dict[str, int]:
    split = workspace.read_split(FOLD)
    return {part: len(getattr(split, part)) for part in ("training", "validation", "test")}


def write_csv(path: Path, scores: dict[str, list[Score]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["network", "case", "label", "metric", "value", "unit"])
        for network, values in scores.items():
            for one in values:
                writer.writerow([network, one.case, one.label, one.metric, f"{one.value:.6g}", one.unit])


if __name__ == "__main__":
    main()
