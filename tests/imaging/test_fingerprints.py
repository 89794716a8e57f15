"""Near-duplicates: what was re-saved, re-scaled or marked is found, what only has brightness by depth in common is not."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from diffboost3d.imaging.fingerprints import Likeness, Twins, fingerprint, groups_of, near_duplicates


def picture(number: int, shape: tuple[int, int] = (96, 80)) -> np.ndarray:
    """Blobs below a brightness that falls with depth (j), all of one scanner."""
    random = np.random.default_rng(number)
    blobs = gaussian_filter(random.normal(size=shape), 4)
    depth = np.linspace(200, 20, shape[1])[None, :]
    return (depth + 25 * blobs / blobs.std())[:, :, None].astype(np.float32)


def found(*pictures: np.ndarray, **settings: object) -> list[tuple[int, int]]:
    twins = near_duplicates([fingerprint(one) for one in pictures], Likeness(**settings))  # type: ignore[arg-type]
    return [(one.first, one.second) for one in twins]


def test_a_copy_that_was_rescaled_and_marked_is_found() -> None:
    copy = zoom(picture(0), (1.3, 0.9, 1), order=1)
    copy[10:14, 60:64] = 255
    assert found(picture(0), picture(1), 0.8 * copy + 9, picture(2)) == [(0, 2)]


def test_depth_alone_makes_no_duplicate() -> None:
    depth = np.linspace(200, 20, 80)[None, :, None]
    faint = [0.2 * picture(number) + 0.8 * depth for number in (0, 1)]
    assert found(*faint, detail=-1.0) == [(0, 1)]
    assert found(*faint) == []


def test_mirrored_pictures_are_found_where_that_is_asked_for() -> None:
    pair = picture(0), picture(0)[::-1]
    assert found(*pair) == []
    assert found(*pair, flips=True) == [(0, 1)]


def test_the_middle_slice_stands_for_a_volume() -> None:
    volume = np.stack([picture(number)[:, :, 0] for number in range(5)], axis=1)
    assert np.array_equal(fingerprint(volume, axis=1), fingerprint(picture(2)))


def test_constant_pictures_and_single_ones_are_like_none() -> None:
    assert found(np.ones((40, 40, 1)), np.ones((40, 40, 1))) == []
    assert found(picture(0)) == []
    assert near_duplicates([], Likeness()) == []


def test_what_hangs_together_by_others_is_one_group() -> None:
    assert groups_of(6, [Twins(3, 5, 1.0), Twins(1, 3, 1.0), Twins(0, 4, 1.0)]) == [[0, 4], [1, 3, 5]]
