"""Whether a label lies where its image says: a model of what labels look like, tried on it as it is, mirrored and shifted.

The model is a linear discriminant (Fisher) between the labels and the shell around them, on the image blurred at three scales,
its gradients and their size. It is fitted on other cases by sums alone, so that no image has to be kept. Arrays are in canonical
orientation (axes towards R, A, S); positions are not among the features, so that only the image speaks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
SCALES = (1.0, 2.0, 4.0)  # of the blurs, in voxels of the finest axis
SHELL = 3.0  # thickness of what counts as "just outside", in voxels of the finest axis
SAMPLE = 6000  # voxels that are looked at in a case, shared evenly by its classes
RIDGE = 1e-3  # of the mean variance, so that features that say the same do no harm
INSIDE = 0.8  # share of the voxels that a shift must leave in the image


def reduced(
    image: NDArray[Any], label: NDArray[Any], spacing: Sequence[float], voxels: int
) -> tuple[NDArray[np.float32], NDArray[Any], tuple[float, float, float], tuple[int, int, int]]:
    """Halve the finest axes until at most `voxels` are left: means of the image, central voxels of the label.

    Returns:
        Image, label, their spacing, and the factor of each axis.
    """
    shape, sizes, factors = np.array(image.shape), np.array(spacing, dtype=float), np.ones(3, dtype=int)
    while np.prod(shape // factors) > voxels:
        long = np.where(shape // factors >= 2, sizes * factors, np.inf)
        factors[int(np.argmin(long))] *= 2
    kept = shape // factors * factors
    image, label = (array[tuple(slice(size) for size in kept)] for array in (image, label))
    split = tuple(x for size, factor in zip(kept // factors, factors, strict=True) for x in (size, factor))
    small = image.reshape(split).mean(axis=(1, 3, 5), dtype=np.float32)
    centre = tuple(slice(factor // 2, None, factor) for factor in factors)
    i, j, k = (float(x) for x in sizes * factors)
    return small, label[centre], (i, j, k), (int(factors[0]), int(factors[1]), int(factors[2]))


def features(image: NDArray[Any], spacing: Sequence[float]) -> NDArray[np.float32]:
    """(F, I, J, K): at each scale the image, the size of its gradient, and its gradient (fine scales) or square (coarse)."""
    from scipy.ndimage import gaussian_filter

    axes = [axis for axis in range(3) if image.shape[axis] > 1]
    low, high = np.percentile(image, (0.5, 99.5))
    scaled = np.clip(image, low, high).astype(np.float32)
    scaled = (scaled - scaled.mean()) / (scaled.std() + 1e-6)
    finest = min(spacing[axis] for axis in axes)
    maps: list[NDArray[Any]] = []
    for scale in SCALES:
        blurred = gaussian_filter(scaled, [scale * finest / spacing[a] if a in axes else 0.0 for a in range(3)])
        slopes = [np.gradient(blurred, axis=axis) for axis in axes]
        maps += [blurred, np.sqrt(sum(slope**2 for slope in slopes))]
        maps += slopes if scale < SCALES[-1] else []
        maps += [blurred**2] if scale > SCALES[0] else []
    return np.stack(maps).astype(np.float32)


def region(
    label: NDArray[Any], spacing: Sequence[float], values: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Voxels (n, 3) of the labels and of the shell around them, and their classes (n,): 0 the shell, c the value `values[c - 1]`.

    Of each class at most its share of `SAMPLE` is taken, at even steps.
    """
    from scipy.ndimage import distance_transform_edt

    inside = np.isin(label, values)
    if not inside.any():
        return np.zeros((0, 3), np.int64), np.zeros(0, np.int64)
    axes = [axis for axis in range(3) if label.shape[axis] > 1]
    finest = min(spacing[axis] for axis in axes)
    away = distance_transform_edt(~inside, sampling=[x / finest for x in spacing])
    classes = np.where((away > 0) & (away <= SHELL), 0, -1)
    for number, value in enumerate(values, start=1):
        classes[label == value] = number
    share = max(50, SAMPLE // (len(values) + 1))
    places = []
    for number in range(len(values) + 1):
        found = np.argwhere(classes == number)
        places.append(found[:: max(1, -(-len(found) // share))])
    coordinates = np.concatenate(places)
    return coordinates, np.repeat(np.arange(len(places)), [len(one) for one in places])


@dataclass(frozen=True)
class Moments:
    """What a case adds to the model: weight (C,), sums (C, F) and products (F, F) of its features; a case weighs 1 in all."""

    counts: Float
    sums: Float
    products: Float

    @classmethod
    def of(cls, maps: NDArray[np.float32], at: NDArray[np.int64], classes: NDArray[np.int64], count: int) -> Moments:
        """Of the features at the voxels of a case; `count` classes, the shell included."""
        found = maps[:, at[:, 0], at[:, 1], at[:, 2]].T.astype(np.float64)
        one_hot = np.eye(count)[classes]
        weight = 1.0 / max(len(at), 1)
        return cls(one_hot.sum(axis=0) * weight, one_hot.T @ found * weight, found.T @ found * weight)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.counts + other.counts, self.sums + other.sums, self.products + other.products)

    def __sub__(self, other: Moments) -> Moments:
        return Moments(self.counts - other.counts, self.sums - other.sums, self.products - other.products)


@dataclass(frozen=True)
class LabelModel:
    """Scores of the classes, linear in the features: weights (F, C), offsets (C,); -inf for a class that no case has."""

    weights: Float
    offsets: Float

    @classmethod
    def fit(cls, moments: Moments) -> LabelModel:
        """Linear discriminant with the covariance within classes, all classes as likely; of no labels it knows no class."""
        known = moments.counts > 1e-9
        if not known.any():
            return cls(np.zeros_like(moments.sums.T), np.full(len(known), -np.inf))
        means = moments.sums / np.maximum(moments.counts, 1e-9)[:, None]
        within = (moments.products - (means * moments.counts[:, None]).T @ means) / moments.counts.sum()
        within += RIDGE * np.trace(within) / len(within) * np.eye(len(within))
        weights = np.linalg.solve(within, means.T)
        return cls(weights, np.where(known, -0.5 * (means.T * weights).sum(axis=0), -np.inf))

    def agreement(self, maps: NDArray[np.float32], at: NDArray[np.int64], classes: NDArray[np.int64]) -> Float:
        """Mean log probability (C,) of each class at its voxels (n, 3), those outside left out; NaN for classes not there.

        All NaN where fewer than `INSIDE` of the voxels are inside, or the model knows no class that the case has.
        """
        found = np.full(len(self.offsets), np.nan)
        within = ((at >= 0) & (at < maps.shape[1:])).all(axis=1) & np.isfinite(self.offsets[classes])
        if not within.any() or within.mean() < INSIDE:
            return found
        where, what = at[within], classes[within]
        scores = maps[:, where[:, 0], where[:, 1], where[:, 2]].T @ self.weights + self.offsets
        scores -= scores.max(axis=1, keepdims=True)
        own = scores[np.arange(len(what)), what] - np.log(np.exp(scores).sum(axis=1))
        counts = np.bincount(what, minlength=len(found))
        found[counts > 0] = np.bincount(what, own, minlength=len(found))[counts > 0] / counts[counts > 0]
        return found


@dataclass(frozen=True)
class Gain:
    """What a label gains by being moved, in nats a voxel: in the mean over its classes, and of the class that gains least."""

    mean: float
    least: float


@dataclass(frozen=True)
class LabelFit:
    """How well a label fits as it is, and what it gains by each turn and by the best shift.

    `shift`: where the label should go, in voxels (i, j, k).
    """

    agreement: float
    turns: dict[str, Gain]
    shift: tuple[int, int, int]
    shift_gain: Gain


def label_fit(
    model: LabelModel,
    maps: NDArray[np.float32],
    at: NDArray[np.int64],
    classes: NDArray[np.int64],
    reach: int,
    least: int,
) -> LabelFit | None:
    """Try a label as it is, turned, and shifted by up to `reach` voxels an axis; None where the model can't judge it.

    Args:
        least: shifts of fewer voxels along every axis don't count; borders are drawn no more exactly than that.
    """
    as_it_is = model.agreement(maps, at, classes)
    if np.isnan(as_it_is).all():
        return None
    turns = {
        name: _gain(model.agreement(maps, turned, classes), as_it_is) for name, turned in _turned(at, maps.shape[1:])
    }
    shift, moved = _best_shift(model, maps, at, classes, reach, least)
    return LabelFit(float(np.nanmean(as_it_is)), turns, shift, _gain(moved, as_it_is))


def _gain(moved: Float, as_it_is: Float) -> Gain:
    """-1 where too much of the label would leave the image."""
    gains = (moved - as_it_is)[np.isfinite(moved) & np.isfinite(as_it_is)]
    return Gain(float(gains.mean()), float(gains.min())) if len(gains) else Gain(-1.0, -1.0)


def _turned(at: NDArray[np.int64], shape: Sequence[int]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Names of the ways in which labels are turned by mistake, and the voxels turned so."""
    last = np.asarray(shape) - 1
    names = ("left-right", "back-front", "feet-head") if shape[2] > 1 else ("left-right", "upside down", "")
    for axis, name in enumerate(names):
        if shape[axis] > 1:
            mirrored = at.copy()
            mirrored[:, axis] = last[axis] - mirrored[:, axis]
            yield f"mirrored {name}", mirrored
    if shape[0] > 1 and shape[1] > 1:
        half = at.copy()
        half[:, :2] = last[:2] - half[:, :2]
        yield "turned by 180 degrees in plane", half
        if shape[0] == shape[1]:
            yield "transposed in plane", at[:, [1, 0, 2]]


def _best_shift(
    model: LabelModel,
    maps: NDArray[np.float32],
    at: NDArray[np.int64],
    classes: NDArray[np.int64],
    reach: int,
    least: int,
) -> tuple[tuple[int, int, int], Float]:
    """The best shift of at least `least` voxels along some axis: the best along one axis, then improved along the others."""
    best, found, most = np.zeros(3, dtype=int), np.full(len(model.offsets), np.nan), -np.inf
    axes = [axis for axis in range(3) if maps.shape[1 + axis] > 1]
    for turn in range(3):
        before = best.copy()
        for axis in axes:
            limit = min(reach, maps.shape[1 + axis] // 4)
            for step in range(-limit, limit + 1):
                tried = best.copy() if turn else np.zeros(3, dtype=int)
                tried[axis] = step
                if np.abs(tried).max() < least:
                    continue
                moved = model.agreement(maps, at + tried, classes)
                if not np.isnan(moved).all() and (value := float(np.nanmean(moved))) > most:
                    best, found, most = tried, moved, value
        if (best == before).all():
            break
    return (int(best[0]), int(best[1]), int(best[2])), found
