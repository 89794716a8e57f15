"""Two processes on one workspace: they share batches and volumes, and make what one process makes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_folders import GATE, TINY, write_volumes

from diffboost3d.cases.workspace import Workspace
from diffboost3d.cli import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="starts processes with torchrun and gloo"),
]

REFINED = (
    "synthesize.refine=0.02",
    "synthesize.refine_steps=2",
    "refiner.channels=[4,8]",
    "refiner.blocks=1",
    "refiner.patch=8",
    "refiner.training.steps=4",
    "refiner.training.batch=2",
)


def with_two_processes(*words, folder):
    """Run a command under torchrun; its output. All its processes end with it."""
    call = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "diffboost3d",
        *words,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        call,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=400)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    write_volumes(folder / "data")
    return [
        f"data.root={folder / 'data'}",
        f"workspace={folder / 'two'}",
        *TINY,
        *GATE,
        *REFINED,
        "synthesize.samples=2",
    ]


@pytest.fixture(scope="module")
def two(words, tmp_path_factory):
    """A workspace made by two processes from the first stage to the last."""
    code, output = with_two_processes("run", *words, folder=tmp_path_factory.mktemp("elsewhere"))
    assert code == 0, output[-4000:]
    return Path(words[1].partition("=")[2])


def files(folder, pattern):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob(pattern) if path.is_file()}


def test_two_processes_go_the_whole_way(two):
    assert (two / "report" / "index.html").is_file()
    assert len((two / "scores.csv").read_text(encoding="utf-8").splitlines()) > 20
    for place in (
        "diffusion/pretrained/fold0",
        "diffusion/refiner/fold0",
        "diffusion/fold0",
        "synthetic/fold0",
        "segmentation/fold0/diffboost/seed0",
    ):
        assert json.loads((two / place / "record.json").read_text(encoding="utf-8"))["digest"]
    assert not [path for path in two.rglob("*") if ".partial" in path.name]


def test_one_process_speaks_for_both(two):
    lines = [line.partition(" ")[2] for line in (two / "log.txt").read_text(encoding="utf-8").splitlines()]
    for start in (
        "diffboost3d run",
        "prepare: 9 cases",
        "fold 0: 5 labelled",
        "synthesize: ",
        "report: 0 min",
        "all: ",
    ):
        assert len([line for line in lines if line.startswith(start)]) == 1, start
    assert len(list((two / "diffusion" / "fold0" / "tensorboard").iterdir())) == 1


def test_two_processes_synthesize_what_one_does_byte_for_byte(two, words):
    one = two.parent / "one"
    shutil.copytree(two, one)
    shutil.rmtree(one / "synthetic")
    assert main(["synthesize", *words, f"workspace={one}"]) == 0
    settled = files(two, "synthetic/fold0/*/*.json")
    assert len(settled) == 10
    assert {json.loads(text)["accepted"] for text in settled.values()} == {True, False}
    for pattern in ("synthetic/fold0/*/*", "synthetic/fold0/*/rejected/*"):
        assert files(two, pattern) == files(one, pattern)


def test_two_processes_train_like_one_up_to_rounding(two, words):
    """Each takes half of every batch, and gradients are averaged; sums of another order are all that differs."""
    from diffboost3d.training import load_tensors

    alone = two.parent / "alone"
    for stage in ("prepare", "pretrain"):
        assert main([stage, *words, f"workspace={alone}"]) == 0
    place = "diffusion/pretrained/fold0/checkpoint/state.safetensors"
    (first, facts), (second, other_facts) = load_tensors(two / place), load_tensors(alone / place)
    assert facts["step"] == other_facts["step"] == 4
    assert first.keys() == second.keys()
    moments = [name for name in first if name.endswith("exp_avg")]
    assert moments
    total = sum(float(first[name].square().sum()) for name in moments) ** 0.5
    apart = sum(float((first[name] - second[name]).square().sum()) for name in moments) ** 0.5
    assert apart < 0.01 * total


def test_one_process_goes_on_with_what_two_have_finished(two, words):
    kept = files(two, "*.safetensors"), files(two, "synthetic/fold0/*/*")
    assert main(["run", *words]) == 0
    said = (two / "log.txt").read_text(encoding="utf-8")
    assert "pretrain fold 0: done already" in said
    assert "made anew" not in said
    assert (files(two, "*.safetensors"), files(two, "synthetic/fold0/*/*")) == kept


def test_a_helping_process_writes_nothing_that_all_share(tmp_path):
    main_one, helper = Workspace(tmp_path), Workspace(tmp_path)
    with main_one.opened(True), helper.opened(False):
        main_one.finish(tmp_path / "result", "train", "old", "now")
        helper.log("a line")
        helper.write_config("train", "key: value")
        assert not helper.is_current(tmp_path / "result", "new")
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "result"]
        assert helper.is_current(tmp_path / "result", "old")
        assert not main_one.is_current(tmp_path / "result", "new")
        assert not helper.is_current(tmp_path / "result", "new")
    assert not (tmp_path / "result" / "record.json").exists()
