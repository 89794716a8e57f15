"""Slice noise: standard normal everywhere, and neighbouring slices correlate as asked."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffboost3d.synthesis.coherence import NOISES, measured_rho, slice_noise, texture_correlation

SHAPE = (12, 80, 80)
ERROR = 5 / 80  # five standard errors of a correlation over one slice


def noise(kind, rho=0.5, correlation_mm=4.0, spacing_mm=2.5, seed=3, shape=SHAPE):
    return slice_noise(kind, shape, rho, correlation_mm, spacing_mm, seed)


def correlations(volume):
    return torch.corrcoef(volume.reshape(len(volume), -1).double())


@pytest.mark.parametrize("kind", NOISES)
def test_every_slice_is_standard_normal(kind):
    volume = noise(kind)
    assert volume.shape == SHAPE
    assert volume.dtype == torch.float32
    for one in volume:
        assert abs(float(one.mean())) < ERROR
        assert float(one.std()) == pytest.approx(1, abs=ERROR)
        assert float(one.pow(4).mean()) == pytest.approx(3, abs=1)


@pytest.mark.parametrize("kind", NOISES)
def test_voxels_of_one_slice_are_independent(kind):
    volume = noise(kind)
    assert float((volume[:, 1:] * volume[:, :-1]).mean().abs()) < ERROR
    assert float((volume[..., 1:] * volume[..., :-1]).mean().abs()) < ERROR


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_any_two_slices_of_shared_noise_correlate_by_rho(rho):
    found = correlations(noise("shared", rho=rho))
    expected = torch.full_like(found, rho).fill_diagonal_(1.0)
    assert (found - expected).abs().max() < ERROR


@settings(max_examples=15, deadline=None)
@given(length=st.floats(0.5, 50), spacing=st.floats(0.3, 8), seed=st.integers(0, 2**62))
def test_ar1_noise_correlates_by_the_distance_in_mm(length, spacing, seed):
    found = correlations(noise("ar1", correlation_mm=length, spacing_mm=spacing, seed=seed))
    at = torch.arange(SHAPE[0], dtype=torch.float64) * spacing
    expected = torch.exp(-(at[:, None] - at[None]).abs() / length)
    assert (found - expected).abs().max() < 1.4 * ERROR


def test_independent_noise_shares_nothing():
    found = correlations(noise("independent"))
    assert (found - torch.eye(SHAPE[0])).abs().max() < ERROR


@pytest.mark.parametrize("kind", NOISES)
def test_the_seed_decides_all(kind):
    assert torch.equal(noise(kind), noise(kind))
    assert not torch.equal(noise(kind), noise(kind, seed=4))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    noise(kind)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_extremes_meet():
    assert torch.equal(noise("shared", rho=0.0), noise("independent"))
    assert torch.equal(noise("shared", rho=1.0)[0], noise("shared", rho=1.0)[-1])
    far = noise("ar1", correlation_mm=0.01, spacing_mm=10.0)
    torch.testing.assert_close(far, noise("independent"))
    assert math.isclose(float(noise("ar1", shape=(1, 5, 5)).sum()), float(noise("independent", shape=(1, 5, 5)).sum()))


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="independent, shared, ar1"):
        noise("pink")


# --- measured on scans -----------------------------------------------------------------------------------------------
def scan(neighbours=True, seed=3, anatomy=0.6):
    """(A, B, S): discs that go on through all slices, and texture of which neighbours share a half, or nothing."""
    white = np.random.default_rng(seed).standard_normal((21, 64, 64)).astype(np.float32)
    texture = (white[1:] + white[:-1]) / math.sqrt(2) if neighbours else white[1:]
    i, j = np.mgrid[:64, :64]
    discs = ((i % 16 - 8) ** 2 + (j % 16 - 8) ** 2 < 30).astype(np.float32)
    return np.moveaxis(anatomy * (discs - 0.5) + 0.06 * texture, 0, 2)


@pytest.mark.parametrize("anatomy", [0.0, 0.6])
def test_the_texture_of_neighbouring_slices_is_measured_whatever_the_anatomy(anatomy):
    assert texture_correlation(scan(anatomy=anatomy), axis=2) == pytest.approx(0.5, abs=0.03)
    assert texture_correlation(scan(False, anatomy=anatomy), axis=2) == pytest.approx(0.0, abs=0.03)


def test_it_is_measured_along_the_axis_of_slicing_and_inside_the_range():
    turned = np.moveaxis(scan(), 2, 0).copy()
    turned[:, :20] = -1.0
    assert texture_correlation(turned, axis=0) == pytest.approx(0.5, abs=0.03)


def test_few_slices_share_nothing():
    assert texture_correlation(scan()[..., :3], axis=2) == 0.0
    assert measured_rho([np.zeros((8, 8, 1), np.float32)], axis=2) == 0.0


def test_rho_is_a_tenth_and_leaves_some_noise_to_each_slice():
    assert measured_rho([scan(False), scan(False, 4), scan()], axis=2) == 0.0
    assert measured_rho([scan(seed=seed) for seed in range(3)], axis=2) == 0.9
