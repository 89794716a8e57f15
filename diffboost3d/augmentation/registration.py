"""Registration: the motion that gives one case the shape of another, from their images or from their labels.

First a rigid fit by gradient descent on the correlation takes away how the other case was placed. Then a velocity field is grown
from coarse to fine by the demons' forces (log-demons, Vercauteren et al. 2008), so that it can be gone a part of the way: on
locally standardised images, which no scale or slow shading of intensities disturbs, or on the signed distances of labels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from diffboost3d.augmentation.anatomy import free_axes
from diffboost3d.augmentation.label_shapes import Label, label_between, region_diameter, signed_distance
from diffboost3d.augmentation.motion import Motion, exponential, voxel_positions
from diffboost3d.augmentation.warping import Float, Size, node_spacing, nodes_for, sample_linear, to_nodes

SHIFTS = (0.0, -0.15, 0.15)  # of the other volume's half diagonal: where the rigid fit may begin
NEAR = 0.25  # of the labelled region's diameter: how far around it images decide the rigid fit
UPDATE = 0.12  # of that diameter: smoothness of an update of the velocity, where no mm are given
LEAST = 1.0  # smoothness in distances of nodes, at least, on coarse levels too: below it, noise folds the velocity
FEWEST = 10  # nodes along an axis on coarse levels
LABELS = 0.6  # smoothness for labels, in units of that for images, since distances have no noise
NOISE = 0.25  # differences of standardised images below this hardly count
KEPT, WINDOW = 0.5, 3.0  # in units of that smoothness: of the velocity itself at every step; of local means of images
LEVELS = (4, 2, 1)  # coarsening of the grid, first to last


@dataclass(frozen=True)
class RegistrationPlan:
    """How cases are registered; see `synthesize.anatomy`.

    Attributes:
        iterations: of the velocity at each of the three levels, coarse to fine. rigid_iterations: of the rigid fit.
        smoothness_mm: Gaussian that smooths every update of the velocity; None: a share of the labelled region's diameter.
        voxels: nodes of the finest grid.
    """

    iterations: tuple[int, int, int]
    rigid_iterations: int
    smoothness_mm: float | None
    voxels: int

    def smoothness(self, label: Label, spacing_mm: Sequence[float]) -> float:
        """In mm, for a case with that label."""
        return UPDATE * region_diameter(label, spacing_mm) if self.smoothness_mm is None else self.smoothness_mm


@dataclass(frozen=True)
class Placement:
    """How another case lies: x of the case is at turn (x - centre) + other_centre there, in mm from the first voxels.

    Attributes:
        turn: (3, 3), a rotation; along an axis that isn't free, the factor between the lengths of both volumes.
    """

    turn: torch.Tensor
    centre: torch.Tensor
    other_centre: torch.Tensor

    def bring(self, volumes: Float, shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[Float, Float]:
        """Volumes (C, I', J', K') of the other case on the grid (I, J, K), and 1 where it has voxels (1, I, J, K)."""
        step = torch.tensor(spacing_mm, dtype=torch.float32)[:, None, None, None]
        offset = voxel_positions(shape) * step - self.centre[:, None, None, None]
        there = torch.einsum("ab,bijk->aijk", self.turn, offset) + self.other_centre[:, None, None, None]
        last = torch.tensor(volumes.shape[1:])[:, None, None, None] - 0.5
        inside = ((there / step > -0.5) & (there / step < last)).all(dim=0, keepdim=True)
        brought = sample_linear(torch.from_numpy(np.ascontiguousarray(volumes)), there / step, "border")
        return brought.numpy(), inside.float().numpy()


def register_images(
    moving: Float, label: Label, other: Float, spacing_mm: Sequence[float], plan: RegistrationPlan
) -> Motion:
    """The motion of `moving` (I, J, K) whose warp looks like `other` (I', J', K'), both in [-1, 1] at one spacing.

    What lies near the labelled region (`label`, of `moving`) decides how the other is placed.
    """
    smoothness = plan.smoothness(label, spacing_mm)
    placement = align(moving[None], other[None], spacing_mm, plan, near(label, spacing_mm))
    target, inside = placement.bring(other[None], moving.shape, spacing_mm)
    both = [standardised(image, spacing_mm, WINDOW * smoothness)[None] for image in (moving, target[0])]
    return grow(both[0], both[1], inside, spacing_mm, plan, smoothness, NOISE)


def register_labels(
    label: Label, other: Label, share: float, spacing_mm: Sequence[float], plan: RegistrationPlan
) -> Motion:
    """The motion that gives `label` (I, J, K) the shape a share of the way to the label `other` (I', J', K').

    The other is turned to lie like the first; the shape in between is interpolated by signed distances, and the label carried
    there by a registration of the distances.
    """
    shape = label_between(label, placed_label(label, other, spacing_mm, plan), share, spacing_mm)
    values = np.unique(label[label > 0])
    inside = np.ones((1, *label.shape), np.float32)
    both = [_distances(one, values, spacing_mm, region_diameter(label, spacing_mm) / 4) for one in (label, shape)]
    return grow(both[0], both[1], inside, spacing_mm, plan, LABELS * plan.smoothness(label, spacing_mm), 0.0)


def placed_label(label: Label, other: Label, spacing_mm: Sequence[float], plan: RegistrationPlan) -> Label:
    """The label `other` (I', J', K') on the grid of `label` (I, J, K), turned and shifted to lie as it does."""
    values = np.unique(label[label > 0])
    reach = region_diameter(label, spacing_mm)
    both = [_distances(one, values, spacing_mm, reach) for one in (label, other)]
    placement = align(both[0], both[1], spacing_mm, plan, near(label, spacing_mm))
    every = np.union1d([0], np.unique(other))
    shares, inside = placement.bring(
        np.stack([other == value for value in every]).astype(np.float32), label.shape, spacing_mm
    )
    shares[0] += 1 - inside[0]  # nothing is known beyond the other volume
    return np.asarray(every[shares.argmax(axis=0)], dtype=np.uint8)


def near(label: Label, spacing_mm: Sequence[float]) -> Float:
    """Weight (1, I, J, K): 1 within the labelled region, fading around it; 1 everywhere where there is none."""
    if not label.any():
        return np.ones((1, *label.shape), np.float32)
    distance = np.maximum(signed_distance(label > 0, spacing_mm), 0)
    width = NEAR * region_diameter(label, spacing_mm)
    return np.exp(-0.5 * (distance / width) ** 2).astype(np.float32)[None]


def _distances(label: Label, values: NDArray[np.uint8], spacing_mm: Sequence[float], reach: float) -> Float:
    """Signed distance of each value (L, I, J, K), cut off at `reach` mm and divided by it."""
    return np.stack([np.clip(signed_distance(label == value, spacing_mm), -reach, reach) / reach for value in values])


def standardised(image: Float, spacing_mm: Sequence[float], window_mm: float) -> Float:
    """(image - local mean) / local deviation, by means under a Gaussian of `window_mm`; flat parts stay near 0."""
    from scipy.ndimage import gaussian_filter

    sigma = [window_mm / space if size > 1 else 0.0 for space, size in zip(spacing_mm, image.shape, strict=True)]
    mean = gaussian_filter(image, sigma, mode="nearest")
    variance = np.maximum(gaussian_filter(image**2, sigma, mode="nearest") - mean**2, 0)
    floor = 0.5 * float(np.sqrt(variance.mean())) + 1e-6
    return np.asarray((image - mean) / (np.sqrt(variance) + floor), dtype=np.float32)


def align(
    moving: Float,
    other: Float,
    spacing_mm: Sequence[float],
    plan: RegistrationPlan,
    weight: Float,
) -> Placement:
    """The placement of volumes (C, I', J', K') that correlates best with `moving` (C, I, J, K), by its `weight` (1, I, J, K).

    It starts from the best of some shifts of the middles of both volumes, on grids of an eighth of `plan.voxels`.
    """
    grids = [nodes_for(one.shape[1:], spacing_mm, max(512, plan.voxels // 8)) for one in (moving, other)]
    volumes = [torch.from_numpy(to_nodes(one, grid)) for one, grid in zip((moving, other), grids, strict=True)]
    steps = [
        torch.tensor(node_spacing(grid, one.shape[1:], spacing_mm), dtype=torch.float32)
        for grid, one in zip(grids, (moving, other), strict=True)
    ]
    middles = [torch.tensor([(n - 1) / 2 for n in grid]) * step for grid, step in zip(grids, steps, strict=True)]
    free = torch.tensor(free_axes(moving.shape[1:], spacing_mm)).float()
    lengths = [torch.tensor(one.shape[1:]).float() for one in (moving, other)]
    cover = torch.where(free.bool(), torch.ones(3), lengths[1] / lengths[0])
    place = voxel_positions(grids[0]) * steps[0][:, None, None, None] - middles[0][:, None, None, None]
    important = torch.from_numpy(to_nodes(weight, grids[0]))[0]
    last = torch.tensor(grids[1])[:, None, None, None] - 1.0
    reach = float(middles[1].norm())

    def mismatch(turn: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        there = torch.einsum("ab,bijk->aijk", torch.diag(cover) @ turn, place)
        at = (there + (middles[1] + reach * shift * free)[:, None, None, None]) / steps[1][:, None, None, None]
        inside = ((at >= -0.01) & (at <= last + 0.01)).all(dim=0).float()
        missed = 1 - (inside * important).sum() / important.sum()
        return missed - _correlation(volumes[0], sample_linear(volumes[1], at, "border"), inside * important)

    moves = torch.zeros(2, 3)  # turn in radians, shift in shares of the other volume
    with torch.no_grad():
        starts = [torch.tensor(start) for start in itertools.product(SHIFTS, repeat=3)]
        starts = [start for start in starts if not (start * (1 - free)).any()]
        moves[1] = min(starts, key=lambda start: float(mismatch(torch.eye(3), start)))
    moves.requires_grad_()
    optimiser = torch.optim.Adam([moves], lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, plan.rigid_iterations))
    for _ in range(plan.rigid_iterations):
        loss = mismatch(_rotation(moves[0], free), moves[1])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        turn = torch.diag(cover) @ _rotation(moves[0], free)
        return Placement(turn, middles[0], middles[1] + reach * moves[1] * free)


def _rotation(turn: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    """The rotation (3, 3) of a vector in radians, within the free axes."""
    zero = torch.zeros(())
    a, b, c = turn
    skew = torch.stack([torch.stack([zero, -c, b]), torch.stack([c, zero, -a]), torch.stack([-b, a, zero])])
    return torch.matrix_exp(skew * free[:, None] * free[None, :])


def _correlation(first: torch.Tensor, second: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean over channels of the weighted correlation of volumes (C, i, j, k)."""
    axes = (1, 2, 3)
    total = weight.sum().clamp_min(1.0)
    one = first - (first * weight).sum(axes, keepdim=True) / total
    two = second - (second * weight).sum(axes, keepdim=True) / total
    power = ((one**2 * weight).sum(axes) * (two**2 * weight).sum(axes)).clamp_min(1e-12)
    return ((one * two * weight).sum(axes) / power.sqrt()).mean()


def grow(
    moving: Float,
    target: Float,
    inside: Float,
    spacing_mm: Sequence[float],
    plan: RegistrationPlan,
    smoothness_mm: float,
    noise: float,
) -> Motion:
    """The motion whose warp brings volumes `moving` (C, I, J, K) to `target` (the same), where `inside` (1, I, J, K) is 1."""
    i, j, k = moving.shape[1:]
    shape: Size = (i, j, k)
    free = free_axes(shape, spacing_mm)
    finest = nodes_for(shape, spacing_mm, plan.voxels)
    velocity = np.zeros((3, *finest), np.float32)
    for level, iterations in zip(LEVELS, plan.iterations, strict=True):
        nodes = [min(n, max(FEWEST, -(-n // level))) if free[axis] else n for axis, n in enumerate(finest)]
        volumes = [torch.from_numpy(to_nodes(one, nodes)) for one in (moving, target, inside)]
        spacing = node_spacing(nodes, shape, spacing_mm)
        sigma = [max(smoothness_mm / space, LEAST) if n > 1 else 0.0 for n, space in zip(nodes, spacing, strict=True)]
        found = torch.from_numpy(to_nodes(velocity, nodes))
        for _ in range(iterations):
            update = _force(found, volumes, spacing, free, noise)
            found = _smooth(found + _smooth(update, sigma), [KEPT * width for width in sigma])
        velocity = found.numpy()
    a, b, c = (float(space) for space in spacing_mm)
    return Motion(np.zeros((4, 4)), velocity, shape, (a, b, c))


def _force(
    velocity: torch.Tensor,
    volumes: Sequence[torch.Tensor],
    spacing_mm: Sequence[float],
    free: Sequence[bool],
    noise: float,
) -> torch.Tensor:
    """The demons' force (3, i, j, k) in mm, at most half the distance of nodes, along the free axes."""
    moving, target, inside = volumes
    step = torch.tensor(spacing_mm, dtype=torch.float32)[:, None, None, None]
    place = voxel_positions(velocity.shape[1:]) + exponential(velocity, spacing_mm) / step
    warped = sample_linear(moving, place, "border")
    difference = target - warped
    slope = 0.5 * (_gradient(warped, spacing_mm) + _gradient(target, spacing_mm))  # (C, 3, i, j, k)
    finest = min((space for space, moves in zip(spacing_mm, free, strict=True) if moves), default=1.0)
    below = (slope**2).sum(dim=(0, 1)) + ((difference**2).sum(dim=0) + noise**2) / finest**2
    force = (difference[:, None] * slope).sum(dim=0) / below.clamp_min(1e-9)
    return force * inside * torch.tensor(free)[:, None, None, None]


def _gradient(volumes: torch.Tensor, spacing_mm: Sequence[float]) -> torch.Tensor:
    """Central differences per mm (C, 3, i, j, k); 0 along an axis of one node."""
    return torch.stack(
        [
            torch.gradient(volumes, spacing=space, dim=1 + axis)[0]
            if volumes.shape[1 + axis] > 1
            else torch.zeros_like(volumes)
            for axis, space in enumerate(spacing_mm)
        ],
        dim=1,
    )


def _smooth(field: torch.Tensor, sigma: Sequence[float]) -> torch.Tensor:
    """A field (C, i, j, k) behind a Gaussian of `sigma` nodes."""
    from scipy.ndimage import gaussian_filter

    return torch.from_numpy(gaussian_filter(field.numpy(), (0.0, *sigma), mode="nearest", truncate=3.0))
