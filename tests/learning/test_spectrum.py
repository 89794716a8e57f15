"""A synthetic volume takes its real one's noise and sharpness, and nothing else of it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from diffboost3d.imaging.scratch import Scratch
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


def blocks(seed: int, spread: float, axes: tuple[int, ...], shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Noise, most of which is the same in both voxels of a block along `axes`."""
    coarse = [-(-side // 2) if axis in axes else side for axis, side in enumerate(shape)]
    noise = np.random.default_rng(seed).normal(size=coarse)
    for axis in axes:
        noise = noise.repeat(2, axis)
    return (spread * noise[tuple(slice(side) for side in shape)]).astype(np.float32) + grain(
        seed + 1, 0.3 * spread, 0.0, shape
    )


def inside_over_between(volume: np.ndarray, axis: int) -> float:
    """Energy of the differences inside blocks, over that of the differences between blocks."""
    squares = np.diff(np.moveaxis(volume, axis, 0), axis=0) ** 2
    return float(squares[::2].mean() / squares[1::2].mean())


@pytest.mark.parametrize("shape", [SHAPE, (33, 41, 24), (40, 56, 1)])
def test_the_grid_of_a_codec_of_blocks_vanishes(shape):
    synthetic = anatomy(1, shape) + blocks(2, 0.05, (0, 1), shape)
    real = anatomy(3, shape) + grain(4, 0.06, 0.5, shape)
    made = with_spectrum_of(synthetic, real, block_axes=(0, 1))
    for axis in (0, 1):
        assert inside_over_between(synthetic, axis) < 0.3
        assert inside_over_between(with_spectrum_of(synthetic, real), axis) < 0.5  # power alone can't
        assert inside_over_between(made, axis) == pytest.approx(1.0, abs=0.25)


def test_a_grid_along_all_axes_vanishes_too():
    synthetic = anatomy(1) + blocks(2, 0.05, (0, 1, 2))
    made = with_spectrum_of(synthetic, anatomy(3) + grain(4, 0.06), block_axes=(0, 1, 2))
    assert [inside_over_between(made, axis) for axis in range(3)] == pytest.approx([1.0] * 3, abs=0.2)


def test_a_grid_that_the_real_volume_has_is_taken_over():
    made = with_spectrum_of(anatomy(1) + grain(2, 0.05), anatomy(3) + blocks(4, 0.05, (0,)), block_axes=(0, 1))
    wanted = anatomy(3) + blocks(4, 0.05, (0,))
    assert inside_over_between(made, 0) == pytest.approx(inside_over_between(wanted, 0), abs=0.1)
    assert inside_over_between(made, 1) == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("block_axes", [(), (0, 1)])
def test_noise_gets_the_strength_of_the_real_noise(block_axes):
    made = with_spectrum_of(anatomy(1) + grain(2, 0.02), anatomy(3) + grain(4, 0.06), block_axes=block_axes)
    assert fine(made).std() == pytest.approx(fine(grain(4, 0.06)).std(), rel=0.05)


def test_noise_gets_the_sharpness_of_the_real_noise_along_every_axis():
    for axis, blur in enumerate(np.eye(3)):
        made = with_spectrum_of(anatomy(1) + grain(2, 0.05), anatomy(3) + grain(4, 0.05, blur))
        differences = [np.diff(made, axis=along).std() for along in range(3)]
        wanted = [np.diff(anatomy(3) + grain(4, 0.05, blur), axis=along).std() for along in range(3)]
        assert np.argmin(differences) == axis
        assert differences == pytest.approx(wanted, rel=0.15)  # slow waves, which are left alone, have a share in it


@pytest.mark.parametrize("block_axes", [(), (0, 1)])
def test_structures_stay_where_they_are_and_the_real_ones_are_not_copied(block_axes):
    synthetic, real = anatomy(1) + grain(2, 0.02), anatomy(3) + grain(4, 0.06)
    made = with_spectrum_of(synthetic, real, block_axes=block_axes)
    own = np.corrcoef(gaussian_filter(made, 2).ravel(), gaussian_filter(synthetic, 2).ravel())[0, 1]
    assert own > 0.995
    before, after = (np.corrcoef(fine(one).ravel(), fine(real).ravel())[0, 1] for one in (synthetic, made))
    assert abs(after - before) < 0.03
    assert made.mean() == pytest.approx(synthetic.mean(), abs=1e-3)


@pytest.mark.parametrize("block_axes", [(), (0, 1), (0, 1, 2)])
def test_an_equal_spectrum_changes_nothing_and_share_zero_never_does(block_axes):
    synthetic = anatomy(1) + grain(2, 0.05)
    made = with_spectrum_of(synthetic, synthetic, block_axes=block_axes)
    np.testing.assert_allclose(made, synthetic, atol=1e-5)
    assert with_spectrum_of(synthetic, anatomy(3), 0.0) is synthetic


def test_a_share_lies_between():
    synthetic, real = anatomy(1) + grain(2, 0.02), anatomy(3) + grain(4, 0.08)
    spreads = [fine(with_spectrum_of(synthetic, real, share)).std() for share in (0.0, 0.5, 1.0)]
    assert spreads[1] == pytest.approx(np.sqrt(spreads[0] * spreads[2]), rel=0.1)


@pytest.mark.parametrize("block_axes", [(), (0, 1)])
@pytest.mark.parametrize("shape", [(32, 40, 1), (33, 17, 5), (8, 8, 8), (2, 3, 4)])
def test_flat_and_odd_volumes_stay_in_range(shape, block_axes):
    made = with_spectrum_of(2 * anatomy(1, shape), np.full(shape, -1.0, np.float32), block_axes=block_axes)
    assert made.shape == shape
    assert made.dtype == np.float32
    assert np.abs(made).max() <= 1.0


def test_differing_shapes_are_refused():
    with pytest.raises(ValueError, match="differing shapes"):
        with_spectrum_of(anatomy(1), anatomy(1)[1:])


@pytest.mark.parametrize("block_axes", [(), (0, 1)])
def test_a_masked_background_stays_empty(block_axes):
    offsets = np.meshgrid(*(np.arange(side) - side / 2 for side in SHAPE), indexing="ij")
    mask = sum(offset**2 for offset in offsets) < 9**2
    synthetic = np.where(mask, anatomy(1), -1.0).astype(np.float32)
    real = np.where(mask, anatomy(3) + grain(4, 0.1), -1.0).astype(np.float32)
    made = with_spectrum_of(synthetic, real, block_axes=block_axes)
    assert (made[~mask] == -1.0).all()
    assert not np.array_equal(made[mask], synthetic[mask])


def test_files_in_the_place_of_memory_change_nothing(tmp_path):
    synthetic, real = anatomy(1) + blocks(2, 0.05, (0, 1)), anatomy(3) + grain(4, 0.06)
    in_files = with_spectrum_of(synthetic, real, scratch=Scratch(0.0, tmp_path), block_axes=(0, 1))
    np.testing.assert_array_equal(in_files, with_spectrum_of(synthetic, real, block_axes=(0, 1)))


def wave(length_mm: float, axis: int, spacing_mm: tuple[float, ...], shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A cosine along an axis, mirrored at the borders."""
    side = [1, 1, 1]
    side[axis] = shape[axis]
    phase = 2 * np.pi * (np.arange(shape[axis]) + 0.5) * spacing_mm[axis] / length_mm
    return np.broadcast_to(np.cos(phase).reshape(side), shape).astype(np.float32)


def strength_of(volume: np.ndarray, of: np.ndarray) -> float:
    return float((volume * of).sum() / (of * of).sum())


@pytest.mark.parametrize("block_axes", [(), (0, 1), (0, 1, 2)])
def test_slow_waves_are_the_real_ones_and_fine_ones_stay(block_axes):
    spacing = (1.0, 1.0, 2.5)  # 32 x 40 x 60 mm
    slow, fine_ = wave(30.0, 2, spacing), wave(8.0, 1, spacing)
    real, synthetic = 0.3 * slow + 0.1 * fine_, -0.2 * slow + 0.25 * fine_ + 0.1
    made = with_spectrum_of(synthetic.copy(), real, 0.0, block_axes=block_axes, slow_mm=20.0, spacing_mm=spacing)
    assert strength_of(made, slow) == pytest.approx(0.3, abs=1e-4)
    assert strength_of(made, fine_) == pytest.approx(0.25, abs=1e-4)
    assert made.mean() == pytest.approx(0.0, abs=1e-4)
    kept = with_spectrum_of(synthetic.copy(), real, 0.0, block_axes=block_axes, slow_mm=50.0, spacing_mm=spacing)
    assert strength_of(kept, slow) == pytest.approx(-0.2, abs=1e-4)


def test_an_organ_that_is_too_dark_gets_its_mean_back():
    organ = gaussian_filter((anatomy(5) > 0.1).astype(np.float32), 0.5)
    real = anatomy(3) * 0.2 + 0.4 * organ + grain(4, 0.05)
    synthetic = anatomy(3) * 0.2 + 0.25 * organ + grain(6, 0.05)
    inside = organ > 0.9
    before, after = (
        abs(np.median(one[inside]) - np.median(real[inside]))
        for one in (synthetic, with_spectrum_of(synthetic.copy(), real, slow_mm=12.0))
    )
    assert before > 0.1
    assert after < 0.03


def test_slow_waves_alone_leave_texture_as_it_was():
    synthetic, real = anatomy(1) + grain(2, 0.05), anatomy(3) + grain(4, 0.1)
    made = with_spectrum_of(synthetic.copy(), real, 0.0, slow_mm=16.0)
    assert np.corrcoef(fine(made).ravel(), fine(synthetic).ravel())[0, 1] > 0.85
    assert np.corrcoef(fine(made).ravel(), fine(real).ravel())[0, 1] < 0.4
    assert np.corrcoef(gaussian_filter(made, 4).ravel(), gaussian_filter(real, 4).ravel())[0, 1] > 0.98
