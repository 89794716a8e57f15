"""Stable Diffusion through the commands: a whole way with a locked base and with adapters, and what is refused before it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_stable_diffusion import ldm_tensors, write_base, write_control
from tiny_folders import TINY, write_volumes

from diffboost3d.cli import main
from diffboost3d.config import compose

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
SHORT = (
    "diffusion.pretrain.steps=1",
    "diffusion.finetune.steps=1",
    "diffusion.finetune.learning_rate=0.01",
    "diffusion.finetune.ema_decay=0",
    "diffusion.max_size=64",
    "synthesize.steps=1",
    "folds=[0]",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/, base/, control/, and a prepared workspace ws/."""
    root = tmp_path_factory.mktemp("family")
    write_volumes(root / "data", count=6)
    write_control(root / "control", write_base(root / "base"))
    assert main(["prepare", f"data.root={root / 'data'}", f"workspace={root / 'ws'}", *TINY, *SHORT]) == 0
    return root


def call(folder: Path, stage: str, *more: str, diffusion: str = "sd15") -> int:
    given = [f"data.root={folder / 'data'}", f"workspace={folder / 'ws'}", f"diffusion={diffusion}"]
    return main([stage, *given, *TINY, *SHORT, *more])


def weights(generator: Path, part: str) -> dict[str, torch.Tensor]:
    return load_file(generator / "model" / part / "diffusion_pytorch_model.safetensors")


@pytest.mark.slow
def test_the_whole_way_with_a_locked_base_then_adapters(folder: Path) -> None:
    pytest.importorskip("peft")
    base, control = f"diffusion.weights.base={folder / 'base'}", f"diffusion.weights.control={folder / 'control'}"
    with_adapters = ("diffusion.finetune.trained=lora", "diffusion.lora.rank=2")
    for stage in ("pretrain", "finetune", "synthesize"):
        assert call(folder, stage, base, control, *with_adapters) == 0
    pretrained, finetuned = (folder / "ws" / "diffusion" / path for path in ("pretrained/fold0", "fold0"))
    first = load_file(folder / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    locked, adapted = weights(pretrained, "unet"), weights(finetuned, "unet")
    assert all(torch.equal(locked[name], value) for name, value in first.items())
    changed = {name for name, value in locked.items() if not torch.equal(adapted[name], value)}
    assert changed
    assert all(".attn" in name for name in changed)
    assert (finetuned / "model" / "lora" / "pytorch_lora_weights.safetensors").is_file()
    assert list((folder / "ws" / "synthetic" / "fold0").rglob("*.nii.gz"))
    shape = json.loads((finetuned / "record.json").read_text())["shape"]
    assert shape["family"] == "stable_diffusion"
    assert "channels" not in shape


REFUSED = {
    "no base": ([], ["needs diffusion.weights.base", "nothing is downloaded"]),
    "missing": (["diffusion.weights.base=/nowhere/sd.ckpt"], ["diffusion.weights.base=/nowhere/sd.ckpt is missing"]),
    "schedule": (
        ["BASE", "diffusion.schedule.prediction=v_prediction"],
        ["prediction_type=epsilon", "not v_prediction"],
    ),
    "file": (["FILE"], ["diffusion.weights.tokenizer"]),
    "codec": (["BASE", "diffusion.codec.name=haar"], ["codec.name=haar", "vae"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    overrides, expected = REFUSED[name]
    if name == "file" and not (folder / "whole.safetensors").is_file():
        save_file(ldm_tensors(folder / "base"), folder / "whole.safetensors")
    paths = {"BASE": folder / "base", "FILE": folder / "whole.safetensors"}
    given = [f"diffusion.weights.base={paths[word]}" if word in paths else word for word in overrides]
    assert call(folder, "pretrain", *given) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert all(word in said[-1] for word in expected), said


def test_weights_without_the_family_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(folder, "pretrain", f"diffusion.weights.base={folder / 'base'}", diffusion="tiny") == 2
    assert "add diffusion=sd15 or diffusion=sd21" in capsys.readouterr().err


def test_the_paper_preset_composes_with_the_family() -> None:
    sd15 = compose(["preset=paper", "diffusion=sd15", "diffusion.weights.base=weights/sd-v1-5"])
    sd21 = compose(["preset=paper", "diffusion=sd21", "diffusion.weights.base=weights/sd-v2-1.safetensors"])
    for config in (sd15, sd21):
        assert (config.diffusion.family, config.diffusion.codec.name) == ("stable_diffusion", "vae")
        assert (config.diffusion.denoiser.control, config.diffusion.denoiser.neighbours) == ("added", 0)
        assert (config.diffusion.finetune.learning_rate, config.diffusion.finetune.trained) == (1e-6, "control")
        assert (config.synthesize.steps, config.synthesize.guidance_scale) == (20, 9.0)
    assert (sd15.diffusion.schedule.prediction, sd21.diffusion.schedule.prediction) == ("epsilon", "v_prediction")
    assert compose(["preset=paper"]).diffusion.family == "scratch"
