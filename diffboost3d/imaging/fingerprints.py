"""Fingerprints of images, and which images are nearly the same: re-saved, re-scaled, a little moved, or with marks drawn in.

A fingerprint is the middle slice of an image, averaged to 32 x 32 numbers. Two images are nearly the same where the
correlation of all of it is high, and that of its detail (what a Gaussian takes away) is not low: pictures of one scanner have
brightness by depth in common, and their frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 32
DETAIL_SIGMA = 4.0  # of the Gaussian, in numbers of the fingerprint
BLOCK = 2048  # fingerprints that are compared at once with all others


@dataclass(frozen=True)
class Likeness:
    """What makes two images nearly the same.

    Attributes:
        similarity: least correlation of two fingerprints. detail: least correlation of their detail.
        flips: an image is compared with the others mirrored left-right too.
    """

    similarity: float = 0.95
    detail: float = 0.4
    flips: bool = False


@dataclass(frozen=True, order=True)
class Twins:
    """Two images, by number, that are nearly the same, and the correlation of their fingerprints."""

    first: int
    second: int
    similarity: float
    flipped: bool = False


def fingerprint(array: NDArray[Any], axis: int = 2) -> NDArray[np.float32]:
    """The middle slice of an image (I, J, K) across `axis`, as float32 (SIDE, SIDE)."""
    from PIL import Image

    middle = np.take(array, array.shape[axis] // 2, axis=axis).astype(np.float32)
    small = Image.fromarray(middle).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32)


def near_duplicates(prints: Sequence[NDArray[np.float32]], likeness: Likeness) -> list[Twins]:
    """All pairs of images that are nearly the same, by number; every pair is compared, by products of matrices."""
    if len(prints) < 2:
        return []
    stack = np.stack(prints)
    looks, details = _unit(stack), _unit(_detail(stack))
    found = _pairs(looks, looks, details, details, likeness, flipped=False)
    if likeness.flips:
        mirrored = stack[:, ::-1]  # i runs left-right
        plain = {(twins.first, twins.second) for twins in found}
        more = _pairs(looks, _unit(mirrored), details, _unit(_detail(mirrored)), likeness, flipped=True)
        found += [twins for twins in more if (twins.first, twins.second) not in plain]
    return sorted(found)


def _pairs(
    looks: NDArray[np.float32],
    others: NDArray[np.float32],
    details: NDArray[np.float32],
    other_details: NDArray[np.float32],
    likeness: Likeness,
    flipped: bool,
) -> list[Twins]:
    found = []
    for first in range(0, len(looks), BLOCK):
        alike = looks[first : first + BLOCK] @ others.T
        for row, column in np.argwhere(alike > likeness.similarity):
            one, other = first + int(row), int(column)
            if one < other and float(details[one] @ other_details[other]) > likeness.detail:
                found.append(Twins(one, other, round(float(alike[row, column]), 4), flipped))
    return found


def groups_of(count: int, twins: Sequence[Twins]) -> list[list[int]]:
    """Which of `count` images hang together, directly or by others: groups of two or more, each ascending, by first image."""
    leader = list(range(count))

    def find(one: int) -> int:
        while leader[one] != one:
            leader[one] = leader[leader[one]]
            one = leader[one]
        return one

    for pair in twins:
        one, other = sorted((find(pair.first), find(pair.second)))
        leader[other] = one
    members: dict[int, list[int]] = {}
    for one in range(count):
        members.setdefault(find(one), []).append(one)
    return [group for group in members.values() if len(group) > 1]


def _detail(stack: NDArray[np.float32]) -> NDArray[np.float32]:
    from scipy.ndimage import gaussian_filter

    smooth: NDArray[np.float32] = gaussian_filter(stack, (0, DETAIL_SIGMA, DETAIL_SIGMA), mode="nearest")
    return stack - smooth


def _unit(stack: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, SIDE * SIDE) of mean 0 and length 1; a constant one stays 0 and is like none."""
    flat = stack.reshape(len(stack), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(flat, length, out=np.zeros_like(flat), where=length > 1e-6).astype(np.float32)
    return unit
