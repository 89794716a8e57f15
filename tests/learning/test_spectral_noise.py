"""Noise by the real volume's spectrum: every slice white, and waves in plane that last along the slices as the real ones do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from small_networks import small_denoiser

from diffboost3d.diffusion.codecs import PackingCodec, padded
from diffboost3d.diffusion.sampling import SamplingPlan
from diffboost3d.diffusion.schedule import make_scheduler
from diffboost3d.synthesis import volumes
from diffboost3d.synthesis.spectral_noise import noise_like
from diffboost3d.synthesis.volumes import NoisePlan, SampleRequest, VolumeSampler

SHAPE = (40, 2, 32, 32)
ERROR = 5 / 32
SLOW, FAST = 0.6, 0.0  # correlation of neighbouring slices, of coarse and of fine waves in plane


def coarse_waves() -> np.ndarray:
    u, v = np.meshgrid(*[np.arange(32) / 32] * 2, indexing="ij")
    return np.hypot(u, v) < 0.5


def lasting(seed: int = 1) -> torch.Tensor:
    """Maps whose coarse waves last long along the slices (AR(1)), and whose fine ones don't."""
    random = np.random.default_rng(seed)
    keep = np.where(coarse_waves(), SLOW, FAST)
    waves = random.standard_normal(SHAPE)
    for at in range(1, SHAPE[0]):
        waves[at] = keep * waves[at - 1] + np.sqrt(1 - keep**2) * waves[at]
    return torch.from_numpy(idctn(waves, axes=(2, 3), norm="ortho").astype(np.float32))


def of_neighbours(maps: torch.Tensor, waves: np.ndarray) -> float:
    """Correlation of neighbouring slices of these waves in plane."""
    found = dctn(maps.numpy(), axes=(2, 3), norm="ortho")[..., waves]
    return float(np.corrcoef(found[1:].ravel(), found[:-1].ravel())[0, 1])


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_every_slice_is_white_and_standard_normal(scale: float) -> None:
    made = noise_like(scale * lasting(), 7)
    assert (made.shape, made.dtype) == (torch.Size(SHAPE), torch.float32)
    for one in made:
        assert abs(float(one.mean())) < ERROR
        assert float(one.std()) == pytest.approx(1, abs=ERROR)
        assert abs(float((one[:, 1:] * one[:, :-1]).mean())) < ERROR
        assert abs(float((one[..., 1:] * one[..., :-1]).mean())) < ERROR
    of_waves = dctn(made.numpy(), axes=(2, 3), norm="ortho")
    for part in (coarse_waves(), ~coarse_waves()):
        assert of_waves[..., part].var() == pytest.approx(1, abs=ERROR)


def test_waves_last_as_those_of_the_maps() -> None:
    made, coarse = noise_like(lasting(), 7), coarse_waves()
    inside, outside = coarse.copy(), ~coarse
    inside[8:] = inside[:, 8:] = False
    outside[:24, :24] = False  # smoothing blurs the border between the two
    assert of_neighbours(made, inside) == pytest.approx(SLOW, abs=0.1)
    assert of_neighbours(made, outside) == pytest.approx(FAST, abs=0.12)


def test_noise_of_white_maps_is_shared_by_no_slices() -> None:
    white = torch.from_numpy(np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32))
    made = noise_like(white, 7).reshape(SHAPE[0], -1)
    assert (torch.corrcoef(made) - torch.eye(SHAPE[0])).abs().max() < 0.3
    assert abs(of_neighbours(made.reshape(SHAPE), np.ones((32, 32), bool))) < 0.05


def test_the_maps_themselves_are_not_in_it() -> None:
    maps, made = lasting(), noise_like(lasting(), 7)
    assert abs(float(np.corrcoef(maps.ravel(), made.ravel())[0, 1])) < 0.05


def test_the_seed_decides_all_and_one_slice_is_plain_noise() -> None:
    assert torch.equal(noise_like(lasting(), 7), noise_like(lasting(), 7))
    assert not torch.equal(noise_like(lasting(), 7), noise_like(lasting(), 8))
    one = noise_like(lasting()[:1], 7)
    assert torch.equal(one, torch.randn(one.shape, generator=torch.Generator().manual_seed(7)))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("axis", [0, 2])
def test_a_volume_is_made_from_noise_by_its_own_image(channels, axis, monkeypatch) -> None:
    codec, shape = PackingCodec("haar", 2, (1.5, 0.3, 0.2, 0.1)), (9, 10, 7)
    if channels == 2:
        from diffboost3d.diffusion.codecs import ChannelsCodec

        codec = ChannelsCodec([codec, codec])
    image = np.random.default_rng(3).uniform(-1, 1, shape if channels == 1 else (channels, *shape)).astype(np.float32)
    control = np.zeros((3, *shape), np.float32)
    seen = []

    def watched(*given, **more):
        seen.append(given[4])
        return given[8]

    monkeypatch.setattr(volumes, "sample", watched)
    denoiser = small_denoiser(codec)
    sampler = VolumeSampler(
        denoiser,
        make_scheduler(1000, "scaled_linear", "v_prediction", True),
        codec,
        SamplingPlan(2, strength=0.5),
        NoisePlan("spectrum", 0.0, 4.0),
        "",
        4,
        torch.device("cpu"),
    )
    (made,) = sampler.volumes(axis, (1.0, 1.0, 2.5), [SampleRequest(7, {"MRI": 1.0}, image, control)])
    np.testing.assert_allclose(made, image, atol=1e-6)
    slices = torch.from_numpy(np.moveaxis(image.reshape(channels, *shape), axis + 1, 0).copy())
    sides = [-(-side // denoiser.divisor) * denoiser.divisor for side in slices.shape[-2:]]
    expected = noise_like(codec.encode(padded(slices, sides)), 7)
    torch.testing.assert_close(torch.cat(seen), expected, rtol=0, atol=1e-4)
