"""Test cases stay unseen: no stage before `evaluate` opens a file of theirs, and none needs one."""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import contextmanager

import pytest
from tiny_folders import GATE, TINY, write_volumes

from diffboost3d.cli import main

LEARNING = ("train-codec", "pretrain", "train-refiner", "finetune", "synthesize", "train")
_opened: list[str] | None = None


def _note(event, arguments):
    if _opened is not None and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        _opened.append(os.path.abspath(os.fsdecode(arguments[0])))


sys.addaudithook(_note)  # stays for the life of the process; notes only inside `watching`


@contextmanager
def watching():
    """Every file that Python opens in the block."""
    global _opened
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unseen")
    write_volumes(folder / "data")
    return [
        f"data.root={folder / 'data'}",
        f"workspace={folder / 'ws'}",
        *TINY,
        *GATE,
        "arms=[none,cutmix,diffboost_classical]",
        "diffusion.codec.name=vae",
        "diffusion.codec.vae.channels=[8,8]",
        "diffusion.codec.training.steps=2",
        "synthesize.refine=0.1",
        "synthesize.refine_steps=2",
        "refiner.channels=[4,8]",
        "refiner.patch=8",
        "refiner.training.steps=2",
        "refiner.training.batch=2",
    ]


@pytest.fixture(scope="module")
def learned(words):
    """Learning with the test cases out of reach; gives workspace, data folder, test ids and all files opened."""
    root, workspace = (os.path.abspath(words[at].split("=")[1]) for at in (0, 1))
    assert main(["prepare", *words]) == 0
    with open(os.path.join(workspace, "splits.json"), encoding="utf-8") as file:
        split = json.load(file)[0]
    assert split["test"]
    away = os.path.join(os.path.dirname(workspace), "away")
    os.mkdir(away)
    for case in split["test"]:
        shutil.move(os.path.join(workspace, "prepared", case), os.path.join(away, case))
        for kind in ("images", "labels"):
            path = os.path.join(root, kind, f"{case}.nii.gz")
            shutil.copy(path, os.path.join(away, f"{kind}-{case}.nii.gz"))
            with open(path, "wb") as file:
                file.write(b"unreadable")
    with watching() as opened:
        statuses = [main([stage, *words]) for stage in LEARNING]
    assert statuses == [0] * len(LEARNING)
    return workspace, root, split, away, opened


def test_learning_opens_no_file_of_a_test_case(learned):
    workspace, root, split, _, opened = learned
    data = [path for path in opened if path.startswith((root, workspace))]
    for case in split["training"]:
        assert any(case in path for path in data)  # the watch sees what is read
    assert not [path for path in data if any(case in path for case in split["test"])]


def test_learning_opens_no_label_file_outside_the_training_side(learned):
    _, root, split, _, opened = learned
    for path in opened:
        if path.startswith(os.path.join(root, "labels")) or path.endswith("label.nii.gz"):
            assert any(case in path for case in [*split["training"], *split["validation"]])


def test_no_record_of_learning_names_a_test_case(learned):
    workspace, _, split, _, _ = learned
    for folder in ("diffusion", "gate", "synthetic", "segmentation"):
        for place, _, files in os.walk(os.path.join(workspace, folder)):
            for name in files:
                if name.endswith(".json"):
                    with open(os.path.join(place, name), encoding="utf-8") as file:
                        text = file.read()
                    assert not [case for case in split["test"] if case in text]


def _restore(away, workspace, root, split, what):
    for case in split["test"]:
        if what == "prepared":
            shutil.copytree(os.path.join(away, case), os.path.join(workspace, "prepared", case))
        else:
            shutil.copy(os.path.join(away, f"{what}-{case}.nii.gz"), os.path.join(root, what, f"{case}.nii.gz"))


def test_evaluate_names_the_file_it_misses_and_succeeds_once_all_are_back(learned, words, capsys):
    workspace, root, split, away, _ = learned
    for missing, name in (("prepared", "image.nii.gz"), ("images", ".nii.gz"), ("labels", ".nii.gz")):
        capsys.readouterr()
        assert main(["evaluate", *words]) == 1
        (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("diffboost3d:")]
        assert missing in line
        assert name in line
        assert any(case in line for case in split["test"])
        _restore(away, workspace, root, split, missing)
    assert main(["evaluate", *words]) == 0
    assert os.path.isfile(os.path.join(workspace, "scores.csv"))
