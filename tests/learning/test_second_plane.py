"""A second plane: what it sees, when it has a say, and that known volumes come back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from known_denoisers import NEGATIVE, TEXT, noise
from small_networks import CONTROLS, small_denoiser

from diffboost3d.diffusion.autoencoder import AutoencoderCodec, AutoencoderPlan, build_autoencoder
from diffboost3d.diffusion.codecs import PackingCodec, latent_shape, padded, padded_size
from diffboost3d.diffusion.sampling import SamplingPlan, sample
from diffboost3d.diffusion.schedule import clean_of, make_scheduler, prediction_of
from diffboost3d.diffusion.second_plane import CrossSlices, SecondPlane
from diffboost3d.imaging.edges import ControlSlices
from diffboost3d.seeds import seed_of
from diffboost3d.synthesis import volumes
from diffboost3d.synthesis.coherence import slice_noise
from diffboost3d.synthesis.volumes import NoisePlan, SampleRequest, SecondPlanePlan, SlabPlan, VolumeSampler

SHAPE = (11, 9, 6)  # odd sides are padded in both planes
SPACING = (1.0, 1.0, 2.5)  # mm
SCALES = (1.5, 0.3, 0.2, 0.1)


def known_volume(seed=0, shape=SHAPE):
    return noise(*shape, seed=seed).mul(0.4).clamp(-0.95, 0.95)


def across(volume, axis):
    """Slices (S, 1, A, B)."""
    return volume.movedim(axis, 0)[:, None]


def named(shape, axis, plane):
    """Control whose channels say which slice of which plane it is."""
    a, b = (side for index, side in enumerate(shape) if index != axis)
    control = torch.zeros(shape[axis], CONTROLS, a, b)
    control[:, 0] = (torch.arange(shape[axis]) / 100)[:, None, None]
    control[:, 1] = plane
    return control


class KnownVolumes:
    """Predicts, exactly, what leads to one clean volume in the first plane and to another in the second."""

    def __init__(self, codec, scheduler, first, second, axes):
        self.scheduler, self.calls = scheduler, []
        self.clean = [
            codec.encode(padded(slices, padded_size(slices.shape[-2:], codec.factor)))
            for slices in (across(first, axes[0]), across(second, axes[1]))
        ]

    def predict(self, noisy, timesteps, text, control, strength, guess_mode, slices=1):
        (plane,) = control[:, 1].unique().int().tolist()
        number = (control[:, 0, 0, 0] * 100).round().int().tolist()
        prompted = bool((text == TEXT).all())
        self.calls.append({"plane": plane, "noisy": noisy, "t": timesteps.tolist(), "slices": number, "text": prompted})
        kept = float(self.scheduler.alphas_cumprod[timesteps[0]])
        return prediction_of(self.scheduler.config.prediction_type, self.clean[plane][number], noisy, kept)


def map_noise(codec, shape, axis, count=1, seed=0):
    plane = [side for index, side in enumerate(shape) if index != axis]
    return noise(count * shape[axis], *latent_shape(codec, padded_size(plane, codec.factor)), seed=seed)


def run(denoiser, scheduler, codec, plan, axes, every, shape=SHAPE, **window):
    """Slices of one volume (S, 1, A, B)."""
    given = [CrossSlices(TEXT, named(shape, axes[1], 1), map_noise(codec, shape, axes[1], seed=5))]
    second = every and SecondPlane(denoiser, scheduler, codec, plan, NEGATIVE, given, shape, axes, every, **window)
    return sample(
        denoiser,
        scheduler,
        codec,
        plan,
        map_noise(codec, shape, axes[0]),
        TEXT,
        NEGATIVE,
        named(shape, axes[0], 0),
        stack=shape[axes[0]],
        correction=second or None,
        generator=[torch.Generator().manual_seed(number) for number in range(shape[axes[0]])],
    )


@pytest.mark.parametrize("kept", [0.0, 1e-3, 0.5, 0.9999])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_prediction_made_of_clean_maps_stands_for_them(kind, kept):
    clean, noisy = noise(2, 4, 3, 3), noise(2, 4, 3, 3, seed=1)
    made = prediction_of(kind, clean, noisy, kept)
    assert made.isfinite().all()
    if kept or kind == "v_prediction":  # noise without signal says nothing about what is clean
        torch.testing.assert_close(clean_of(kind, made, noisy, kept), clean, rtol=0, atol=1e-4)


def test_predictions_stand_for_what_the_scheduler_takes_them_for(scheduler):
    clean, drawn, when = noise(1, 4, 3, 3), noise(1, 4, 3, 3, seed=1), torch.tensor([300])
    noisy, kept = scheduler.add_noise(clean, drawn, when), float(scheduler.alphas_cumprod[300])
    torch.testing.assert_close(
        prediction_of("v_prediction", clean, noisy, kept), scheduler.get_velocity(clean, drawn, when)
    )
    torch.testing.assert_close(prediction_of("epsilon", clean, noisy, kept), drawn)


CODECS = [
    PackingCodec("haar", 2),
    PackingCodec("haar", 2, SCALES),
    PackingCodec("pixel", 1),
    PackingCodec("pixel", 4),
]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("axes", [(2, 0), (0, 1), (1, 2)])
@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++", "sde-dpmsolver++", "unipc"])
def test_a_denoiser_that_knows_the_volume_gives_it_back_in_both_planes(scheduler, codec, axes, sampler):
    clean = known_volume()
    denoiser = KnownVolumes(codec, scheduler, clean, clean, axes)
    for every in (0, 1, 2):
        made = run(denoiser, scheduler, codec, SamplingPlan(4, sampler), axes, every)
        torch.testing.assert_close(made, across(clean, axes[0]), rtol=0, atol=3e-3)


def test_also_with_predicted_noise_but_for_the_noise_of_the_first_timestep():
    codec, scheduler, clean = (
        PackingCodec("haar", 2),
        make_scheduler(1000, "scaled_linear", "epsilon", False),
        known_volume(),
    )
    denoiser = KnownVolumes(codec, scheduler, clean, clean, (2, 0))
    made = run(denoiser, scheduler, codec, SamplingPlan(10), (2, 0), 2)
    assert (made - across(clean, 2)).std() < 0.05


@pytest.mark.parametrize(
    ("steps", "every", "planes", "last"),
    [(4, 0, [0, 0, 0, 0], 0), (4, 2, [0, 0, 1, 0, 0, 1], 1), (4, 3, [0, 0, 0, 1, 0], 0), (2, 1, [0, 1, 0, 1], 1)],
)
def test_planes_that_disagree_end_with_the_one_that_spoke_last(codec, scheduler, steps, every, planes, last):
    both = [known_volume(seed) for seed in (0, 1)]
    denoiser = KnownVolumes(codec, scheduler, *both, (2, 0))
    made = run(denoiser, scheduler, codec, SamplingPlan(steps), (2, 0), every)
    assert [call["plane"] for call in denoiser.calls] == planes
    torch.testing.assert_close(made, across(both[last], 2), rtol=0, atol=3e-3)


def test_the_second_plane_leads_the_way_of_the_first(codec, scheduler):
    """After its say, the noisy maps of the first plane lie between what was there and its volume, as DDIM's formula has it."""
    both = [known_volume(seed) for seed in (0, 1)]
    denoiser = KnownVolumes(codec, scheduler, *both, (2, 0))
    run(denoiser, scheduler, codec, SamplingPlan(4), (2, 0), 2)
    before, after = denoiser.calls[1], denoiser.calls[3]  # first plane at the second and third step
    kept = [float(scheduler.alphas_cumprod[call["t"][0]]) for call in (before, after)]
    target = codec.encode(padded(across(both[1], 2), (12, 10)))
    drawn = prediction_of("epsilon", target, before["noisy"], kept[0])
    expected = kept[1] ** 0.5 * target + (1 - kept[1]) ** 0.5 * drawn
    torch.testing.assert_close(after["noisy"], expected, rtol=0, atol=1e-4)


def test_the_second_plane_sees_the_predicted_volume_with_one_noise_at_the_same_timestep(codec, scheduler):
    both = [known_volume(seed) for seed in (0, 1)]
    denoiser = KnownVolumes(codec, scheduler, *both, (1, 2))
    run(denoiser, scheduler, codec, SamplingPlan(3), (1, 2), 1)
    drawn = map_noise(codec, SHAPE, 2, seed=5)
    seen = codec.encode(padded(across(both[0], 2), (12, 10)))
    for first, second in zip(denoiser.calls[::2], denoiser.calls[1::2], strict=True):
        assert second["slices"] == list(range(SHAPE[2]))
        assert set(first["t"]) == set(second["t"])
        kept = float(scheduler.alphas_cumprod[second["t"][0]])
        expected = kept**0.5 * seen + (1 - kept) ** 0.5 * drawn
        torch.testing.assert_close(second["noisy"], expected, rtol=0, atol=1e-4)


def test_guidance_acts_in_the_second_plane_too(codec, scheduler):
    clean = known_volume()
    denoiser = KnownVolumes(codec, scheduler, clean, clean, (2, 0))
    made = run(denoiser, scheduler, codec, SamplingPlan(2, guidance_scale=3.0, guidance_range=(0.0, 0.3)), (2, 0), 1)
    called = [(call["plane"], call["text"]) for call in denoiser.calls]
    assert called == [(0, False), (0, True), (1, False), (1, True), (0, True), (1, True)]
    torch.testing.assert_close(made, across(clean, 2), rtol=0, atol=3e-3)


@pytest.mark.parametrize("window", [1, 3, 4])
def test_no_more_slices_than_a_window_are_seen_at_once_and_nothing_changes(codec, scheduler, window):
    both = [known_volume(seed) for seed in (0, 1)]
    denoiser = KnownVolumes(codec, scheduler, *both, (2, 0))
    whole = run(denoiser, scheduler, codec, SamplingPlan(2), (2, 0), 2)
    denoiser.calls.clear()
    cut = run(denoiser, scheduler, codec, SamplingPlan(2), (2, 0), 2, window=window)
    assert max(len(call["slices"]) for call in denoiser.calls if call["plane"]) == window
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-5)


def test_with_a_learned_codec_only_what_it_loses_is_lost(scheduler):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = AutoencoderCodec(build_autoencoder(AutoencoderPlan((8, 8), 2, 1)))
    clean = known_volume()
    denoiser = KnownVolumes(codec, scheduler, clean, clean, (2, 0))
    made = run(denoiser, scheduler, codec, SamplingPlan(2), (2, 0), 1)
    seen = codec.decode(codec.encode(padded(across(clean, 0), (10, 6))))[..., :9, :6]
    back = across(seen[:, 0], 2)  # decoded slices, stacked along axis 0, are a volume
    expected = codec.decode(codec.encode(padded(back, (12, 10))))[..., :11, :9].clamp(-1, 1)
    torch.testing.assert_close(made, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("axes", "every"), [((1, 1), 2), ((0, 1), 0)])
def test_a_plane_that_is_no_second_one_is_refused(codec, scheduler, axes, every):
    with pytest.raises(ValueError, match="second plane"):
        SecondPlane(None, scheduler, codec, SamplingPlan(1), NEGATIVE, [], SHAPE, axes, every)


# --- volumes ---------------------------------------------------------------------------------------------------------
RANDOM = np.random.default_rng(3)
IMAGE = RANDOM.uniform(-1, 1, SHAPE).astype(np.float32)
EDGE = RANDOM.random(SHAPE, np.float32)
REQUESTS = [
    SampleRequest(seed, {text: 1.0}, IMAGE, *(ControlSlices(EDGE, None, [], axis, 1, "separate") for axis in (2, 0)))
    for seed, text in ((7, "MRI"), (8, "CT"))
]
SECOND = SecondPlanePlan(0, 2, 1.25)


def mixing(codec):
    denoiser = small_denoiser(codec)
    denoiser.mix_along_slices()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for layer in denoiser.mixer.layers:
            torch.nn.init.normal_(layer.out.weight, std=0.5)
    return denoiser


def sampler(codec, scheduler, slabs, second=None, batch=64, plan=None, denoiser=None):
    return VolumeSampler(
        denoiser or small_denoiser(codec),
        scheduler,
        codec,
        plan or SamplingPlan(2),
        NoisePlan("shared", 0.5, 4.0),
        "",
        batch,
        torch.device("cpu"),
        slabs=slabs,
        second=second,
    )


STEP = SlabPlan(None, blend="step")


@pytest.mark.parametrize("plan", [SamplingPlan(2, eta=0.7), SamplingPlan(4, strength=0.5, guidance_scale=2.0)])
def test_volumes_denoised_whole_are_those_of_single_slices_where_none_sees_another(codec, scheduler, plan):
    single, whole, cut, short = (
        sampler(codec, scheduler, slabs, batch=batch, plan=plan).volumes(2, SPACING, REQUESTS)
        for slabs, batch in ((SlabPlan(), 64), (STEP, 64), (SlabPlan(4, 2, blend="step"), 64), (STEP, 4))
    )
    for other in (whole, cut, short):
        np.testing.assert_allclose(other, single, atol=1e-5)


def test_where_slices_see_each_other_slabs_are_averaged_at_every_step_or_at_the_end(codec, scheduler):
    denoiser = mixing(codec)

    def made(slices, overlap, blend):
        one = sampler(codec, scheduler, SlabPlan(slices, overlap, blend=blend), denoiser=denoiser)
        return one.volumes(2, SPACING, REQUESTS[:1])[0]

    np.testing.assert_allclose(made(6, 0, "step"), made(6, 0, "end"), atol=1e-5)  # one slab is the volume
    assert np.abs(made(4, 2, "step") - made(4, 2, "end")).mean() > 1e-4


@pytest.mark.parametrize(
    ("mixes", "slabs", "batch", "stacks", "window"),
    [
        (False, SlabPlan(None), 4, {1}, 1 << 30),
        (True, SlabPlan(None), 64, {6}, 1 << 30),
        (True, SlabPlan(None), 4, {4}, 1 << 30),
        (True, SlabPlan(1), 64, {1}, 1 << 30),
        (True, STEP, 4, {6}, 4),
        (True, SlabPlan(None, 2, blend="step"), 1, {6}, 4),
        (True, SlabPlan(4, 2, blend="step"), 64, {6}, 4),
        (False, SlabPlan(4, 2, blend="step"), 64, {6}, 64),
    ],
)
def test_layers_along_the_slices_are_not_left_idle(codec, scheduler, monkeypatch, mixes, slabs, batch, stacks, window):
    asked = []

    def watched(*given, **more):
        asked.append(more)
        return given[7][:, :1]

    monkeypatch.setattr(volumes, "sample", watched)
    denoiser = mixing(codec) if mixes else small_denoiser(codec)
    sampler(codec, scheduler, slabs, batch=batch, denoiser=denoiser).volumes(2, SPACING, REQUESTS[:1])
    assert {more["stack"] for more in asked} == stacks
    assert {more["window"] for more in asked} == {window}


@pytest.mark.parametrize("mixes", [False, True])
def test_a_second_plane_changes_volumes_and_the_seed_decides_all(codec, scheduler, mixes):
    denoiser = mixing(codec) if mixes else small_denoiser(codec)
    plain = sampler(codec, scheduler, STEP, denoiser=denoiser).volumes(2, SPACING, REQUESTS)
    one = sampler(codec, scheduler, STEP, SECOND, denoiser=denoiser)
    made = one.volumes(2, SPACING, REQUESTS)
    torch.manual_seed(1)
    assert all(np.array_equal(a, b) for a, b in zip(made, one.volumes(2, SPACING, REQUESTS), strict=True))
    for request, volume, without in zip(REQUESTS, made, plain, strict=True):
        assert np.isfinite(volume).all()
        assert np.abs(volume - without).mean() > 1e-3
        np.testing.assert_allclose(one.volumes(2, SPACING, [request])[0], volume, atol=1e-5)


def test_a_second_plane_that_never_comes_to_act_changes_no_bit(codec, scheduler):
    plain, idle = (
        sampler(codec, scheduler, STEP, second).volumes(2, SPACING, REQUESTS)
        for second in (None, replace(SECOND, every=3))
    )
    assert all(np.array_equal(a, b) for a, b in zip(plain, idle, strict=True))


def test_the_second_plane_of_a_volume_has_its_own_control_noise_and_text(codec, scheduler, monkeypatch):
    kept = []

    def watched(*given, **more):
        kept.append(given)
        return SecondPlane(*given, **more)

    monkeypatch.setattr(volumes, "SecondPlane", watched)
    one = sampler(codec, scheduler, STEP, SECOND)
    one.volumes(2, SPACING, REQUESTS)
    (given,) = kept
    assert given[6:] == (SHAPE, (2, 0), 2, 64, 0)
    for request, volume in zip(REQUESTS, given[5], strict=True):
        expected = ControlSlices(EDGE, None, [], 0, 1, "separate").slices(0, SHAPE[0])
        assert torch.equal(volume.control, torch.from_numpy(expected))
        drawn = slice_noise("shared", (11, 4, 6, 4), 0.5, 4.0, 1.25, seed_of(request.seed, "second plane"))
        assert torch.equal(volume.noise, drawn)
        assert torch.equal(volume.text, one._text(request.prompts))


def test_a_second_plane_of_slabs_or_without_control_is_refused(codec, scheduler):
    with pytest.raises(ValueError, match="needs whole volumes"):
        sampler(codec, scheduler, SlabPlan(), SECOND)
    with pytest.raises(ValueError, match="needs its own control"):
        sampler(codec, scheduler, STEP, SECOND).volumes(2, SPACING, [replace(REQUESTS[0], second_control=None)])


def test_steps_of_the_second_plane_are_counted_twice():
    assert volumes.evaluations(SamplingPlan(20, strength=0.5), 2) == 15
    assert volumes.evaluations(SamplingPlan(20, strength=0.5), 3) == 13
    assert volumes.evaluations(SamplingPlan(4, guidance_scale=2.0), 1) == 16
