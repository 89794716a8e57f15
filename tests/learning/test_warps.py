"""Warps and motions: nothing moves by nothing, known maps move labels as worked out by hand, and folds are refused."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffboost3d.augmentation.anatomy import (
    Limits,
    RandomPlan,
    affine_generator,
    elastic_velocity,
    free_axes,
    growth_velocity,
    random_motion,
)
from diffboost3d.augmentation.label_shapes import (
    centroid_mm,
    change_of_shape,
    label_between,
    region_diameter,
    signed_distance,
)
from diffboost3d.augmentation.motion import Motion
from diffboost3d.augmentation.warping import Warp, identity, nodes_for, warp_image, warp_label
from diffboost3d.seeds import generator

SPACING = (1.0, 1.5, 2.5)
SHAPE = (40, 28, 18)
ALL = (True, True, True)
LIMITS = Limits(0.2, (0.5, 2.0))
PLAN = RandomPlan(10.0, (0.9, 1.1), 0.1, None, None, (0.8, 1.25), 4000)


def ball(centre_mm, radius_mm, shape=SHAPE, spacing=SPACING):
    """A ball, or a disc in 2D, as a label of value 1."""
    places = np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij")
    square = sum((place - middle) ** 2 for place, middle in zip(places, centre_mm, strict=True))
    return (square <= radius_mm**2).astype(np.uint8)


def motion(generator, shape=SHAPE, spacing=SPACING, velocity=None):
    nodes = nodes_for(shape, spacing, 5000)
    return Motion(generator, np.zeros((3, *nodes), np.float32) if velocity is None else velocity, shape, spacing)


@pytest.mark.parametrize("shape", [SHAPE, (20, 16, 1), (1, 1, 1), (9, 1, 4)])
def test_no_displacement_changes_nothing(shape):
    random = np.random.default_rng(0)
    image = random.uniform(-1, 1, shape).astype(np.float32)
    label = random.integers(0, 4, shape).astype(np.uint8)
    still = identity(shape, SPACING)
    assert_array_equal(warp_image(image, still), image)
    assert_array_equal(warp_label(label, still), label)
    assert still.jacobian_range() == (1.0, 1.0)


def test_a_shift_of_two_voxels_takes_the_voxel_two_further_on():
    displacement = np.zeros((3, 2, 2, 2), np.float32)
    displacement[1] = 2 * SPACING[1]
    warp = Warp(displacement, SHAPE, SPACING)
    image = np.random.default_rng(0).uniform(-1, 1, SHAPE).astype(np.float32)
    label = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)
    assert_allclose(warp_image(image, warp)[:, :-2], image[:, 2:], atol=1e-3)
    assert_array_equal(warp_label(label, warp)[:, :-2], label[:, 2:])


def test_a_quarter_turn_moves_a_labels_centroid_as_by_hand_on_anisotropic_voxels():
    label = ball((26.0, 21.0, 20.0), 5.0)
    # about (20, 15) mm the offset (6, 6) becomes (-6, 6)
    turn = affine_generator(
        np.array([0, 0, np.pi / 2]), np.zeros(3), np.zeros((3, 3)), ALL, np.array([20.0, 15.0, 20.0])
    )
    moved = warp_label(label, motion(turn).warp())
    assert_allclose(centroid_mm(moved == 1, SPACING), (14.0, 21.0, 20.0), atol=0.3)


def test_a_scaling_moves_a_labels_centroid_and_volume_as_by_hand():
    label = ball((26.0, 18.0, 20.0), 8.0)
    grow = affine_generator(np.zeros(3), np.log([1.2, 1.2, 1.2]), np.zeros((3, 3)), ALL, np.array([16.0, 18.0, 20.0]))
    warp = motion(grow).warp()
    moved = warp_label(label, warp)
    assert_allclose(centroid_mm(moved == 1, SPACING), (28.0, 18.0, 20.0), atol=0.3)  # 16 + 1.2 * 10
    assert moved.sum() / label.sum() == pytest.approx(1.2**3, rel=0.1)
    assert warp.jacobian_range() == pytest.approx((1 / 1.2**3, 1 / 1.2**3), rel=0.02)


def test_thick_slices_and_single_slices_keep_their_places():
    assert free_axes((50, 50, 10), (1.5, 1.5, 10.0)) == (True, True, False)
    assert free_axes((50, 50, 1), (1.0, 1.0, 1.0)) == (True, True, False)
    assert free_axes((50, 50, 10), (1.5, 1.5, 3.0)) == ALL
    label = ball((20.0, 20.0, 40.0), 12.0, (28, 28, 9), (1.5, 1.5, 10.0))
    warp = random_motion(label, (1.5, 1.5, 10.0), PLAN, generator(0)).warp()
    assert not warp.displacement[2].any()
    assert warp.displacement[:2].any()


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.4])
@pytest.mark.parametrize(
    ("shape", "spacing", "centre"),
    [(SHAPE, SPACING, (20.0, 20.0, 20.0)), ((48, 40, 1), (1.0, 1.2, 1.0), (24.0, 24.0, 0.0))],
)
def test_growth_changes_a_labels_volume_by_its_factor_and_leaves_the_far_border(factor, shape, spacing, centre):
    label = ball(centre, 8.0, shape, spacing)
    nodes = nodes_for(shape, spacing, 50000)
    warp = motion(np.zeros((4, 4)), shape, spacing, growth_velocity(label == 1, spacing, factor, nodes)).warp()
    grown = warp_label(label, warp)
    assert grown.sum() / label.sum() == pytest.approx(factor, rel=0.08)
    assert warp.jacobian_range()[0] > 0.2
    assert_allclose(warp.displacement[:, 0, 0, 0], 0, atol=1e-3)


def test_part_of_a_motion_doesnt_fold_where_part_of_its_displacement_does():
    """A half turn: half of its displacement draws every point to the middle."""
    turn = affine_generator(np.array([0, 0, np.pi]), np.zeros(3), np.zeros((3, 3)), ALL, np.array([20.0, 20.0, 20.0]))
    whole = motion(turn).warp()
    assert motion(turn).warp(0.5).jacobian_range() == pytest.approx((1.0, 1.0), abs=0.02)
    assert Warp(whole.displacement / 2, SHAPE, SPACING).jacobian_range()[0] < 0.01


def test_a_strong_elastic_flow_doesnt_fold():
    nodes = nodes_for(SHAPE, SPACING, 10000)
    spacing = tuple((n - 1) * s / (m - 1) for n, s, m in zip(SHAPE, SPACING, nodes, strict=True))
    velocity = elastic_velocity(nodes, spacing, ALL, 3.0, 8.0, generator(3))
    assert np.sqrt((velocity**2).mean(axis=(1, 2, 3))) == pytest.approx([3.0] * 3)
    assert motion(np.zeros((4, 4)), velocity=velocity).warp().jacobian_range()[0] > 0


def test_a_fold_is_refused_and_named():
    displacement = np.zeros((3, *SHAPE), np.float32)
    displacement[0, 20] = -1.6  # on voxels of 1 mm: this plane passes the one before
    warp = Warp(displacement, SHAPE, SPACING)
    assert warp.jacobian_range()[0] == pytest.approx(-0.6, abs=1e-5)
    assert "Jacobian falls to -0.60" in LIMITS.refusal(ball((20.0, 20.0, 20.0), 5.0), warp)
    assert LIMITS.refusal(ball((20.0, 20.0, 20.0), 5.0), identity(SHAPE, SPACING)) == ""


def test_the_jacobian_counts_spacing():
    displacement = np.zeros((3, *SHAPE), np.float32)
    displacement[2, :, :, 9] = -2.0  # the same step along voxels of 2.5 mm
    assert Warp(displacement, SHAPE, SPACING).jacobian_range()[0] == pytest.approx(1 - 2.0 / 2.5, abs=1e-5)


def test_lost_swollen_and_broken_labels_are_named():
    before = ball((20.0, 20.0, 20.0), 6.0)
    lost, broken = np.zeros_like(before), before.copy()
    broken[19:22] = 0
    assert "label 1 would have 0.00 times" in change_of_shape(before, lost, (0.5, 2.0))
    assert "label 1 would have" in change_of_shape(before, ball((20.0, 20.0, 20.0), 9.0), (0.5, 2.0))
    assert "label 1 would fall into 2 pieces" in change_of_shape(before, broken, (0.5, 2.0))
    assert change_of_shape(broken, before, (0.5, 2.0)) == ""  # two pieces before: they may meet
    assert change_of_shape(lost, lost, (0.5, 2.0)) == ""


def test_signed_distance_is_in_mm_and_half_a_voxel_at_the_border():
    mask = np.zeros((9, 3, 5), bool)
    mask[4:] = True
    distance = signed_distance(mask, (2.0, 30.0, 30.0))[:, 1, 2]
    assert_allclose(distance, [7, 5, 3, 1, -1, -3, -5, -7, -9])
    assert (signed_distance(np.zeros((3, 3, 1), bool), (1, 1, 1)) > 4).all()
    assert (signed_distance(np.ones((3, 3, 1), bool), (1, 1, 1)) < -4).all()


def test_the_shape_between_two_balls_has_the_mean_radius_and_each_end_is_the_label_itself():
    small, large = 2 * ball((20.0, 20.0, 20.0), 6.0), 2 * ball((20.0, 20.0, 20.0), 10.0)
    assert_array_equal(label_between(small, large, 0.0, SPACING), small)
    assert_array_equal(label_between(small, large, 1.0, SPACING), large)
    middle = label_between(small, large, 0.5, SPACING)
    assert set(np.unique(middle)) == {0, 2}
    assert region_diameter(middle, SPACING) == pytest.approx(16.0, rel=0.07)


@pytest.mark.parametrize(("shape", "spacing"), [(SHAPE, SPACING), ((40, 36, 1), (1.0, 1.0, 1.0))])
def test_random_anatomy_is_of_its_seed_alone_and_keeps_the_limits_mostly(shape, spacing):
    middle = [(n - 1) / 2 * s for n, s in zip(shape, spacing, strict=True)]
    label = ball(middle, 9.0, shape, spacing) + ball(middle, 5.0, shape, spacing)
    first, again, other = (random_motion(label, spacing, PLAN, generator(seed)).warp() for seed in (1, 1, 2))
    assert_array_equal(first.displacement, again.displacement)
    assert np.abs(first.displacement - other.displacement).max() > 0.5
    kept = [not LIMITS.refusal(label, random_motion(label, spacing, PLAN, generator(s)).warp()) for s in range(6)]
    assert sum(kept) >= 4


def test_a_case_without_labels_is_warped_too():
    empty = np.zeros(SHAPE, np.uint8)
    warp = random_motion(empty, SPACING, PLAN, generator(0)).warp()
    assert warp.displacement.any()
    assert not warp_label(empty, warp).any()
