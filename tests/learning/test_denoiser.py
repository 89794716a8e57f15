"""The conditional denoiser: control and text act, targets are the published ones, and its folder opens elsewhere."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_networks import CONTROLS, LENGTH, small_denoiser, small_plan

from diffboost3d.diffusion.batches import SliceDataset, SlicePlan, SliceSource
from diffboost3d.diffusion.codecs import PackingCodec
from diffboost3d.diffusion.learning import DiffusionLearner
from diffboost3d.diffusion.networks import build_denoiser
from diffboost3d.diffusion.objective import DenoisingObjective
from diffboost3d.diffusion.schedule import make_scheduler
from diffboost3d.diffusion.text import END, START, VOCABULARY, ByteTokenizer
from diffboost3d.diffusion.weights import load_generator, save_generator

TOKENIZER = ByteTokenizer(LENGTH)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(codec, side=16, count=2):
    return {
        "noisy": noise(count, codec.channels, side // codec.factor, side // codec.factor),
        "timesteps": torch.tensor([10, 900])[:count],
        "tokens": TOKENIZER("Hippocampus, MRI")[None],
        "control": torch.rand((count, CONTROLS, side, side), generator=torch.Generator().manual_seed(1)),
    }


# --- text ------------------------------------------------------------------------------------------------------------
def test_a_prompt_becomes_its_bytes_between_start_and_end():
    assert ByteTokenizer(10)("CT, ü").tolist() == [START, 67, 84, 44, 32, 195, 188, END, END, END]
    assert ByteTokenizer(10)("CT").dtype == torch.int64


def test_a_long_prompt_is_cut_and_still_ends():
    assert ByteTokenizer(5)("abcdef").tolist() == [START, 97, 98, 99, END]
    assert ByteTokenizer(5)("abc").tolist() == [START, 97, 98, 99, END]


def test_the_empty_prompt_is_all_end():
    assert ByteTokenizer(5)("").tolist() == [START, END, END, END, END]


def test_every_byte_is_in_the_vocabulary():
    assert ByteTokenizer(2000)("".join(map(chr, range(0x250)))).max() < VOCABULARY


# --- network ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("awake", [True, False])
def test_control_acts_as_soon_as_the_zero_convolutions_are_no_zeros(factor, awake):
    codec = PackingCodec("haar", factor)
    denoiser, given = small_denoiser(codec, awake), inputs(codec, side=2 * 8)
    with torch.no_grad():
        with_control = denoiser(**given)
        without = denoiser(**{**given, "control": torch.zeros_like(given["control"])})
    assert with_control.shape == given["noisy"].shape
    assert torch.equal(with_control, without) is not awake


def test_control_strength_zero_is_the_network_without_its_branch(denoiser, codec):
    given = inputs(codec)
    with torch.no_grad():
        text = denoiser.embed(given["tokens"]).expand(2, -1, -1)
        common = (given["noisy"], given["timesteps"], text)
        none, left_out = denoiser.predict(*common, given["control"], strength=0.0), denoiser.predict(*common, None)
        alone = denoiser.unet(*common).sample
        full, half = (denoiser.predict(*common, given["control"], strength) for strength in (1.0, 0.5))
        assert torch.equal(full, denoiser(**given))
    assert torch.equal(none, alone)
    assert torch.equal(left_out, alone)
    assert not torch.allclose(full, half)


def test_text_and_time_act(denoiser, codec):
    given = inputs(codec)
    with torch.no_grad():
        first = denoiser(**given)
        assert not torch.allclose(first, denoiser(**{**given, "tokens": TOKENIZER("")[None]}), atol=1e-5)
        assert not torch.allclose(first, denoiser(**{**given, "timesteps": torch.tensor([500, 500])}), atol=1e-5)


def test_a_common_prompt_is_the_same_prompt_for_each_slice(denoiser, codec):
    given = inputs(codec)
    with torch.no_grad():
        common = denoiser(**given)
        torch.testing.assert_close(common, denoiser(**{**given, "tokens": given["tokens"].repeat(2, 1)}))


def test_slices_of_a_batch_do_not_see_each_other(denoiser, codec):
    given = inputs(codec)
    with torch.no_grad():
        both = denoiser(**given)
        one = denoiser(given["noisy"][1:], given["timesteps"][1:], given["tokens"], given["control"][1:])
    torch.testing.assert_close(both[1:], one, rtol=0, atol=1e-5)


def test_a_locked_base_leaves_the_control_branch_to_train(denoiser, codec):
    denoiser.lock_base()
    denoiser(**inputs(codec)).square().mean().backward()
    assert all(
        parameter.grad is None for part in (denoiser.unet, denoiser.text_encoder) for parameter in part.parameters()
    )
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in denoiser.controlnet.parameters())


# --- objective -------------------------------------------------------------------------------------------------------
def batch_of(codec, timesteps):
    count = len(timesteps)
    return {
        "image": noise(count, 1, 16, 16, seed=4).clamp(-1, 1),
        "noise": noise(count, codec.channels, 8, 8, seed=5),
        "timestep": torch.tensor(timesteps),
        "tokens": TOKENIZER("x").repeat(count, 1),
        "control": torch.zeros(count, CONTROLS, 16, 16),
    }


class Spy(torch.nn.Module):
    """Predicts zeros and keeps what it was given."""

    def forward(self, noisy, timesteps, tokens, control, slices=1):
        self.noisy = noisy
        return torch.zeros_like(noisy)


@pytest.mark.parametrize("betas", ["squaredcos_cap_v2", "scaled_linear", "linear"])
@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_noisy_maps_and_targets_are_the_published_formulas(codec, betas, prediction):
    scheduler = make_scheduler(1000, betas, prediction, prediction == "v_prediction")
    batch, spy = batch_of(codec, [0, 300, 999]), Spy()
    losses = DenoisingObjective(spy, scheduler, codec).losses(batch)
    clean = codec.encode(batch["image"])
    kept = scheduler.alphas_cumprod[batch["timestep"]].reshape(-1, 1, 1, 1)
    torch.testing.assert_close(spy.noisy, kept.sqrt() * clean + (1 - kept).sqrt() * batch["noise"], rtol=0, atol=1e-5)
    v = kept.sqrt() * batch["noise"] - (1 - kept).sqrt() * clean
    target = v if prediction == "v_prediction" else batch["noise"]
    torch.testing.assert_close(losses, target.square().mean(dim=(1, 2, 3)), rtol=1e-4, atol=1e-5)


def test_with_zero_terminal_snr_the_last_timestep_is_noise_and_its_target_the_image(codec, scheduler):
    batch, spy = batch_of(codec, [999]), Spy()
    objective = DenoisingObjective(spy, scheduler, codec)
    objective.losses(batch)
    torch.testing.assert_close(spy.noisy, batch["noise"], rtol=0, atol=1e-6)
    clean = codec.encode(batch["image"])
    torch.testing.assert_close(objective.target(clean, batch["noise"], batch["timestep"]), -clean, rtol=0, atol=1e-6)
    assert float(scheduler.alphas_cumprod[-1]) == pytest.approx(0, abs=1e-9)


def test_the_loss_is_the_mean_over_slices(denoiser, codec, scheduler):
    objective = DenoisingObjective(denoiser, scheduler, codec)
    batch = batch_of(codec, [5, 500, 990])
    with torch.no_grad():
        assert float(objective(batch)["loss"]) == pytest.approx(float(objective.losses(batch).mean()))


def test_epsilon_prediction_with_zero_terminal_snr_is_refused():
    with pytest.raises(ValueError, match="needs prediction=v_prediction"):
        make_scheduler(1000, "linear", "epsilon", True)


# --- learning --------------------------------------------------------------------------------------------------------
PLAN = SlicePlan((16, 16), 2, 10.0, (0.9, 1.1), 0.2, 0.2, 1000, 0, "test")


def sources(count):
    random = np.random.default_rng(0)
    return [
        SliceSource(
            random.uniform(-1, 1, (14, 16, 4)).astype(np.float32),
            random.uniform(0, 1, (CONTROLS, 14, 16, 4)).astype(np.float32),
        )
        for _ in range(count)
    ]


def learner(denoiser, scheduler, codec, validates=True, **more):
    training, still = (
        SliceDataset(sources(count), "MRI", denoiser.tokenizer, codec, plan)
        for count, plan in ((2, PLAN), (1, PLAN.still()))
    )
    return DiffusionLearner(denoiser, scheduler, codec, training, still, validates, "MRI", **more)


def test_validation_has_losses_by_noise_level_and_repeats_exactly(denoiser, scheduler, codec):
    one = learner(denoiser, scheduler, codec)
    with torch.no_grad():
        first, again = one.validate(torch.device("cpu")), one.validate(torch.device("cpu"))
    assert first == again
    assert set(first) == {"loss", "loss_low_noise", "loss_middle_noise", "loss_high_noise"}
    parts = [first[f"loss_{level}_noise"] for level in ("low", "middle", "high")]
    assert min(parts) <= first["loss"] <= max(parts)


def test_without_validation_volumes_nothing_is_validated_but_slices_are_pictured(denoiser, scheduler, codec):
    one = learner(denoiser, scheduler, codec, validates=False)
    assert one.validate(torch.device("cpu")) == {}
    ((_, picture),) = one.images(torch.device("cpu")).items()
    assert picture.dtype == np.uint8
    assert picture.shape == (3 * 16, 6 * 16, 3)


def test_a_few_steps_lower_the_loss(tmp_path, scheduler, codec, accelerator):
    from diffboost3d.schema import DiffusionTrainingConfig
    from diffboost3d.stages.inputs import training_plan
    from diffboost3d.training import fit

    one = learner(small_denoiser(codec, awake=False), scheduler, codec)
    with torch.no_grad():
        before = one.validate(torch.device("cpu"))["loss"]
    section = DiffusionTrainingConfig(
        steps=25, batch=8, learning_rate=3e-3, warmup_steps=2, ema_decay=0.5, images_every=999
    )
    fit(one, replace(training_plan(section, 0, 0), validate_every=999), tmp_path, "d", accelerator, "toy", print)
    with torch.no_grad():
        assert one.validate(torch.device("cpu"))["loss"] < 0.9 * before


# --- files -----------------------------------------------------------------------------------------------------------
def test_a_generator_survives_its_folder_bit_by_bit(tmp_path, denoiser, scheduler, codec, monkeypatch):
    def refused(*arguments, **keywords):
        raise AssertionError("pickle was used")

    for name in ("load", "save"):
        monkeypatch.setattr(torch, name, refused)
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refused)
    save_generator(tmp_path, denoiser, scheduler, codec)
    back, scheduler_back, codec_back = load_generator(tmp_path)
    state, state_back = denoiser.state_dict(), back.state_dict()
    assert state.keys() == state_back.keys()
    assert all(torch.equal(state[name], state_back[name]) for name in state)
    known = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    assert {name: scheduler_back.config[name] for name in known} == known
    assert (codec_back.name, codec_back.factor) == (codec.name, codec.factor)
    assert (back.divisor, back.control_channels) == (denoiser.divisor, denoiser.control_channels)
    assert torch.equal(back.tokenizer("MRI"), denoiser.tokenizer("MRI"))
    assert not back.training
    with torch.no_grad():
        assert torch.equal(denoiser(**inputs(codec)), back(**inputs(codec)))


def test_its_folder_is_of_safetensors_and_opens_with_diffusers_and_transformers(tmp_path, denoiser, scheduler, codec):
    from diffusers import ControlNetModel, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel

    save_generator(tmp_path, denoiser, scheduler, codec)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors", ".json"}
    opened = {
        "unet": UNet2DConditionModel.from_pretrained(tmp_path / "model" / "unet"),
        "controlnet": ControlNetModel.from_pretrained(tmp_path / "model" / "controlnet"),
        "text_encoder": CLIPTextModel.from_pretrained(tmp_path / "model" / "text_encoder"),
    }
    for name, network in opened.items():
        kept = getattr(denoiser, name).state_dict()
        assert all(torch.equal(kept[key], value) for key, value in network.state_dict().items())
    assert DDIMScheduler.from_pretrained(tmp_path / "model" / "scheduler").config.prediction_type == "v_prediction"


def test_its_folder_names_no_other_folder(tmp_path, denoiser, scheduler, codec):
    save_generator(tmp_path, denoiser, scheduler, codec)
    save_generator(tmp_path / "again", *load_generator(tmp_path))
    for path in tmp_path.rglob("*.json"):
        assert str(tmp_path) not in path.read_text(encoding="utf-8")
    facts = json.loads((tmp_path / "model" / "diffboost3d.json").read_text(encoding="utf-8"))
    assert facts["tokenizer"] == {"name": "bytes", "length": LENGTH}


def test_saving_again_replaces_the_folder(tmp_path, scheduler, codec):
    save_generator(tmp_path, small_denoiser(codec), scheduler, codec)
    (tmp_path / "model" / "stray.json").write_text("{}", encoding="utf-8")
    save_generator(tmp_path, small_denoiser(codec, awake=False), scheduler, codec)
    back = load_generator(tmp_path)[0]
    assert not (tmp_path / "model" / "stray.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not back.controlnet.controlnet_mid_block.weight.any()


def test_weights_are_the_same_for_the_same_torch_seed(codec, denoiser):
    torch.manual_seed(0)
    other = build_denoiser(small_plan(codec))
    assert torch.equal(other.unet.conv_in.weight, denoiser.unet.conv_in.weight)
