"""`plan` on prepared volumes and pictures: what it writes composes, stages take it, and what it says is of this data."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
import yaml
from tiny_folders import GATE, NETWORK, TINY, write_pictures, write_volumes

from diffboost3d.cases.workspace import Workspace
from diffboost3d.cli import main
from diffboost3d.config import compose, configs_folder, read_plan, to_plain, with_values
from diffboost3d.errors import ConfigError
from diffboost3d.planning import trials
from diffboost3d.planning.machine import Machine
from diffboost3d.stages.plan import cost_lines
from diffboost3d.stages.plan_choices import Plan, choose_grid, choose_segmenter, segmenter_patch
from diffboost3d.stages.plan_trials import patches

WORDS = tuple(word for word in TINY if word not in (NETWORK, "network.divisor=4")) + GATE


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Workspaces of volumes and pictures, prepared and planned: (workspace, words)."""
    made = {}
    for name, write in (("volumes", write_volumes), ("pictures", write_pictures)):
        root = tmp_path_factory.mktemp(name)
        words = [f"data.root={write(root / 'data')}", f"workspace={root / 'ws'}", *WORDS]
        assert main(["prepare", *words]) == 0
        assert main(["plan", *words]) == 0
        made[name] = Workspace(root / "ws"), words
    return made


def value_of(workspace: Workspace, key: str):
    found = yaml.safe_load(workspace.plan_path.read_text(encoding="utf-8"))
    for part in key.split("."):
        found = found[part]
    return found


def test_every_value_has_a_reason_beside_it_and_is_what_commands_get(planned) -> None:
    for workspace, words in planned.values():
        lines = workspace.plan_path.read_text(encoding="utf-8").splitlines()[2:]
        assert all("# " in line for line in lines if not line.endswith(":"))
        record = json.loads(workspace.plan_path.with_suffix(".json").read_text(encoding="utf-8"))
        config = compose([*(word for word in words if "channels" not in word), f"plan={workspace.plan_path}"])
        own = {key for key, value in (word.split("=", 1) for word in words)}
        for choice in record["choices"]:
            found = to_plain(config)
            for part in choice["key"].split("."):
                found = found[part]
            assert found == choice["value"] or choice["key"] in own


def test_volumes_are_planned_along_their_thick_axis(planned) -> None:
    workspace, _ = planned["volumes"]
    assert value_of(workspace, "prepare.spacing_mm") == [1.2, 1.0, 2.5]
    assert value_of(workspace, "diffusion.slice_axis") == 2
    assert value_of(workspace, "diffusion.max_size") >= 18
    assert all(wanted >= side for wanted, side in zip(value_of(workspace, "train.patch"), (16, 18, 8), strict=True))


def test_pictures_are_planned_as_single_slices(planned) -> None:
    workspace, _ = planned["pictures"]
    assert "prepare" not in yaml.safe_load(workspace.plan_path.read_text(encoding="utf-8"))
    assert value_of(workspace, "train.patch")[2] == 1
    assert value_of(workspace, "synthesize.noise") == "independent"


def test_the_stages_of_a_run_are_reckoned_and_their_sum(planned) -> None:
    for workspace, _ in planned.values():
        record = json.loads(workspace.plan_path.with_suffix(".json").read_text(encoding="utf-8"))
        costs = {cost["stage"]: cost for cost in record["costs"]}
        assert list(costs) == ["prepare", "pretrain", "finetune", "synthesize", "train", "evaluate", "run"]
        assert costs["prepare"]["seconds"] == 0  # done
        others = [cost for stage, cost in costs.items() if stage != "run"]
        assert costs["run"]["seconds"] == pytest.approx(sum(cost["seconds"] for cost in others))
        assert all(cost["seconds"] > 0 and cost["memory"] > 0 for cost in others[1:])


@pytest.mark.slow
def test_a_planned_segmenter_trains_and_evaluates(planned) -> None:
    workspace, words = planned["volumes"]
    words = [*words, f"plan={workspace.plan_path}", "arms=[none]"]
    assert main(["train", *words]) == 0
    assert main(["evaluate", *words]) == 0


def test_sets_of_both_generators_and_arms_of_every_kind_are_reckoned(planned, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(trials, "SECONDS", 0.0)  # one step each
    workspace, words = planned["volumes"]
    shutil.copytree(workspace.root, tmp_path / "ws")
    words = [
        *words,
        f"workspace={tmp_path / 'ws'}",
        "arms=[none,classical,cutmix,warp_only,diffboost,diffboost_anatomy,synthetic_only_classical,pix2pix,blur]",
        "synthesize.anatomy={same: 0.5, warped: 0.5}",
        "pix2pix.channels=4",
        "evaluate.postprocessing=validated",
    ]
    assert main(["plan", *words]) == 0
    record = json.loads((tmp_path / "ws" / "plan.json").read_text(encoding="utf-8"))
    stages = [cost["stage"] for cost in record["costs"] if cost["seconds"] > 0]
    assert stages == ["pretrain", "finetune", "train-pix2pix", "synthesize", "train", "evaluate", "run"]
    assert set(record["trials"]["sets"]) == {"default", "anatomy", "pix2pix"}
    assert all(one["slice_seconds"] > 0 for one in record["trials"]["sets"].values())


def test_a_run_of_pix2pix_alone_needs_no_generator(planned, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(trials, "SECONDS", 0.0)
    workspace, words = planned["pictures"]
    shutil.copytree(workspace.root, tmp_path / "ws")
    assert main(["plan", *words, f"workspace={tmp_path / 'ws'}", "arms=[pix2pix]", "train.whole=true"]) == 0
    record = json.loads((tmp_path / "ws" / "plan.json").read_text(encoding="utf-8"))
    assert [cost["stage"] for cost in record["costs"]] == [
        "prepare",
        "train-pix2pix",
        "synthesize",
        "train",
        "evaluate",
        "run",
    ]
    assert any("train.whole" in note for note in record["notes"])
    assert not any(choice["key"] == "train.patch" for choice in record["choices"])


def test_patches_of_every_arm_can_be_tried(planned) -> None:
    for workspace, words in planned.values():
        config, manifest = compose(words), workspace.read_manifest()
        size = (8, 8, 8 if manifest.spatial_dims == 3 else 1)
        for at in ("image", "prediction"):
            merged = with_values(config, {"merge.at": at})
            for arm in config.arm.values():
                assert patches(merged, manifest, arm, size)[0]["image"].shape == (1, *size)


NETWORKS = sorted(path.stem for path in (configs_folder() / "network").glob("*.yaml"))


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_can_be_planned(network, planned, monkeypatch) -> None:
    monkeypatch.setattr(trials, "SECONDS", 0.0)
    machine = Machine(2, 10**10, 10**10, "cpu", None, 10**10)
    for workspace, words in planned.values():
        plan = Plan(compose([*words, f"network={network}"]), workspace.read_manifest(), machine)
        trial, samples = choose_segmenter(plan, torch.device("cpu"))
        assert trial.seconds > 0
        assert samples > 0
        assert segmenter_patch(plan) == tuple(plan.config.train.patch)


def test_without_prepare_it_says_so(tmp_path, capsys) -> None:
    assert main(["plan", f"workspace={tmp_path / 'ws'}"]) == 1
    assert "run `diffboost3d prepare`" in capsys.readouterr().err


def test_another_spacing_than_prepared_asks_for_prepare(planned) -> None:
    workspace, words = planned["volumes"]
    machine = Machine(2, 10**10, 10**10, "cpu", None, 10**10)
    plan = Plan(compose([*words, "prepare.spacing_mm=[2.4,2,2.5]"]), workspace.read_manifest(), machine)
    choose_grid(plan)
    assert "prepare.spacing_mm=[2.4,2,2.5]" in plan.notes[0]
    assert plan.shapes[0] == (8, 9, 8)
    assert math.isclose(plan.spacing_mm[0], 2.4)


def test_a_table_has_a_column_for_a_gpu_only_where_there_is_one() -> None:
    from diffboost3d.planning.costs import Cost

    assert "GPU" not in cost_lines([Cost("train", 60, "steps", 10**9, None, 10**6)])[0]
    lines = cost_lines([Cost("train", 60, "steps", 10**9, 2 * 10**9, 10**6)])
    assert "GPU memory" in lines[0]
    assert lines[1].split("  ")[0] == "train"
    assert "about 60 s" in lines[1]


# --- plan=FILE -------------------------------------------------------------------------------------------------------
def test_a_plan_goes_after_the_preset_and_before_the_command_line(tmp_path) -> None:
    file = tmp_path / "my plan.yaml"
    file.write_text("train: {steps: 7, batch: 3}  # why\n", encoding="utf-8")
    config = compose([f"plan={file}", "preset=quick"])
    assert (config.train.steps, config.train.batch, config.plan) == (7, 3, str(file))
    assert compose([f"plan={file}", "train.steps=9"]).train.steps == 9
    assert compose(["preset=quick"]).plan is None


REFUSED = {
    "train: {batchx: 2}": "unknown key 'train.batchx'; did you mean train.batch?",
    "train: {batch: 0}": "train.batch=0 is refused",
    "train: {batch: many}": "train.batch",
    "- 1": "holds no keys",
    "": "holds no keys",
    "train: [": "can't be read",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_plan_is_checked_like_the_command_line(text, tmp_path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        compose([f"plan={file}"])
    assert REFUSED[text] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_plan_is_named() -> None:
    with pytest.raises(ConfigError, match=r"plan=nowhere\.yaml can't be read"):
        read_plan_of("nowhere.yaml")


def read_plan_of(path: str):
    from pathlib import Path

    return read_plan(Path(path))


def test_values_are_put_into_a_configuration_and_checked() -> None:
    config = with_values(compose([]), {"train.batch": 3, "network.arguments": {"norm": "BATCH"}})
    assert config.train.batch == 3
    assert config.network.arguments["norm"] == "BATCH"
    with pytest.raises(ConfigError, match=r"merge\.alpha=2"):
        with_values(config, {"merge.alpha": 2.0})
