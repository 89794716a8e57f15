"""The patient is told from table, air and padding in a CT, and lungs belong to the patient."""

from __future__ import annotations

import numpy as np
import pytest

from diffboost3d.imaging.body import outside_body

SHAPE, SPACING = (60, 50, 6), (2.0, 2.0, 5.0)
AIR = -500.0


def disc(radius: float, centre=(30, 20)) -> np.ndarray:
    i, j = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.repeat((np.hypot(i - centre[0], j - centre[1]) < radius)[:, :, None], SHAPE[2], axis=2)


def scan(*parts: tuple[np.ndarray, float], noise: float = 20.0) -> np.ndarray:
    """Air with noise, and parts of an HU each, later ones over earlier ones."""
    volume = np.full(SHAPE, -1000.0)
    for mask, value in parts:
        volume[mask] = value
    return volume + noise * np.random.default_rng(0).standard_normal(SHAPE)


def table(first: int = 40, thick: int = 2) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[5:55, first : first + thick] = True
    return mask


def outside(volume: np.ndarray, **changes: object) -> np.ndarray:
    given = {"axis": 2, "spacing_mm": SPACING, "air_below": AIR, "thin_mm": 8.0} | changes
    return outside_body(volume, **given)


BODY, LUNG = disc(17), disc(8)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_lungs_are_inside_and_air_and_table_outside(axis) -> None:
    volume = np.moveaxis(scan((BODY, 40), (LUNG, -850), (table(), 150)), 2, axis)
    spacing = np.insert(SPACING[:2], axis, SPACING[2])
    found = np.moveaxis(outside(volume, axis=axis, spacing_mm=spacing), axis, 2)
    assert np.array_equal(found, ~BODY)


def test_a_table_that_touches_the_body_is_outside_but_for_the_contact() -> None:
    volume = scan((table(36), 150), (BODY, 40))
    found = outside(volume)
    assert not found[BODY].any()
    kept = table(36) & ~BODY & ~found
    assert kept.sum() < 0.3 * table(36).sum()
    assert found[5:12, 36:38].all()
    assert found[48:55, 36:38].all()
    assert not outside(volume, thin_mm=0.0)[table(36)].any()


def test_padding_noise_and_bright_dust_are_outside() -> None:
    volume = scan((BODY, 40), (LUNG, -850), noise=60.0)
    volume[~disc(24, (30, 25))] = -3024.0
    volume[55:57, 45:47, 3] = 900.0
    assert np.array_equal(outside(volume), ~BODY)


def test_both_legs_are_body_and_a_small_phantom_is_not() -> None:
    legs = disc(10, (15, 20)) | disc(9, (45, 20))
    found = outside(scan((legs, 40), (disc(4.5, (30, 42)), 100)))
    assert np.array_equal(found, ~legs)


def test_lungs_cut_open_by_the_border_are_inside_where_air_is_known() -> None:
    chest = np.ones(SHAPE, bool)
    chest[:25] = False  # from here on lung, up to the border
    volume = scan((~chest, -850), (chest, 40))
    assert not outside(volume).any()
    assert np.array_equal(outside(volume, lung_above=None), ~chest)


def test_without_tissue_or_with_nothing_else_all_is_inside() -> None:
    assert not outside(scan()).any()
    assert not outside(scan((np.ones(SHAPE, bool), 40))).any()
    assert not outside(np.full((1, 1, 1), 40.0)).any()


def test_a_body_thinner_than_the_table_is_still_found() -> None:
    finger = disc(1.6)
    assert np.array_equal(outside(scan((finger, 40))), ~finger)
