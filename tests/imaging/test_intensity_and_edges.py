"""Intensity maps invert, and edges lie where steps are, in mm, whatever the axes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffboost3d.imaging.edges import control_channels, control_image, label_boundaries, soft_edges
from diffboost3d.imaging.intensity import IntensityMap, fit_intensity_map


def textured(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2.0)
    return (np.tanh(3 * field / np.abs(field).max())).astype(np.float32)


@given(st.floats(-2000, 2000), st.floats(1, 5000), st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_the_inverse_gives_back_what_was_inside_the_window(low: float, width: float, shares: list[float]) -> None:
    window = IntensityMap("ct_window", low, low + width, "HU")
    values = low + width * np.asarray(shares)
    assert np.allclose(window.inverse(window.forward(values)), values, atol=width * 1e-6 + 1e-6)


def test_a_ct_window_is_in_hounsfield_units_and_knows_what_it_cut_off() -> None:
    window = fit_intensity_map(np.array([-1000, 40, 3000]), "ct_window", (-160, 240), (0.5, 99.5))
    assert window.forward(np.array([-1000, -160, 40, 240, 3000])).tolist() == [-1, -1, 0, 1, 1]
    assert window.lost(np.array([-1000, -160, 40, 240, 3000])).tolist() == [True, False, False, False, True]
    assert window.unit == "HU"


def test_percentiles_are_of_the_volume_and_lose_nothing() -> None:
    values = np.arange(1001, dtype=float)
    fitted = fit_intensity_map(values, "percentiles", (0, 1), (10, 90))
    assert (fitted.low, fitted.high) == (100, 900)
    assert not fitted.lost(values).any()


def test_nearly_constant_volumes_are_mapped_and_constant_ones_refused() -> None:
    speck = np.zeros(10_000)
    speck[0] = 7.0
    assert fit_intensity_map(speck, "percentiles", (0, 1), (0.5, 99.5)).high == 7.0
    with pytest.raises(ValueError, match="every voxel is 3"):
        fit_intensity_map(np.full(5, 3.0), "percentiles", (0, 1), (0.5, 99.5))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_step_gives_a_ridge_at_the_step(axis: int) -> None:
    image = -np.ones((20, 20, 20), np.float32)
    np.moveaxis(image, axis, 0)[9:] = 1.0
    edges = np.moveaxis(soft_edges(image, (1.0, 1.0, 1.0)), axis, 0)
    profile = edges.mean(axis=(1, 2))
    assert set(np.argsort(profile)[-2:]) == {8, 9}
    assert profile[[8, 9]].min() > 0.5
    assert profile[[5, 12]].max() < 0.1


def test_edges_follow_millimetres_not_voxels() -> None:
    image = textured((18, 16, 14))
    assert np.allclose(
        soft_edges(image, (1.0, 1.5, 2.0), (1.0, 2.0)), soft_edges(image, (2.0, 3.0, 4.0), (2.0, 4.0)), atol=1e-5
    )


def test_edges_move_with_the_axes() -> None:
    image = textured((18, 16, 14))
    turned = soft_edges(image.transpose(2, 0, 1), (2.0, 1.0, 1.5))
    assert np.allclose(turned, soft_edges(image, (1.0, 1.5, 2.0)).transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("thin", [True, False])
def test_edges_are_between_0_and_1_in_3d_and_2d_and_none_without_contrast(thin: bool) -> None:
    for shape in [(18, 16, 14), (18, 16, 1)]:
        edges = soft_edges(textured(shape), (1.0, 1.0, 1.0), thin=thin)
        assert edges.shape == shape
        assert edges.min() >= 0
        assert edges.max() == 1
    assert not soft_edges(np.zeros((8, 8, 8), np.float32), (1.0, 1.0, 1.0), thin=thin).any()


def test_label_boundaries_mark_both_sides_of_the_border_and_nothing_far_from_it() -> None:
    label = np.zeros((20, 10, 10), np.uint8)
    label[8:] = 2
    absent, present = label_boundaries(label, [1, 2])
    assert not absent.any()
    assert present[7:9].min() > 0.6
    assert present[:5].max() < 0.01
    assert present[11:].max() < 0.01


def test_control_channels_are_the_slices_before_at_and_after_then_one_boundary_a_label() -> None:
    edge = np.broadcast_to(np.arange(5, dtype=np.float32) / 10, (4, 6, 5)).copy()
    label = np.zeros(edge.shape, np.uint8)
    label[:2] = 1
    control = control_image(edge, label, [1, 2], axis=2, neighbours=1, control="separate")
    assert control.shape == (5, 4, 6, 5) == (control_channels(2, 1, "separate"), *edge.shape)
    assert control[0, 0, 0].tolist() == pytest.approx([0, 0, 0.1, 0.2, 0.3])
    assert np.array_equal(control[1], edge)
    assert control[2, 0, 0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert control[3].any()
    assert not control[4].any()
    assert not control_image(edge, None, [1, 2], 2, 1, "separate")[3:].any()


def test_added_control_is_the_clipped_sum() -> None:
    edge = np.full((6, 6, 6), 0.75, np.float32)
    label = np.zeros(edge.shape, np.uint8)
    label[3:] = 1
    added = control_image(edge, label, [1], axis=2, neighbours=0, control="added")
    assert added.shape == (1, 6, 6, 6)
    assert np.allclose(added[0], np.clip(edge + label_boundaries(label, [1])[0], 0, 1))
