"""The learned codec: shapes, the scale of its maps, its files, what its training lowers, and what its report measures."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffboost3d.cohort.volumes import make_mr
from diffboost3d.diffusion.autoencoder import AutoencoderCodec, AutoencoderPlan, build_autoencoder
from diffboost3d.diffusion.batches import SliceDataset, SlicePlan, SliceSource
from diffboost3d.diffusion.codec_learning import (
    CodecLearner,
    PicturesOnly,
    ReconstructionObjective,
    image_batches,
    measure_scale,
)
from diffboost3d.diffusion.codecs import PackingCodec
from diffboost3d.diffusion.text import ByteTokenizer
from diffboost3d.errors import ConfigError, DataError
from diffboost3d.evaluation.reconstruction import (
    THIRDS,
    IntensityRanges,
    reconstruction_scores,
    reconstruction_table,
    tissues_in_window,
)
from diffboost3d.imaging.intensity import fit_intensity_map
from diffboost3d.seeds import generator
from diffboost3d.training import TrainingPlan, fit

PLAN = SlicePlan(
    size=(24, 24),
    axis=2,
    rotation_degrees=10.0,
    scale=(0.9, 1.1),
    drop_text=0.0,
    drop_control=0.0,
    timesteps=1,
    seed=0,
    purpose="test",
)
STEPS = TrainingPlan(
    steps=60,
    batch=4,
    learning_rate=2e-3,
    warmup_steps=5,
    weight_decay=0.0,
    clip_norm=1.0,
    accumulation=1,
    ema_decay=0.9,
    validate_every=60,
    checkpoint_every=60,
    images_every=60,
    seed=0,
)


def untrained(channels=(8, 8, 16), latent_channels=4):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_autoencoder(AutoencoderPlan(channels, latent_channels, 1))


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def slices():
    """Jittered and still slices of two MR-like volumes."""
    volumes = [make_mr(generator("autoencoder", number), (24, 24, 16)).image for number in range(2)]
    images = [fit_intensity_map(one, "percentiles", (0, 1), (0.5, 99.5)).forward(one) for one in volumes]
    sources = [SliceSource(image, np.zeros((0, *image.shape), np.float32)) for image in images]
    company = ("", ByteTokenizer(8), PackingCodec("haar", 1))
    return tuple(PicturesOnly(SliceDataset(sources, *company, plan)) for plan in (PLAN, PLAN.still()))


@pytest.fixture(scope="module")
def trained(slices, tmp_path_factory):
    """The learner of a short training, its validation before, and after."""
    from diffboost3d.training import make_accelerator

    learner = CodecLearner(ReconstructionObjective(untrained(), 1.0, 1e-6), *slices, validates=True)
    with torch.no_grad():
        before = learner.validate(torch.device("cpu"))
    fit(learner, STEPS, tmp_path_factory.mktemp("fit"), "d", make_accelerator("cpu", "no"), "codec", print)
    with torch.no_grad():
        return learner, before, learner.validate(torch.device("cpu"))


# --- codec -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("channels", "factor"), [((8, 8), 2), ((8, 8, 16), 4), ((8, 8, 8, 8), 8)])
@pytest.mark.parametrize("latent_channels", [1, 4])
def test_each_level_after_the_first_halves_the_sides(channels, factor, latent_channels):
    codec, images = AutoencoderCodec(untrained(channels, latent_channels)), noise(2, 1, 16, 24)
    maps = codec.encode(images)
    assert (codec.name, codec.factor, codec.channels) == ("vae", factor, latent_channels)
    assert maps.shape == (2, latent_channels, 16 // factor, 24 // factor)
    assert codec.decode(maps).shape == images.shape


def test_coding_is_without_chance_without_gradient_and_leaves_the_weights_alone():
    vae = untrained().train()
    codec, images = AutoencoderCodec(vae), noise(2, 1, 16, 16).requires_grad_()
    first, second = codec.encode(images), codec.encode(images)
    assert torch.equal(first, second)
    assert torch.equal(codec.decode(first), codec.decode(second))
    assert not first.requires_grad
    assert not codec.decode(first).requires_grad
    assert not vae.training
    assert not any(parameter.requires_grad for parameter in vae.parameters())


def test_it_is_no_part_of_a_module_that_holds_it():
    holder = torch.nn.Module()
    holder.codec = AutoencoderCodec(untrained())
    assert holder.state_dict() == {}


def test_it_follows_the_type_of_what_it_is_given():
    codec = AutoencoderCodec(untrained())
    assert codec.encode(noise(1, 1, 8, 8).double()).dtype == torch.float64
    assert codec.encode(noise(1, 1, 8, 8)).dtype == torch.float32


def test_mixed_precision_around_it_changes_nothing():
    codec, images = AutoencoderCodec(untrained()), noise(1, 1, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        inside = codec.encode(images)
    assert torch.equal(inside, codec.encode(images))


def test_decoding_undoes_shift_and_scale():
    vae, images = untrained(), noise(2, 1, 16, 16)
    plain = AutoencoderCodec(vae).decode(AutoencoderCodec(vae).encode(images))
    vae.register_to_config(shift_factor=0.7, scaling_factor=3.0)
    torch.testing.assert_close(AutoencoderCodec(vae).decode(AutoencoderCodec(vae).encode(images)), plain)


def test_an_autoencoder_of_colour_sees_grey_and_gives_the_mean_of_its_colours():
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    codec, images = AutoencoderCodec(vae), noise(2, 1, 8, 8)
    posterior = vae.encode(torch.cat([images] * 3, dim=1)).latent_dist
    torch.testing.assert_close(codec.encode(images), posterior.mean * vae.config.scaling_factor)
    torch.testing.assert_close(codec.decode(codec.encode(images)), vae.decode(posterior.mean).sample.mean(1, True))


def test_its_files_give_it_back(tmp_path):
    vae = untrained()
    vae.register_to_config(shift_factor=0.3, scaling_factor=2.0)
    codec, images = AutoencoderCodec(vae), noise(1, 1, 16, 16)
    codec.save(tmp_path)
    loaded = AutoencoderCodec.load(tmp_path)
    assert torch.equal(loaded.encode(images), codec.encode(images))
    loaded.save(tmp_path / "again")
    (config, weights), (same_config, same_weights) = map(AutoencoderCodec.files, (tmp_path, tmp_path / "again"))
    assert weights.read_bytes() == same_weights.read_bytes()
    assert str(tmp_path) not in same_config.read_text()
    assert json.loads(config.read_text()) == {
        k: v for k, v in json.loads(same_config.read_text()).items() if k != "_name_or_path"
    }
    assert set(load_file(tmp_path / "diffusion_pytorch_model.safetensors")) == set(vae.state_dict())


@pytest.mark.parametrize("missing", ["config.json", "diffusion_pytorch_model.safetensors"])
def test_a_folder_without_one_of_its_files_is_refused_in_one_line(tmp_path, missing):
    AutoencoderCodec(untrained()).save(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=f"{missing} is missing; give the folder of an AutoencoderKL"):
        AutoencoderCodec.load(tmp_path)


# --- training --------------------------------------------------------------------------------------------------------
def test_training_lowers_each_loss_on_still_slices(trained):
    _, before, after = trained
    for name in ("loss", "absolute_loss", "detail_loss"):
        assert after[name] < 0.8 * before[name], name
    assert after["psnr"] > before["psnr"] + 2


def test_after_measuring_maps_of_training_slices_have_mean_0_and_variance_1(trained, slices):
    vae = trained[0].module.vae
    measure_scale(vae, image_batches(slices[0], 64))
    maps = torch.cat([AutoencoderCodec(vae).encode(images) for images in image_batches(slices[0], 64)])
    assert float(maps.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(maps.std()) == pytest.approx(1.0, abs=1e-3)
    others = torch.cat([AutoencoderCodec(vae).encode(images) for images in image_batches(slices[1], 64)])
    assert float(others.std()) == pytest.approx(1.0, abs=0.15)


def test_its_picture_has_a_row_of_slices_and_one_of_reconstructions(trained, slices):
    learner = trained[0]
    with torch.no_grad():
        picture = learner.images(torch.device("cpu"))["input_reconstruction"]
    assert picture.shape == (2 * 24, 6 * 24, 3)
    first = ((slices[1][0]["image"][0].T + 1) * 127.5).clamp(0, 255).numpy().astype(np.uint8)
    assert np.array_equal(picture[:24, :24, 0], first)
    assert np.abs(picture[:24].astype(float) - picture[24:]).mean() < 40


def test_maps_that_are_not_finite_are_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"its training failed; lower diffusion\.codec\.training\.learning_rate"):
        measure_scale(untrained(), [torch.full((1, 1, 8, 8), math.nan)])


def test_the_losses_of_a_step_edge_are_those_worked_out_by_hand():
    """decoded - images: 0 on the left, 1 on the right of 8 columns; Sobel is 1 / 2 in 2 of its 6 columns, across only."""
    objective = ReconstructionObjective(untrained((8, 8)), detail_weight=2.0, kl_weight=0.0)
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 1.0
    losses = objective.compare(edge, torch.zeros(1, 1, 8, 8))
    gradient = 2 / 6 * 0.5 / 2  # of two directions, one sees the edge
    assert float(losses["absolute_loss"]) == pytest.approx(0.5)
    assert float(losses["detail_loss"]) == pytest.approx(gradient)  # it lies between two Haar blocks
    assert float(losses["loss"]) == pytest.approx(0.5 + 2 * gradient)


def test_the_divergence_counts_by_its_weight():
    batch, losses = {"image": noise(2, 1, 16, 16)}, {}
    for weight in (0.0, 0.5):
        torch.manual_seed(0)
        with torch.no_grad():
            losses[weight] = ReconstructionObjective(untrained(), 1.0, weight)(batch)
    added = float(losses[0.5]["loss"] - losses[0.0]["loss"])
    assert added == pytest.approx(0.5 * float(losses[0.5]["kl_loss"]), rel=1e-4)
    assert float(losses[0.0]["kl_loss"]) > 0


# --- report ----------------------------------------------------------------------------------------------------------
def test_scores_of_a_known_error():
    real = torch.full((2, 1, 16, 16), -0.5)
    real[1] = 0.9
    scores = reconstruction_scores(real, real + torch.tensor([0.1, -0.2])[:, None, None, None], THIRDS)
    assert scores["psnr_db"] == pytest.approx(10 * math.log10(4 / 0.025), abs=1e-4)
    assert scores["mean_absolute_error"] == pytest.approx(0.15, abs=1e-6)
    assert scores["ranges"]["dark"] == {"mean_absolute_error": pytest.approx(0.1, abs=1e-6), "voxels": 256}
    assert scores["ranges"]["middle"] == {"mean_absolute_error": None, "voxels": 0}
    assert scores["ranges"]["bright"]["mean_absolute_error"] == pytest.approx(0.2, abs=1e-6)
    json.dumps(scores, allow_nan=False)


def test_what_is_exact_has_no_psnr_and_ssim_1():
    images = noise(2, 1, 8, 9)  # smaller than the window of SSIM
    scores = reconstruction_scores(images, images, THIRDS)
    assert scores["psnr_db"] is None
    assert scores["ssim"] == pytest.approx(1.0)
    assert "exact" in reconstruction_table(scores)[0]


def test_ranges_of_ct_are_in_hounsfield_units():
    ranges = tissues_in_window(-1000.0, 1000.0)
    real = torch.tensor([-950, -700, -300, -100, 50, 150, 400, 0.0]).view(1, 1, 1, 8).expand(1, 1, 8, 8) / 1000
    scores = reconstruction_scores(real, real + 0.03, ranges)
    assert scores["unit"] == "HU"
    assert scores["mean_absolute_error"] == pytest.approx(30.0, abs=1e-3)
    voxels = {name: part["voxels"] for name, part in scores["ranges"].items()}
    assert voxels == {"air": 8, "lung": 8, "fat": 8, "soft tissue": 16, "bone": 8}


@pytest.mark.parametrize(
    ("window", "names"),
    [
        ((-160.0, 240.0), ["fat", "soft tissue", "bone"]),
        ((-700.0, 300.0), ["fat", "soft tissue", "bone"]),
        ((-1000.0, 0.0), ["air", "lung", "fat"]),
        ((0.0, 80.0), []),
    ],
)
def test_a_tissue_that_the_window_cuts_is_left_out(window, names):
    assert list(tissues_in_window(*window).bounds) == names


def test_the_table_has_a_line_for_each_range():
    images = noise(1, 1, 16, 16)
    scores = reconstruction_scores(images, images * 0.9, IntensityRanges({"low": (-2, 0), "none": (5, 6)}))
    lines = reconstruction_table(scores)
    assert [line.split()[0] for line in lines[2:]] == ["all", "low", "none"]
    assert lines[-1].split()[1] == "-"
