"""Freed memory stays with the process while it trains, and goes back afterwards."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

ROUNDS = """
import resource
import numpy as np
from diffboost3d.training.memory import freed_memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        maps = [np.ones(5_000_000, np.float32) for _ in range(5)]  # 100 MB in all, each below 32 MiB
        del maps
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

outside = faults()
with freed_memory_kept() as kept:
    faults()
    inside = faults()
    during = resident()
print(int(kept), outside, inside, during - resident())
"""
GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def run(**environment: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", ROUNDS], capture_output=True, text=True, check=True, env=environment)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(not GLIBC, reason="memory of another C library is not managed")
def test_pages_are_not_mapped_anew_inside_and_go_back_afterwards():
    kept, outside, inside, given_back = run()
    assert kept
    assert inside < 0.1 * outside
    assert given_back > 50e6


def test_leaves_the_choice_of_the_environment():
    assert run(MALLOC_TRIM_THRESHOLD_="131072")[0] == 0
