"""Synthetic volumes: slices come back in order, and values and voxels are those of the real file's grid and units."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from small_networks import CONTROLS, small_denoiser

from diffboost3d.diffusion.sampling import SamplingPlan
from diffboost3d.diffusion.text import embed_mixture
from diffboost3d.imaging.edges import ControlSlices
from diffboost3d.imaging.scratch import Scratch
from diffboost3d.synthesis import volumes
from diffboost3d.synthesis.coherence import slice_noise
from diffboost3d.synthesis.volumes import NoisePlan, SampleRequest, SlabPlan, VolumeSampler, evaluations

SHAPE = (10, 9, 5)
SPACING = (1.0, 1.0, 2.5)  # mm
NOISE = NoisePlan("shared", 0.5, 4.0)


def volume(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def control(seed=1, shape=SHAPE):
    return np.random.default_rng(seed).uniform(0, 1, (CONTROLS, *shape)).astype(np.float32)


def sampler(codec, scheduler, batch=3, plan=None, noise=NOISE, precision="no", **more):
    return VolumeSampler(
        small_denoiser(codec),
        scheduler,
        codec,
        plan or SamplingPlan(2),
        noise,
        "",
        batch,
        torch.device("cpu"),
        precision,
        **more,
    )


def one_volume(sampler, axis=2, seed=7, shape=SHAPE):
    request = SampleRequest(seed, {"MRI": 1.0}, volume(shape=shape), control(shape=shape))
    (made,) = sampler.volumes(axis, (2.5, 2.5, 2.5), [request])
    return made


@pytest.fixture
def fake(monkeypatch):
    """Replaces sampling by giving the first control channel back; keeps the calls."""
    calls = []

    def give_control(
        denoiser, scheduler, codec, plan, noise, text, negative, control, start=None, generator=None, stack=1, **more
    ):
        calls.append(
            {"noise": noise, "control": control, "start": start, "text": text, "negative": negative, "stack": stack}
        )
        return control[:, :1]

    monkeypatch.setattr(volumes, "sample", give_control)
    return calls


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_slices_come_back_in_order_and_upright(fake, codec, scheduler, axis, batch):
    given, guide = volume(), control()
    made = one_volume(sampler(codec, scheduler, batch), axis)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, guide[0], atol=1e-6)
    starts = torch.cat([call["start"] for call in fake])[:, 0].numpy()
    np.testing.assert_allclose(starts, np.moveaxis(given, axis, 0), atol=1e-6)
    assert [len(call["noise"]) for call in fake] == [len(part) for part in torch.arange(SHAPE[axis]).split(batch)]


@pytest.mark.parametrize("kind", ["independent", "shared", "ar1"])
def test_each_slice_gets_its_own_part_of_the_volume_noise(fake, codec, scheduler, kind):
    one_volume(sampler(codec, scheduler, 2, noise=NoisePlan(kind, 0.5, 4.0)))
    seen = torch.cat([call["noise"] for call in fake])
    assert torch.equal(seen, slice_noise(kind, (5, 4, 6, 6), 0.5, 4.0, 2.5, 7))  # maps of sides padded to the divisor 4


def test_two_dimensional_images_are_one_slice(fake, codec, scheduler):
    flat = (10, 9, 1)
    made = one_volume(sampler(codec, scheduler), shape=flat)
    np.testing.assert_allclose(made, control(shape=flat)[0], atol=1e-6)


@pytest.mark.parametrize(
    "plan", [SamplingPlan(3), SamplingPlan(3, eta=1.0), SamplingPlan(4, strength=0.5, guidance_scale=2.0)]
)
def test_how_many_slices_are_denoised_at_once_changes_nothing_but_rounding(codec, scheduler, plan):
    one, all_at_once = (one_volume(sampler(codec, scheduler, batch, plan)) for batch in (2, 64))
    assert np.isfinite(one).all()
    np.testing.assert_allclose(one, all_at_once, atol=1e-5)


def test_the_noise_added_on_the_way_is_not_the_noise_of_the_start(codec, scheduler, monkeypatch):
    """With eta above 0 every step draws new noise; were it the starting noise again, variances would not add up."""
    drawn = []
    from diffusers.schedulers import scheduling_ddim

    original = scheduling_ddim.randn_tensor

    def watched(*arguments, **keywords):
        drawn.append(original(*arguments, **keywords))
        return drawn[-1]

    monkeypatch.setattr(scheduling_ddim, "randn_tensor", watched)
    one_volume(sampler(codec, scheduler, 64, SamplingPlan(3, eta=1.0)))
    start = slice_noise("independent", (5, 4, 6, 6), 0.5, 4.0, 2.5, 7)
    assert len(drawn) == 3
    for first, second in ((drawn[0], start), (drawn[1], start), (drawn[0], drawn[1]), (drawn[0][:1], drawn[0][1:2])):
        assert abs(np.corrcoef(first.flatten(), second.flatten())[0, 1]) < 6 / first.numel() ** 0.5
        assert len(set(first.flatten().tolist()) & set(second.flatten().tolist())) < 5  # float32 may meet by chance


def test_the_seed_decides_all(codec, scheduler):
    one = sampler(codec, scheduler, plan=SamplingPlan(2, eta=0.5))
    first, other = one_volume(one, seed=7), one_volume(one, seed=8)
    torch.manual_seed(1)
    assert np.array_equal(first, one_volume(one, seed=7))
    assert not np.allclose(first, other, atol=0.01)


def test_volumes_are_finite_and_in_range_also_in_mixed_precision(codec, scheduler):
    made = one_volume(sampler(codec, scheduler, precision="bf16"))
    plain = one_volume(sampler(codec, scheduler))
    assert made.dtype == np.float32
    assert np.isfinite(made).all()
    assert np.abs(made).max() <= 1
    assert np.abs(made - plain).mean() < 0.1


# --- samples together ------------------------------------------------------------------------------------------------
REQUESTS = [
    SampleRequest(7, {"MRI": 1.0}, volume(), control()),
    SampleRequest(8, {"CT": 1.0}, volume(), control()),
    SampleRequest(9, {"MRI": 0.5, "CT": 0.5}, volume(), control()),
]


@pytest.mark.parametrize(("batch", "slices", "expected"), [(1, 5, 1), (9, 5, 1), (10, 5, 2), (64, 5, 12), (64, 65, 1)])
def test_as_many_samples_go_together_as_fill_a_batch(codec, scheduler, batch, slices, expected):
    assert sampler(codec, scheduler, batch).together((10, slices, 9), 1) == expected


@pytest.mark.parametrize("plan", [SamplingPlan(3, eta=1.0), SamplingPlan(4, strength=0.5, guidance_scale=2.0)])
@pytest.mark.parametrize("batch", [4, 64])
def test_a_sample_is_the_same_alone_and_together_with_others(codec, scheduler, plan, batch):
    one = sampler(codec, scheduler, batch, plan)
    together = one.volumes(2, SPACING, REQUESTS)
    for request, made in zip(REQUESTS, together, strict=True):
        (alone,) = one.volumes(2, SPACING, [request])
        np.testing.assert_allclose(made, alone, atol=1e-5)
    assert all(np.abs(a - b).mean() > 1e-4 for a, b in itertools.combinations(together, 2))
    again = one.volumes(2, SPACING, REQUESTS)
    assert all(np.array_equal(a, b) for a, b in zip(together, again, strict=True))


def test_every_sample_follows_its_own_control_and_starts_from_its_own_image(fake, codec, scheduler):
    requests = [SampleRequest(7, {"MRI": 1.0}, volume(seed), control(seed + 10)) for seed in (1, 2)]
    made = sampler(codec, scheduler, 3).volumes(1, (2.5, 2.5, 2.5), requests)  # batches hold slices of both
    for one, request in zip(made, requests, strict=True):
        np.testing.assert_allclose(one, request.control[0], atol=1e-6)
    starts = torch.cat([call["start"] for call in fake])[:, 0].numpy()
    np.testing.assert_array_equal(starts, np.concatenate([np.moveaxis(r.image, 1, 0) for r in requests]))


def test_every_slice_has_the_text_of_its_sample(fake, codec, scheduler):
    one = sampler(codec, scheduler, 7)
    one.volumes(2, SPACING, REQUESTS)
    assert [len(call["noise"]) for call in fake] == [7, 7, 1]  # three samples of five slices
    expected = torch.cat([embed_mixture(small_denoiser(codec), r.prompts).expand(5, -1, -1) for r in REQUESTS])
    torch.testing.assert_close(torch.cat([call["text"] for call in fake]), expected)
    for call in fake:
        torch.testing.assert_close(call["negative"], embed_mixture(small_denoiser(codec), {"": 1.0}))
    seen = torch.cat([call["noise"] for call in fake]).view(3, 5, 4, 6, 6)
    for request, noise in zip(REQUESTS, seen, strict=True):
        assert torch.equal(noise, slice_noise("shared", (5, 4, 6, 6), 0.5, 4.0, 2.5, request.seed))


def test_large_slices_go_in_smaller_batches(fake, codec, scheduler):
    for voxels, expected in ((2 * 90, [2, 2, 1]), (89, [1] * 5), (10**6, [5])):
        fake.clear()
        one = sampler(codec, scheduler, 64, slabs=SlabPlan(voxels=voxels))
        assert one.together(SHAPE, 2) == (1 if voxels < 450 else 12)
        one_volume(one)
        assert [len(call["noise"]) for call in fake] == expected


# --- slabs -----------------------------------------------------------------------------------------------------------
SLABS = [SlabPlan(2, 0), SlabPlan(3, 2), SlabPlan(4, 2), SlabPlan(9, 4)]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("slabs", SLABS)
def test_slabs_come_back_in_order_and_upright(fake, codec, scheduler, axis, slabs):
    made = one_volume(sampler(codec, scheduler, 8, slabs=slabs), axis)
    np.testing.assert_allclose(made, control()[0], atol=1e-6)


def test_a_slab_is_denoised_as_neighbours_in_one_batch_with_the_noise_of_its_slices(fake, codec, scheduler):
    one_volume(sampler(codec, scheduler, 7, slabs=SlabPlan(3, 2)))  # slabs from 0, 1, 2: two of them a batch
    of_volume = slice_noise("shared", (5, 4, 6, 6), 0.5, 4.0, 2.5, 7)
    given = torch.from_numpy(volume()).movedim(2, 0)
    assert [(len(call["noise"]), call["stack"]) for call in fake] == [(6, 3), (3, 3)]
    order = [0, 1, 2, 1, 2, 3, 2, 3, 4]
    assert torch.equal(torch.cat([call["noise"] for call in fake]), of_volume[order])
    assert torch.equal(torch.cat([call["start"] for call in fake])[:, 0], given[order])


@pytest.mark.parametrize("plan", [SamplingPlan(3, eta=1.0), SamplingPlan(4, strength=0.5)])
@pytest.mark.parametrize("slabs", SLABS)
def test_slices_that_see_no_neighbours_come_out_alike_in_slabs_of_any_kind(codec, scheduler, plan, slabs):
    """Without layers along the axis, a slice is the same in each slab that it is in: noise and streams are its own."""
    plain = one_volume(sampler(codec, scheduler, plan=plan))
    made = one_volume(sampler(codec, scheduler, 4, plan, slabs=slabs))
    np.testing.assert_allclose(made, plain, atol=1e-5)


def test_control_that_is_made_on_the_way_is_that_of_the_whole(codec, scheduler):
    random = np.random.default_rng(5)
    edge, label = random.random(SHAPE, np.float32), random.integers(0, 3, SHAPE).astype(np.uint8)
    lazy = ControlSlices(edge, label, [1, 2], 2, 0, "separate")
    whole = np.moveaxis(lazy.slices(0, SHAPE[2]), 0, 3)
    one = sampler(codec, scheduler)
    first, second = (one.volumes(2, SPACING, [SampleRequest(7, {"MRI": 1.0}, volume(), c)])[0] for c in (whole, lazy))
    assert np.array_equal(first, second)


def test_volumes_in_files_are_those_in_memory(codec, scheduler, tmp_path):
    kept, filed = (
        one_volume(sampler(codec, scheduler, match_spectrum=1.0, scratch=scratch))
        for scratch in (Scratch(), Scratch(0, tmp_path))
    )
    assert np.array_equal(kept, filed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (SamplingPlan(20), 20),
        (SamplingPlan(20, strength=0.5), 10),
        (SamplingPlan(20, guidance_scale=9.0), 40),
        (SamplingPlan(20, guidance_scale=9.0, strength=0.5, guidance_range=(0.0, 0.7)), 15),
        (SamplingPlan(20, strength=0.01), 1),
    ],
)
def test_network_evaluations_are_counted_as_they_are_made(codec, scheduler, monkeypatch, plan, expected):
    one = sampler(codec, scheduler, 64, plan)
    made = []
    original = one._denoiser.predict
    monkeypatch.setattr(one._denoiser, "predict", lambda *given: made.append(1) or original(*given))
    one_volume(one)
    assert abs(len(made) - expected) <= (plan.guidance_range != (0.0, 1.0))
    assert evaluations(plan) == len(made)
    assert one.seconds_a_slice(SHAPE, 2) > 0
