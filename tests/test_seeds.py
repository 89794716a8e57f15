"""Random numbers: a stream belongs to its key alone, and nobody touches the global one."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffboost3d.seeds import generator, seed_of

PACKAGE = Path(__file__).resolve().parents[1] / "diffboost3d"
KEYS = st.lists(st.integers() | st.text(max_size=5), min_size=1, max_size=4)


@given(KEYS)
def test_a_seed_is_a_whole_number_that_torch_and_numpy_take(key: list[int | str]) -> None:
    assert 0 <= seed_of(*key) < 2**63


@given(KEYS)
def test_equal_keys_give_equal_streams_whatever_was_drawn_before(key: list[int | str]) -> None:
    first = generator(*key)
    generator(*key, "other").random(3)
    np.random.default_rng().random()
    assert first.random() == generator(*key).random()


@given(KEYS, KEYS)
def test_other_keys_give_other_seeds(one: list[int | str], other: list[int | str]) -> None:
    assert (seed_of(*one) == seed_of(*other)) == (one == other)


@pytest.mark.parametrize(("one", "other"), [((1, "a"), ("1", "a")), (("ab", "c"), ("a", "bc")), ((12, 3), (1, 23))])
def test_keys_that_only_look_alike_are_told_apart(one: tuple[int | str, ...], other: tuple[int | str, ...]) -> None:
    assert seed_of(*one) != seed_of(*other)


def test_a_seed_is_the_same_in_another_process_with_another_hash_seed() -> None:
    code = "from diffboost3d.seeds import seed_of; print(seed_of(0, 'synthesize', 'case_003', 2))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert said == {str(seed_of(0, "synthesize", "case_003", 2))}


def test_neighbouring_keys_are_not_correlated() -> None:
    streams = np.array([generator(0, "case", number).standard_normal(2000) for number in range(6)])
    apart = np.corrcoef(streams)[~np.eye(6, dtype=bool)]
    assert np.abs(apart).max() < 0.1  # the standard error is 0.02


# the draws of batchgeneratorsv2 are of the global generators, which are seeded for each call and put back (transforms._seeded)
DRAWN_WITHIN = {"augmentation/transforms.py", "augmentation/single.py"}


def test_nothing_draws_from_the_global_generators_of_python_and_numpy() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).as_posix() in DRAWN_WITHIN:
            continue
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        modules = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
        modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
        called = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
        assert not modules & {"random", "numpy.random"}, path
        assert {name for name in called if name.startswith("np.random.")} <= {"np.random.default_rng"}, path
