"""Runs commands one after the other in processes of their own, and kills each (SIGKILL): at a chosen file, or at a moment.

`python killed_runs.py STEPS` with STEPS a JSON list of {"arguments": [...], "kill": pattern or null, "count": n}: the process
dies at the n-th file whose path matches the pattern, written but not yet put in its place. With "share" instead it dies after
that share of the time that the first step took. Prints the list of exit codes (-9: killed). The heavy imports and the choice of
configuration files are made once and the processes are forked from that.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time

import accelerate  # noqa: F401
import diffusers  # noqa: F401
import monai.inferers
import monai.losses
import monai.networks.nets
import monai.transforms  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
import torchio  # noqa: F401
import transformers  # noqa: F401

from diffboost3d.cli import main
from diffboost3d.config import compose


def arm(pattern: str, count: int) -> None:
    """Die at the `count`-th matching file."""
    original, seen = os.replace, []

    def replace(source: str, target: str) -> None:
        if re.search(pattern, os.fspath(target)):
            seen.append(target)
            if len(seen) == count:
                os.kill(os.getpid(), signal.SIGKILL)
        original(source, target)

    os.replace = replace


def run(step: dict, first_took: float) -> int:
    """Exit code of one step."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            if step.get("kill"):
                arm(step["kill"], step["count"])
            if step.get("share"):
                threading.Timer(step["share"] * first_took, os.kill, (os.getpid(), signal.SIGKILL)).start()
            status = main(step["arguments"])
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    compose(["preset=demo"])
    steps, started = json.loads(sys.argv[1]), time.monotonic()
    codes = [run(steps[0], 0.0)]
    took = time.monotonic() - started
    codes += [run(step, took) for step in steps[1:]]
    print(f"\ncodes: {json.dumps(codes)}")
