"""Guidance on text and control: known answers of the formula, and what each costs in calls of the network."""

from __future__ import annotations

import pytest
import torch
from known_denoisers import NEGATIVE, TEXT, Flat, Known, map_noise, noise, picture
from small_networks import CONTROLS

from diffboost3d.diffusion.codecs import PackingCodec
from diffboost3d.diffusion.sampling import SamplingPlan, sample, sample_maps
from diffboost3d.diffusion.text import embed_mixture

PIXELS = PackingCodec("haar", 1)


def run(denoiser, scheduler, plan, given=None):
    """Maps, which are images here; one step from pure noise gives minus the predicted velocity."""
    given = noise(2, 1, 8, 8) if given is None else given
    return sample_maps(denoiser, scheduler, PIXELS, plan, given, TEXT, NEGATIVE, torch.ones(len(given), CONTROLS, 8, 8))


@pytest.mark.parametrize(
    ("text", "control", "calls", "value"),
    [
        (1.0, 1.0, ["full"], -0.5),
        (1.5, 1.0, ["base", "full"], -0.65),
        (3.0, 1.0, ["base", "full"], -1.1),
        (0.0, 1.0, ["base"], -0.2),
        (1.0, 2.0, ["base", "full", "none"], -0.6),
        (1.0, 0.0, ["base", "full", "none"], -0.4),
        (0.0, 3.0, ["base", "none"], -0.4),
        (2.0, 3.0, ["base", "full", "none"], -1.0),
    ],
)
def test_base_plus_text_times_its_difference_plus_control_times_its_own(scheduler, text, control, calls, value):
    """base + w_text (full - base) + (w_control - 1) (base - none) with full -0.5, base -0.2, none -0.1."""
    flat = Flat(full=-0.5, base=-0.2, none=-0.1)
    images = run(flat, scheduler, SamplingPlan(1, guidance_scale=text, control_guidance_scale=control))
    torch.testing.assert_close(-images, torch.full_like(images, value), rtol=0, atol=1e-5)
    assert flat.calls == calls
    assert not flat.guess_mode


@pytest.mark.parametrize(("text", "control", "each"), [(1.0, 1.0, 1), (2.0, 1.0, 2), (2.0, 2.0, 3), (0.0, 1.0, 1)])
def test_guidance_costs_its_calls_at_every_step(scheduler, text, control, each):
    flat = Flat(full=-0.1, base=0.0, none=0.0)
    plan = SamplingPlan(7, guidance_scale=text, control_guidance_scale=control)
    run(flat, scheduler, plan)
    assert len(flat.calls) == 7 * each
    assert plan.passes_at(0.5) == each


def test_in_guess_mode_the_negative_half_has_no_control_branch(scheduler):
    flat = Flat(full=-0.5, bare=-0.3)
    images = run(flat, scheduler, SamplingPlan(1, guidance_scale=2.0, guess_mode=True))
    torch.testing.assert_close(-images, torch.full_like(images, -0.7), rtol=0, atol=1e-5)
    assert flat.calls == ["bare", "full"]
    assert flat.guess_mode


@pytest.mark.parametrize(
    ("window", "guided"),
    [
        ((0.0, 1.0), range(10)),
        ((0.0, 0.45), range(5)),
        ((0.25, 1.0), range(3, 10)),
        ((0.15, 0.35), (2, 3)),
        ((0.95, 1.0), ()),
    ],
)
def test_guidance_acts_in_its_range_of_the_way_alone(scheduler, window, guided):
    flat = Flat(full=-0.5, base=-0.2)
    run(flat, scheduler, SamplingPlan(10, guidance_scale=2.0, guidance_range=window))
    expected = [name for step in range(10) for name in (["base", "full"] if step in guided else ["full"])]
    assert flat.calls == expected


def test_the_range_is_of_the_whole_way_also_from_a_partly_noised_start(scheduler):
    flat, real = Flat(full=-0.5, base=-0.2), picture(1, 1, 8, 8)
    plan = SamplingPlan(10, guidance_scale=2.0, guidance_range=(0.0, 0.65), strength=0.5)
    control = torch.ones(1, CONTROLS, 8, 8)
    sample(flat, scheduler, PIXELS, plan, noise(1, 1, 8, 8), TEXT, NEGATIVE, control, start=real)
    assert flat.calls == ["base", "full"] * 2 + ["full"] * 3  # begins halfway, at 0.5


class Textured:
    """Predictions of known spread: 1 with the prompt, 0.4 without."""

    def __init__(self):
        self.full, self.base = noise(2, 1, 8, 8, seed=1), 0.4 * noise(2, 1, 8, 8, seed=2)

    def predict(self, noisy, timesteps, text, control, strength, guess_mode, slices=1):
        return self.full if bool((text == TEXT).all()) else self.base


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_rescaling_brings_the_spread_back_by_its_share(scheduler, share):
    textured = Textured()
    guided = textured.base + 4.0 * (textured.full - textured.base)
    images = run(textured, scheduler, SamplingPlan(1, guidance_scale=4.0, guidance_rescale=share))

    def spread(maps):
        return maps.std(dim=(1, 2, 3))

    assert (spread(guided) > 2 * spread(textured.full)).all()
    expected = share * spread(textured.full) + (1 - share) * spread(guided)
    torch.testing.assert_close(spread(images), expected, rtol=1e-4, atol=0)
    for one, other in zip(images, guided, strict=True):  # the pattern stays
        torch.testing.assert_close(one / one.std(), -other / other.std(), rtol=0, atol=1e-4)


# --- control strength ------------------------------------------------------------------------------------------------
def test_control_strength_reaches_the_network(scheduler, codec):
    known = Known(codec, scheduler, picture(1, 1, 8, 8))
    plan = SamplingPlan(2, control_strength=0.7)
    control = torch.zeros(1, CONTROLS, 8, 8)
    sample(known, scheduler, codec, plan, map_noise(codec, 1, 8, 8), TEXT, NEGATIVE, control)
    assert {call["strength"] for call in known.calls} == {0.7}


@pytest.mark.parametrize(("strength", "called"), [(0.0, 0), (0.5, 2)])
def test_control_strength_zero_leaves_the_branch_out(scheduler, codec, denoiser, strength, called):
    calls = []
    denoiser.controlnet.register_forward_hook(lambda *_: calls.append(1))
    text = embed_mixture(denoiser, {"MRI": 1.0})
    plan, given = SamplingPlan(2, control_strength=strength), map_noise(codec, 1, 16, 16)
    control = torch.ones(1, CONTROLS, 16, 16)
    sample(denoiser, scheduler, codec, plan, given, text, text, control)
    assert len(calls) == called


@pytest.mark.parametrize(("guess_mode", "called"), [(False, 4), (True, 2)])
def test_guess_mode_calls_the_branch_for_one_half_and_fades_it(scheduler, codec, denoiser, guess_mode, called):
    calls = []
    denoiser.controlnet.register_forward_hook(lambda *_: calls.append(1))
    text, negative = (embed_mixture(denoiser, {prompt: 1.0}) for prompt in ("MRI", ""))
    plan = SamplingPlan(2, guidance_scale=2.0, guess_mode=guess_mode)
    control = torch.ones(1, CONTROLS, 16, 16)
    sample(denoiser, scheduler, codec, plan, map_noise(codec, 1, 16, 16), text, negative, control)
    assert len(calls) == called


def test_in_guess_mode_residuals_fade_towards_the_shallow_levels(codec, denoiser):
    given = (noise(1, 4, 8, 8), torch.tensor([500]), embed_mixture(denoiser, {"MRI": 1.0}))
    control = torch.ones(1, CONTROLS, 16, 16)
    with torch.no_grad():
        plain = denoiser._residuals(*given, control, 1.0, False)
        faded = denoiser._residuals(*given, control, 1.0, True)
    names = ("down_block_additional_residuals", "mid_block_additional_residual")
    ratios = [
        float((one.norm() / other.norm()).item())
        for one, other in zip([*faded[names[0]], faded[names[1]]], [*plain[names[0]], plain[names[1]]], strict=True)
    ]
    assert ratios == sorted(ratios)
    assert ratios[0] == pytest.approx(0.1, rel=1e-4)
    assert ratios[-1] == pytest.approx(1.0, rel=1e-4)
