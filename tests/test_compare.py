"""`compare`: one study, killed at any moment, listed, with a failing cell, over sizes that share what they can."""

from __future__ import annotations

import json
import os
import re

import pytest
from killing import STUDY, whole_and_killed
from tiny_folders import write_volumes

from diffboost3d.cases.splits import draw_splits, nested_split
from diffboost3d.cases.study import Study, read_study_scores, settle_job
from diffboost3d.cases.workspace import Workspace
from diffboost3d.cli import main
from diffboost3d.stages import compare

pytestmark = pytest.mark.slow
KILLS = [
    (r"n002/manifest\.json$", 1),
    (r"n002/segmentation/fold0/none/seed0/checkpoint/state\.safetensors$", 1),
    (r"predictions/[^/]+\.json$", 4),
    (r"jobs/n003-f0-none-s0/done\.json$", 1),
    (r"scores\.csv$", 1),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_volumes(tmp_path_factory.mktemp("compare") / "data", 9)


@pytest.fixture(scope="module")
def studies(data):
    return whole_and_killed(data, data.parent, STUDY, KILLS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes, which this system doesn't have")
@pytest.mark.parametrize(
    "name", ["scores.csv", "study.json", "study.md", "study.tex", "figures/forest.svg", "volumes.json"]
)
def test_a_study_killed_five_times_ends_in_the_bytes_of_an_undisturbed_one(studies, name):
    whole, killed = ((folder / name).read_text() for folder in studies)
    assert whole.replace("Study whole", "") == killed.replace("Study killed", "")


def test_what_was_finished_before_a_kill_is_not_done_again(studies):
    said = (studies[1] / "log.txt").read_text()
    for cell in ("n002-f0-none-s0", "n002-f0-classical-s0", "n003-f0-classical-s0"):
        assert len(re.findall(f"{cell} done", said)) == 1, cell
    assert "goes on from step 0" not in said


def test_sizes_are_nested_share_their_test_cases_and_keep_images_on_the_disk_once(studies):
    study = Study(studies[0])
    small, large = (Workspace(study.workspace("base", size)) for size in (2, 3))
    assert set(small.read_split(0).training) < set(large.read_split(0).training)
    assert small.read_split(0).test == large.read_split(0).test
    case = small.read_split(0).test[0]
    paths = [one.prepared(case) for one in (small, large, Workspace(study.data(0)))]
    assert len({path.stat().st_ino for path in paths}) == 1
    assert small.source(small.read_manifest(), small.read_manifest().cases[0].image).is_file()


def test_a_larger_size_leaves_the_cases_of_the_others_as_they_are(data, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "_launch", lambda *_: {})
    words = ["compare", f"data.root={data}", f"workspace={tmp_path / 'study'}", *STUDY, "seed=3"]
    study, found = Study(tmp_path / "study"), []
    for sizes in ("[2,3]", "[2,3,4]"):
        assert main([*words, f"compare.sizes={sizes}"]) == 0
        found.append([Workspace(study.workspace("base", size)).read_split(0) for size in (2, 3)])
    assert found[0] == found[1]
    largest = Workspace(study.workspace("base", 4)).read_split(0)
    assert set(found[1][0].training) < set(found[1][1].training) < set(largest.training)


def test_finished_cells_on_other_cases_are_not_made_anew_but_the_way_to_go_on_with_them_is_told(
    data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(compare, "_launch", lambda *_: {})
    words = ["compare", f"data.root={data}", f"workspace={tmp_path / 'study'}", *STUDY, "compare.validation=1"]
    study = Study(tmp_path / "study")
    begun = [*words, "compare.sizes=[2,4]", "seed=2"]
    assert main(begun) == 0
    places = {size: Workspace(study.workspace("base", size)) for size in (2, 4)}
    cases = places[2].read_manifest().cases
    largest = draw_splits(cases, 3, 4, None, 0.2, 2, 1)  # as an older version drew the splits of a study
    for size, place in places.items():
        place.write_splits([nested_split(split, cases, fold, size, 1, None, 2) for fold, split in enumerate(largest)])
    before = [place.splits_path.read_text() for place in places.values()]
    settle_job(study.job("n002-f0-none-s0"), "a digest")
    capsys.readouterr()
    assert main(begun) == 1
    said = capsys.readouterr().err
    assert f"{places[2].root} has finished jobs of fold 0 on other cases" in said
    assert f"give data.splits={places[4].splits_path} (it serves sizes up to 4)" in said
    assert main([*words, "compare.sizes=[2,4]", "seed=3"]) == 1
    assert "give the data and settings it was begun with" in capsys.readouterr().err
    assert "seed: 2" in (tmp_path / "study" / "config" / "compare.yaml").read_text()
    assert main([*begun, f"data.splits={places[4].splits_path}"]) == 0
    assert [json.loads(place.splits_path.read_text())[0] for place in places.values()] == [
        json.loads(text)[0] for text in before
    ]


def test_the_csv_holds_every_cell_and_the_volume_of_every_label(studies):
    scores = read_study_scores(Study(studies[0]).scores_path)
    cells = {(one.size, one.arm, one.seed) for one in scores}
    assert cells == {(size, arm, 0) for size in (2, 3) for arm in ("none", "classical")}
    assert {one.metric for one in scores} == {"dice", "hd95", "assd", "nsd"}
    assert all(round(one.volume / 3) * 3 == pytest.approx(one.volume) for one in scores)  # voxels of 1.2 x 1 x 2.5 mm
    summary = json.loads((studies[0] / "study.json").read_text())
    assert summary["unfinished"] == []
    assert [part["size"] for part in summary["parts"]] == [2, 3]


def test_the_status_lists_what_is_left_and_leaves_no_trace(studies, data, capsys):
    before = sorted(studies[0].rglob("*"))
    words = ["compare", f"data.root={data}", f"workspace={studies[0]}", *STUDY, "compare.status=true"]
    assert main(words) == 0
    assert "cells: 4 of 4 done" in capsys.readouterr().out
    assert main([*words, "train.steps=3"]) == 0
    assert "n002-f0-none-s0: to do" in capsys.readouterr().out
    assert sorted(studies[0].rglob("*")) == before


def test_the_status_counts_the_cells_of_sizes_and_variants_that_are_not_prepared_yet(studies, data, tmp_path, capsys):
    words = ["compare", f"data.root={data}", f"workspace={studies[0]}", *STUDY, "compare.status=true"]
    assert main([*words, "compare.sizes=[2,3,4]"]) == 0
    said = capsys.readouterr().out
    assert "cells: 4 of 6 done" in said
    assert [line for line in said.splitlines() if "to do" in line] == [
        "  n004-f0-none-s0: to do (not prepared yet)",
        "  n004-f0-classical-s0: to do (not prepared yet)",
    ]
    assert main([*words, '+compare.variants={half: ["merge.alpha=0.5"], most: ["merge.alpha=0.9"]}']) == 0
    said = capsys.readouterr().out
    assert "cells: 0 of 8 done" in said
    assert "most-n003-f0-none-s0: to do (not prepared yet)" in said
    new = [word.replace(str(studies[0]), str(tmp_path / "new")) for word in words]
    assert main(new) == 0
    assert "cells: 0 of 4 done" in capsys.readouterr().out


def test_tables_of_what_is_finished_come_without_running_anything(data, tmp_path, monkeypatch, capsys):
    words = ["compare", f"data.root={data}", f"workspace={tmp_path / 'part'}", *STUDY]
    assert main([*words, "arms=[none]"]) == 0
    before = (tmp_path / "part" / "scores.csv").read_text()
    (tmp_path / "part" / "scores.csv").unlink()
    monkeypatch.setattr("diffboost3d.stages.compare._launch", None)  # would fail
    capsys.readouterr()
    assert main([*words, "compare.tables=true"]) == 0
    assert (tmp_path / "part" / "scores.csv").read_text() == before
    assert "2 of 4 cells are finished" in (tmp_path / "part" / "study.md").read_text()
    assert main([*words, "compare.sizes=[2,3,4]", "compare.tables=true"]) == 0
    summary = json.loads((tmp_path / "part" / "study.json").read_text())
    assert summary["cells"] == 6
    cases = [(one["size"], one["training"]["cases"], one["validation"]["cases"]) for one in summary["cases"]]
    assert cases == [(2, 2, 2), (3, 3, 2)]
    assert [(one["arm"], one["trainings"]) for one in summary["trainings"]] == [("none", 1)] * 2
    assert summary["command"].startswith("diffboost3d compare ")
    assert "compare.sizes=[2,3,4]" in summary["command"]
    assert str(tmp_path) not in summary["command"]
    assert summary["unfinished"][-2:] == ["n004-f0-none-s0", "n004-f0-classical-s0"]
    assert main(["compare", f"data.root={data}", f"workspace={tmp_path / 'new'}", *STUDY, "compare.tables=true"]) == 1
    assert "nothing is prepared yet" in capsys.readouterr().err


def test_tables_of_another_configuration_leave_those_that_are_there(data, tmp_path, capsys):
    words = ["compare", f"data.root={data}", f"workspace={tmp_path}", *STUDY, "arms=[none]", "compare.sizes=[2]"]
    assert main(words) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert {"scores.csv", "study.json", "study.md"} <= set(before)
    capsys.readouterr()
    assert main([*words, "train.steps=3", "compare.tables=true"]) == 1
    assert "no cell is finished in this configuration" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_settings_of_other_commands_leave_the_cells_of_a_study_finished(data, tmp_path, capsys):
    words = ["compare", f"data.root={data}", f"workspace={tmp_path}", *STUDY, "arms=[none]", "compare.sizes=[2]"]
    assert main(words) == 0
    capsys.readouterr()
    others = ["predict.overlap=0.3", "inspect.listed=3", "export.name=other"]
    assert main([*words, *others, "compare.status=true"]) == 0
    assert "cells: 1 of 1 done" in capsys.readouterr().out


def test_a_cell_that_another_command_made_anew_is_not_the_study_s(data, tmp_path, capsys):
    words = [
        "compare",
        f"data.root={data}",
        f"workspace={tmp_path / 'study'}",
        *STUDY,
        "arms=[none]",
        "compare.sizes=[2]",
    ]
    assert main(words) == 0
    before = (tmp_path / "study" / "scores.csv").read_text()
    record = tmp_path / "study" / "n002" / "segmentation" / "fold0" / "none" / "seed0" / "predictions" / "record.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "digest": "of another command"}))
    capsys.readouterr()
    assert main([*words, "compare.status=true"]) == 0
    assert "cells: 0 of 1 done" in capsys.readouterr().out
    assert main(words) == 0
    assert (tmp_path / "study" / "scores.csv").read_text() == before


def test_one_failing_cell_stops_no_other_and_is_named_with_an_exit_status(data, tmp_path, monkeypatch, capsys):
    from diffboost3d.stages import train

    original = train.run

    def failing(config, workspace):
        if config.arms == ["none"]:
            raise RuntimeError("out of luck")
        original(config, workspace)

    words = ["compare", f"data.root={data}", f"workspace={tmp_path / 'study'}", *STUDY, "compare.sizes=[2]"]
    monkeypatch.setattr(train, "run", failing)
    assert main(words) == 1
    said = capsys.readouterr()
    assert "1 of 2 jobs of the study failed: n002-f0-none-s0; the first: RuntimeError: out of luck" in said.err
    assert "cells: 1 of 2 done" in said.out
    assert "n002-f0-none-s0: failed: RuntimeError: out of luck" in said.out
    monkeypatch.setattr(train, "run", original)
    assert main(words) == 0
    assert "cells: 2 of 2 done" in capsys.readouterr().out


def test_variants_train_once_what_they_have_in_common(data, tmp_path, capsys):
    words = ["compare", f"data.root={data}", f"workspace={tmp_path / 'study'}", *STUDY, "compare.sizes=[2]"]
    words += ["arms=[none,cutmix]", '+compare.variants={half: ["merge.alpha=0.5"], most: ["merge.alpha=0.9"]}']
    assert main(words) == 0
    study = Study(tmp_path / "study", ("half", "most"))
    of = {
        (variant, arm): (Workspace(study.workspace(variant, 2)).segmenter(0, arm, 0) / "model.safetensors")
        .stat()
        .st_ino
        for variant in study.variants
        for arm in ("none", "cutmix")
    }
    assert of["half", "none"] == of["most", "none"]
    assert of["half", "cutmix"] != of["most", "cutmix"]
    found = json.loads(study.summary_path.read_text())["between_variants"]
    assert {(one["arm"], one["reference"]) for one in found} == {("most/cutmix", "half/cutmix")}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ('+compare.variants={a: ["data.root=x"]}', "compare.variants.a sets data.root, which all variants share"),
        ('+compare.variants={a: ["data=hippocampus"]}', "compare.variants.a sets data, which all variants share"),
        (
            '+compare.variants={a: ["+ablation=cases_05"]}',
            "compare.variants.a changes data.labelled, which all variants share",
        ),
        ('+compare.variants={a: ["merge.alpha=7"]}', "compare.variants.a: merge.alpha=7.0 is refused"),
        ("compare.sizes=[99]", "the study asks for 99; lower compare.sizes"),
        ("compare.launcher=rocket", "compare.launcher=rocket is not installed"),
    ],
)
def test_a_study_that_can_not_be_is_refused_in_a_line(data, tmp_path, capsys, override, words):
    given = ["compare", f"data.root={data}", f"workspace={tmp_path / 'study'}", *STUDY, override]
    assert main(given) in (1, 2)
    assert words in capsys.readouterr().err


def test_a_study_runs_through_submitit(data, tmp_path, capsys):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="the extra diffboost3d[slurm] isn't installed")
    words = [
        "compare",
        f"data.root={data}",
        f"workspace={tmp_path / 'study'}",
        *STUDY,
        "compare.sizes=[2]",
        "arms=[none]",
    ]
    assert main([*words, "compare.launcher=submitit_local", "+compare.launcher_options.timeout_min=20"]) == 0
    assert "cells: 1 of 1 done" in capsys.readouterr().out
