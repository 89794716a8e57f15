"""The Stable Diffusion family: what opens, what is refused, what is trained, and that diffusers opens what is saved."""

from __future__ import annotations

import copy
import json
import pickle
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_stable_diffusion import cldm_tensors, ldm_tensors, write_base, write_control, write_vocabulary
from torch.utils.data import Dataset

from diffboost3d.diffusion.codecs import latent_shape
from diffboost3d.diffusion.learning import DiffusionLearner
from diffboost3d.diffusion.lora import LoraPlan, add_adapters, merge_adapters
from diffboost3d.diffusion.networks import ConditionalDenoiser, adapt_control_channels
from diffboost3d.diffusion.stable_diffusion import load_stable_diffusion, weight_files
from diffboost3d.diffusion.text import ClipTokenizer, embed_mixture
from diffboost3d.diffusion.weights import FOLDER, load_generator, save_generator
from diffboost3d.errors import ConfigError

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
SIDE = 64


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("weights") / "base")


@pytest.fixture(scope="module")
def control(base: Path) -> Path:
    return write_control(base.parent / "control", base)


Generator = tuple[ConditionalDenoiser, Any, Any]


@pytest.fixture(scope="module")
def _loaded(base: Path, control: Path) -> Generator:
    return load_stable_diffusion(base, control, 3)


@pytest.fixture
def loaded(_loaded: Generator) -> Generator:
    """The base with its control branch of 3 channels, anew for each test."""
    return copy.deepcopy(_loaded)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def inputs(channels: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy maps, timesteps and a control image."""
    random = torch.Generator().manual_seed(3)
    noisy = torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=random)
    return noisy, torch.tensor([500]), torch.rand(1, channels, SIDE, SIDE, generator=random)


@torch.no_grad()
def predicted(denoiser: ConditionalDenoiser, prompt: str = "MRI", control: torch.Tensor | None = None) -> torch.Tensor:
    noisy, timesteps, hint = inputs(denoiser.control_channels)
    hint = hint if control is None else control
    return denoiser.predict(noisy, timesteps, embed_mixture(denoiser, {prompt: 1.0}), hint)


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


# --- opening ---------------------------------------------------------------------------------------------------------
def test_a_folder_opens_without_any_connection(base: Path, control: Path, no_network: None) -> None:
    denoiser, scheduler, codec = load_stable_diffusion(base, control, 3)
    assert (codec.name, codec.factor, codec.channels, denoiser.divisor) == ("vae", 8, 4, 64)
    assert type(scheduler).__name__ == "DDIMScheduler"
    settings = {"beta_schedule": "scaled_linear", "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}
    assert settings.items() <= dict(scheduler.config).items()
    noisy, timesteps, hint = inputs()
    tokens = denoiser.tokenizer("MRI")[None]
    with torch.no_grad():
        assert denoiser(noisy, timesteps, tokens, hint).shape == noisy.shape
        assert codec.decode(codec.encode(torch.zeros(1, 1, SIDE, SIDE))).shape == (1, 1, SIDE, SIDE)
    assert difference(predicted(denoiser), predicted(denoiser, control=torch.zeros_like(hint))) > 1e-3


def test_without_a_control_branch_a_copy_of_the_encoder_starts_at_no_effect(base: Path) -> None:
    denoiser, _, _ = load_stable_diffusion(base, None, 5)
    assert denoiser.control_channels == 5
    assert difference(predicted(denoiser), predicted(denoiser, control=torch.zeros(1, 5, SIDE, SIDE))) == 0.0
    assert torch.equal(denoiser.controlnet.conv_in.weight, denoiser.unet.conv_in.weight)


@pytest.mark.parametrize(("version", "ending"), [(1, "ckpt"), (2, "safetensors")])
def test_a_single_file_is_the_folder_it_was_made_of(
    base: Path, control: Path, tmp_path: Path, version: int, ending: str, no_network: None
) -> None:
    if version == 2:
        base = write_base(tmp_path / "base", version=2)
        control = write_control(tmp_path / "control", base)
    path, bare = tmp_path / f"whole.{ending}", tmp_path / "control.pth"
    tensors = ldm_tensors(base, version)
    torch.save({"state_dict": tensors, "epoch": 3}, path) if ending == "ckpt" else save_file(tensors, path)
    torch.save(cldm_tensors(control, prefix=""), bare)
    prediction = "epsilon" if version == 1 else "v_prediction"
    one, scheduler, codec = load_stable_diffusion(path, bare, 3, base / "tokenizer", prediction)
    other, as_in_folder, other_codec = load_stable_diffusion(base, control, 3)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert difference(predicted(one), predicted(other)) < 1e-5
    image = torch.linspace(-1, 1, SIDE).expand(1, 1, SIDE, SIDE)
    maps = other_codec.encode(image)
    assert difference(codec.encode(image), maps) < 1e-5
    assert difference(codec.decode(maps), other_codec.decode(maps)) < 1e-5
    assert torch.equal(scheduler.alphas_cumprod, as_in_folder.alphas_cumprod)
    assert scheduler.config.prediction_type == as_in_folder.config.prediction_type == prediction


def test_a_full_cldm_file_brings_its_own_control_branch(
    base: Path, control: Path, loaded: Generator, tmp_path: Path
) -> None:
    path = tmp_path / "cldm.safetensors"
    half = {name: value.half() for name, value in (ldm_tensors(base) | cldm_tensors(control)).items()}
    save_file(half, path)
    whole, _, _ = load_stable_diffusion(path, None, 3, base / "tokenizer")
    given, _, _ = load_stable_diffusion(path, path, 3, base / "tokenizer")
    assert {parameter.dtype for parameter in whole.parameters()} == {torch.float32}
    assert difference(predicted(whole), predicted(given)) == 0.0
    assert 0.0 < difference(predicted(whole), predicted(loaded[0])) < 0.02  # rounded to half precision


def test_a_folder_in_half_precision_opens_in_single(base: Path, control: Path, tmp_path: Path) -> None:
    from diffusers import ControlNetModel

    ControlNetModel.from_pretrained(control).half().save_pretrained(tmp_path / "half", variant="fp16")
    denoiser, _, _ = load_stable_diffusion(base, tmp_path / "half", 3)
    assert {parameter.dtype for parameter in denoiser.parameters()} == {torch.float32}


def test_the_tokenizer_pads_and_cuts_to_77(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "words")
    tokenizer = ClipTokenizer(tmp_path / "words")
    tokens = tokenizer("MRI CT")
    start, end = tokenizer.clip.bos_token_id, tokenizer.clip.eos_token_id
    merged = [tokenizer.clip.get_vocab()[word] for word in ("mri</w>", "ct</w>")]
    assert tokenizer.length == 77
    assert tokens.tolist() == [start, *merged, *[end] * 74]
    assert tokenizer("x " * 200).shape == (77,)
    assert tokenizer("").tolist() == [start, *[end] * 76]


# --- refusals --------------------------------------------------------------------------------------------------------
class Malicious:
    """Runs code where it is unpickled carelessly."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import sys; sys.was_run = True",)


@pytest.mark.parametrize("role", ["base", "control"])
def test_a_pickle_with_code_is_refused_in_one_line_and_not_run(base: Path, tmp_path: Path, role: str) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {"x": torch.ones(1)}, "callbacks": Malicious()}, path)
    with pytest.raises(ConfigError) as refusal:
        load_stable_diffusion(*((path, None) if role == "base" else (base, path)), 3, base / "tokenizer")
    assert "evil.ckpt is refused" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not hasattr(sys, "was_run")


def test_what_cannot_be_opened_is_said_in_one_line(base: Path, control: Path, tmp_path: Path) -> None:
    whole = ldm_tensors(base)
    files = {
        "vocabulary": (whole, "diffusion.weights.tokenizer"),
        "nothing": ({"x": torch.ones(1)}, "no Stable Diffusion U-Net"),
        "partial": ({k: v for k, v in whole.items() if "time_embed.2.bias" not in k}, "has not the layout"),
        "no_text": ({k: v for k, v in whole.items() if not k.startswith("cond")}, "no CLIP text encoder"),
        "sdxl": (whole | {"model.diffusion_model.label_emb.0.0.weight": torch.ones(1)}, "another family"),
    }
    for name, (tensors, expected) in files.items():
        path = tmp_path / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in tensors.items()}, path)
        with pytest.raises(ConfigError, match=expected):
            load_stable_diffusion(path, None, 3, None if name == "vocabulary" else base / "tokenizer")
    (tmp_path / "text.safetensors").write_text("not weights")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps([1, 2], protocol=2))
    (tmp_path / "empty").mkdir()
    missing = tmp_path / "none.ckpt"
    for path in (tmp_path / "text.safetensors", tmp_path / "pickle.ckpt", tmp_path / "empty", missing):
        with pytest.raises(ConfigError, match=path.name) as refusal:
            load_stable_diffusion(base, path, 3)
        assert "\n" not in str(refusal.value)
    with pytest.raises(ConfigError, match="give the folder that it lies in"):
        load_stable_diffusion(base, control / "diffusion_pytorch_model.safetensors", 3)


def test_a_control_branch_of_another_base_is_refused(base: Path, control: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    config = json.loads((control / "config.json").read_text()) | {"layers_per_block": 1, "cross_attention_dim": 48}
    from diffusers import ControlNetModel

    ControlNetModel.from_config(config).save_pretrained(other)
    with pytest.raises(ConfigError, match="layers_per_block"):
        load_stable_diffusion(base, other, 3)


# --- control channels ------------------------------------------------------------------------------------------------
def test_one_channel_acts_as_grey_in_three(base: Path, control: Path, loaded: Generator) -> None:
    three, _, _ = loaded
    one, _, _ = load_stable_diffusion(base, control, 1)
    grey = inputs(1)[2]
    assert difference(predicted(one, control=grey), predicted(three, control=grey.expand(-1, 3, -1, -1))) < 1e-5


def test_further_channels_start_at_no_effect(loaded: Generator) -> None:
    three, six = loaded[0], copy.deepcopy(loaded[0])
    adapt_control_channels(six.controlnet, 6)
    hint = inputs(6)[2]
    assert difference(predicted(six, control=hint), predicted(three, control=hint[:, :3])) < 1e-5
    adapt_control_channels(six.controlnet, 3)
    assert difference(predicted(six), predicted(three)) < 1e-5


# --- saving ----------------------------------------------------------------------------------------------------------
def test_diffusers_opens_what_is_saved(base: Path, control: Path, tmp_path: Path, no_network: None) -> None:
    from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline
    from diffusers import UNet2DConditionModel as UNet
    from transformers import CLIPTextModel, CLIPTokenizer

    generator = load_stable_diffusion(base, control, 4)
    save_generator(tmp_path, *generator)
    model = tmp_path / FOLDER
    kinds = {"unet": UNet, "controlnet": ControlNetModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    kinds |= {"tokenizer": CLIPTokenizer, "scheduler": DDIMScheduler}
    for name, kind in kinds.items():
        assert isinstance(kind.from_pretrained(model / name), kind)
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(model, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline("MRI", image=inputs(4)[2], num_inference_steps=1, output_type="latent").images
    assert made.shape == (1, *latent_shape(generator[2], (SIDE, SIDE)))
    assert not list(tmp_path.rglob("*.bin"))
    assert str(base) not in "".join(path.read_text() for path in model.rglob("*.json"))
    again, scheduler, codec = load_generator(tmp_path)
    assert difference(predicted(again), predicted(generator[0])) == 0.0
    assert scheduler.config.prediction_type == generator[1].config.prediction_type
    assert (codec.name, codec.factor) == ("vae", 8)
    assert load_stable_diffusion(model, None, 4)[0].control_channels == 4


def test_a_digest_reads_the_parts_and_no_other_file(base: Path, control: Path) -> None:
    (base / "whole.safetensors").write_bytes(b"x")
    found = {path.relative_to(base).as_posix() for path in weight_files(base)}
    (base / "whole.safetensors").unlink()
    assert {"unet/diffusion_pytorch_model.safetensors", "tokenizer/merges.txt"} <= found
    assert "whole.safetensors" not in found
    assert [path.name for path in weight_files(control)] == ["config.json", "diffusion_pytorch_model.safetensors"]


# --- training --------------------------------------------------------------------------------------------------------
class Slices(Dataset[dict[str, torch.Tensor]]):
    """Two slices with everything that a sample has."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokens = tokenizer("MRI")

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        random = torch.Generator().manual_seed(number)
        return {
            "image": torch.rand(1, SIDE, SIDE, generator=random) * 2 - 1,
            "control": torch.rand(3, SIDE, SIDE, generator=random),
            "tokens": self._tokens,
            "noise": torch.randn(4, SIDE // 8, SIDE // 8, generator=random),
            "timestep": torch.tensor(100 + 200 * number),
        }


def trained(generator: Generator, **settings: Any) -> dict[str, torch.Tensor]:
    """Two steps; the state before them."""
    denoiser, scheduler, codec = generator
    data = Slices(denoiser.tokenizer)
    before = {name: value.detach().clone() for name, value in denoiser.state_dict().items()}
    learner = DiffusionLearner(denoiser, scheduler, codec, data, data, False, "MRI", **settings)
    learned = [parameter for parameter in learner.module.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in learned} == {torch.float32}
    optimizer = torch.optim.AdamW(learned, lr=1e-2)
    batch = {name: torch.stack([data[0][name], data[1][name]]) for name in data[0]}
    for _ in range(2):
        learner.module(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    return before


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_locked_base_stays_as_it_was(loaded: Generator, kind: torch.dtype) -> None:
    loaded[0].spare_memory(attention_slicing=False, gradient_checkpointing=True)
    before = trained(loaded, trained="control", locked_type=kind)
    after = loaded[0].state_dict()
    changed = {
        name.split(".")[0] for name in before if not torch.equal(before[name].to(after[name].dtype), after[name])
    }
    assert changed == {"controlnet"}
    assert after["unet.conv_in.weight"].dtype == kind


def test_gradient_checkpointing_and_sliced_attention_change_nothing(loaded: Generator) -> None:
    plain, spared = loaded, copy.deepcopy(loaded)
    spared[0].spare_memory(attention_slicing=True, gradient_checkpointing=True)
    for generator in (plain, spared):
        generator[0].lock_base()
        noisy, timesteps, hint = inputs()
        tokens = generator[0].tokenizer("MRI")[None]
        generator[0](noisy, timesteps, tokens, hint).square().mean().backward()
    one, other = (generator[0].controlnet.conv_in.weight.grad for generator in (plain, spared))
    assert difference(one, other) < 1e-5 * float(one.abs().max()) + 1e-8


def test_lora_trains_adapters_and_control_alone_and_merges(loaded: Generator, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    save_generator(tmp_path / "base", *loaded)
    denoiser = loaded[0]
    untouched = predicted(denoiser)
    before = trained(loaded, trained="lora", lora=LoraPlan(rank=2, alpha=4.0))
    learned = {name for name, value in denoiser.named_parameters() if value.requires_grad}
    assert all("lora_" in name for name in learned if not name.startswith("controlnet."))
    assert any(name.startswith("unet.") for name in learned)
    after = {name.replace(".base_layer", ""): value for name, value in denoiser.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items() if not name.startswith("controlnet."))
    live = predicted(denoiser)
    assert difference(live, untouched) > 1e-3

    adapter = merge_adapters(denoiser.unet)
    save_generator(tmp_path, *loaded, adapter)
    again, _, _ = load_generator(tmp_path)
    assert difference(predicted(again), live) < 1e-4
    assert again.state_dict().keys() == before.keys()
    assert merge_adapters(denoiser.unet) is None

    from diffusers import StableDiffusionControlNetPipeline

    pipeline = StableDiffusionControlNetPipeline.from_pretrained(tmp_path / "base" / FOLDER, safety_checker=None)
    pipeline.load_lora_weights(tmp_path / FOLDER / "lora")
    alone = ConditionalDenoiser(pipeline.unet, denoiser.controlnet, pipeline.text_encoder, denoiser.tokenizer, 8)
    assert difference(predicted(alone), live) < 1e-4  # the adapter on the first base is the merged model


def test_adapters_start_at_no_effect_and_depend_on_their_seed_alone(loaded: Generator) -> None:
    pytest.importorskip("peft")
    first, second, third = loaded[0], copy.deepcopy(loaded[0]), copy.deepcopy(loaded[0])
    untouched = predicted(first)
    for denoiser in (first, second):
        denoiser.lock_base()
        torch.rand(1)
        add_adapters(denoiser.unet, LoraPlan(seed=7))
    assert difference(predicted(first), untouched) == 0.0
    one, other = first.state_dict(), second.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one if "lora_" in name)
    with pytest.raises(ConfigError, match="no layer"):
        add_adapters(third.unet, LoraPlan(targets=("to_nothing",)))


def test_lora_without_peft_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match="pip install peft"):
        add_adapters(torch.nn.Identity(), LoraPlan())
