"""Two processes that share the synthesis of a fold, against one: the same files, and how long each takes.

    python benchmarks/two_processes.py --folder FOLDER

Writes the built-in CT-like cohort below FOLDER, trains a tiny generator on it for some steps, and runs `diffboost3d
synthesize` in one process and, by `torchrun --nproc_per_node 2`, in two, by turns; each process has one thread. Compared are the SHA-256 of
all volumes and records; a run that finds everything done says what starting up takes. Runs on Linux and macOS.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from diffboost3d.cases.workspace import versions
from diffboost3d.cohort import write_cohort

RESULT = Path(__file__).resolve().parent / "results" / "two_processes.json"
SEED, CASES = 0, 12
TRAINING = tuple(f"diffusion.{stage}.{word}" for stage in ("pretrain", "finetune") for word in ("steps=20", "batch=8"))
WORDS = ("preset=demo", "folds=[0]", *TRAINING, "runtime.device=cpu", "runtime.threads=1")
ONE = (sys.executable, "-m", "diffboost3d")
TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "diffboost3d")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="a folder for the cohort and the workspace")
    parser.add_argument("--turns", type=int, default=2)
    given = parser.parse_args()
    root, workspace = given.folder / "ct", given.folder / "ws"
    if not root.is_dir():
        write_cohort("ct", root, CASES, seed=SEED)
    words = [f"data.root={root}", f"workspace={workspace}", *WORDS]
    for stage in ("prepare", "pretrain", "finetune"):
        subprocess.run([*ONE, stage, *words], check=True)
    load = os.getloadavg()[0]
    seconds: dict[str, list[float]] = {"one": [], "two": [], "one_all_done": [], "two_all_done": []}
    made: dict[str, list[dict[str, str]]] = {"one": [], "two": []}
    for _ in range(given.turns):
        for name, call in (("one", ONE), ("two", TWO)):
            shutil.rmtree(workspace / "synthetic", ignore_errors=True)
            seconds[name].append(timed([*call, "synthesize", *words]))
            made[name].append(digests(workspace / "synthetic" / "fold0"))
            seconds[f"{name}_all_done"].append(timed([*call, "synthesize", *words]))
    same = all(found == made["one"][0] for found in made["one"] + made["two"])
    best = {name: min(values) for name, values in seconds.items()}
    result = {
        "same_files": same,
        "files": len(made["one"][0]),
        "volumes": sum(name.endswith(".nii.gz") for name in made["one"][0]),
        "seconds": {name: [round(value, 1) for value in values] for name, values in seconds.items()},
        "speed_up": round(best["one"] / best["two"], 2),
        "speed_up_without_start": round((best["one"] - best["one_all_done"]) / (best["two"] - best["two_all_done"]), 2),
        "sha256_of_all": hashlib.sha256(json.dumps(made["one"][0], sort_keys=True).encode()).hexdigest(),
        "load_before": round(load, 2),
        "note": "load_before is what other work kept the cores busy with; above 0.5 the times say little",
        "settings": list(WORDS),
        "command": f"python benchmarks/two_processes.py --folder FOLDER --turns {given.turns}",
        "machine": {"cores": os.cpu_count(), "threads_a_process": 1, "processor": platform.machine()},
        "versions": versions(),
        "seeds": [SEED],
    }
    print(json.dumps(result, indent=1))
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    if not same:
        raise SystemExit("two processes made other files than one")


def timed(call: list[str]) -> float:
    """Wall seconds of a command."""
    started = time.perf_counter()
    subprocess.run(call, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return time.perf_counter() - started


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every volume and record."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*/*"))
    }


if __name__ == "__main__":
    main()
