"""What a study rests on: trainings that may have been too short, versions, and a command without its folders."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from diffboost3d.cases.atomic import write_json
from diffboost3d.cases.workspace import Workspace
from diffboost3d.stages.study_basis import basis_of_study, count_trainings


def cell(folder, seed, steps, best, version="2.0"):
    """A finished cell with the record of its training, validated every 100 steps."""
    config = SimpleNamespace(
        workspace=str(folder), train=SimpleNamespace(validate_every=100), arm={"none": SimpleNamespace(merge="none")}
    )
    record = {"steps": steps, "best_step": best, "best_score": 0.5, "versions": {"torch": version}}
    write_json(Workspace(folder).segmenter(0, "none", seed) / "record.json", record)
    return SimpleNamespace(variant="base", size=5, fold=0, arm="none", seed=seed, config=config)


@pytest.mark.parametrize(("steps", "best", "last"), [(300, 300, 1), (300, 200, 0), (200, 200, 0), (250, 250, 1)])
def test_the_best_validation_was_the_last_of_three_or_more(tmp_path, steps, best, last):
    rows = count_trainings([cell(tmp_path, 0, steps, best), cell(tmp_path, 1, 300, 100)])
    assert rows == [{"variant": "base", "size": 5, "arm": "none", "trainings": 2, "best_last": last}]


def test_a_training_whose_record_is_gone_is_counted_and_nothing_is_said_of_it(tmp_path):
    gone = cell(tmp_path, 0, 300, 300)
    (Workspace(tmp_path).segmenter(0, "none", 0) / "record.json").unlink()
    assert count_trainings([gone])[0] | {"trainings": 1, "best_last": 0} == count_trainings([gone])[0]


def test_the_command_has_what_shapes_the_study_and_versions_are_those_of_its_trainings(tmp_path, monkeypatch):
    monkeypatch.setattr("diffboost3d.stages.study_basis.count_cases", lambda _: [])
    words = ["data.root=/home/me", "workspace=ws", "+compare.launcher_options.partition=gpu", "compare.tables=true"]
    words += ["prompt=Hippocampus, MRI", "~arm.gamma", "compare.sizes=[3]"]
    found = basis_of_study([cell(tmp_path, 0, 300, 300), cell(tmp_path, 1, 300, 300, "2.1")], words)
    shown = "diffboost3d compare data.root=FOLDER workspace=STUDY 'prompt=Hippocampus, MRI' '~arm.gamma' 'compare.sizes=[3]'"
    assert found["command"] == shown
    assert found["versions"] == {"torch": "2.0 / 2.1"}
