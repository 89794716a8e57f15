"""nnU-Net v2 on the training cases of a workspace, for a given wall clock on the same cores; its test cases scored as ours.

Used by `hippocampus_full.py`; alone:

    python benchmarks/vs_nnunet.py --from-workspace ws --workspace FOLDER --seconds 3600 --environment FOLDER

The fold is exported without synthetic volumes (its training and validation cases, and test images without labels), planned,
preprocessed and trained as nnU-Net does (3d_fullres, its own augmentation, SGD, deep supervision). Only the length is another:
its poly schedule runs over the wall clock given, from the first training step on, with shorter epochs. Planning and preprocessing
are not counted, nor is `prepare` of ours. It predicts as by its default, with mirroring; ours without.

Its plan is made for hours on a GPU: of this plan's batch it takes very few steps in minutes on a CPU. `--batch 2` puts a smaller
batch into the plan, so that it takes more of them; nothing else of the plan changes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from held_out import commit
from nnunet_export import DATASET, _call, _environment, _versions

from diffboost3d.cases.atomic import write_json
from diffboost3d.cases.exports import renumbering
from diffboost3d.cases.records import Score
from diffboost3d.cases.workspace import Workspace
from diffboost3d.evaluation.metrics import METRICS, score_labels
from diffboost3d.imaging.files import read

CORES = 2
TRAINER = '''
import time

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

SECONDS, PARTS = {seconds}, 100000


class nnUNetTrainerForSeconds(nnUNetTrainer):
    """Ends after a wall clock, over which its learning rate falls; epochs are short, so that the end is met."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = {iterations}, 1
        self.save_every = 10**9

    def configure_optimizers(self):
        optimizer, _ = super().configure_optimizers()
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, PARTS)

    def on_train_start(self):
        super().on_train_start()
        self.began = time.monotonic()

    def on_train_epoch_start(self):
        self.network.train()
        share = min(1.0, (time.monotonic() - self.began) / SECONDS)
        self.lr_scheduler.step(min(PARTS - 1, int(share * PARTS)))
        self.logger.log("lrs", self.optimizer.param_groups[0]["lr"], self.current_epoch)

    def run_training(self):
        self.on_train_start()
        while time.monotonic() - self.began < SECONDS:
            self.on_epoch_start()
            self.on_train_epoch_start()
            self.on_train_epoch_end([self.train_step(next(self.dataloader_train)) for _ in range(self.num_iterations_per_epoch)])
            with torch.no_grad():
                self.on_validation_epoch_start()
                seen = [self.validation_step(next(self.dataloader_val)) for _ in range(self.num_val_iterations_per_epoch)]
                self.on_validation_epoch_end(seen)
            self.on_epoch_end()
        steps, seconds = self.current_epoch * self.num_iterations_per_epoch, time.monotonic() - self.began
        print(f"took {{steps}} steps in {{seconds:.1f}} seconds")
        self.on_train_end()
'''


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-workspace", type=Path, required=True, help="a prepared workspace of ours")
    parser.add_argument("--workspace", type=Path, required=True, help="what nnU-Net makes")
    parser.add_argument("--seconds", type=float, required=True, help="wall clock of its training")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--batch", type=int, help="samples a step; without it the plan's")
    parser.add_argument(
        "--result",
        type=Path,
        help="a file for the figures, such as results/vs_nnunet.json; the scores of every case come beside it",
    )
    add_environment(parser, required=True)
    given = parser.parse_args()
    keep_to_cores()
    python = environment_of(given)
    assert python is not None  # required
    scores, seconds, facts = nnunet_scores(
        python, Workspace(given.from_workspace), given.workspace, given.seconds, given.fold, given.batch
    )
    dice = [one.value for one in scores if one.metric == "dice"]
    batch = "" if given.batch is None else f" --batch {given.batch}"
    result = {
        "dice_nnunet": round(sum(dice) / len(dice), 4),
        "test_cases": len({one.case for one in scores}),
        "seconds": seconds,
        **facts,
        "machine": {"cores": os.cpu_count(), "cores_used": CORES, "processor": platform.machine()},
        "command": "python benchmarks/vs_nnunet.py --from-workspace WORKSPACE --workspace FOLDER "
        f"--seconds {given.seconds:g} --fold {given.fold}{batch} --environment ENVIRONMENT",
        "commit": commit(),
    }
    print(json.dumps(result, indent=1))
    if given.result is not None:
        write_json(given.result, result)
        write_scores(given.result.with_suffix(".csv"), scores)


def write_scores(path: Path, scores: list[Score]) -> None:
    """A row a case, label and metric."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "label", "metric", "value", "unit"])
        writer.writerows([one.case, one.label, one.metric, f"{one.value:.5f}", one.unit] for one in scores)


def add_environment(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Where nnU-Net is."""
    where = parser.add_mutually_exclusive_group(required=required)
    where.add_argument("--nnunet-python", type=Path, help="interpreter of an environment that has nnunetv2")
    where.add_argument("--environment", type=Path, help="make an environment with nnunetv2 there, or use the one there")


def environment_of(given: argparse.Namespace) -> Path | None:
    """The interpreter that has nnunetv2; None where none was asked for."""
    if given.nnunet_python:
        return Path(given.nnunet_python)
    return _environment(given.environment) if given.environment else None


def keep_to_cores() -> None:
    """This process and all that it starts use two cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:CORES]))
    os.environ["OMP_NUM_THREADS"] = str(CORES)


def nnunet_scores(
    python: Path,
    source: Workspace,
    folder: Path,
    seconds: float,
    fold: int,
    batch: int | None = None,
    iterations: int = 25,
) -> tuple[list[Score], float, dict[str, Any]]:
    """Scores of nnU-Net on the test cases of a fold, on the original files; seconds of its training; facts of it.

    Args:
        source: a prepared workspace. folder: for what nnU-Net makes; new, or of a run that ended: its predictions are scored
            again. batch: samples a step; None: the plan's. iterations: steps of one of its epochs.
    """
    ended = folder / "ended.json"
    if not ended.is_file():
        write_json(ended, _trained_and_predicted(python, source, folder, seconds, fold, batch, iterations))
    facts = json.loads(ended.read_text())
    if facts.pop("seconds_given") != seconds or facts.get("batch_given") != batch:
        raise SystemExit(
            f"{folder}: nnU-Net was given other seconds than {seconds}, or another batch; name a new folder"
        )
    return scored(source, folder / "predicted", fold), facts.pop("seconds"), facts


def _trained_and_predicted(
    python: Path, source: Workspace, folder: Path, seconds: float, fold: int, batch: int | None, iterations: int
) -> dict[str, Any]:
    """Facts of the training; its predictions lie in `folder/predicted` afterwards."""
    folders = {name: folder.resolve() / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    trainers, log = folder.resolve() / "trainers", folder.resolve() / "nnunet.log"
    trainers.mkdir(parents=True)
    (trainers / "nnUNetTrainerForSeconds.py").write_text(TRAINER.format(seconds=seconds, iterations=iterations))
    target = exported(source, folders["nnUNet_raw"], fold)
    settings = {name: str(path) for name, path in folders.items()}
    settings |= {"nnUNet_extTrainer": str(trainers), "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": str(CORES)}
    predicted = folder.resolve() / "predicted"
    trainer = ["-tr", "nnUNetTrainerForSeconds", "-device", "cpu"]
    model = ["-d", str(DATASET), "-f", "0", "-c", "3d_fullres", *trainer]
    images = ["-i", str(target / "imagesTs"), "-o", str(predicted)]
    said = ""
    for number, command in enumerate(
        (
            ["nnUNetv2_plan_and_preprocess", "-d", str(DATASET), "-c", "3d_fullres", "-np", "2", "-npfp", "2"],
            ["nnUNetv2_train", str(DATASET), "3d_fullres", "0", *trainer],
            ["nnUNetv2_predict", *images, *model, "-npp", "1", "-nps", "1"],
        )
    ):
        ran, told = _call(python, command, settings, log, "a" if number else "w")
        if not ran:
            raise SystemExit(f"{command[0]} failed; its output: {log}")
        said += told
        if not number and batch is not None:
            (plans,) = (folders["nnUNet_preprocessed"]).glob(f"Dataset{DATASET}_*/nnUNetPlans.json")
            with_batch(plans, batch)
    took = re.search(r"took (\d+) steps in ([\d.]+) seconds", said)
    if took is None or "Using splits from existing split file" not in said:
        raise SystemExit(f"nnU-Net did not train on our split; its output: {log}")
    return {
        "seconds_given": seconds,
        "seconds": float(took.group(2)),
        "steps": int(took.group(1)),
        "batch_given": batch,
        "versions": _versions(python),
    }


def with_batch(path: Path, batch: int) -> None:
    """Change the samples a step in nnU-Net's plan."""
    plans = json.loads(path.read_text())
    plans["configurations"]["3d_fullres"]["batch_size"] = batch
    path.write_text(json.dumps(plans, indent=4))


def exported(source: Workspace, raw: Path, fold: int) -> Path:
    """The fold of a workspace as a data set of nnU-Net, real cases only."""
    words = [f"workspace={source.root}", f"folds=[{fold}]", "export.samples=0", f"export.dataset_id={DATASET}"]
    subprocess.run([sys.executable, "-m", "diffboost3d", "export", *words, f"export.target={raw}"], check=True)
    (target,) = raw.glob(f"Dataset{DATASET}_*")
    return target


def scored(source: Workspace, predicted: Path, fold: int) -> list[Score]:
    """Scores of the predictions against the untouched label files, as `evaluate` makes them."""
    manifest = source.read_manifest()
    values = {number: value for value, number in renumbering(manifest).items()}
    scores = []
    for identifier in source.read_split(fold).test:
        case = manifest.case(identifier)
        (path,) = predicted.glob(f"{identifier}.nii*")
        found = read(path).array.round().astype(int)
        prediction = found.copy()
        for number, value in values.items():
            prediction[found == number] = value
        truth = read(source.source(manifest, str(case.label))).array.round().astype(int)
        table = score_labels(
            prediction, truth, manifest.labels, case.source_grid.spacing_mm, 1.0, manifest.ignore_label
        )
        scores += [
            Score("nnunet", fold, 0, case.id, label, metric.name, float(row[metric.name]), metric.unit)
            for label, row in table.items()
            for metric in METRICS
        ]
    return scores


if __name__ == "__main__":
    main()
