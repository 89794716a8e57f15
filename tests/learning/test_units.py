"""Values and voxels of synthetic volumes are those of the real file's grid, units and range, with its background."""

from __future__ import annotations

import numpy as np
import pytest

from diffboost3d.cases.records import Case
from diffboost3d.imaging.geometry import Grid, resample, resample_slab
from diffboost3d.imaging.intensity import IntensityMap
from diffboost3d.synthesis import units
from diffboost3d.synthesis.units import KeepPlan, in_source_units, real_of_anatomy, real_of_file

SHAPE = (10, 9, 5)
FILE = (5, 10, 9)
WINDOW = IntensityMap("ct_window", -160.0, 240.0, "HU")
NOTHING = KeepPlan(background=False)


def volume(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def turned_case(spacing=None, intensity=WINDOW):
    """A case whose file counts its voxels along S, L and P, with thick slices first."""
    affine = np.array([[0, -1.0, 0, 20], [0, 0, -0.8, 30], [3.0, 0, 0, -40], [0, 0, 0, 1]])
    source = Grid.of(FILE, affine)
    grid = source.canonical() if spacing is None else source.canonical().with_spacing(spacing)
    return Case("c", "c", "images/c.nii.gz", None, source, grid, intensity, "d")


def ends(low=-160.0, high=240.0):
    """A file of that range."""
    source = np.full(FILE, (low + high) / 2)
    source.flat[:2] = low, high
    return source


def in_units(prepared, case, source, keep=NOTHING, image=None):
    real = real_of_file(case, source, keep) if image is None else real_of_anatomy(case, source, image, keep)
    return np.concatenate(list(in_source_units(prepared, case, real)), axis=2)


@pytest.mark.parametrize("slab", [1, 4, 16])
def test_values_are_in_hu_on_the_voxels_of_the_file(monkeypatch, slab):
    monkeypatch.setattr(units, "SLAB", slab)
    case = turned_case()
    assert case.grid.shape == SHAPE
    made = in_units(volume(), case, ends())
    assert made.shape == FILE
    # file axis 0 is S, axis 1 is L (R flipped), axis 2 is P (A flipped)
    expected = volume().transpose(2, 0, 1)[:, ::-1, ::-1].astype(np.float64) * 200 + 40
    np.testing.assert_allclose(made, expected, atol=1e-4)


@pytest.mark.parametrize(("prepared", "hu"), [(-1.0, -160.0), (0.0, 40.0), (1.0, 240.0), (0.5, 140.0)])
def test_known_values(prepared, hu):
    made = in_units(np.full(SHAPE, prepared, np.float32), turned_case(), ends())
    np.testing.assert_allclose(made, hu, atol=1e-4)


def test_no_value_leaves_the_range_of_the_file():
    made = in_units(volume(), turned_case(), ends(-20.0, 100.0))
    assert (made.min(), made.max()) == (-20.0, 100.0)


def test_outside_the_window_the_real_values_stay():
    case, source = turned_case(), np.zeros(FILE, np.int16)
    source[0], source[1], source[2, 3, 4], source[3] = -1024, 1500, -161, 240
    made = in_units(np.zeros(SHAPE, np.float32), case, source)
    outside = (source < -160) | (source > 240)
    assert np.array_equal(made[outside], source[outside])
    assert outside.sum() == 2 * 90 + 1
    np.testing.assert_allclose(made[~outside], 40.0, atol=1e-6)


def test_without_a_window_no_real_value_stays():
    case = turned_case(intensity=IntensityMap("percentiles", -160.0, 240.0))
    source = np.linspace(-1000, 1000, 450).reshape(FILE)
    np.testing.assert_allclose(in_units(np.zeros(SHAPE, np.float32), case, source, KeepPlan()), 40.0, atol=1e-6)


@pytest.mark.parametrize("slab", [1, 4, 16])
@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (0.7, 0.9, 1.1)])
def test_the_grid_of_the_file_is_kept_also_after_resampling(monkeypatch, slab, spacing):
    monkeypatch.setattr(units, "SLAB", slab)
    case = turned_case(spacing=spacing)
    assert case.grid.shape != case.source_grid.shape
    ramp = np.arange(450.0).reshape(FILE) / 225 - 1
    moved = resample(ramp, case.source_grid, case.grid, "linear")
    made = in_units(moved, case, ends())
    assert made.shape == FILE
    whole = resample(moved, case.grid, case.source_grid, "linear") * 200 + 40
    np.testing.assert_allclose(made, whole, atol=1e-2)  # of a range of 400
    inner = (slice(1, -1), slice(2, -2), slice(2, -2))
    assert np.abs(made[inner] - (ramp * 200 + 40)[inner]).max() < 25  # a sixteenth of the range, on wider voxels


def test_slabs_that_reach_beyond_the_array_repeat_its_border_like_the_whole():
    source = Grid.of((6, 7, 5), np.diag([1.0, 1.0, 2.0, 1.0]))
    target = Grid.of((9, 4, 12), np.array([[1.1, 0, 0, -3], [0, 1.7, 0, 1], [0, 0, 1.3, -4], [0, 0, 0, 1.0]]))
    array = volume(3, source.shape)
    whole = resample(array, source, target)
    for first, stop in ((0, 1), (0, 5), (5, 12), (11, 12), (0, 12)):
        part = resample_slab(array, source, target, first, stop)
        np.testing.assert_allclose(part, whole[:, :, first:stop], atol=1e-5)


def test_a_real_volume_survives_the_way_there_and_back():
    case = turned_case()
    source = np.random.default_rng(3).integers(-1000, 1500, FILE).astype(np.int16)
    prepared = resample(case.intensity.forward(source), case.source_grid, case.grid, "linear")
    np.testing.assert_allclose(in_units(prepared, case, source, KeepPlan()), source, atol=0.01)


# --- background ------------------------------------------------------------------------------------------------------
WIDE = IntensityMap("ct_window", -1500.0, 500.0, "HU")
BODY = np.s_[1:4, 2:8, 2:7]  # in the file, whose axial planes lie across axis 0


def scan(air, body=40):
    source = np.random.default_rng(5).normal(air, 15, FILE).round().clip(-1024, 3000).astype(np.int16)
    source[BODY] = body
    source[1, 4:6, 4:5] = -800  # a lung
    return source


def test_air_around_a_ct_body_stays_as_it_was_scanned_and_the_body_does_not():
    case, source = turned_case(intensity=WIDE), scan(-1000)
    made = in_units(np.zeros(SHAPE, np.float32), case, source, KeepPlan())
    body = np.zeros(FILE, bool)
    body[BODY] = True
    assert np.array_equal(made[~body], source[~body])
    np.testing.assert_allclose(made[body], -500.0)  # the middle of the window
    assert (in_units(np.zeros(SHAPE, np.float32), case, source)[~body] != source[~body]).any()


def test_a_lung_below_the_window_keeps_its_values_and_one_within_it_is_made():
    """Edges and label are the file's, so that its values belong where a generator of abdomens can't make any."""
    source = scan(-1000)
    lung = source == -800
    for window, expected in ((WINDOW, -800.0), (IntensityMap("ct_window", -1000.0, 400.0, "HU"), -300.0)):
        case = turned_case(intensity=window)
        made = in_units(np.zeros(SHAPE, np.float32), case, source, KeepPlan())
        np.testing.assert_allclose(made[lung], expected, atol=1e-4)


def test_a_table_within_the_window_stays_and_the_body_on_it_does_not():
    case, source = turned_case(intensity=WIDE), scan(-1000)
    source[:, 9, :] = 100  # 1 mm thick
    made = in_units(np.zeros(SHAPE, np.float32), case, source, KeepPlan(table_mm=2.0))
    assert np.array_equal(made[:, 9, :], source[:, 9, :])
    np.testing.assert_allclose(made[BODY], -500.0)


@pytest.mark.parametrize("padding", [-2000, -3024])
def test_padding_stays_and_nothing_is_made_below_what_was_scanned(padding):
    case, source = turned_case(intensity=IntensityMap("ct_window", -4000.0, 500.0, "HU")), scan(-1000)
    scanned = source.min()
    source[:, :2], source[:, :, :2] = padding, padding
    made = in_units(np.full(SHAPE, -1.0, np.float32), case, source, KeepPlan())
    assert np.array_equal(made[source == padding], source[source == padding])
    assert made[source != padding].min() >= scanned
    assert made[BODY].max() < -900


def test_the_mask_of_an_mr_scan_stays_empty():
    case = turned_case(intensity=IntensityMap("percentiles", 0.0, 400.0))
    source = np.zeros(FILE)
    source[BODY] = np.random.default_rng(6).uniform(50, 500, source[BODY].shape)
    made = in_units(volume(), case, source, KeepPlan())
    assert (made[source == 0] == 0).all()
    assert (made[BODY] != source[BODY]).all()


def test_another_anatomy_has_air_around_its_own_body():
    """The window cuts air off, so that a warped image knows only where it lies; its values are like the file's."""
    case, source = turned_case(), scan(-1000)
    prepared = resample(case.intensity.forward(source), case.source_grid, case.grid, "linear")
    image = np.roll(prepared, 2, axis=0)  # R is axis 1 of the file, backwards
    made = in_units(np.zeros(SHAPE, np.float32), case, source, KeepPlan(), image)
    body = np.roll(source, -2, axis=1) > -160
    np.testing.assert_allclose(made[body], 40.0, atol=1e-4)
    assert (made[~body] < -700).all()
    stays = ~body & (source < -160)
    assert np.array_equal(made[stays], source[stays])
    appeared = ~body & (source >= -160)
    lung = appeared & (np.roll(source, -2, axis=1) == -800)
    assert lung.any()
    assert (made[lung] == -800).all()
    assert (made[appeared & ~lung] == np.median(source[source < -900])).all()


def test_another_anatomy_of_a_masked_scan_is_masked_around_its_own_body():
    case = turned_case(intensity=IntensityMap("percentiles", 0.0, 400.0))
    source = np.zeros(FILE)
    source[BODY] = 200.0
    image = np.roll(resample(case.intensity.forward(source), case.source_grid, case.grid, "linear"), 1, axis=0)
    made = in_units(np.full(SHAPE, -0.5, np.float32), case, source, KeepPlan(), image)
    body = np.roll(source, -1, axis=1) > 0
    assert (made[~body] == 0).all()
    np.testing.assert_allclose(made[body], 100.0, atol=1e-3)
