"""Sampling: a perfect denoiser gives the image back; guidance, partial noise, padding and batches do what they say."""

from __future__ import annotations

import pytest
import torch
from small_networks import CONTROLS, small_denoiser

from diffboost3d.diffusion.codecs import Codec
from diffboost3d.diffusion.sampling import SamplingPlan, padded_size, sample
from diffboost3d.diffusion.schedule import make_scheduler
from diffboost3d.diffusion.text import tokenize

TOKENS, NO_TOKENS = tokenize("MRI", 12)[None], tokenize("", 12)[None]


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture(*shape):
    return noise(*shape, seed=8).mul(0.4).clamp(-0.95, 0.95)


class Known:
    """Predicts, exactly, what leads to one clean image; keeps every call."""

    def __init__(self, codec, scheduler, clean, padded=None):
        self.codec, self.scheduler, self.calls = codec, scheduler, []
        self.clean = codec.encode(clean if padded is None else padded)

    def embed(self, tokens):
        return tokens[..., None].float()

    def predict(self, noisy, timesteps, text, control, strength):
        self.calls.append(
            {"noisy": noisy.clone(), "t": timesteps.tolist(), "text": text, "control": control, "by": strength}
        )
        kept = self.scheduler.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
        if self.scheduler.config.prediction_type == "epsilon":
            return (noisy - kept.sqrt() * self.clean) / (1 - kept).sqrt()
        return (kept.sqrt() * noisy - self.clean) / (1 - kept).sqrt()


def run(denoiser, scheduler, codec, plan, start_noise, control, **more):
    return sample(denoiser, scheduler, codec, plan, start_noise, TOKENS, NO_TOKENS, control, **more)


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_a_perfect_denoiser_gives_the_image_back(scheduler, factor, steps):
    codec, clean = Codec("haar", factor), picture(2, 1, 16, 24)
    known = Known(codec, scheduler, clean)
    images = run(known, scheduler, codec, SamplingPlan(steps), noise(2, 1, 16, 24), torch.zeros(2, CONTROLS, 16, 24))
    torch.testing.assert_close(images, clean, rtol=0, atol=2e-3)
    assert len(known.calls) == steps
    assert known.calls[0]["t"] == [999, 999]
    torch.testing.assert_close(known.calls[0]["noisy"], codec.encode(noise(2, 1, 16, 24)))


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("steps", [3, 10])
def test_also_with_added_noise_on_the_way(scheduler, codec, eta, steps):
    clean = picture(2, 1, 16, 16)
    control, plan = torch.zeros(2, CONTROLS, 16, 16), SamplingPlan(steps, eta=eta)
    results = []
    for seed in (0, 0, 1):
        known = Known(codec, scheduler, clean)
        generator = torch.Generator().manual_seed(seed)
        images = run(known, scheduler, codec, plan, noise(2, 1, 16, 16), control, generator=generator)
        torch.testing.assert_close(images, clean, rtol=0, atol=2e-3)
        results.append(known.calls[-1]["noisy"])
    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[0], results[2])


@pytest.mark.parametrize("steps", [5, 20])
def test_the_published_schedule_leaves_the_noise_of_its_first_timestep(codec, steps):
    scheduler, clean = make_scheduler(1000, "scaled_linear", "epsilon", False), picture(2, 1, 16, 16)
    known = Known(codec, scheduler, clean)
    images = run(known, scheduler, codec, SamplingPlan(steps), noise(2, 1, 16, 16), torch.zeros(2, CONTROLS, 16, 16))
    assert (images - clean).std() < 0.05
    assert known.calls[-1]["t"] == [1, 1]


def test_noise_levels_fall_from_step_to_step(scheduler, codec):
    known = Known(codec, scheduler, picture(1, 1, 16, 16))
    run(known, scheduler, codec, SamplingPlan(12), noise(1, 1, 16, 16), torch.zeros(1, CONTROLS, 16, 16))
    times = [call["t"][0] for call in known.calls]
    assert times == sorted(set(times), reverse=True)


class Flat:
    """Predicts one number with the prompt and control, another without."""

    def __init__(self, conditional, unconditional):
        self.values, self.calls = (conditional, unconditional), []

    def embed(self, tokens):
        return tokens[..., None].float()

    def predict(self, noisy, timesteps, text, control, strength):
        prompted = bool((text[0, 1] != NO_TOKENS[0, 1]).item())
        assert prompted == bool(control.any())  # the unconditional half drops both
        assert len(text) == len(noisy)
        self.calls.append(prompted)
        return torch.full_like(noisy, self.values[0] if prompted else self.values[1])


@pytest.mark.parametrize(("scale", "calls", "value"), [(1.0, 1, -0.5), (1.5, 2, -0.65), (0.0, 2, -0.2), (3.0, 2, -1.1)])
def test_guidance_goes_from_the_unconditional_through_the_conditional_prediction(scheduler, scale, calls, value):
    flat = Flat(-0.5, -0.2)
    plan = SamplingPlan(1, guidance_scale=scale)  # one step from pure noise: the image is minus the predicted velocity
    images = run(flat, scheduler, Codec("haar", 1), plan, noise(2, 1, 8, 8), torch.ones(2, CONTROLS, 8, 8))
    torch.testing.assert_close(images, torch.full_like(images, min(1.0, -value)), rtol=0, atol=1e-5)
    assert len(flat.calls) == calls


@pytest.mark.parametrize(("scale", "each"), [(1.0, 1), (2.0, 2)])
def test_guidance_costs_a_second_call_a_step(scheduler, scale, each):
    flat = Flat(-0.1, 0.0)
    plan = SamplingPlan(7, guidance_scale=scale)
    run(flat, scheduler, Codec("haar", 1), plan, noise(1, 1, 8, 8), torch.ones(1, CONTROLS, 8, 8))
    assert len(flat.calls) == 7 * each


@pytest.mark.parametrize(("strength", "calls"), [(0.3, 3), (0.75, 8), (0.01, 1), (0.999, 10)])
def test_strength_below_one_starts_from_the_noised_real_image(scheduler, codec, strength, calls):
    real, given = picture(2, 1, 16, 16), noise(2, 1, 16, 16, seed=3)
    known = Known(codec, scheduler, picture(2, 1, 16, 16).flip(-1))
    plan = SamplingPlan(10, strength=strength)
    images = run(known, scheduler, codec, plan, given, torch.zeros(2, CONTROLS, 16, 16), start=real)
    assert len(known.calls) == calls
    assert [call["t"][0] for call in known.calls] == scheduler.timesteps[-calls:].tolist()
    kept = scheduler.alphas_cumprod[known.calls[0]["t"][0]]
    noised = kept.sqrt() * codec.encode(real) + (1 - kept).sqrt() * codec.encode(given)
    torch.testing.assert_close(known.calls[0]["noisy"], noised, rtol=0, atol=1e-5)
    torch.testing.assert_close(images, real.flip(-1), rtol=0, atol=2e-3)


def test_a_weak_start_stays_near_the_real_image(scheduler, codec):
    class Identity(Known):
        def predict(self, noisy, timesteps, text, control, strength):
            self.clean = self.codec.encode(self.codec.decode(noisy).clamp(-1, 1))
            return super().predict(noisy, timesteps, text, control, strength)

    real, distances = picture(1, 1, 16, 16), []
    for strength in (0.1, 0.4, 0.8):
        plan, denoiser = SamplingPlan(10, strength=strength), Identity(codec, scheduler, real)
        images = run(
            denoiser, scheduler, codec, plan, noise(1, 1, 16, 16), torch.zeros(1, CONTROLS, 16, 16), start=real
        )
        distances.append(float((images - real).abs().mean()))
    assert distances == sorted(distances)
    assert distances[0] < 0.2


def test_strength_below_one_needs_a_start(scheduler, codec, denoiser):
    with pytest.raises(ValueError, match="needs images to start from"):
        run(
            denoiser, scheduler, codec, SamplingPlan(4, strength=0.5), noise(1, 1, 8, 8), torch.zeros(1, CONTROLS, 8, 8)
        )


def test_sides_are_rounded_up_to_the_divisor():
    assert padded_size((13, 16), 4) == (16, 16)
    assert padded_size((1, 17), 8) == (8, 24)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_odd_sizes_are_padded_by_their_border_and_cut_again(scheduler, codec, strength):
    control, clean = torch.rand(1, CONTROLS, 13, 10), picture(1, 1, 13, 10)
    border = torch.nn.functional.pad(clean, (0, 2, 0, 3), mode="replicate")
    known = Known(codec, scheduler, clean, padded=border)
    start_noise = noise(1, 1, *padded_size((13, 10), 4))
    plan = SamplingPlan(4, strength=strength)
    images = run(known, scheduler, codec, plan, start_noise, control, start=clean)
    assert images.shape == (1, 1, 13, 10)
    torch.testing.assert_close(images, clean, rtol=0, atol=2e-3)
    seen = known.calls[0]["control"]
    assert seen.shape == (1, CONTROLS, 16, 12)
    assert torch.equal(seen[..., :13, :10], control)
    assert torch.equal(seen[..., 15, :10], control[..., 12, :])
    assert torch.equal(seen[..., :13, 11], control[..., :, 9])


def test_images_are_cut_at_minus_one_and_one(scheduler):
    images = run(
        Flat(-4.0, 0.0), scheduler, Codec("haar", 1), SamplingPlan(1), noise(1, 1, 8, 8), torch.ones(1, CONTROLS, 8, 8)
    )
    assert images.unique().tolist() == [1.0]


def test_control_strength_reaches_the_network(scheduler, codec):
    known = Known(codec, scheduler, picture(1, 1, 8, 8))
    plan = SamplingPlan(2, control_strength=0.7)
    run(known, scheduler, codec, plan, noise(1, 1, 8, 8), torch.zeros(1, CONTROLS, 8, 8))
    assert {call["by"] for call in known.calls} == {0.7}


def test_every_number_of_steps_gives_finite_images_with_full_added_noise(scheduler, codec):
    for steps in (*range(1, 12), 20, 50):
        known = Known(codec, scheduler, picture(1, 1, 8, 8))
        images = run(
            known, scheduler, codec, SamplingPlan(steps, eta=1.0), noise(1, 1, 8, 8), torch.zeros(1, CONTROLS, 8, 8)
        )
        assert images.isfinite().all(), steps


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_how_slices_are_batched_changes_nothing(scheduler, codec, guidance):
    denoiser, plan = small_denoiser(codec), SamplingPlan(4, guidance_scale=guidance)
    given, control = noise(5, 1, 16, 16), torch.rand((5, CONTROLS, 16, 16), generator=torch.Generator().manual_seed(1))
    together = run(denoiser, scheduler, codec, plan, given, control)
    parts = [
        run(denoiser, scheduler, codec, plan, given[at], control[at]) for at in (slice(0, 2), slice(2, 3), slice(3, 5))
    ]
    torch.testing.assert_close(together, torch.cat(parts), rtol=0, atol=1e-5)
    assert together.std() > 0.05


def test_control_changes_the_sample(scheduler, codec, denoiser):
    given = noise(1, 1, 16, 16)
    edges = torch.rand((1, CONTROLS, 16, 16), generator=torch.Generator().manual_seed(1))
    one, other = (
        run(denoiser, scheduler, codec, SamplingPlan(3), given, control) for control in (edges, edges.flip(-1))
    )
    assert (one - other).abs().max() > 1e-3
