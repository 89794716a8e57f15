"""`benchmarks/low_data.py`: results are of the study that was just run, or stay as they were."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import low_data


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder of results, and a workspace with a study of earlier."""
    monkeypatch.setattr(low_data, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "trial.json").write_text("before")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.json").write_text("{}")
    return tmp_path / "results"


def run(monkeypatch, results, *words):
    given = ["low_data.py", "--data", "nowhere", "--workspace", str(results.parent / "study"), *words]
    monkeypatch.setattr(sys, "argv", given)
    return low_data.main()


def test_a_study_that_fails_leaves_the_results_of_an_earlier_one(results, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 2))
    assert run(monkeypatch, results, "--name", "trial", "merge.alpha=9") == 2
    assert (results / "trial.json").read_text() == "before"
    assert "trial.json is left as it was" in capsys.readouterr().err


@pytest.mark.parametrize("part", [["--sizes", "5", "10"], ["--arms", "none,diffboost"]])
def test_a_part_needs_a_name_of_its_own(results, monkeypatch, capsys, part):
    with pytest.raises(SystemExit):
        run(monkeypatch, results, *part)
    assert "--name is needed" in capsys.readouterr().err


def test_a_status_is_no_study(results, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, results, "--name", "trial", "compare.status=true")
    assert "compare.status writes no study" in capsys.readouterr().err
    assert (results / "trial.json").read_text() == "before"


def test_results_say_how_many_synthetic_volumes_there_were(results, monkeypatch):
    counted = [{"set": "pix2pix", "volumes": 20, "accepted": 0}]
    study = {"parts": [], "between_variants": [], "cells": 3, "unfinished": ["n005-f0-none-s0"]}
    study |= {"cases": [], "trainings": [], "synthetic": counted}

    def compared(command, **_):
        (results.parent / "study" / "study.json").write_text(json.dumps(study))
        (results.parent / "study" / "scores.csv").write_text("variant\n")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(low_data, "commit", lambda: "0")
    monkeypatch.setattr(subprocess, "run", compared)
    assert run(monkeypatch, results, "--name", "trial") == 0
    made = json.loads((results / "trial.json").read_text())
    assert (made["synthetic"], made["finished"]) == (counted, "2 of 3 cells")
