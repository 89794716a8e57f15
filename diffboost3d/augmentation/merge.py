"""Cuboid merging as a TorchIO transform: real and other volumes mixed by random cuboids, in 3D and 2D, in any pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import index
from typing import Any

import numpy as np
import torch
import torchio as tio
from torchio.transforms.augmentation import RandomTransform

from diffboost3d.augmentation.cuboids import (
    HARD,
    CuboidPlan,
    Cuboids,
    foreground_of,
    masks,
    merge_images,
    merge_labels,
)

Names = str | Sequence[str]
LABEL, SYNTHETIC_LABEL = "label", "synthetic_label"  # may be missing in a subject; a name that is given must be there
SPACING_TOLERANCE = 0.01


class CuboidMerge(RandomTransform):  # type: ignore[misc]
    """Merge a subject's images with other ones of its on random cuboids; a TorchIO transform.

    x = M * real + (1 - M) * other, where M is constant on cuboids and P(M = 1) = alpha. The others may be synthetic images of
    the same label (`label` stays), synthetic ones of a label of their own (`synthetic_label`, merged alike), or another
    patient's (CutMix). All images (C, I, J, K) and labels of a subject get the same cuboids. They are drawn from torch's global
    generator, as all of TorchIO's, and are kept in the subject's history as plain values: `subject.get_composed_history()`
    replays them.

    Args:
        alpha: probability that a cuboid is real, or the range (low, high) that it is drawn from, evenly, at every call.
        cell: edge of the cuboids in voxels, one number or one an axis.
        cell_mm: the same in mm by the spacing of the image, to the nearest voxel and at least one; goes before `cell`.
        feather: standard deviation in voxels by which borders are blended; 0: hard. Labels are always hard.
        feather_mm: the same in mm, alike along every axis in space; goes before `feather`.
        mask_foreground: keep real voxels wherever the real label isn't 0 (True), or has one of these values.
        image, synthetic: names of the real images and of what they are merged with, in the same order.
        label, synthetic_label: names of the label maps. With their defaults, what the subject has is merged; another name
            must be in the subject. `synthetic_label=None`: the labels stay.
        remove: take the other images and labels out of the subject afterwards, so that transforms that follow needn't move them.
        kwargs: of every TorchIO transform: `p`, `copy`, `include`, `exclude`, `keep`, `label_keys`.

    Raises:
        ValueError: a value outside its range. On a call: images that don't lie on one grid (shape, spacing to 1 %,
            orientation; the identity, as of a bare tensor, fits any).
        KeyError: on a call, an image that the subject doesn't have.

    Examples:
        >>> import torch, torchio as tio
        >>> subject = tio.Subject(
        ...     image=tio.ScalarImage(tensor=torch.ones(1, 8, 8, 8)),
        ...     synthetic=tio.ScalarImage(tensor=torch.zeros(1, 8, 8, 8)),
        ... )
        >>> merged = CuboidMerge(alpha=0.5, cell=4)(subject)
        >>> sorted(merged.image.data.unique().tolist()) in ([0.0], [1.0], [0.0, 1.0])
        True
        >>> again = merged.get_composed_history()(subject)
        >>> torch.equal(again.image.data, merged.image.data)
        True
    """

    def __init__(
        self,
        alpha: float | Sequence[float] = 0.6,
        cell: int | Sequence[int] = 16,
        cell_mm: float | Sequence[float] | None = None,
        feather: float = 0.0,
        feather_mm: float | None = None,
        mask_foreground: bool | int | Sequence[int] = False,
        image: Names = "image",
        synthetic: Names = "synthetic",
        label: Names | None = LABEL,
        synthetic_label: Names | None = SYNTHETIC_LABEL,
        remove: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.alpha = _number_or_range(alpha)
        self.cell = tuple(map(index, cell)) if isinstance(cell, Sequence) else (index(cell),)
        self.cell_mm = tuple(cell_mm) if isinstance(cell_mm, Sequence) else cell_mm
        self.feather, self.feather_mm = feather, feather_mm
        self.plan = CuboidPlan(self.alpha, self.cell, self.cell_mm, feather, feather_mm)
        self.mask_foreground, self.remove = mask_foreground, remove
        self.image, self.synthetic, self.label, self.synthetic_label = image, synthetic, label, synthetic_label
        self.args_names = ["alpha", "cell", "cell_mm", "feather", "feather_mm", *_SHARED]
        self._merge_by(Cuboids((1, 1, 1), (0, 0, 0), (1, 1, 1), "1"))  # refuses impossible names now, not in a training

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Draw cuboids, apply them, and leave them in the history."""
        name = _listed(self.image)[0]
        image = _image_of(subject, name)
        merge = self._merge_by(self.plan.draw(image.spatial_shape, image.spacing))
        merged = merge.apply_transform(subject)  # not a call, which would copy once more
        merged.add_transform(merge, merge._get_reproducing_arguments())
        return merged

    def _merge_by(self, cuboids: Cuboids) -> MergeCuboids:
        shared = {name: getattr(self, name) for name in _SHARED}
        base = {name: getattr(self, name) for name in ("copy", "include", "exclude")}
        return MergeCuboids(**vars(cuboids), **shared, **base)


class MergeCuboids(tio.Transform):  # type: ignore[misc]
    """Apply given cuboids; what `CuboidMerge` leaves in the subject's history.

    All arguments are numbers, words and lists of them, so `subject.applied_transforms` can be saved as JSON, and
    `MergeCuboids(**arguments)` of what was saved replays the merge.

    Args:
        cell, offset, counts, real, sigma: see `augmentation.cuboids.Cuboids`.
        mask_foreground, image, synthetic, label, synthetic_label, remove: see `CuboidMerge`.

    Raises:
        ValueError: names that can't be; on a call, a volume larger than the one that the cuboids were drawn for, and what
            `CuboidMerge` raises.
    """

    def __init__(
        self,
        cell: Sequence[int],
        offset: Sequence[int],
        counts: Sequence[int],
        real: str,
        sigma: Sequence[float] = HARD,
        mask_foreground: bool | int | Sequence[int] = False,
        image: Names = "image",
        synthetic: Names = "synthetic",
        label: Names | None = LABEL,
        synthetic_label: Names | None = SYNTHETIC_LABEL,
        remove: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cell, self.offset, self.counts = list(cell), list(offset), list(counts)
        self.real, self.sigma = real, list(sigma)
        self.cuboids = Cuboids(tuple(cell), tuple(offset), tuple(counts), real, tuple(sigma))  # type: ignore[arg-type]
        self.mask_foreground = _label_values(mask_foreground)
        self.image, self.synthetic = _listed(image), _listed(synthetic)
        self.label, self.synthetic_label = _listed(label), _listed(synthetic_label)
        self.remove = remove
        self.args_names = ["cell", "offset", "counts", "real", "sigma", *_SHARED]
        _check_names(self.image, self.synthetic, "image", "synthetic")
        if self.synthetic_label and self.label:
            _check_names(self.label, self.synthetic_label, "label", "synthetic_label")
        if self.mask_foreground and not self.label:
            raise ValueError("mask_foreground needs the name of a label")

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Merge the images and, where the other ones have labels of their own, the labels."""
        images = list(zip(self.image, self.synthetic, strict=True))
        labels = list(self._label_pairs(subject))
        first = _image_of(subject, self.image[0])
        foreground = self._foreground(subject, first)
        for real, other in [*images, *labels]:
            _check_grids(first, _image_of(subject, real), real, _image_of(subject, other), other)
        hard, soft = masks(self.cuboids, first.spatial_shape, foreground)
        for real, other in images:
            if self._is_wanted(real):
                subject[real].set_data(merge_images(soft, subject[real].data, subject[other].data))
        for real, other in labels:
            if self._is_wanted(real):
                subject[real].set_data(merge_labels(hard, subject[real].data, subject[other].data))
        for name in [other for _, other in (*images, *labels)] if self.remove else ():
            subject.remove_image(name)
        return subject

    def _label_pairs(self, subject: tio.Subject) -> Iterator[tuple[str, str]]:
        """(label, other label) to be merged; none where the other images share the label."""
        for real in self.label:
            if real != LABEL:
                _image_of(subject, real)
        for real, other in zip(self.label, self.synthetic_label, strict=False):
            if other in subject or other != SYNTHETIC_LABEL:
                yield real, other

    def _foreground(self, subject: tio.Subject, first: tio.Image) -> Any:
        """Where any of the labels is kept (I, J, K), or None."""
        if not self.mask_foreground:
            return None
        labels = {name: _image_of(subject, name) for name in self.label}
        for name, label in labels.items():
            _check_grids(first, label, name, label, name)
        where = [foreground_of(label.data, self.mask_foreground) for label in labels.values()]
        return torch.stack(where).any(dim=0)

    def _is_wanted(self, name: str) -> bool:
        return (self.include is None or name in self.include) and (self.exclude is None or name not in self.exclude)


_SHARED = ("mask_foreground", "image", "synthetic", "label", "synthetic_label", "remove")


def _number_or_range(alpha: float | Sequence[float]) -> float | tuple[float, float]:
    if not isinstance(alpha, Sequence):
        return alpha
    if len(alpha) != 2:
        raise ValueError(f"alpha must be from 0 to 1, or a range (low, high) in it, got {alpha}")
    return (alpha[0], alpha[1])


def _listed(names: Names | None) -> list[str]:
    if names is None:
        return []
    return [names] if isinstance(names, str) else list(names)


def _label_values(kept: bool | int | Sequence[int]) -> bool | list[int]:
    """True, False or a list of label values."""
    if isinstance(kept, bool):
        return kept
    return [kept] if isinstance(kept, int) else [int(value) for value in kept]


def _check_names(real: Sequence[str], other: Sequence[str], first: str, second: str) -> None:
    if len(real) != len(other) or not real:
        raise ValueError(f"{first} and {second} must name as many images, got {list(real)} and {list(other)}")
    if len({*real, *other}) != 2 * len(real):
        raise ValueError(f"{first} and {second} must name each image once, got {list(real)} and {list(other)}")


def _image_of(subject: tio.Subject, name: str) -> tio.Image:
    images: dict[str, tio.Image] = subject.get_images_dict(intensity_only=False)
    if name not in images:
        raise KeyError(f"the subject has no image {name!r}; it has {', '.join(images)}")
    return images[name]


def _check_grids(first: tio.Image, real: tio.Image, name: str, other: tio.Image, other_name: str) -> None:
    """Both must fit each other voxel by voxel; where in space they lie may differ, as in CutMix."""
    if real.shape != other.shape:
        raise ValueError(f"{name} {tuple(real.shape)} and {other_name} {tuple(other.shape)} differ in shape")
    if real.spatial_shape != first.spatial_shape:
        raise ValueError(f"{name} {real.spatial_shape} and the first image {first.spatial_shape} differ in shape")
    axes, other_axes = real.affine[:3, :3], other.affine[:3, :3]
    if np.array_equal(axes, other_axes) or any(np.array_equal(one, np.eye(3)) for one in (axes, other_axes)):
        return  # alike, or one made of a bare tensor, whose axes nobody gave
    spacings = zip(real.spacing, other.spacing, strict=True)
    if any(abs(one - two) > SPACING_TOLERANCE * one for one, two in spacings):
        raise ValueError(
            f"{name} and {other_name} differ in spacing: {real.spacing} and {other.spacing} mm; resample one of them"
        )
    if real.orientation != other.orientation:
        raise ValueError(
            f"{name} and {other_name} differ in orientation: {''.join(real.orientation)} and {''.join(other.orientation)}; "
            "torchio.ToCanonical() makes them alike"
        )
