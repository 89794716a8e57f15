"""Commands that are killed, and studies that were, beside undisturbed ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tiny_folders import TINY

STUDY = (
    *TINY,
    "arms=[none,classical]",
    "train.steps=2",
    "train.validate_every=1",
    "train.checkpoint_every=1",
    "prepare.workers=1",
    "compare.sizes=[3,2]",
    "compare.validation=2",
    "compare.processes=0",
)


def exit_codes(steps):
    """Of commands, some killed; see killed_runs.py."""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killed_runs.py")), json.dumps(steps)],
        env={**os.environ, **threads},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stderr[-3000:])  # shown where a test fails
    return json.loads(done.stdout.rpartition("codes: ")[2])


def whole_and_killed(data, folder, study, kills):
    """An undisturbed study, and one that was killed all along."""

    def words(name):
        return ["compare", f"data.root={data}", f"workspace={folder / name}", *study]

    steps = [{"arguments": words("killed"), "kill": pattern, "count": count} for pattern, count in kills]
    steps += [{"arguments": words(name)} for name in ("killed", "whole")]
    assert exit_codes(steps) == [-9] * len(kills) + [0, 0]
    return folder / "whole", folder / "killed"
