"""Classifier two-sample test: can a small network tell synthetic images from real ones of cases it has not seen?

Lopez-Paz and Oquab 2017 (arXiv:1610.06545). Needs no downloaded weights: the classifier is trained on the spot, on the
images themselves, so it looks for whatever sets them apart, noise and sharpness included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from diffboost3d.seeds import Key, generator, seed_of

Float = NDArray[np.float32]
Counts = NDArray[np.float64]

WIDTHS = (16, 24, 32)
SMALLEST_SIDE = 8
_BATCH = 32
_JUDGED_AT_ONCE = 256
_LEARNING_RATE = 2e-2
_DETAIL_GAIN = 4.0  # brings the detail of a smooth image to about the spread of the image
_RESAMPLES = 2000


@dataclass(frozen=True)
class TwoSampleResult:
    """Area under the ROC curve of telling synthetic from real, and its 95 % bootstrap interval over groups.

    Attributes:
        auc: 0.5 for images that this classifier can't tell apart, 1 for images that it always can.
        low, high: the interval; how the area moves with other test groups, not with another training of the classifier.
        folds: the area of each fold.
    """

    auc: float
    low: float
    high: float
    folds: tuple[float, ...]


def two_sample_auc(
    real: Float,
    synthetic: Float,
    real_groups: Sequence[Key],
    synthetic_groups: Sequence[Key],
    *,
    folds: int = 5,
    epochs: int = 10,
    repeats: int = 1,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> TwoSampleResult:
    """Train classifiers by cross-validation over groups and return how well they tell synthetic from real.

    A group (patient) is in one fold with all its images, real and synthetic, so no image is judged by a network that
    has seen its twin. The number of epochs is fixed; nothing is chosen on the fold that is judged. Pairs of a real and
    a synthetic image are compared within folds only, since each fold has a network of its own.

    The area depends on the classifier and on the number of images: 0.5 says that *this* network, with *so many*
    images, found nothing, not that there is nothing. Compare areas only for equal numbers of images and groups. Below
    0.5 is no better than 0.5: it is chance, wide with few groups, or near-copies of an image that stand under
    different groups, which turn what was learned by heart into the wrong answer. As a yardstick, measure real against
    real, halved by group, with the same numbers.

    Args:
        real, synthetic: (N, A, B) slices or (N, A, B, C) patches, float32 in [-1, 1]; the N may differ.
        real_groups, synthetic_groups: the group of each image. A group may be in one or in both.
        folds: parts of the cross-validation, each with its own network.
        epochs: passes over the training part.
        repeats: networks with other initial weights and batches, whose scores are averaged.
        seed: draws the folds, weights and batches; on a CPU the same seed gives the same result.

    Raises:
        ValueError: images of different or unfit shapes, values that aren't finite, a number of groups that isn't that
            of the images, or too few groups to have real and synthetic images in every fold.
    """
    _check(real, real_groups, synthetic, synthetic_groups)
    if epochs < 1 or repeats < 1:
        raise ValueError(f"need at least one epoch and one repeat, got {epochs} and {repeats}")
    numbers = {group: number for number, group in enumerate(dict.fromkeys([*real_groups, *synthetic_groups]))}
    group = np.array([numbers[name] for name in (*real_groups, *synthetic_groups)])
    is_synthetic = np.arange(len(group)) >= len(real)
    fold_of_group = _balanced_folds(group, is_synthetic, folds, seed)
    fold = fold_of_group[group]
    images = torch.from_numpy(np.concatenate([real, synthetic]).astype(np.float32, copy=False)).unsqueeze(1)
    truth = torch.from_numpy(is_synthetic.astype(np.float32))
    scores = np.zeros(len(group))
    for number in range(folds):
        inside = torch.from_numpy(fold == number)
        for repeat in range(repeats):
            key = (seed, "two-sample", number, repeat)
            network = _trained(images[~inside].to(device), truth[~inside].to(device), epochs, key)
            scores[inside.numpy()] += _scores(network, images[inside].to(device))
    wins, pairs = _pairs_by_group(scores, is_synthetic, group, fold)
    return TwoSampleResult(
        float(wins.sum() / pairs.sum()),
        *_bootstrap(wins, pairs, seed),
        tuple(float(wins[member].sum() / pairs[member].sum()) for member in _members(fold_of_group, folds)),
    )


def draw_patches(volume: Float, size: Sequence[int], count: int, *key: Key) -> Float:
    """`count` patches (count, *size) at random places of `volume` (I, J, K).

    The places depend on `key` and the shape alone, so the real and the synthetic volume of one case are cut at the same
    ones, and their patches differ in look only. Raises ValueError for a patch that doesn't fit.
    """
    if len(size) != volume.ndim or any(side > whole for side, whole in zip(size, volume.shape, strict=True)):
        raise ValueError(f"a patch of {tuple(size)} voxels doesn't fit into a volume of {volume.shape}")
    random = generator("two-sample patches", *key)
    rooms = [whole - side + 1 for side, whole in zip(size, volume.shape, strict=True)]
    corners = random.integers(0, rooms, size=(count, len(rooms)))
    windows = [tuple(slice(a, a + side) for a, side in zip(corner, size, strict=True)) for corner in corners]
    return np.stack([volume[window] for window in windows]).astype(np.float32)


class _Classifier(nn.Module):
    """A few strided convolutions; the mean and spread of every layer's maps go straight to one linear score.

    Pooling each layer, not the last one alone, keeps a short way for the faintest signs: noise and blur live in
    the spread of the first maps. The first layer also gets the detail, the image minus its 3-voxel mean, which a
    network this small would learn to take out only after many more epochs.
    """

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        convolution = (nn.Conv2d, nn.Conv3d)[spatial_dims - 2]
        normalisation = (nn.BatchNorm2d, nn.BatchNorm3d)[spatial_dims - 2]
        self.blur = (nn.AvgPool2d, nn.AvgPool3d)[spatial_dims - 2](3, 1, 1, count_include_pad=False)
        layers: list[nn.Module] = []
        for before, width in pairwise((2, *WIDTHS)):
            layers.append(
                nn.Sequential(
                    convolution(before, width, 3, stride=2, padding=1, bias=False),
                    normalisation(width),
                    nn.ReLU(),
                )
            )
        self.layers = nn.ModuleList(layers)
        self.head = nn.Sequential(nn.BatchNorm1d(2 * sum(WIDTHS)), nn.Linear(2 * sum(WIDTHS), 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores (N,) of images (N, 1, ...), higher for synthetic."""
        maps, pooled = torch.cat([images, _DETAIL_GAIN * (images - self.blur(images))], dim=1), []
        for layer in self.layers:
            maps = layer(maps)
            variance, mean = torch.var_mean(maps.flatten(2), dim=2, correction=0)
            pooled += [mean, 0.5 * torch.log(variance + 1e-4)]
        scores: torch.Tensor = self.head(torch.cat(pooled, dim=1)).squeeze(1)
        return scores


def _trained(images: torch.Tensor, truth: torch.Tensor, epochs: int, key: tuple[Key, ...]) -> _Classifier:
    """A classifier trained on images (N, 1, ...) for a fixed number of epochs; real and synthetic weigh the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(*key, "weights"))
        network = _Classifier(images.ndim - 2).to(images.device)
    random = generator(*key, "batches")
    weight = (1 - truth).sum() / truth.sum()
    parts = -(-len(images) // _BATCH)  # parts of nearly equal size: none has a single image, which has no batch spread
    optimiser = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=epochs * parts)
    network.train()
    for _ in range(epochs):
        for chosen in np.array_split(random.permutation(len(images)), parts):
            batch = _flipped(images[chosen], random)
            loss = nn.functional.binary_cross_entropy_with_logits(network(batch), truth[chosen], pos_weight=weight)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
    return network


def _flipped(images: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Each image (N, 1, ...) mirrored along each axis or not, by the toss of a coin."""
    for axis in range(2, images.ndim):
        mirrored = torch.from_numpy(random.random(len(images)) < 0.5).to(images.device)
        images = torch.where(mirrored.view(-1, *[1] * (images.ndim - 1)), images.flip(axis), images)
    return images


@torch.no_grad()
def _scores(network: _Classifier, images: torch.Tensor) -> NDArray[np.float64]:
    network.eval()
    starts = range(0, len(images), _JUDGED_AT_ONCE)
    parts = [network(images[start : start + _JUDGED_AT_ONCE]) for start in starts]
    return np.asarray(torch.cat(parts).double().cpu().numpy())


def _balanced_folds(
    group: NDArray[np.int64], is_synthetic: NDArray[np.bool_], folds: int, seed: int
) -> NDArray[np.int64]:
    """The fold of each group, so that every fold has about the same share of the real and of the synthetic images.

    Uneven shares would show: where a fold holds more real images, its training part holds fewer.
    """
    groups = int(group.max()) + 1
    sizes = np.stack([np.bincount(group[is_synthetic == kind], minlength=groups) for kind in (False, True)], axis=1)
    share = sizes / sizes.sum(axis=0)
    order = generator(seed, "two-sample", "folds").permutation(groups)
    order = order[np.argsort(-share[order].sum(axis=1), kind="stable")]
    fold_of_group = np.zeros(groups, np.int64)
    filled = np.zeros((folds, 2))
    for number in order:
        fold_of_group[number] = np.argmin(filled @ share[number])
        filled[fold_of_group[number]] += share[number]
    if folds < 2 or not (filled > 0).all():
        raise ValueError(f"{groups} groups can't be put into {folds} folds that each have real and synthetic images")
    return fold_of_group


def _pairs_by_group(
    scores: NDArray[np.float64], is_synthetic: NDArray[np.bool_], group: NDArray[np.int64], fold: NDArray[np.int64]
) -> tuple[Counts, Counts]:
    """(G, G) counts for real images of group g and synthetic ones of h: pairs won by the synthetic one, and all pairs.

    A tie is half a win. Pairs across folds don't count. The area under the curve is wins.sum() / pairs.sum().
    """
    groups = int(group.max()) + 1
    wins, pairs = np.zeros((groups, groups)), np.zeros((groups, groups))
    for number in np.unique(fold):
        real = np.flatnonzero((fold == number) & ~is_synthetic)
        synthetic = np.flatnonzero((fold == number) & is_synthetic)
        difference = scores[synthetic][None, :] - scores[real][:, None]
        places = np.ix_(group[real], group[synthetic])
        np.add.at(wins, places, 0.5 * (1 + np.sign(difference)))
        np.add.at(pairs, places, 1.0)
    return wins, pairs


def _bootstrap(wins: Counts, pairs: Counts, seed: int) -> tuple[float, float]:
    """The 95 % percentile interval of the area when groups are drawn anew, with replacement (Efron 1979)."""
    groups = len(wins)
    random = generator(seed, "two-sample", "bootstrap")
    drawn = random.multinomial(groups, np.full(groups, 1 / groups), size=_RESAMPLES).astype(np.float64)
    won, compared = (((drawn @ counts) * drawn).sum(axis=1) for counts in (wins, pairs))
    low, high = np.quantile(won[compared > 0] / compared[compared > 0], [0.025, 0.975])
    return float(low), float(high)


def _members(fold_of_group: NDArray[np.int64], folds: int) -> list[NDArray[np.bool_]]:
    return [fold_of_group == number for number in range(folds)]


def _check(real: Float, real_groups: Sequence[Key], synthetic: Float, synthetic_groups: Sequence[Key]) -> None:
    for name, images, groups in (("real", real, real_groups), ("synthetic", synthetic, synthetic_groups)):
        if images.ndim not in (3, 4) or min(images.shape[1:]) < SMALLEST_SIDE or len(images) == 0:
            raise ValueError(
                f"{name} images must be (N, A, B) or (N, A, B, C) with sides of {SMALLEST_SIDE} or more, got {images.shape}"
            )
        if len(groups) != len(images):
            raise ValueError(f"each {name} image needs a group: {len(images)} images, {len(groups)} groups")
        if not np.isfinite(images).all():
            raise ValueError(f"{int((~np.isfinite(images)).sum())} values of the {name} images aren't finite")
    if real.shape[1:] != synthetic.shape[1:]:
        raise ValueError(f"real and synthetic images differ in shape: {real.shape[1:]} and {synthetic.shape[1:]}")
