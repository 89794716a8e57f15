"""Synthetic volumes: slices come back in order, and values and voxels are those of the real file's grid and units."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from small_networks import CONTROLS, small_denoiser

from diffboost3d.cases.records import Case
from diffboost3d.diffusion.sampling import SamplingPlan
from diffboost3d.diffusion.text import embed_mixture
from diffboost3d.imaging.geometry import Grid, resample
from diffboost3d.imaging.intensity import IntensityMap
from diffboost3d.synthesis import volumes
from diffboost3d.synthesis.coherence import slice_noise
from diffboost3d.synthesis.volumes import NoisePlan, SampleRequest, VolumeSampler, in_source_units

SHAPE = (10, 9, 5)
NOISE = NoisePlan("shared", 0.5, 4.0)
WINDOW = IntensityMap("ct_window", -160.0, 240.0, "HU")


def volume(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def control(seed=1, shape=SHAPE):
    return np.random.default_rng(seed).uniform(0, 1, (CONTROLS, *shape)).astype(np.float32)


def sampler(codec, scheduler, batch=3, plan=None, noise=NOISE, precision="no"):
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
    )


def one_volume(sampler, axis=2, seed=7, shape=SHAPE):
    request = SampleRequest(seed, {"MRI": 1.0}, volume(shape=shape), control(shape=shape))
    (made,) = sampler.volumes(axis, 2.5, [request])
    return made


@pytest.fixture
def fake(monkeypatch):
    """Replaces sampling by giving the first control channel back; keeps the calls."""
    calls = []

    def give_control(denoiser, scheduler, codec, plan, noise, text, negative, control, start=None, generator=None):
        calls.append({"noise": noise, "control": control, "start": start, "text": text, "negative": negative})
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
    assert sampler(codec, scheduler, batch).together(slices) == expected


@pytest.mark.parametrize("plan", [SamplingPlan(3, eta=1.0), SamplingPlan(4, strength=0.5, guidance_scale=2.0)])
@pytest.mark.parametrize("batch", [4, 64])
def test_a_sample_is_the_same_alone_and_together_with_others(codec, scheduler, plan, batch):
    one = sampler(codec, scheduler, batch, plan)
    together = one.volumes(2, 2.5, REQUESTS)
    for request, made in zip(REQUESTS, together, strict=True):
        (alone,) = one.volumes(2, 2.5, [request])
        np.testing.assert_allclose(made, alone, atol=1e-5)
    assert all(np.abs(a - b).mean() > 1e-4 for a, b in itertools.combinations(together, 2))
    again = one.volumes(2, 2.5, REQUESTS)
    assert all(np.array_equal(a, b) for a, b in zip(together, again, strict=True))


def test_every_sample_follows_its_own_control_and_starts_from_its_own_image(fake, codec, scheduler):
    requests = [SampleRequest(7, {"MRI": 1.0}, volume(seed), control(seed + 10)) for seed in (1, 2)]
    made = sampler(codec, scheduler, 3).volumes(1, 2.5, requests)  # batches hold slices of both
    for one, request in zip(made, requests, strict=True):
        np.testing.assert_allclose(one, request.control[0], atol=1e-6)
    starts = torch.cat([call["start"] for call in fake])[:, 0].numpy()
    np.testing.assert_array_equal(starts, np.concatenate([np.moveaxis(r.image, 1, 0) for r in requests]))


def test_every_slice_has_the_text_of_its_sample(fake, codec, scheduler):
    one = sampler(codec, scheduler, 7)
    one.volumes(2, 2.5, REQUESTS)
    assert [len(call["noise"]) for call in fake] == [7, 7, 1]  # three samples of five slices
    expected = torch.cat([embed_mixture(small_denoiser(codec), r.prompts).expand(5, -1, -1) for r in REQUESTS])
    torch.testing.assert_close(torch.cat([call["text"] for call in fake]), expected)
    for call in fake:
        torch.testing.assert_close(call["negative"], embed_mixture(small_denoiser(codec), {"": 1.0}))
    seen = torch.cat([call["noise"] for call in fake]).view(3, 5, 4, 6, 6)
    for request, noise in zip(REQUESTS, seen, strict=True):
        assert torch.equal(noise, slice_noise("shared", (5, 4, 6, 6), 0.5, 4.0, 2.5, request.seed))


# --- units -----------------------------------------------------------------------------------------------------------
def turned_case(spacing=None, intensity=WINDOW):
    """A case whose file counts its voxels along S, L and P, with thick slices first."""
    affine = np.array([[0, -1.0, 0, 20], [0, 0, -0.8, 30], [3.0, 0, 0, -40], [0, 0, 0, 1]])
    source = Grid.of((5, 10, 9), affine)
    grid = source.canonical() if spacing is None else source.canonical().with_spacing(spacing)
    return Case("c", "c", "images/c.nii.gz", None, source, grid, intensity, "d")


def test_values_are_in_hu_on_the_voxels_of_the_file():
    case = turned_case()
    assert case.grid.shape == (10, 9, 5)
    made = in_source_units(volume(), case, np.zeros((5, 10, 9)))
    assert made.shape == (5, 10, 9)
    # file axis 0 is S, axis 1 is L (R flipped), axis 2 is P (A flipped)
    expected = volume().transpose(2, 0, 1)[:, ::-1, ::-1].astype(np.float64) * 200 + 40
    np.testing.assert_allclose(made, expected, atol=1e-4)


@pytest.mark.parametrize(("prepared", "hu"), [(-1.0, -160.0), (0.0, 40.0), (1.0, 240.0), (0.5, 140.0)])
def test_known_values(prepared, hu):
    case = turned_case()
    made = in_source_units(np.full((10, 9, 5), prepared, np.float32), case, np.zeros((5, 10, 9)))
    np.testing.assert_allclose(made, hu, atol=1e-4)


def test_outside_the_window_the_real_values_stay():
    case, source = turned_case(), np.zeros((5, 10, 9), np.int16)
    source[0], source[1], source[2, 3, 4], source[3] = -1024, 1500, -161, 240
    made = in_source_units(np.zeros((10, 9, 5), np.float32), case, source)
    outside = (source < -160) | (source > 240)
    assert np.array_equal(made[outside], source[outside])
    assert outside.sum() == 2 * 90 + 1
    np.testing.assert_allclose(made[~outside], 40.0, atol=1e-6)


def test_without_a_window_no_real_value_stays():
    case = turned_case(intensity=IntensityMap("percentiles", -160.0, 240.0))
    source = np.linspace(-1000, 1000, 450).reshape(5, 10, 9)
    np.testing.assert_allclose(in_source_units(np.zeros((10, 9, 5), np.float32), case, source), 40.0, atol=1e-6)


def test_the_grid_of_the_file_is_kept_also_after_resampling():
    case = turned_case(spacing=(2.0, 2.0, 2.0))
    assert case.grid.shape != case.source_grid.shape
    ramp = resample(np.arange(450.0).reshape(5, 10, 9) / 225 - 1, case.source_grid, case.grid, "linear")
    made = in_source_units(ramp, case, np.zeros((5, 10, 9)))
    assert made.shape == (5, 10, 9)
    inner = (slice(1, -1), slice(2, -2), slice(2, -2))
    expected = (np.arange(450.0).reshape(5, 10, 9) / 225 - 1) * 200 + 40
    assert np.abs(made[inner] - expected[inner]).max() < 25  # a sixteenth of the range, on voxels twice as wide


def test_a_real_volume_survives_the_way_there_and_back():
    case = turned_case()
    source = np.random.default_rng(3).integers(-1000, 1500, (5, 10, 9)).astype(np.int16)
    prepared = resample(case.intensity.forward(source), case.source_grid, case.grid, "linear")
    np.testing.assert_allclose(in_source_units(prepared, case, source), source, atol=0.01)
