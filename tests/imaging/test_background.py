"""What lies outside the field of view is told from what a scanner measured."""

from __future__ import annotations

import numpy as np
import pytest

from diffboost3d.imaging.background import background

SHAPE = (24, 20, 6)


def disc(radius: float, shape=SHAPE) -> np.ndarray:
    i, j = np.mgrid[: shape[0], : shape[1]]
    inside = np.hypot(i - (shape[0] - 1) / 2, j - (shape[1] - 1) / 2) < radius
    return np.repeat(inside[:, :, None], shape[2], axis=2)


def tissue(seed=0, shape=SHAPE) -> np.ndarray:
    return 100 + 10 * np.random.default_rng(seed).random(shape)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("filling", [0, -1000, 4095])
def test_constant_filling_around_a_round_field_of_view_is_background(axis, filling) -> None:
    inside = disc(8)
    volume = np.where(inside, tissue(), filling)
    found = background(np.moveaxis(volume, 2, axis), axis)
    found = np.moveaxis(found, axis, 2)
    assert not found[inside].any()
    assert found[~inside].all()


def test_noise_is_not_background_however_dark() -> None:
    random = np.random.default_rng(1)
    rician = np.hypot(random.normal(0, 5, SHAPE), random.normal(0, 5, SHAPE))
    for noisy in (rician, np.round(rician), np.round(rician).astype(np.uint8)):
        assert background(np.where(disc(8), tissue(), noisy), 2).mean() < 0.01


def test_a_hole_in_a_mask_and_a_dark_organ_are_not_background() -> None:
    volume = np.where(disc(8), tissue(), 0.0)
    volume[10:14, 8:12] = 0.0
    found = background(volume, 2)
    assert not found[10:14, 8:12].any()
    assert found[0].all()


def test_a_volume_without_filling_or_full_of_it() -> None:
    assert not background(tissue(), 2).any()
    assert background(np.zeros(SHAPE), 2).all()
    assert background(np.zeros((1, 1, 1)), 2).all()


def test_of_two_constants_only_the_commonest_is_filling() -> None:
    volume = np.where(disc(8), tissue(), 0.0)
    volume[:, :4, 0] = 255.0  # e.g. a burnt-in bar
    found = background(volume, 2)
    assert not found[:, :4, 0].any()
    assert found[:3, 6:, 0].all()


def test_flat_pictures_and_whole_empty_slices() -> None:
    volume = np.where(disc(8), tissue(), 0.0)
    volume[:, :, 5] = 0.0
    assert background(volume, 2)[:, :, 5].all()
    picture = volume[:, :, :1].astype(np.uint8)
    assert background(picture, 2)[0].all()
