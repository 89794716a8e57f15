"""Bands of equal variance are still exact, and crowded steps still lead to the image."""

from __future__ import annotations

import pytest
import torch

from diffboost3d.config import compose
from diffboost3d.diffusion.codecs import PackingCodec
from diffboost3d.diffusion.schedule import make_scheduler, sampling_scheduler, set_timesteps
from diffboost3d.diffusion.weights import load_generator, save_generator
from diffboost3d.errors import ConfigError

CPU = torch.device("cpu")


def smooth_pictures(count=6, side=32):
    """Pictures whose fine bands are much weaker than the coarse one, as in medical images."""
    coarse = torch.rand((count, 1, side // 8, side // 8), generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    fine = torch.randn((count, 1, side, side), generator=torch.Generator().manual_seed(1)) * 0.02
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear") + fine


@pytest.mark.parametrize("name", ["haar", "pixel"])
@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_adapted_channels_have_unit_variance_and_come_back_exactly(name, factor):
    codec, pictures = PackingCodec(name, factor), smooth_pictures()
    codec.adapt(pictures)
    maps = codec.encode(pictures)
    torch.testing.assert_close(maps.square().mean(dim=(0, 2, 3)), torch.ones(factor**2), rtol=0, atol=1e-4)
    assert (codec.decode(maps) - pictures).abs().max() < 5e-7


def test_without_scales_the_fine_bands_are_far_weaker():
    maps = PackingCodec("haar", 2).encode(smooth_pictures())
    spread = maps.square().mean(dim=(0, 2, 3)).sqrt()
    assert spread[1:].max() < 0.2 * spread[0]


def test_a_band_that_is_empty_stays_finite():
    codec = PackingCodec("haar", 2)
    flat = torch.full((2, 1, 8, 8), 0.5)
    codec.adapt(flat)
    assert codec.encode(flat).isfinite().all()
    torch.testing.assert_close(codec.decode(codec.encode(flat)), flat)


def test_scales_are_saved_with_the_generator(tmp_path, denoiser, scheduler):
    codec = PackingCodec("haar", 2)
    codec.adapt(smooth_pictures())
    save_generator(tmp_path, denoiser, scheduler, codec)
    assert load_generator(tmp_path)[2].scales == codec.scales


@pytest.mark.parametrize("power", [1.5, 2.0, 3.0])
@pytest.mark.parametrize("sampler", ["dpmsolver++", "unipc"])
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 100])
def test_crowded_steps_fall_to_the_end_and_lead_to_the_image(scheduler, sampler, steps, power):
    sampling = sampling_scheduler(scheduler, sampler)
    set_timesteps(sampling, steps, power, CPU)
    ladder = sampling.timesteps.tolist()
    assert ladder[0] == 999
    assert ladder == sorted(set(ladder), reverse=True)
    assert len(ladder) == steps
    clean = torch.rand((1, 4, 8, 8), generator=torch.Generator().manual_seed(0)) - 0.5
    maps = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    for timestep in sampling.timesteps:
        kept = scheduler.alphas_cumprod[timestep]
        velocity = (kept.sqrt() * maps - clean) / (1 - kept).sqrt()  # the one that leads to `clean`
        maps = sampling.step(velocity, timestep, maps).prev_sample
    torch.testing.assert_close(maps, clean, rtol=0, atol=5e-3)


def test_power_two_spends_half_of_the_steps_on_the_last_quarter(scheduler):
    sampling = sampling_scheduler(scheduler, "dpmsolver++")
    set_timesteps(sampling, 20, 2.0, CPU)
    assert sum(timestep <= 250 for timestep in sampling.timesteps.tolist()) == 10


@pytest.mark.parametrize(
    ("power", "strength", "steps"), [(2.0, 0.5, 20), (1.5, 0.3, 10), (3.0, 0.05, 10), (2.0, 0.02, 5)]
)
def test_strength_is_a_share_of_the_noise_range_whatever_the_power(scheduler, power, strength, steps):
    sampling = sampling_scheduler(scheduler, "dpmsolver++")
    ladder = set_timesteps(sampling, steps, power, CPU, strength).tolist()
    assert ladder[0] == pytest.approx(1000 * strength - 1, abs=1)
    assert len(ladder) == max(1, round(strength * steps))
    clean = torch.rand((1, 4, 8, 8), generator=torch.Generator().manual_seed(0)) - 0.5
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    maps = scheduler.add_noise(clean, noise, torch.tensor(ladder[:1]))
    for timestep in ladder:
        kept = scheduler.alphas_cumprod[timestep]
        velocity = (kept.sqrt() * maps - clean) / (1 - kept).sqrt()
        maps = sampling.step(velocity, torch.tensor(timestep), maps).prev_sample
    torch.testing.assert_close(maps, clean, rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("steps", "power", "strength"), [(500, 1.2, 0.5), (1000, 1.1, 0.5), (1000, 5.0, 1.0), (100, 3.0, 0.1)]
)
def test_many_crowded_steps_never_share_a_timestep(scheduler, steps, power, strength):
    ladder = set_timesteps(sampling_scheduler(scheduler, "unipc"), steps, power, CPU, strength).tolist()
    assert ladder == sorted(set(ladder), reverse=True)
    assert ladder[0] == round(1000 * strength) - 1
    assert ladder[-1] >= 0


def test_power_one_leaves_the_schedule_alone(scheduler):
    one, other = (sampling_scheduler(scheduler, "dpmsolver++") for _ in range(2))
    set_timesteps(one, 9, 1.0, CPU)
    other.set_timesteps(9)
    assert torch.equal(one.timesteps, other.timesteps)


def test_ddim_takes_even_steps_only():
    sampling = sampling_scheduler(make_scheduler(1000, "scaled_linear", "epsilon", False), "ddim")
    with pytest.raises(ValueError, match="even steps only"):
        set_timesteps(sampling, 5, 2.0, CPU)
    with pytest.raises(ConfigError, match=r"step_power=2\.0 is refused with sampler=ddim"):
        compose(["synthesize.sampler=ddim", "synthesize.step_power=2"])
