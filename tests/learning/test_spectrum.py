"""A synthetic volume takes its real one's noise and sharpness, and nothing else of it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from diffboost3d.synthesis.spectrum import with_spectrum_of

SHAPE = (32, 40, 24)


def anatomy(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Smooth structures in [-0.6, 0.6]."""
    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=shape), [5 if side > 8 else 0 for side in shape])
    return (0.6 * smooth / np.abs(smooth).max()).astype(np.float32)


def grain(seed: int, spread: float, blur: float = 0.0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), blur)
    return (spread * noise / noise.std()).astype(np.float32)


def fine(volume: np.ndarray) -> np.ndarray:
    return volume - gaussian_filter(volume, 2)


def test_noise_gets_the_strength_of_the_real_noise():
    made = with_spectrum_of(anatomy(1) + grain(2, 0.02), anatomy(3) + grain(4, 0.06))
    assert fine(made).std() == pytest.approx(fine(grain(4, 0.06)).std(), rel=0.05)


def test_noise_gets_the_sharpness_of_the_real_noise_along_every_axis():
    for axis, blur in enumerate(np.eye(3)):
        made = with_spectrum_of(anatomy(1) + grain(2, 0.05), anatomy(3) + grain(4, 0.05, blur))
        differences = [np.diff(made, axis=along).std() for along in range(3)]
        wanted = [np.diff(anatomy(3) + grain(4, 0.05, blur), axis=along).std() for along in range(3)]
        assert np.argmin(differences) == axis
        assert differences == pytest.approx(wanted, rel=0.1)


def test_structures_stay_where_they_are_and_the_real_ones_are_not_copied():
    synthetic, real = anatomy(1) + grain(2, 0.02), anatomy(3) + grain(4, 0.06)
    made = with_spectrum_of(synthetic, real)
    own = np.corrcoef(gaussian_filter(made, 2).ravel(), gaussian_filter(synthetic, 2).ravel())[0, 1]
    assert own > 0.995
    before, after = (np.corrcoef(fine(one).ravel(), fine(real).ravel())[0, 1] for one in (synthetic, made))
    assert abs(after - before) < 0.03
    assert made.mean() == pytest.approx(synthetic.mean(), abs=1e-3)


def test_an_equal_spectrum_changes_nothing_and_share_zero_never_does():
    synthetic = anatomy(1) + grain(2, 0.05)
    np.testing.assert_allclose(with_spectrum_of(synthetic, synthetic), synthetic, atol=1e-6)
    assert with_spectrum_of(synthetic, anatomy(3), 0.0) is synthetic


def test_a_share_lies_between():
    synthetic, real = anatomy(1) + grain(2, 0.02), anatomy(3) + grain(4, 0.08)
    spreads = [fine(with_spectrum_of(synthetic, real, share)).std() for share in (0.0, 0.5, 1.0)]
    assert spreads[1] == pytest.approx(np.sqrt(spreads[0] * spreads[2]), rel=0.1)


@pytest.mark.parametrize("shape", [(32, 40, 1), (33, 17, 5), (8, 8, 8)])
def test_flat_and_odd_volumes_stay_in_range(shape):
    made = with_spectrum_of(2 * anatomy(1, shape), np.full(shape, -1.0, np.float32))
    assert made.shape == shape
    assert made.dtype == np.float32
    assert np.abs(made).max() <= 1.0


def test_differing_shapes_are_refused():
    with pytest.raises(ValueError, match="differing shapes"):
        with_spectrum_of(anatomy(1), anatomy(1)[1:])


def test_a_masked_background_stays_empty():
    offsets = np.meshgrid(*(np.arange(side) - side / 2 for side in SHAPE), indexing="ij")
    mask = sum(offset**2 for offset in offsets) < 9**2
    synthetic = np.where(mask, anatomy(1), -1.0).astype(np.float32)
    made = with_spectrum_of(synthetic, np.where(mask, anatomy(3) + grain(4, 0.1), -1.0).astype(np.float32))
    assert (made[~mask] == -1.0).all()
    assert not np.array_equal(made[mask], synthetic[mask])
