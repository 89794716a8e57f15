"""The quick preset on real MRI: 10 labelled and 60 unlabelled training images, 60 test cases, 6 arms, 2 seeds.

    python benchmarks/hippocampus_quick.py --data PATH/hippocampus --workspace ws-hippocampus

Runs `diffboost3d run` (resumable: the same command goes on) and writes `benchmarks/results/hippocampus_quick.json` with the
summary, the wall time of every stage and the versions, and `hippocampus_quick.csv` with every case's scores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
OVERRIDES = (
    "data=hippocampus",
    "prompt=Hippocampus, MRI",
    "preset=quick",
    "data.labelled=10",
    "data.unlabelled=60",
    "data.validation_fraction=0.4",
    "seeds=[0,1]",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of MSD Task04 hippocampus")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", help="more overrides; the results are then printed, not kept")
    given = parser.parse_args()
    command = [sys.executable, "-m", "diffboost3d", "run", *OVERRIDES]
    command += [f"data.root={given.data}", f"workspace={given.workspace}", *given.overrides]
    subprocess.run(command, check=True)
    result = {
        "command": "diffboost3d run " + " ".join(f'"{word}"' if " " in word else word for word in OVERRIDES),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "minutes": _minutes(given.workspace / "log.txt"),
        "versions": json.loads(next(given.workspace.rglob("seed0/record.json")).read_text())["versions"],
        "splits": json.loads((given.workspace / "splits.json").read_text())[0],
        "summary": json.loads((given.workspace / "summary.json").read_text()),
    }
    if given.overrides:
        print(json.dumps(result["minutes"], indent=1))
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "hippocampus_quick.json").write_text(json.dumps(result, indent=1) + "\n")
    shutil.copyfile(given.workspace / "scores.csv", RESULTS / "hippocampus_quick.csv")


def _minutes(log: Path) -> dict[str, float]:
    """Wall minutes of each stage, added up over the runs of a workspace (a resumed run has several)."""
    spent: dict[str, float] = {}
    for stage, minutes, seconds in re.findall(r" (\w+): (\d+) min (\d+) s$", log.read_text(), re.MULTILINE):
        spent[stage] = round(spent.get(stage, 0.0) + int(minutes) + int(seconds) / 60, 2)
    return spent


if __name__ == "__main__":
    main()
