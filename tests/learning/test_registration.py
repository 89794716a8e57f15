"""Registration: images and labels are carried where they should be, whatever the intensities and wherever the other lies."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from test_warps import SHAPE, SPACING, ball

from diffboost3d.augmentation.label_shapes import label_between
from diffboost3d.augmentation.registration import RegistrationPlan, placed_label, register_images, register_labels
from diffboost3d.augmentation.warping import warp_image, warp_label

PLAN = RegistrationPlan((20, 20, 8), 30, None, 6000)
MIDDLE = (20.0, 20.0, 20.0)


def dice(first, second):
    return 2 * ((first > 0) & (second > 0)).sum() / ((first > 0).sum() + (second > 0).sum())


def picture(label, seed=0):
    """A bright region on a darker, slightly noisy ground, in [-1, 1]."""
    noise = np.random.default_rng(seed).normal(0, 0.03, label.shape)
    return (np.where(label > 0, 0.6, -0.5) + noise).astype(np.float32)


def test_a_ball_is_registered_to_a_larger_one_whatever_its_grey_values():
    small, large = ball(MIDDLE, 7.0), ball(MIDDLE, 9.5)
    motion = register_images(picture(small), small, 0.3 * picture(large, 1) - 0.2, SPACING, PLAN)
    warped = warp_label(small, motion.warp())
    assert dice(small, large) < 0.65
    assert dice(warped, large) > 0.88
    assert motion.warp().jacobian_range()[0] > 0
    assert dice(warp_image(picture(small), motion.warp()) > 0.05, large) > 0.88  # the image moves with its label
    halfway = warp_label(small, motion.warp(0.5))
    assert small.sum() < halfway.sum() < warped.sum()
    assert_array_equal(warp_label(small, motion.warp(0.0)), small)


def test_where_the_other_lies_in_its_volume_makes_no_difference():
    small = ball(MIDDLE, 7.0)
    moved = ball((24.0, 17.0, 25.0), 7.0, (46, 26, 21))
    warp = register_images(picture(small), small, picture(moved, 1), SPACING, PLAN).warp()
    assert dice(warp_label(small, warp), small) > 0.9


@pytest.mark.parametrize(
    ("shape", "spacing", "middle"), [(SHAPE, SPACING, MIDDLE), ((40, 36, 1), (1.0, 1.0, 1.0), (20.0, 18.0, 0.0))]
)
def test_between_two_labels_the_ends_are_the_labels(shape, spacing, middle):
    first, second = (
        ball(middle, size, shape, spacing) + ball(middle, size / 2, shape, spacing) for size in (7.0, 10.0)
    )
    placed = placed_label(first, second, spacing, PLAN)
    assert dice(placed, second) > 0.9
    for share, end in ((0.0, first), (1.0, placed)):
        warped = warp_label(first, register_labels(first, second, share, spacing, PLAN).warp())
        for value in (1, 2):
            assert dice(warped == value, end == value) > (0.98 if share == 0 else 0.85)
    halfway = warp_label(first, register_labels(first, second, 0.5, spacing, PLAN).warp())
    assert dice(halfway, label_between(first, placed, 0.5, spacing)) > 0.9


def test_thick_slices_are_registered_in_their_plane():
    spacing, shape = (1.5, 1.5, 10.0), (28, 28, 6)
    small, large = (ball((20.0, 20.0, 25.0), size, shape, spacing) for size in (10.0, 14.0))
    warp = register_images(picture(small), small, picture(large, 1), spacing, PLAN).warp()
    assert not warp.displacement[2].any()
    assert dice(warp_label(small, warp), large) > dice(small, large)


def test_registration_is_the_same_every_time():
    small, large = ball(MIDDLE, 7.0), ball(MIDDLE, 9.0)
    plan = RegistrationPlan((3, 3, 2), 5, None, 3000)
    first, again = (register_images(picture(small), small, picture(large, 1), SPACING, plan) for _ in range(2))
    assert_array_equal(first.velocity, again.velocity)
