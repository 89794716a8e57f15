"""The quick preset from the folder to the report, on four kinds of data: `diffboost3d run data=... preset=quick`.

    python benchmarks/quick.py --set hippocampus --data PATH/hippocampus --workspace ws-hippocampus
    python benchmarks/quick.py --set acdc --data PATH/acdc --workspace ws-acdc
    python benchmarks/quick.py --set busi --data PATH/busi --workspace ws-busi
    python benchmarks/quick.py --set ct --data PATH/cohort --workspace ws-ct          # built in: made where it is missing

Some labelled and many unlabelled training images, a third of the patients as test cases, six arms. Resumable: the same command
goes on. Writes `benchmarks/results/SET_quick.json` with the summary, the splits, the wall time of every stage and the versions,
and `SET_quick.csv` with every case's scores. With more overrides it only prints.
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
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
COHORT = 90


@dataclass(frozen=True)
class Set:
    """Overrides of a set, and the kind of cohort that is made for it, if it is a built-in one."""

    overrides: tuple[str, ...]
    cohort: str | None = None


SETS = {
    "hippocampus": Set(
        (
            "data=hippocampus",
            "prompt=Hippocampus, MRI",
            "data.labelled=10",
            "data.unlabelled=60",
            "data.validation_fraction=0.4",
            "seeds=[0,1]",
        )
    ),
    "acdc": Set(("data=cardiac", "data.labelled=10", "data.unlabelled=40")),
    "busi": Set(("data=breast_us", "data.labelled=40", "data.unlabelled=160")),
    "ct": Set(("data.name=Abdomen", "prompt=Abdomen, CT", "data.labelled=10", "data.unlabelled=30"), "ct"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=list(SETS), default="hippocampus")
    parser.add_argument("--data", type=Path, required=True, help="the folder of that set")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", help="more overrides; the results are then printed, not kept")
    given = parser.parse_args()
    chosen = SETS[given.set]
    if chosen.cohort and not (given.data / "dataset.json").is_file():
        from diffboost3d.cohort import write_cohort

        write_cohort(chosen.cohort, given.data, COHORT)
    words = [*chosen.overrides, "preset=quick"]
    own = [f"data.root={given.data}", f"workspace={given.workspace}", *given.overrides]
    subprocess.run([sys.executable, "-m", "diffboost3d", "run", *words, *own], check=True)
    result = {
        "command": "diffboost3d run " + " ".join(f'"{word}"' if " " in word else word for word in words),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "minutes": minutes_of(given.workspace / "log.txt"),
        "versions": json.loads(next(given.workspace.rglob("seed0/record.json")).read_text())["versions"],
        "splits": json.loads((given.workspace / "splits.json").read_text())[0],
        "summary": json.loads((given.workspace / "summary.json").read_text()),
    }
    if given.overrides:
        print(json.dumps(result["minutes"], indent=1))
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{given.set}_quick.json").write_text(json.dumps(result, indent=1) + "\n")
    shutil.copyfile(given.workspace / "scores.csv", RESULTS / f"{given.set}_quick.csv")


def minutes_of(log: Path) -> dict[str, float]:
    """Wall minutes of each stage, added up over the runs of a workspace (a resumed run has several)."""
    spent: dict[str, float] = {}
    for stage, minutes, seconds in re.findall(r" (\w+): (\d+) min (\d+) s$", log.read_text(), re.MULTILINE):
        spent[stage] = round(spent.get(stage, 0.0) + int(minutes) + int(seconds) / 60, 2)
    return spent


if __name__ == "__main__":
    main()
