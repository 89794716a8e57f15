"""`train-codec` on a tiny folder: what it leaves, what is learned from whom, resume, and the generator that uses it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_folders import TINY, write_volumes

from diffboost3d.cli import main
from diffboost3d.config import compose
from diffboost3d.diffusion.autoencoder import AutoencoderCodec
from diffboost3d.diffusion.weights import load_generator
from diffboost3d.stages import run
from diffboost3d.training import load_tensors, loop

CODEC = (
    "diffusion.codec.name=vae",
    "diffusion.codec.vae.channels=[8,8]",
    *(
        f"diffusion.codec.training.{setting}"
        for setting in ("steps=6", "batch=2", "checkpoint_every=2", "validate_every=3", "images_every=6")
    ),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder of nine volumes, prepared."""
    folder = tmp_path_factory.mktemp("codec")
    write_volumes(folder / "data")
    assert main(["prepare", f"data.root={folder / 'data'}", f"workspace={folder / 'ws'}", *TINY]) == 0
    return folder


@pytest.fixture(scope="module")
def words(prepared):
    return [f"data.root={prepared / 'data'}", f"workspace={prepared / 'ws'}", *TINY, *CODEC]


@pytest.fixture(scope="module")
def codec(prepared, words):
    """The folder of the codec of fold 0."""
    assert main(["train-codec", *words]) == 0
    return prepared / "ws" / "diffusion" / "codec" / "fold0"


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_it_learns_from_the_training_side_and_is_judged_on_the_validation_cases(prepared, codec):
    split = load(prepared / "ws" / "splits.json")[0]
    record = load(codec / "record.json")
    assert record["stage"] == "train-codec"
    assert sorted(record["training"]) == sorted(split["training"] + split["unlabelled"])
    assert record["reconstruction"] == load(codec / "reconstruction.json")
    assert record["reconstruction"]["of"] == "validation cases"


def test_the_report_has_each_score_and_range(codec):
    scores = load(codec / "reconstruction.json")
    assert 0 < scores["psnr_db"] < 60
    assert -1 <= scores["ssim"] <= 1
    assert list(scores["ranges"]) == ["dark", "middle", "bright"]
    voxels = sum(part["voxels"] for part in scores["ranges"].values())
    total = sum(part["voxels"] * part["mean_absolute_error"] for part in scores["ranges"].values() if part["voxels"])
    assert voxels == scores["slices"] * np.prod(load(codec / "record.json")["slice_size"])
    assert total / voxels == pytest.approx(scores["mean_absolute_error"])


def test_losses_and_pictures_are_in_tensorboard(codec):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(codec / "tensorboard"))
    events.Reload()
    assert {f"train/{name}loss" for name in ("", "absolute_", "detail_", "kl_")} <= set(events.Tags()["scalars"])
    assert {"validation/loss", "validation/psnr"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["input_reconstruction"]


def test_the_same_command_again_finds_it_done(prepared, codec, words, capsys):
    before = (codec / "record.json").read_bytes()
    assert main(["train-codec", *words]) == 0
    assert "train-codec fold 0: done already" in capsys.readouterr().out
    assert (codec / "record.json").read_bytes() == before


def test_a_run_cut_off_and_resumed_ends_with_the_same_bytes(prepared, codec, words, monkeypatch):
    copy = prepared / "cut"
    shutil.copytree(prepared / "ws", copy, ignore=shutil.ignore_patterns("codec"))
    again = [*(word for word in words if not word.startswith("workspace=")), f"workspace={copy}"]
    step = loop._Run._step

    def cut(self, number, batches):
        if number == 5:
            raise KeyboardInterrupt
        return step(self, number, batches)

    with monkeypatch.context() as patched:
        patched.setattr(loop._Run, "_step", cut)
        assert main(["train-codec", *again]) == 130
    assert not (copy / "diffusion" / "codec" / "fold0" / "record.json").exists()
    assert main(["train-codec", *again]) == 0
    assert "goes on from step 4 of 6" in (copy / "log.txt").read_text(encoding="utf-8")
    for name in ("diffusion_pytorch_model.safetensors", "config.json"):
        assert (copy / "diffusion" / "codec" / "fold0" / "vae" / name).read_bytes() == (
            codec / "vae" / name
        ).read_bytes()


def test_pretrain_diffuses_its_maps_and_keeps_it_beside_the_generator(prepared, codec, words):
    assert main(["pretrain", *words]) == 0
    folder = prepared / "ws" / "diffusion" / "pretrained" / "fold0"
    denoiser, _, loaded = load_generator(folder)
    images = torch.rand(2, 1, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert isinstance(loaded, AutoencoderCodec)
    assert torch.equal(loaded.encode(images), AutoencoderCodec.load(codec / "vae").encode(images))
    assert denoiser.unet.config.in_channels == loaded.channels == 4
    assert not [name for name in load_tensors(folder / "checkpoint" / "state.safetensors")[0] if "vae" in name]


def test_a_codec_can_be_named_instead(prepared, codec, words, capsys):
    other = [*words, f"diffusion.codec.weights={codec}"]
    (codec / "record.json").rename(codec / "hidden.json")
    try:
        assert main(["pretrain", *other]) == 0
    finally:
        (codec / "hidden.json").rename(codec / "record.json")
    assert "another configuration" in capsys.readouterr().out  # a named codec has another digest


def test_without_it_pretrain_says_what_to_run(prepared, words, tmp_path, capsys):
    shutil.copytree(prepared / "ws", tmp_path / "ws", ignore=shutil.ignore_patterns("diffusion"))
    assert main(["pretrain", *words[:1], f"workspace={tmp_path / 'ws'}", *words[2:]]) == 1
    assert "run `diffboost3d train-codec` with this workspace first" in capsys.readouterr().err


def test_a_codec_of_other_sizes_is_refused(codec, words, capsys):
    assert main(["pretrain", *words, "diffusion.codec.vae.latent_channels=3"]) == 2
    assert "diffusion.codec.vae.latent_channels=4, not 3" in capsys.readouterr().err


def test_a_folder_that_is_no_autoencoder_is_refused(codec, words, tmp_path, capsys):
    assert main(["pretrain", *words, f"diffusion.codec.weights={tmp_path}"]) == 1
    assert "config.json is missing; give the folder of an AutoencoderKL" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "trains"),
    [
        ([], False),
        (["diffusion.codec.name=vae"], True),
        (["diffusion.codec.name=vae", "diffusion.codec.weights=there"], False),
        (["diffusion.codec.name=vae", "diffusion.start_from=there"], False),
        (["diffusion.codec.name=vae", "arms=[none,cutmix]"], False),
        (["diffusion=sd15", "diffusion.weights.base=there"], False),
    ],
)
def test_run_trains_one_only_where_the_generator_has_none(overrides, trains):
    assert ("train-codec" not in run._unused(compose(overrides))) == trains


def test_with_a_pool_one_codec_for_all_folds_is_trained_on_it(prepared, words, tmp_path):
    random = np.random.default_rng(0)
    folder = tmp_path / "pool" / "MRI" / "Brain"
    folder.mkdir(parents=True)
    for number in range(12):
        Image.fromarray(random.integers(0, 255, (40, 32)).astype(np.uint8)).save(folder / f"{number}.png")
    more = [f"diffusion.pool.root={tmp_path / 'pool'}", "diffusion.pool.held_out=0.4", "diffusion.pool.size=[32,32]"]
    assert main(["train-codec", *words[:1], f"workspace={tmp_path / 'ws'}", *words[2:], *more]) == 0
    record = load(tmp_path / "ws" / "diffusion" / "codec" / "record.json")
    assert record["reconstruction"]["of"] == "held-out images of the pool"
    assert (
        record["images"]
        + load(tmp_path / "ws" / "diffusion" / "pool" / "index" / "index.json")["modalities"]["MRI"]["held_out"][1]
        == 12
    )
