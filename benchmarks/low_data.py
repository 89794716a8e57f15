"""How much each arm gains with few labelled cases: `diffboost3d compare` on real data, all other training images unlabelled.

    python benchmarks/low_data.py --set hippocampus --data PATH/hippocampus --workspace study-hippocampus
    python benchmarks/low_data.py --set breast_us --data PATH/busi --workspace study-breast

Sizes 3, 5, 10, 20 (breast_us: 20, 40, 80), three seeds, one fold with a third of the patients as test cases. Resumable: the
same command goes on. Writes `results/SET_low_data.json` {n: {arm: {dice, ci}}, "gains": {"diffboost-none@5": [mean, low,
high], ...}} (Dice as fractions; ci: 95 % bootstrap over patients; gains: 95 % over cases and seeds) and the tidy CSV of the
same name. `--name` writes other results' files, so that a trial leaves the committed ones alone; a part of the set's sizes or
arms needs it. Where `compare` fails or refuses, they stay as they were. `compare.tables=true` at the end of the command writes
them of the cells that are finished so far.

The cases of the committed study of hippocampus are given by `data.splits=results/hippocampus_low_data_splits.json` (seen from
benchmarks/): an older rule drew them, which began with the largest size. The file has the split of size 20; with seed=0, 3, 5
and 10 come out of it as they were. Without it other cases train, of the same folds.

With `compare=remedies --name hippocampus_remedies --sizes 5 10 data.splits=results/hippocampus_low_data_splits.json` it tries
what a missed gain may come from, on the cases of the study.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from held_out import commit

from diffboost3d.cases.study import BASE
from diffboost3d.cases.workspace import versions

RESULTS = Path(__file__).resolve().parent / "results"
SETS: dict[str, dict[str, Any]] = {
    "hippocampus": {
        "sizes": [3, 5, 10, 20],
        "arms": "none,classical,cutmix,cutmix_classical,pix2pix,diffboost,diffboost_classical",
        "overrides": ["data=hippocampus", "prompt=Hippocampus, MRI", "preset=quick"],
    },
    "breast_us": {
        "sizes": [20, 40, 80],
        "arms": "none,classical,cutmix,diffboost,diffboost_classical",
        "overrides": [
            "data=breast_us",
            "preset=quick",
            "prepare.spacing_mm=[2,2,1]",  # 128 x 128 pixels: on two cores, more steps are worth more than more pixels
            "merge.cell=[21]",  # published: a sixth of the picture's side
            "diffusion.max_size=64",
            "diffusion.pretrain.steps=1500",
            "diffusion.pretrain.ema_decay=0.998",
            "diffusion.finetune.steps=500",
            "diffusion.finetune.learning_rate=3e-4",
            "diffusion.finetune.ema_decay=0.998",
            "train.steps=1500",
            "train.batch=4",
        ],
    },
}


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The arguments that scripts on such a study take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=list(SETS), default="hippocampus")
    parser.add_argument("--data", type=Path, required=True, help="the folder of that set")
    parser.add_argument("--workspace", type=Path, required=True, help="the study's folder")
    parser.add_argument("--sizes", type=int, nargs="+", help="labelled training cases; those of the set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", help="names with commas between; those of the set")
    parser.add_argument("--validation", type=int, default=4, help="validation cases, the same for all sizes")
    parser.add_argument("--name", help="of the results' files; SET_low_data")
    parser.add_argument("overrides", nargs="*", help="more overrides, e.g. train.steps=3000 compare.processes=2")
    return parser


def overrides_of(given: argparse.Namespace) -> list[str]:
    """The study's overrides, but for its folders."""
    settings = SETS[given.set]
    sizes = given.sizes or settings["sizes"]
    return [
        *settings["overrides"],
        f"arms=[{given.arms or settings['arms']}]",
        f"seeds={_list(given.seeds)}",
        f"compare.sizes={_list(sizes)}",
        f"compare.validation={given.validation}",
        *given.overrides,
    ]


def _list(values: Sequence[int]) -> str:
    return f"[{','.join(map(str, values))}]"


def main() -> int:
    parser = arguments(__doc__)
    given = parser.parse_args()
    whole = SETS[given.set]
    lacks_arms = given.arms and set(whole["arms"].split(",")) - set(given.arms.split(","))
    lacks_sizes = given.sizes and set(whole["sizes"]) - set(given.sizes)
    if (lacks_arms or lacks_sizes) and not given.name:
        parser.error("--name is needed for a part of the arms or sizes: it doesn't take the place of the whole")
    if any(word.partition("=")[0] == "compare.status" for word in given.overrides):
        parser.error("compare.status writes no study; ask `diffboost3d compare` for it")
    overrides = overrides_of(given)
    command = [sys.executable, "-m", "diffboost3d", "compare", *overrides]
    status = subprocess.run(
        [*command, f"data.root={given.data}", f"workspace={given.workspace}"], check=False
    ).returncode
    name = given.name or f"{given.set}_low_data"
    if status:
        print(f"low_data.py: results/{name}.json is left as it was", file=sys.stderr)
        return status
    summary = json.loads((given.workspace / "study.json").read_text())
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**figures(summary), **about(given, summary)}, indent=1) + "\n")
    shutil.copyfile(given.workspace / "scores.csv", RESULTS / f"{name}.csv")
    return status


def figures(summary: dict[str, Any]) -> dict[str, Any]:
    """{n: {arm: {dice, ci}}} and the gains; with named variants {variant: {n: ...}}, and gains by "variant/arm-variant/arm@n"."""
    found: dict[str, Any] = {}
    gains: dict[str, list[float | None]] = {}
    for part in summary["parts"]:
        named = part["variant"] != BASE
        place = found.setdefault(part["variant"], {}) if named else found
        before = f"{part['variant']}/" if named else ""
        of_size = place[str(part["size"])] = {}
        for arm, result in part["arms"].items():
            dice = result["dice"]
            of_size[arm] = {"dice": dice["mean"], "ci": [dice["low"], dice["high"]], "seed_sd": dice["seed_sd"]}
        for row in part["comparisons"]:
            if row["metric"] == "dice":
                gain = row["difference"]
                pair = f"{before}{row['arm']}-{before}{row['reference']}@{part['size']}"
                gains[pair] = [gain["mean"], gain["low"], gain["high"]]
    for row in summary["between_variants"]:
        if row["metric"] == "dice":
            gain = row["difference"]
            gains[f"{row['arm']}-{row['reference']}@{row['size']}"] = [gain["mean"], gain["low"], gain["high"]]
    return {**found, "gains": gains}


def about(given: argparse.Namespace, summary: dict[str, Any]) -> dict[str, Any]:
    """Where the figures are from."""
    dice = [row for part in summary["parts"] for row in part["comparisons"] if row["metric"] == "dice"]
    return {
        "verdicts": [
            f"{'' if part['variant'] == BASE else part['variant'] + ', '}n = {part['size']}: {row['verdict']}"
            for part in summary["parts"]
            for row in part["comparisons"]
            if row.get("verdict")
        ],
        "test_cases": max((row["cases"] for row in dice), default=0),
        "test_patients": max((row["patients"] for row in dice), default=0),
        **{name: summary[name] for name in ("cases", "trainings", "synthetic")},
        "finished": f"{summary['cells'] - len(summary['unfinished'])} of {summary['cells']} cells",
        "command": "diffboost3d compare "
        + " ".join(
            f'"{w}"' if " " in w or "[" in w else w for w in overrides_of(given) if not w.startswith("compare.tables")
        ),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "commit": commit(),
        "versions": versions(),
    }


if __name__ == "__main__":
    sys.exit(main())
