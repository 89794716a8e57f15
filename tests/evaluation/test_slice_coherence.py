"""Coherence measures: known answers on made-up volumes, and their order on a real one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics.regression import SSIMMetric
from scipy.ndimage import gaussian_filter

from diffboost3d.evaluation.coherence import (
    body,
    coherence,
    detail_anisotropy,
    mean_jump,
    neighbour_ncc,
    neighbour_ssim,
    reslices,
    slice_difference,
)


def smooth_volume(seed: int = 0, shape: tuple[int, int, int] = (20, 24, 16)) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2.0)
    return np.clip(noise / np.abs(noise).max(), -1, 1).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_is_as_coherent_as_itself(axis: int) -> None:
    volume = smooth_volume()
    figures = coherence(volume, volume, np.ones(volume.shape, bool), axis)
    assert figures.difference_ratio == pytest.approx(1.0)
    assert figures.jump_ratio == pytest.approx(1.0)
    assert (figures.ssim_gap, figures.ncc_gap, figures.anisotropy_gap) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flicker_along_the_slice_axis_is_seen_there_and_nowhere_else(axis: int) -> None:
    volume, random = smooth_volume(), np.random.default_rng(1)
    shape = [1, 1, 1]
    shape[axis] = volume.shape[axis]
    flickering = volume + 0.2 * random.standard_normal(shape)
    mask = np.ones(volume.shape, bool)
    along = coherence(volume, flickering, mask, axis)
    across = coherence(volume, flickering, mask, (axis + 1) % 3)
    assert along.difference_ratio > 2
    assert along.jump_ratio > 2
    assert along.anisotropy_gap > 0.5
    assert along.ssim_gap < -0.05
    assert across.difference_ratio == pytest.approx(1.0, abs=1e-6)
    assert across.jump_ratio == pytest.approx(1.0, abs=1e-6)


def test_slices_too_alike_have_a_ratio_below_one() -> None:
    volume = smooth_volume()
    blurred = gaussian_filter(volume, (0, 0, 2.0))
    figures = coherence(volume, blurred, np.ones(volume.shape, bool), 2)
    assert figures.difference_ratio < 0.8
    assert figures.anisotropy_gap < 0 < figures.ncc_gap


def test_known_differences_and_jumps() -> None:
    volume = np.zeros((3, 4, 4))
    volume[1] = 0.5
    everywhere = np.ones(volume.shape, bool)
    assert slice_difference(volume, everywhere) == 0.5
    assert mean_jump(volume, everywhere) == 0.5
    volume[1, ::2] = -0.5  # the slice varies, its mean doesn't
    assert slice_difference(volume, everywhere) == 0.5
    assert mean_jump(volume, everywhere) == 0.0


def test_what_lies_outside_the_mask_does_not_count() -> None:
    volume, mask = smooth_volume(), np.zeros((20, 24, 16), bool)
    mask[4:16, 4:20] = True
    changed = np.where(mask, volume, np.random.default_rng(2).standard_normal(volume.shape))
    for measure in (slice_difference, neighbour_ncc, mean_jump, detail_anisotropy):
        inner = [measure(np.moveaxis(v, 2, 0), np.moveaxis(mask, 2, 0)) for v in (volume, changed)]
        assert inner[0] == pytest.approx(inner[1])


def test_ssim_agrees_with_a_reference_implementation() -> None:
    slices = np.moveaxis(smooth_volume(3), 2, 0)[:2].astype(np.float64)
    first, second = (torch.from_numpy(plane)[None, None] for plane in slices)
    reference = SSIMMetric(spatial_dims=2, data_range=2.0, win_size=11, kernel_sigma=1.5)(first, second)
    inside = np.zeros(slices.shape, bool)
    inside[:, 5:-5, 5:-5] = True  # where the window of the reference lies within the slice
    assert neighbour_ssim(slices, inside) == pytest.approx(float(reference), abs=1e-5)


def test_white_noise_is_isotropic() -> None:
    noise = np.random.default_rng(0).standard_normal((24, 24, 24))
    assert abs(detail_anisotropy(noise, np.ones(noise.shape, bool))) < 0.05


def test_an_empty_mask_and_slices_of_one_value_are_said_by_nan() -> None:
    flat = np.zeros((4, 5, 5))
    assert math.isnan(neighbour_ncc(flat, np.ones(flat.shape, bool)))
    assert math.isnan(slice_difference(flat, np.zeros(flat.shape, bool)))


def test_the_body_of_a_volume_of_air_is_all_of_it() -> None:
    image = np.full((8, 8, 8), -1.0)
    assert body(image).all()
    image[2:6, 2:6, 2:6] = 0.0
    assert body(image).sum() == 64


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_reslices_hold_the_slice_axis_last(axis: int) -> None:
    shape = [10, 12, 14]
    shape[axis] = 6
    steps = np.arange(6).reshape([-1 if index == axis else 1 for index in range(3)])
    planes, groups = reslices([np.broadcast_to(steps, shape)] * 2, axis, (8, 6), every=3)
    assert planes.shape[1:] == (8, 6)
    assert (planes == np.arange(6)).all()
    assert len(planes) == len(groups)
    assert set(groups) == {0, 1}


def test_impossible_inputs_are_refused() -> None:
    volume = smooth_volume()
    with pytest.raises(ValueError, match="shapes differ"):
        coherence(volume, volume[1:], np.ones(volume.shape, bool), 2)
    with pytest.raises(ValueError, match="two slices"):
        coherence(volume[..., :1], volume[..., :1], np.ones((20, 24, 1), bool), 2)
    with pytest.raises(ValueError, match="cropped"):
        reslices([volume], 2, (40, 16))
