"""Sampling: a perfect denoiser gives the image back by every sampler; partial noise, padding and batches do what they say."""

from __future__ import annotations

import pytest
import torch
from known_denoisers import NEGATIVE, TEXT, Flat, Known, map_noise, noise, picture
from small_networks import CONTROLS, small_denoiser

from diffboost3d.diffusion.codecs import PackingCodec, padded, padded_size
from diffboost3d.diffusion.sampling import SamplingPlan, sample
from diffboost3d.diffusion.schedule import SAMPLERS, make_scheduler, sampling_scheduler
from diffboost3d.diffusion.text import embed_mixture

EVERY_SAMPLER = pytest.mark.parametrize("sampler", SAMPLERS)


def streams(numbers):
    """Of the noise that is added on the way, one a slice."""
    return [torch.Generator().manual_seed(number) for number in numbers]


def run(denoiser, scheduler, codec, plan, start_noise, control, **more):
    given = {"generator": streams(range(len(start_noise))), **more}
    return sample(denoiser, scheduler, codec, plan, start_noise, TEXT, NEGATIVE, control, **given)


def no_control(count, *size):
    return torch.zeros(count, CONTROLS, *size)


def published():
    return make_scheduler(1000, "scaled_linear", "epsilon", False)


# --- samplers --------------------------------------------------------------------------------------------------------
@EVERY_SAMPLER
@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 20])
def test_a_perfect_denoiser_gives_the_image_back(scheduler, sampler, factor, steps):
    codec, clean = PackingCodec("haar", factor), picture(2, 1, 16, 24)
    known, given = Known(codec, scheduler, clean), map_noise(codec, 2, 16, 24)
    images = run(known, scheduler, codec, SamplingPlan(steps, sampler), given, no_control(2, 16, 24))
    torch.testing.assert_close(images, clean, rtol=0, atol=3e-3)
    assert len(known.calls) == steps
    assert known.calls[0]["t"] == [999, 999]
    torch.testing.assert_close(known.calls[0]["noisy"], given)


@EVERY_SAMPLER
@pytest.mark.parametrize("steps", [2, 3, 5, 20])  # its spacing makes of a single step the cleanest timestep alone
def test_the_published_schedule_leaves_at_most_the_noise_of_its_first_timestep(codec, sampler, steps):
    scheduler, clean = published(), picture(2, 1, 16, 16)
    known = Known(codec, scheduler, clean)
    given = map_noise(codec, 2, 16, 16)
    images = run(known, scheduler, codec, SamplingPlan(steps, sampler), given, no_control(2, 16, 16))
    assert (images - clean).std() < 0.05
    assert len(known.calls) == steps


def test_the_published_sampler_ends_at_the_first_timestep(codec):
    scheduler = published()
    known = Known(codec, scheduler, picture(2, 1, 16, 16))
    run(known, scheduler, codec, SamplingPlan(20), map_noise(codec, 2, 16, 16), no_control(2, 16, 16))
    assert known.calls[0]["t"] == [951, 951]
    assert known.calls[-1]["t"] == [1, 1]


@EVERY_SAMPLER
def test_a_sampler_remembers_nothing_of_the_call_before(scheduler, codec, denoiser, sampler):
    text, given = embed_mixture(denoiser, {"MRI": 1.0}), map_noise(codec, 2, 16, 16)
    control = no_control(2, 16, 16)
    first, _, again = (
        sample(
            denoiser,
            scheduler,
            codec,
            SamplingPlan(steps, sampler),
            given,
            text,
            text,
            control,
            generator=streams(range(2)),
        )
        for steps in (5, 3, 5)
    )
    assert torch.equal(first, again)


def test_samplers_differ_on_the_way_but_agree_in_the_end(scheduler, codec):
    """Of one smooth denoiser; many steps of the first-order sampler are the reference."""

    class Shrinking(Known):
        """The clean image depends on the noisy one, so that the order of a sampler matters."""

        def predict(self, noisy, timesteps, text, control, strength, guess_mode, slices=1):
            kept = self.scheduler.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
            self.clean = 0.25 * kept.sqrt() / (0.25 * kept + 1 - kept) * noisy  # of normal images of deviation 0.5
            return super().predict(noisy, timesteps, text, control, strength, guess_mode)

    def made(sampler, steps):
        denoiser = Shrinking(codec, scheduler, picture(1, 1, 16, 16))
        plan = SamplingPlan(steps, sampler)
        return run(denoiser, scheduler, codec, plan, 0.5 * map_noise(codec, 1, 16, 16), no_control(1, 16, 16))

    reference = made("ddim", 500)
    assert reference.std() > 0.1
    errors = {
        sampler: float((made(sampler, 10) - reference).abs().mean()) for sampler in ("ddim", "dpmsolver++", "unipc")
    }
    assert all(error < 0.05 for error in errors.values())
    assert len(set(errors.values())) == 3
    assert max(errors["dpmsolver++"], errors["unipc"]) < errors["ddim"]


@EVERY_SAMPLER
def test_noise_levels_fall_from_step_to_step(scheduler, codec, sampler):
    known = Known(codec, scheduler, picture(1, 1, 16, 16))
    run(known, scheduler, codec, SamplingPlan(12, sampler), map_noise(codec, 1, 16, 16), no_control(1, 16, 16))
    times = [call["t"][0] for call in known.calls]
    assert times == sorted(set(times), reverse=True)


@EVERY_SAMPLER
def test_a_sampler_keeps_the_schedule_of_training(scheduler, sampler):
    for one in (scheduler, published()):
        other = sampling_scheduler(one, sampler)
        torch.testing.assert_close(other.alphas_cumprod, one.alphas_cumprod, rtol=0, atol=1e-6)
        assert other.config.prediction_type == one.config.prediction_type


def test_an_unknown_sampler_is_refused_with_the_known_ones(scheduler):
    with pytest.raises(ValueError, match=r"'euler' is unknown; allowed: ddim, dpmsolver\+\+, .*unipc"):
        sampling_scheduler(scheduler, "euler")


# --- noise on the way ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("steps", [3, 10])
def test_also_with_added_noise_on_the_way(scheduler, codec, eta, steps):
    clean, results = picture(2, 1, 16, 16), []
    for seed in (0, 0, 1):
        known = Known(codec, scheduler, clean)
        generator = torch.Generator().manual_seed(seed)
        given, plan = map_noise(codec, 2, 16, 16), SamplingPlan(steps, eta=eta)
        images = run(known, scheduler, codec, plan, given, no_control(2, 16, 16), generator=generator)
        torch.testing.assert_close(images, clean, rtol=0, atol=2e-3)
        results.append(known.calls[-1]["noisy"])
    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[0], results[2])


def test_every_number_of_steps_gives_finite_images_with_full_added_noise(scheduler, codec):
    for steps in (*range(1, 12), 20, 50):
        known = Known(codec, scheduler, picture(1, 1, 8, 8))
        plan = SamplingPlan(steps, eta=1.0)
        images = run(known, scheduler, codec, plan, map_noise(codec, 1, 8, 8), no_control(1, 8, 8))
        assert images.isfinite().all(), steps


# --- a partly noised start -------------------------------------------------------------------------------------------
@EVERY_SAMPLER
@pytest.mark.parametrize(("strength", "calls"), [(0.3, 3), (0.75, 8), (0.01, 1), (0.999, 10)])
def test_strength_below_one_starts_from_the_noised_real_image(scheduler, codec, sampler, strength, calls):
    real, given = picture(2, 1, 16, 16), map_noise(codec, 2, 16, 16, seed=3)
    known = Known(codec, scheduler, real.flip(-1))
    plan = SamplingPlan(10, sampler, strength=strength)
    images = run(known, scheduler, codec, plan, given, no_control(2, 16, 16), start=real)
    assert len(known.calls) == calls
    whole = sampling_scheduler(scheduler, sampler)
    whole.set_timesteps(10)
    assert [call["t"][0] for call in known.calls] == whole.timesteps[-calls:].tolist()
    kept = scheduler.alphas_cumprod[known.calls[0]["t"][0]]
    noised = kept.sqrt() * codec.encode(real) + (1 - kept).sqrt() * given
    torch.testing.assert_close(known.calls[0]["noisy"], noised, rtol=0, atol=1e-5)
    torch.testing.assert_close(images, real.flip(-1), rtol=0, atol=3e-3)


@EVERY_SAMPLER
def test_strength_below_one_also_with_the_published_schedule(codec, sampler):
    scheduler, real = published(), picture(2, 1, 16, 16)
    known = Known(codec, scheduler, real.flip(-1))
    plan = SamplingPlan(10, sampler, strength=0.5)
    images = run(known, scheduler, codec, plan, map_noise(codec, 2, 16, 16), no_control(2, 16, 16), start=real)
    assert len(known.calls) == 5
    assert (images - real.flip(-1)).std() < 0.05


@EVERY_SAMPLER
def test_a_weak_start_stays_near_the_real_image(scheduler, codec, sampler):
    class Identity(Known):
        """Takes what it sees for the clean image."""

        def predict(self, noisy, timesteps, text, control, strength, guess_mode, slices=1):
            self.clean = self.codec.encode(self.codec.decode(noisy).clamp(-1, 1))
            return super().predict(noisy, timesteps, text, control, strength, guess_mode)

    real, distances = picture(1, 1, 16, 16), []
    for strength in (0.1, 0.4, 0.8):
        plan, denoiser = SamplingPlan(10, sampler, strength=strength), Identity(codec, scheduler, real)
        given = map_noise(codec, 1, 16, 16)
        images = run(denoiser, scheduler, codec, plan, given, no_control(1, 16, 16), start=real)
        distances.append(float((images - real).abs().mean()))
    assert distances == sorted(distances)
    assert distances[0] < 0.2


def test_strength_below_one_needs_a_start(scheduler, codec):
    known, plan = Known(codec, scheduler, picture(1, 1, 8, 8)), SamplingPlan(4, strength=0.5)
    with pytest.raises(ValueError, match="needs images to start from"):
        run(known, scheduler, codec, plan, map_noise(codec, 1, 8, 8), no_control(1, 8, 8))


# --- sizes and range -------------------------------------------------------------------------------------------------
def test_sides_are_rounded_up_to_the_divisor():
    assert padded_size((13, 16), 4) == (16, 16)
    assert padded_size((1, 17), 8) == (8, 24)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_odd_sizes_are_padded_by_their_border_and_cut_again(scheduler, codec, strength):
    control, clean = torch.rand(1, CONTROLS, 13, 10), picture(1, 1, 13, 10)
    known = Known(codec, scheduler, padded(clean, (16, 12)))
    start_noise = map_noise(codec, 1, *padded_size((13, 10), 4))
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
    flat, codec = Flat(full=-4.0), PackingCodec("haar", 1)
    images = run(flat, scheduler, codec, SamplingPlan(1), noise(1, 1, 8, 8), torch.ones(1, CONTROLS, 8, 8))
    assert images.unique().tolist() == [1.0]


# --- a real network --------------------------------------------------------------------------------------------------
@EVERY_SAMPLER
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_how_slices_are_batched_changes_nothing(scheduler, codec, sampler, guidance):
    denoiser, plan = small_denoiser(codec), SamplingPlan(4, sampler, guidance_scale=guidance)
    text, negative = (embed_mixture(denoiser, {prompt: 1.0}) for prompt in ("MRI", ""))
    given = map_noise(codec, 5, 16, 16)
    control = torch.rand((5, CONTROLS, 16, 16), generator=torch.Generator().manual_seed(1))
    together, *parts = (
        sample(
            denoiser,
            scheduler,
            codec,
            plan,
            given[at],
            text,
            negative,
            control[at],
            generator=streams(range(5)[at]),
        )
        for at in (slice(None), slice(0, 2), slice(2, 3), slice(3, 5))
    )
    torch.testing.assert_close(together, torch.cat(parts), rtol=0, atol=1e-5)
    assert together.std() > 0.05


def test_each_slice_of_a_batch_may_have_its_own_text(scheduler, codec):
    denoiser, plan, given = small_denoiser(codec), SamplingPlan(3), map_noise(codec, 1, 16, 16)
    texts = torch.cat([embed_mixture(denoiser, {prompt: 1.0}) for prompt in ("MRI", "CT, blurred")])
    common = texts[:1]
    both = sample(denoiser, scheduler, codec, plan, given.repeat(2, 1, 1, 1), texts, common, no_control(2, 16, 16))
    for at in range(2):
        one = sample(denoiser, scheduler, codec, plan, given, texts[at : at + 1], common, no_control(1, 16, 16))
        torch.testing.assert_close(both[at : at + 1], one, rtol=0, atol=1e-5)
    assert (both[0] - both[1]).abs().max() > 1e-4


def test_control_changes_the_sample(scheduler, codec, denoiser):
    text = embed_mixture(denoiser, {"MRI": 1.0})
    edges = torch.rand((1, CONTROLS, 16, 16), generator=torch.Generator().manual_seed(1))
    one, other = (
        sample(denoiser, scheduler, codec, SamplingPlan(3), map_noise(codec, 1, 16, 16), text, text, control)
        for control in (edges, edges.flip(-1))
    )
    assert (one - other).abs().max() > 1e-3
