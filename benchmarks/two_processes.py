"""Two processes that share the synthesis of a fold, against one: the same files, and how long each takes.

    python benchmarks/two_processes.py --folder FOLDER

Writes the built-in CT-like cohort below FOLDER, trains a tiny generator on it for some steps, and runs `diffboost3d
synthesize` in one process and, by `torchrun --nproc_per_node 2`, in two, by turns; each process has one thread. Compared are
the SHA-256 of all volumes and records; a run that finds everything done says what starting up takes. Runs on Linux and macOS.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from diffboost3d.cases.workspace import versions
from diffboost3d.cohort import write_cohort

RESULT = Path(__file__).resolve().parent / "results" / "two_processes.json"
SEED, CASES = 0, 12
IDLE = 0.5  # load of the machine below which times can be compared
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
    names = ("one", "two", "one_all_done", "two_all_done")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    made: dict[str, list[dict[str, str]]] = {"one": [], "two": []}
    for _ in range(given.turns):
        for name, call in (("one", ONE), ("two", TWO)):
            shutil.rmtree(workspace / "synthetic", ignore_errors=True)
            for what in (name, f"{name}_all_done"):
                wall, worked = timed([*call, "synthesize", *words])
                seconds[what].append(round(wall, 1))
                cpu[what].append(round(worked, 1))
            made[name].append(digests(workspace / "synthetic" / "fold0"))
    same = all(found == made["one"][0] for found in made["one"] + made["two"])
    best = {name: min(values) for name, values in seconds.items()}
    result = {
        "same_files": same,
        "files": len(made["one"][0]),
        "volumes": sum(name.endswith(".nii.gz") for name in made["one"][0]),
        "wall_seconds": seconds,
        "processor_seconds": cpu,
        "idle_before": load < IDLE,
        "speed_up": round(best["one"] / best["two"], 2),
        "sha256_of_all": hashlib.sha256(json.dumps(made["one"][0], sort_keys=True).encode()).hexdigest(),
        "load_before": round(load, 2),
        "note": "where other work kept the cores busy (idle_before: false), wall times and speed_up say nothing; the processor "
        "seconds, of all processes together, say what sharing costs",
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


def timed(call: list[str]) -> tuple[float, float]:
    """Wall seconds of a command, and processor seconds of all its processes."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(call, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every volume and record, refused ones included."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*/**/*"))
        if path.is_file()
    }


if __name__ == "__main__":
    main()
