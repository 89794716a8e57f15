"""Does nnU-Net v2 take what `export` makes? Its own check, its planning, and an epoch of its training with our splits.

    python benchmarks/nnunet_export.py --workspace ws-nnunet --environment FOLDER [--data PATH/hippocampus]

Without --data the built-in MR-like cohort is used. The generator is trained for a moment only: what is tried is the export.
nnU-Net needs an environment of its own: `--environment FOLDER` makes one there (nnunetv2 by pip), or
`--nnunet-python PATH` names the interpreter of one that is there. An epoch of nnU-Net has 250 + 50 iterations; here it has
`--iterations` and 2 for validation, by a trainer class written into the workspace (found by nnUNet_extTrainer, nnunetv2 2.8 or
newer); nothing else is changed. Writes `benchmarks/results/nnunet_export.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

from diffboost3d.cases.atomic import write_json
from diffboost3d.cases.workspace import versions
from diffboost3d.cohort import write_cohort

RESULT = Path(__file__).resolve().parent / "results" / "nnunet_export.json"
REQUIREMENT = "nnunetv2>=2.8"
DATASET, CASES, SAMPLES = 500, 12, 2
MOMENT = (
    "preset=demo",
    *(f"diffusion.{stage}.{key}" for stage in ("pretrain", "finetune") for key in ("steps=20", "batch=4")),
    f"synthesize.samples={SAMPLES}",
    "synthesize.steps=4",
)
FEW = ("data=hippocampus", "prompt=Hippocampus, MRI", "data.labelled=6", "data.unlabelled=0")
TRAINER = """
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerShort(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 1
        self.num_iterations_per_epoch = {iterations}
        self.num_val_iterations_per_epoch = 2
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of MSD Task04 hippocampus; none: the built-in cohort")
    parser.add_argument("--workspace", type=Path, required=True)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--nnunet-python", type=Path, help="interpreter of an environment that has nnunetv2")
    where.add_argument("--environment", type=Path, help="make an environment with nnunetv2 there, or use the one there")
    parser.add_argument("--iterations", type=int, default=10, help="training iterations of the epoch")
    given = parser.parse_args()
    python = given.nnunet_python or _environment(given.environment)
    started = time.monotonic()
    folders = {
        name: given.workspace.resolve() / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    }
    target = _export(given.data, given.workspace, folders["nnUNet_raw"])
    exported = time.monotonic()
    tried = _try_nnunet(python, target, folders, given.iterations)
    data = " --data PATH/hippocampus" if given.data else ""
    folders_given = "--workspace FOLDER --environment FOLDER2"
    result = {
        "command": f"python benchmarks/nnunet_export.py{data} {folders_given} --iterations {given.iterations}",
        **tried,
        "cases": _cases(target),
        "seeds": {"diffboost3d": 0, "nnunet": "its own"},
        "generator": " ".join(MOMENT),
        "minutes": {
            "until exported": round((exported - started) / 60, 2),
            "nnU-Net": round((time.monotonic() - exported) / 60, 2),
        },
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "device": "cpu"},
        "versions": {**versions(), **_versions(python)},
    }
    write_json(RESULT, result)
    print(
        json.dumps(
            {key: result[key] for key in ("accepted", "trained_epochs", "split_used", "cases", "minutes")}, indent=1
        )
    )
    if not (result["accepted"] and result["trained_epochs"] == 1 and result["split_used"]):
        raise SystemExit(f"nnU-Net did not take the export; its output: {given.workspace / 'nnunet.log'}")


def _environment(folder: Path) -> Path:
    python = folder / "bin" / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True)
    if subprocess.run([python, "-c", "import nnunetv2"], capture_output=True).returncode:
        subprocess.run([python, "-m", "pip", "install", "-q", REQUIREMENT], check=True)
    return python


def _export(data: Path | None, workspace: Path, raw: Path) -> Path:
    """Make synthetic volumes and export them. Returns the data set's folder."""
    root = data or write_cohort("mr", workspace / "data", CASES)
    words = [*(FEW if data else ()), *MOMENT, f"data.root={root}", f"workspace={workspace}"]
    words += [f"export.target={raw}", f"export.dataset_id={DATASET}"]
    for stage in ("prepare", "pretrain", "finetune", "synthesize", "export"):
        subprocess.run([sys.executable, "-m", "diffboost3d", stage, *words], check=True)
    (target,) = raw.glob(f"Dataset{DATASET}_*")
    return target


def _try_nnunet(python: Path, target: Path, folders: dict[str, Path], iterations: int) -> dict[str, Any]:
    """nnU-Net's check, planning, preprocessing and one short epoch of fold 0."""
    trainers = target.parents[1] / "trainers"
    trainers.mkdir(exist_ok=True)
    (trainers / "nnUNetTrainerShort.py").write_text(TRAINER.format(iterations=iterations), encoding="utf-8")
    settings = {name: str(folder) for name, folder in folders.items()}
    settings |= {"nnUNet_extTrainer": str(trainers), "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1"}
    log = target.parents[1] / "nnunet.log"
    plan = ["nnUNetv2_plan_and_preprocess", "-d", str(DATASET), "--verify_dataset_integrity", "-np", "1", "-npfp", "1"]
    train = ["nnUNetv2_train", str(DATASET), "3d_fullres", "0", "-device", "cpu", "-tr", "nnUNetTrainerShort"]
    checked, said = _call(python, [*plan, "-c", "3d_fullres"], settings, log, "w")
    accepted = checked and "verify_dataset_integrity Done" in said
    trained, told = _call(python, train, settings, log, "a") if accepted else (False, "")
    ours = json.loads((target / "splits_final.json").read_text())
    copy = folders["nnUNet_preprocessed"] / target.name / "splits_final.json"
    numbers = re.search(r"This split has (\d+) training and (\d+) validation cases", told)
    return {
        "accepted": accepted,
        "trained_epochs": len(re.findall(r"Epoch time", told)) if trained else 0,
        "iterations_per_epoch": iterations,
        "split_used": (
            "Using splits from existing split file" in told
            and json.loads(copy.read_text()) == ours
            and numbers is not None
            and [int(number) for number in numbers.groups()] == [len(ours[0]["train"]), len(ours[0]["val"])]
        ),
        "nnunet_said": [line for line in (_plain(line) for line in (said + told).splitlines()) if _TELLS.search(line)],
        "nnunet_commands": [" ".join([*plan, "-c", "3d_fullres"]), " ".join(train)],
    }


_TELLS = re.compile(
    r"verify_dataset_integrity Done|Using splits|split file contains|This split has|train_loss|val_loss|Epoch time|"
    r"Training done|Mean Validation"
)


def _plain(line: str) -> str:
    """A line of a log without time stamps and without paths of this machine."""
    return re.sub(r"^\d{4}-\d\d-\d\d [\d:.]+: ", "", re.sub(r"/\S*/(nnUNet_\w+/)", r"\1", line)).strip()


def _call(python: Path, command: list[str], settings: dict[str, str], log: Path, mode: str) -> tuple[bool, str]:
    """Run a program of the environment; whether it ended well, and what it printed."""
    program = [str(python.parent / command[0]), *command[1:]]
    done = subprocess.run(
        program, env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with log.open(mode, encoding="utf-8") as file:
        file.write(f"$ {' '.join(command)}\n{done.stdout}\n")
    return done.returncode == 0, done.stdout


def _cases(target: Path) -> dict[str, int]:
    images = json.loads((target / "diffboost3d.json").read_text())["images"]
    (split,) = json.loads((target / "splits_final.json").read_text())
    made = sum(image["synthetic"] for image in images)
    return {
        "real_training": len(split["train"]) - made,
        "synthetic_training": made,
        "real_validation": len(split["val"]),
        "test_images_without_labels": sum(image["part"] == "Ts" for image in images),
    }


def _versions(python: Path) -> dict[str, str]:
    code = "from importlib.metadata import version as v; print(v('nnunetv2'), v('torch'), v('SimpleITK'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    names = ("nnunetv2", "torch of nnunetv2", "SimpleITK of nnunetv2")
    return dict(zip(names, done.stdout.split(), strict=True))


if __name__ == "__main__":
    main()
