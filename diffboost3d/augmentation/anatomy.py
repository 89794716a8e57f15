"""Random new anatomy: affine and elastic motions, labels that grow or shrink, and the limits every new shape must keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffboost3d.augmentation.label_shapes import Label, centroid_mm, change_of_shape, region_diameter, signed_distance
from diffboost3d.augmentation.motion import Motion, about
from diffboost3d.augmentation.warping import Float, Warp, node_spacing, nodes_for, to_nodes, warp_label

THICK = 3.0  # beyond this ratio of spacings nothing is moved across slices: voxels in between were never seen
ELASTIC, SMOOTHNESS, FALL_OFF = 0.04, 0.35, 0.3  # shares of the labelled region's diameter, where no mm are given


@dataclass(frozen=True)
class RandomPlan:
    """How far random warps go; see `synthesize.anatomy`; None: a share of the labelled region's diameter."""

    rotation_degrees: float
    scale: tuple[float, float]
    shear: float
    elastic_mm: float | None
    smoothness_mm: float | None
    label_volume: tuple[float, float]
    voxels: int


@dataclass(frozen=True)
class Limits:
    """What a warp must keep: a Jacobian determinant above the floor, and volumes within factors of what they were."""

    jacobian_floor: float
    volume_factors: tuple[float, float]

    def refusal(self, label: Label, warp: Warp) -> str:
        """Why this warp can't be used with this label, in words; empty where it can."""
        smallest, _ = warp.jacobian_range()
        if not smallest > self.jacobian_floor:
            return f"the Jacobian falls to {smallest:.2f}"
        return change_of_shape(label, warp_label(label, warp), self.volume_factors)


def free_axes(shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[bool, bool, bool]:
    """Along which axes anatomy may move: not along one of a single voxel, nor across thick slices."""
    long = [space for space, size in zip(spacing_mm, shape, strict=True) if size > 1]
    finest = min(long, default=1.0)
    i, j, k = (size > 1 and space / finest <= THICK for space, size in zip(spacing_mm, shape, strict=True))
    return (i, j, k)


def random_motion(label: Label, spacing_mm: Sequence[float], plan: RandomPlan, random: np.random.Generator) -> Motion:
    """An affine turn about the labelled region, a smooth elastic one, and a growth of each label, all random."""
    free = free_axes(label.shape, spacing_mm)
    nodes = nodes_for(label.shape, spacing_mm, plan.voxels)
    spacing = node_spacing(nodes, label.shape, spacing_mm)
    size = region_diameter(label, spacing_mm)
    generator = random_affine(plan, free, centroid_mm(label > 0, spacing_mm), random)
    elastic = ELASTIC * size if plan.elastic_mm is None else plan.elastic_mm
    smoothness = SMOOTHNESS * size if plan.smoothness_mm is None else plan.smoothness_mm
    velocity = elastic_velocity(nodes, spacing, free, elastic, smoothness, random)
    low, high = np.log(plan.label_volume)
    for value in np.unique(label[label > 0]):
        factor = float(np.exp(random.uniform(low, high)))
        velocity = velocity + growth_velocity(label == value, spacing_mm, factor, nodes)
    i, j, k = (float(space) for space in spacing_mm)
    return Motion(generator, velocity.astype(np.float32), label.shape, (i, j, k))


def random_affine(
    plan: RandomPlan, free: Sequence[bool], centre_mm: NDArray[np.float64], random: np.random.Generator
) -> NDArray[np.float64]:
    """The pull's generator (4, 4) of a random rotation, scaling and shear of the anatomy about `centre_mm`.

    Where an axis isn't free, the anatomy turns about it only, and keeps its positions along it.
    """
    turn = np.deg2rad(random.uniform(-plan.rotation_degrees, plan.rotation_degrees, 3))
    low, high = np.log(plan.scale)
    whole, single = (
        random.uniform(low, high),
        random.uniform(low, high, 3) / 4,
    )  # mostly in size, a little in proportion
    shear = random.uniform(-plan.shear, plan.shear, (3, 3))
    return affine_generator(turn, whole + single, np.triu(shear, 1), free, centre_mm)


def affine_generator(
    turn: NDArray[np.float64],
    log_scale: NDArray[np.float64],
    shear: NDArray[np.float64],
    free: Sequence[bool],
    centre_mm: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The pull's generator (4, 4) that moves the anatomy about `centre_mm`.

    Args:
        turn: rotation vector in radians along the voxel axes. log_scale: natural logarithm of each axis' factor.
        shear: (3, 3), symmetric part apart from the diagonal; its upper triangle counts.
        free: axes along which the anatomy may move.
    """
    a, b, c = turn
    rotation = np.array([[0.0, -c, b], [c, 0.0, -a], [-b, a, 0.0]])
    linear = rotation + np.diag(log_scale) + (shear + shear.T) / 2
    moving = np.asarray(free, dtype=float)
    return about(-(linear * moving[:, None] * moving[None, :]), centre_mm)


def elastic_velocity(
    nodes: Sequence[int],
    spacing_mm: Sequence[float],
    free: Sequence[bool],
    elastic_mm: float,
    smoothness_mm: float,
    random: np.random.Generator,
) -> Float:
    """White noise behind a Gaussian of `smoothness_mm`, (3, i, j, k), of `elastic_mm` root mean square along each axis."""
    from scipy.ndimage import gaussian_filter

    velocity = np.zeros((3, *nodes), np.float32)
    sigma = [smoothness_mm / space if n > 1 else 0.0 for n, space in zip(nodes, spacing_mm, strict=True)]
    for axis in range(3):
        noise = random.standard_normal(tuple(nodes)).astype(np.float32)  # drawn for every axis, so that streams agree
        if free[axis] and elastic_mm > 0:
            smooth = gaussian_filter(noise, sigma, mode="nearest")
            velocity[axis] = elastic_mm * smooth / max(float(np.sqrt((smooth**2).mean())), 1e-12)
    return velocity


def growth_velocity(mask: NDArray[np.bool_], spacing_mm: Sequence[float], factor: float, nodes: Sequence[int]) -> Float:
    """The pull's velocity (3, i, j, k) that gives one label `factor` times its volume.

    Radial about the label's centroid: within the label, and as far beyond as it grows, a uniform scaling; further out it fades
    smoothly to nothing. Neighbours are pushed aside, and nothing folds, since it is a flow.
    """
    free = free_axes(mask.shape, spacing_mm)
    centre = centroid_mm(mask, spacing_mm)
    rate = np.log(factor) / max(1, sum(free))
    distance = to_nodes(signed_distance(mask, spacing_mm)[None], nodes)[0]
    diameter = region_diameter(mask.astype(np.uint8), spacing_mm)
    grown = max(0.0, np.expm1(rate)) * _radius(mask, spacing_mm, free)
    beyond = np.clip((distance - grown) / (2 * FALL_OFF * diameter), 0.0, 1.0)
    weight = 0.5 * (1 + np.cos(np.pi * beyond))
    spacing = node_spacing(nodes, mask.shape, spacing_mm)
    place = np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip(nodes, spacing, strict=True)), indexing="ij"))
    outward = (place - centre[:, None, None, None]) * np.asarray(free, float)[:, None, None, None]
    return np.asarray(-rate * weight * outward, dtype=np.float32)


def _radius(mask: NDArray[np.bool_], spacing_mm: Sequence[float], free: Sequence[bool]) -> float:
    """Largest distance in mm from the centroid to a voxel of the label, along the free axes."""
    places = np.argwhere(mask) * np.asarray(spacing_mm)
    if not len(places):
        return 0.0
    return float(np.linalg.norm((places - places.mean(axis=0))[:, list(free)], axis=1).max())
