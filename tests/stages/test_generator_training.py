"""The generator through its commands: where it starts from, when its training ends, and samples that are made together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_folders import TINY, write_pictures, write_volumes

from diffboost3d.cli import main
from diffboost3d.errors import ConfigError
from diffboost3d.schema import DiffusionTrainingConfig
from diffboost3d.stages.generator_training import _require_even_shares
from diffboost3d.synthesis.volumes import VolumeSampler

SHORT = ("diffusion.pretrain.steps=1", "diffusion.finetune.steps=1", "folds=[0]")
NOTHING_LEARNED = "diffusion.pretrain.steps=0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/, and two workspaces: prepared/, trained/ (as far as `finetune`)."""
    root = tmp_path_factory.mktemp("generators")
    write_volumes(root / "data", count=6)
    assert call(root, "prepared", "prepare") == 0
    shutil.copytree(root / "prepared", root / "trained")
    for stage in ("pretrain", "finetune"):
        assert call(root, "trained", stage) == 0
    return root


def call(root: Path, workspace: str, stage: str, *more: str) -> int:
    return main([stage, f"data.root={root / 'data'}", f"workspace={root / workspace}", *TINY, *SHORT, *more])


@pytest.fixture
def pretrain(folder: Path, tmp_path: Path) -> Callable[..., tuple[int, Path]]:
    """Pre-trains in a new workspace that starts from trained/; gives the exit code and the folder of the result."""

    def start(*more: str, given: Path | None = None) -> tuple[int, Path]:
        workspace = tmp_path / "ws"
        if not workspace.exists():
            shutil.copytree(folder / "prepared", workspace)
        given = folder / "trained" / "diffusion" / "fold0" if given is None else given
        status = call(folder, str(workspace), "pretrain", f"diffusion.start_from={given}", *more)
        return status, workspace / "diffusion" / "pretrained" / "fold0"

    return start


def weights(generator: Path) -> dict[str, torch.Tensor]:
    """All tensors of a saved generator, by part and name."""
    files = sorted((generator / "model").rglob("*.safetensors"))
    return {f"{file.parent.name} {name}": value for file in files for name, value in load_file(file).items()}


def record(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "record.json").read_text(encoding="utf-8")))


# --- diffusion.start_from --------------------------------------------------------------------------------------------
def test_it_starts_with_the_weights_of_the_generator_that_is_named(folder, pretrain):
    given = weights(folder / "trained" / "diffusion" / "fold0")
    status, result = pretrain(NOTHING_LEARNED)
    assert status == 0
    made = weights(result)
    assert made.keys() == given.keys()
    assert all(torch.equal(made[name], given[name]) for name in given)
    assert not torch.equal(
        given["unet conv_in.weight"],
        weights(folder / "trained" / "diffusion" / "pretrained" / "fold0")["unet conv_in.weight"],
    )


def test_its_control_branch_is_adapted_to_other_control_images(folder, pretrain):
    given = weights(folder / "trained" / "diffusion" / "fold0")
    status, result = pretrain(NOTHING_LEARNED, "diffusion.denoiser.neighbours=0")
    assert status == 0
    made, first = weights(result), "controlnet controlnet_cond_embedding.conv_in.weight"
    assert [name for name in given if not torch.equal(made[name], given[name])] == [first]
    assert given[first].shape[1] - made[first].shape[1] == 2  # no slices above and below
    settings = json.loads((result / "model" / "controlnet" / "config.json").read_text(encoding="utf-8"))
    assert settings["conditioning_channels"] == made[first].shape[1]


def test_another_generator_to_start_from_is_another_training(folder, pretrain, capsys):
    assert pretrain(NOTHING_LEARNED)[0] == 0
    _, result = pretrain(NOTHING_LEARNED)
    assert "pretrain fold 0: done already" in capsys.readouterr().out
    first = record(result)["digest"]
    other = folder / "trained" / "diffusion" / "pretrained" / "fold0"
    assert pretrain(NOTHING_LEARNED, given=other)[0] == 0
    assert record(result)["digest"] != first
    made, given = weights(result), weights(other)
    assert all(torch.equal(made[name], given[name]) for name in given)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["diffusion.codec.factor=4"], "has the codec haar of factor 2; ask for the same"),
        (["diffusion.codec.name=pixel"], "not pixel of 2"),
        (["diffusion.denoiser.channels=[32,32]"], "ask for it: diffusion.denoiser.channels=[16, 16], not [32, 32]"),
        (["diffusion.denoiser.text_width=32"], "ask for it: diffusion.denoiser.text_width=16, not 32"),
        (["diffusion.schedule.betas=linear"], "ask for it: diffusion.schedule.betas=squaredcos_cap_v2, not linear"),
    ],
)
def test_a_generator_of_another_kind_is_refused_in_one_line(pretrain, capsys, more: Sequence[str], said: str):
    status, result = pretrain(*more)
    assert status != 0
    assert not result.exists()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("diffboost3d: ")]
    assert said in line


def test_a_folder_without_a_generator_is_refused_with_what_to_give(folder, pretrain, capsys):
    for given in (folder / "data", folder / "missing", folder / "trained"):
        status, result = pretrain(given=given)
        assert status != 0
        assert not result.exists()
        error = capsys.readouterr().err
        assert f"diffusion.start_from={given} holds no generator" in error
        assert "diffusion/fold0 of a workspace" in error


def test_idle_layers_along_the_slices_are_refused(folder, pretrain, tmp_path, capsys):
    status, stacked = pretrain(NOTHING_LEARNED, "diffusion.denoiser.stack=2")
    assert status == 0
    words = [f"diffusion.start_from={stacked}", NOTHING_LEARNED]
    shutil.copytree(folder / "prepared", tmp_path / "other")
    capsys.readouterr()
    assert call(folder, str(tmp_path / "other"), "pretrain", *words) != 0
    assert "has layers along the slices; ask for them: diffusion.denoiser.stack=2" in capsys.readouterr().err


def test_neighbours_that_no_volume_has_are_refused(pretrain, capsys):
    status, result = pretrain(NOTHING_LEARNED, "diffusion.denoiser.neighbours=8")
    assert status != 0
    assert not result.exists()
    assert "no volume has more than 8 slices along axis 2; allowed: 0 to 7" in capsys.readouterr().err


def test_layers_along_the_slices_are_refused_for_pictures(tmp_path, capsys):
    folder = tmp_path / "pictures"
    write_pictures(folder, count=6)
    words = [f"data.root={folder}", f"workspace={tmp_path / 'ws'}", *TINY, *SHORT]
    assert main(["prepare", *words]) == 0
    assert main(["pretrain", *words, "diffusion.denoiser.stack=2"]) != 0
    assert "which have no neighbours; allowed: 1" in capsys.readouterr().err


def test_a_batch_whose_stacks_cannot_be_shared_is_refused_in_slices():
    section = DiffusionTrainingConfig(batch=24)
    _require_even_shares(section, "pretrain", 8, 3)
    with pytest.raises(ConfigError, match=r"diffusion.pretrain.batch=24 holds 3 stacks of 8 slices.* a multiple of 16"):
        _require_even_shares(section, "pretrain", 8, 2)


# --- patience --------------------------------------------------------------------------------------------------------
def test_training_without_progress_ends_after_its_patience(folder, tmp_path):
    """A learning rate of zero brings nothing better than the first validation."""
    shutil.copytree(folder / "prepared", tmp_path / "ws")
    patient = ["steps=9", "learning_rate=0", "validate_every=1", "checkpoint_every=1", "patience=2"]
    words = [f"diffusion.pretrain.{word}" for word in patient]
    assert call(folder, str(tmp_path / "ws"), "pretrain", *words) == 0
    kept = record(tmp_path / "ws" / "diffusion" / "pretrained" / "fold0")
    assert (kept["steps"], kept["best_step"]) == (3, 1)
    assert kept["best_score"] < 0  # minus the loss


def test_without_patience_the_averaged_last_weights_are_kept(folder):
    kept = record(folder / "trained" / "diffusion" / "pretrained" / "fold0")
    assert (kept["steps"], kept["best_step"], kept["best_score"]) == (1, 1, None)


# --- samples together ------------------------------------------------------------------------------------------------
SAMPLES = (
    "synthesize.samples=3",
    "synthesize.batch=16",
    "synthesize.sampler=ddim",
    "synthesize.step_power=1",
    "synthesize.eta=0.5",
)  # two volumes of 8 slices a batch


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("*/*")}


@pytest.mark.parametrize("missing", [("01",), ("00", "02"), ("00.json",)])
def test_missing_samples_are_made_again_byte_for_byte_in_their_old_company(folder, monkeypatch, missing):
    synthetic = folder / "trained" / "synthetic" / "fold0"
    assert call(folder, "trained", "synthesize", *SAMPLES) == 0
    whole = contents(synthetic)
    case = sorted(path for path in synthetic.iterdir() if path.is_dir())[0]
    for path in [path for path in case.iterdir() if path.name.startswith(missing)]:
        path.unlink()
    assert contents(synthetic) != whole
    asked, volumes = [], VolumeSampler.volumes

    def watched(self, axis, spacing_mm, requests):
        asked.append(len(requests))
        return volumes(self, axis, spacing_mm, requests)

    monkeypatch.setattr(VolumeSampler, "volumes", watched)
    assert call(folder, "trained", "synthesize", *SAMPLES) == 0
    assert contents(synthetic) == whole
    assert asked == ([2, 1] if len(missing) == 2 else [2])  # groups with something missing, whole
