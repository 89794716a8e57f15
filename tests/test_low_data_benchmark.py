"""`benchmarks/low_data.py`: results are of the study that was just run, or stay as they were."""

from __future__ import annotations

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
