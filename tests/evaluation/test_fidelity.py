"""Fidelity: known answers by hand or formula, in 2D and 3D, with empty labels and edges among the cases."""

from __future__ import annotations

import builtins
import math

import numpy as np
import pytest

from diffboost3d.errors import ConfigError, DataError
from diffboost3d.evaluation.fidelity import (
    EdgeAgreement,
    boundary_contrast,
    contrast_ratio,
    diversity,
    edge_agreement,
    frechet_distance,
    kernel_distance,
    label_histogram_distance,
    load_feature_network,
    radial_power_spectrum,
    slice_spectrum_distance,
    spectrum_distance,
)

SHAPES = [(24, 20), (24, 20, 1), (16, 14, 12)]


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shift_of_intensity_is_the_histogram_distance_of_its_label_alone(shape):
    label = np.zeros(shape, np.uint8)
    label[4:9, 5:12] = 2
    real = noise(shape)
    synthetic = real + 0.25 * (label == 2)
    distance = label_histogram_distance(real, synthetic, label, [0, 2, 5])
    assert distance == {0: 0.0, 2: pytest.approx(0.25)}


def test_where_the_voxels_lie_does_not_change_the_histogram_distance():
    real, label = noise((9, 8)), np.ones((9, 8), int)
    assert label_histogram_distance(real, real[::-1, ::-1], label, [1]) == {1: 0.0}


@pytest.mark.parametrize("shape", [(64, 48), (64, 48, 1), (32, 24, 20)])
def test_white_noise_has_its_variance_as_power_at_all_frequencies(shape):
    spectra = [radial_power_spectrum(3 * noise(shape, seed), [1.0] * len(shape)).log_power for seed in range(20)]
    assert np.mean(10.0 ** np.array(spectra), axis=0) == pytest.approx(9, rel=0.3)


def test_a_wave_peaks_at_its_frequency_in_cycles_per_mm():
    position_mm = 0.5 * np.arange(80)
    wave = np.sin(2 * np.pi * 0.2 * position_mm)[:, None] * np.ones((1, 60))
    spectrum = radial_power_spectrum(wave, (0.5, 1.0))
    assert spectrum.frequencies[spectrum.log_power.argmax()] == pytest.approx(0.2, abs=1 / 60)
    assert spectrum.frequencies[-1] == pytest.approx(0.5)


def test_spectra_differ_by_nothing_for_one_image_and_by_more_with_more_blur():
    from scipy.ndimage import gaussian_filter

    image = noise((48, 40))
    distances = [spectrum_distance(image, gaussian_filter(image, sigma), (1, 1)) for sigma in (0.0, 0.4, 0.8, 1.6)]
    assert distances[0] == 0
    assert distances == sorted(distances)
    assert spectrum_distance(image, 10 * image, (1, 1)) == pytest.approx(2, abs=1e-6)


def test_a_constant_image_has_a_spectrum():
    assert np.isfinite(radial_power_spectrum(np.full((8, 8), 3.0), (1, 1)).log_power).all()


@pytest.mark.parametrize(("shift", "recall"), [(0, 1.0), (1, 1.0), (2, 0.0), (3, 0.0)])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_edge_is_found_within_one_voxel(shape, shift, recall):
    control, sample = np.zeros(shape), np.zeros(shape)
    control[6], sample[6 + shift] = 0.8, 0.8
    assert edge_agreement(control, sample, threshold=0.5) == EdgeAgreement(recall, recall)


def test_missed_and_invented_edges_are_told_apart():
    control, sample = np.zeros((20, 10)), np.zeros((20, 10))
    control[[3, 10]] = 1.0
    sample[[3, 7, 16]] = 1.0
    agreement = edge_agreement(control, sample, 0.5)
    assert (agreement.recall, agreement.precision) == (pytest.approx(1 / 2), pytest.approx(1 / 3))
    assert agreement.f1 == pytest.approx(0.4)


def test_without_edges_nothing_is_missed_or_invented():
    none, some = np.zeros((5, 5)), np.eye(5)
    assert edge_agreement(none, none, 0.5) == EdgeAgreement(1.0, 1.0)
    assert edge_agreement(some, none, 0.5) == EdgeAgreement(0.0, 1.0)
    assert edge_agreement(none, some, 0.5) == EdgeAgreement(1.0, 0.0)
    assert edge_agreement(some, none, 0.5).f1 == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_contrast_is_signed_and_looks_no_farther_than_its_width(shape):
    label = np.zeros(shape, np.uint8)
    label[4:11, 4:11] = 3
    image = np.where(label == 3, -0.5, 0.25)
    image[0] = image[-1] = 100.0
    image[7, 7] = 100.0
    assert boundary_contrast(image, label, [3, 4]) == {3: pytest.approx(-0.75)}


def test_contrast_of_a_ball_in_three_dimensions():
    distance = np.sqrt(sum((axis - 8) ** 2 for axis in np.indices((17, 17, 17))))
    label = (distance < 5).astype(int)
    assert boundary_contrast(2.0 * label + 1, label, [1], width=2) == {1: pytest.approx(2.0)}
    assert boundary_contrast(2.0 * label + 1, np.ones_like(label), [0, 1]) == {}


def test_diversity_is_the_mean_distance_of_pairs():
    same = np.ones((4, 6, 5))
    assert diversity(same) == 0
    levels = np.array([0.0, 1.0, 3.0])[:, None, None] * np.ones((1, 6, 5))
    assert diversity(levels) == pytest.approx((1 + 3 + 2) / 3)
    with pytest.raises(ValueError, match="two samples"):
        diversity(same[:1])


def with_moments(mean: np.ndarray, covariance: np.ndarray, count: int = 200) -> np.ndarray:
    """Features whose mean and covariance are exactly these."""
    raw = noise((count, len(mean)))
    raw = raw - raw.mean(axis=0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
    return white @ np.linalg.cholesky(covariance).T + mean


def test_the_frechet_distance_of_two_gaussians_is_the_formula():
    first = with_moments(np.array([0.0, 1.0]), np.diag([4.0, 1.0]))
    second = with_moments(np.array([3.0, 1.0]), np.diag([1.0, 9.0]))
    assert frechet_distance(first, second) == pytest.approx(9 + (2 - 1) ** 2 + (1 - 3) ** 2)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_agrees_with_a_matrix_square_root():
    from scipy.linalg import sqrtm

    a, b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    expected = np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(with_moments(np.zeros(2), a), with_moments(np.zeros(2), b)) == pytest.approx(expected)


def test_the_frechet_distance_bears_more_features_than_images():
    assert math.isfinite(frechet_distance(noise((5, 20)), noise((6, 20), seed=1)))


def test_the_kernel_distance_of_two_points_each_is_worked_out_by_hand():
    # one dimension: k(x, y) = (x y + 1)^3; k(0, 1) = 1, k(2, 2) = 125, between: k(0, 2) = 1, k(1, 2) = 27
    first, second = np.array([[0.0], [1.0]]), np.array([[2.0], [2.0]])
    assert kernel_distance(first, second) == pytest.approx(1 + 125 - 2 * (1 + 27) / 2)


def test_the_kernel_distance_is_zero_on_average_for_equal_distributions():
    values = [kernel_distance(noise((20, 4), seed), noise((20, 4), 1000 + seed)) for seed in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(200)
    assert min(values) < 0 < kernel_distance(noise((20, 4)), noise((20, 4), 1) + 1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: label_histogram_distance(noise((4, 4)), noise((4, 5)), np.ones((4, 4)), [1]),
        lambda: spectrum_distance(noise((8, 8)), noise((8, 9)), (1, 1)),
        lambda: radial_power_spectrum(noise((8, 8)), (1, 1, 1)),
        lambda: radial_power_spectrum(noise((8, 2)), (1, 1)),
        lambda: edge_agreement(noise((4, 4)), noise((5, 4)), 0.5),
        lambda: edge_agreement(noise((4, 4)), noise((4, 4)), 0.5, tolerance_voxels=-1),
        lambda: boundary_contrast(noise((4, 4)), np.eye(4), [1], width=0),
        lambda: frechet_distance(noise((4, 4)), noise((4, 5))),
        lambda: frechet_distance(noise((1, 4)), noise((4, 4))),
        lambda: kernel_distance(noise((4, 4)), np.full((4, 4), np.nan)),
    ],
)
def test_unfit_arrays_are_refused(call):
    with pytest.raises(ValueError, match=r"shape|spacing|voxel|features|width|tolerance"):
        call()


def test_a_pickled_network_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"\.onnx"):
        load_feature_network(tmp_path / "inception.pt")
    with pytest.raises(DataError, match="no such file"):
        load_feature_network(tmp_path / "inception.onnx")


def test_a_missing_onnxruntime_is_said_with_its_remedy(tmp_path, monkeypatch):
    (tmp_path / "network.onnx").write_bytes(b"")
    really_import = builtins.__import__

    def without_onnxruntime(name, *rest, **named):
        if name == "onnxruntime":
            raise ImportError(name)
        return really_import(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_onnxruntime)
    with pytest.raises(ConfigError, match="pip install onnxruntime"):
        load_feature_network(tmp_path / "network.onnx")


def test_a_damaged_network_is_named(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "network.onnx").write_bytes(b"no graph")
    with pytest.raises(DataError, match=r"network\.onnx"):
        load_feature_network(tmp_path / "network.onnx")


def test_features_of_a_network_are_averaged_over_space(tmp_path):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    kind, shape = onnx.TensorProto.FLOAT, ["n", 2, "a", "b"]
    ends = [onnx.helper.make_tensor_value_info(name, kind, shape) for name in ("images", "maps")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["images"], ["maps"])], "negative", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "network.onnx")
    images = noise((37, 2, 6, 5)).astype(np.float32)
    assert load_feature_network(tmp_path / "network.onnx")(images) == pytest.approx(-images.mean(axis=(2, 3)), abs=1e-6)


def test_a_label_without_contrast_has_no_ratio_and_the_others_keep_theirs():
    label = np.zeros((8, 8, 8), np.uint8)
    label[1:3, 1:3, 1:3], label[5:7, 5:7, 5:7] = 1, 2
    real, synthetic = np.zeros((8, 8, 8)), np.zeros((8, 8, 8))
    real[label == 2], synthetic[label == 2], synthetic[label == 1] = 0.5, 0.25, 0.5
    assert contrast_ratio(real, synthetic, label, [1, 2]) == {2: pytest.approx(0.5)}


def test_empty_slices_do_not_swamp_the_spectrum_distance_of_a_volume():
    real, synthetic = noise((16, 16, 12), 1), noise((16, 16, 12), 2)
    whole = slice_spectrum_distance(real, synthetic, (1.0, 1.0, 1.0), 2, every=1)
    real[:, :, 6:] = -1.0
    half = slice_spectrum_distance(real, synthetic, (1.0, 1.0, 1.0), 2, every=1)
    assert half == pytest.approx(whole, abs=0.05)
    assert np.isnan(slice_spectrum_distance(np.zeros((16, 16, 4)), synthetic[:, :, :4], (1.0, 1.0, 1.0), 2))
