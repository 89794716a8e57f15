"""Training slices: image and control move together, drops come as often as asked, and the number decides all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffboost3d.diffusion.batches import SliceDataset, SlicePlan, SliceSource, move_slice, training_size
from diffboost3d.diffusion.codecs import PackingCodec, padded
from diffboost3d.diffusion.text import ByteTokenizer

TOKENIZER = ByteTokenizer(12)
PLAN = SlicePlan((16, 16), 2, 10.0, (0.9, 1.1), 0.1, 0.1, 1000, 0, "pretrain")
STILL = replace(PLAN, rotation_degrees=0.0, scale=(1.0, 1.0), drop_text=0.0, drop_control=0.0)


def channels(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def sources(*shapes):
    """Volumes whose image is 0.1 at every voxel of the first, 0.2 of the second, plus a hundredth of the slice number."""
    made = []
    for number, shape in enumerate(shapes):
        image = np.full(shape, 0.1 * (number + 1), np.float32) + 0.01 * np.arange(shape[2], dtype=np.float32)
        made.append(SliceSource(image, np.stack([image, 1 - image])))
    return made


def dataset(plan=PLAN, shapes=((14, 18, 5), (16, 16, 4)), factor=2):
    return SliceDataset(sources(*shapes), "Hippocampus", TOKENIZER, PackingCodec("haar", factor), plan)


@settings(max_examples=25, deadline=None)
@given(a=st.integers(2, 15), b=st.integers(2, 15))
def test_no_turn_no_scale_no_shift_changes_nothing(a, b):
    image = channels(2, a, b)
    torch.testing.assert_close(move_slice(image, (a, b), 0.0, 1.0, (0.0, 0.0)), image, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sides", [(8, 8), (9, 9), (6, 10)])
def test_a_quarter_turn_moves_every_voxel_to_its_place(sides):
    image = channels(3, *sides)
    turned = move_slice(image, sides[::-1], 90.0, 1.0, (0.0, 0.0))
    either = [torch.rot90(image, turns, dims=(1, 2)) for turns in (1, 3)]
    assert any(torch.allclose(turned, one, atol=1e-5) for one in either)
    back = move_slice(turned, sides, -90.0, 1.0, (0.0, 0.0))
    torch.testing.assert_close(back, image, rtol=0, atol=1e-4)
    half = move_slice(image, sides, 180.0, 1.0, (0.0, 0.0))
    torch.testing.assert_close(half, image.flip(1, 2), rtol=0, atol=1e-5)


def test_oblong_voxels_turn_without_shear():
    """A ball stays a ball in mm: 2 mm along the second side, 1 mm along the first."""
    i, j = torch.meshgrid(torch.arange(41.0) - 20, 2 * (torch.arange(21.0) - 10), indexing="ij")
    ball = (1 - (i**2 + j**2).sqrt() / 18).clamp(min=0)[None]
    turned = move_slice(ball, (41, 21), 33.0, 1.0, (0.0, 0.0), aspect=2.0)
    torch.testing.assert_close(turned, ball, rtol=0, atol=0.03)
    sheared = move_slice(ball, (41, 21), 33.0, 1.0, (0.0, 0.0))
    assert (sheared - ball).abs().max() > 0.2


@settings(max_examples=25, deadline=None)
@given(degrees=st.floats(-180, 180), scale=st.floats(0.5, 2), shift=st.tuples(st.floats(-4, 4), st.floats(-4, 4)))
def test_all_channels_move_alike(degrees, scale, shift):
    one = channels(1, 12, 9)
    moved = move_slice(torch.cat([one, one, 1 - one]), (10, 14), degrees, scale, shift)
    assert torch.equal(moved[0], moved[1])
    torch.testing.assert_close(moved[2], 1 - moved[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("shift", "first"), [((0, 0), (3, 2)), ((2, -1), (5, 1)), ((-3, 2), (0, 4))])
def test_the_window_is_that_many_voxels_off_the_centre(shift, first):
    image = channels(1, 14, 12)
    window = move_slice(image, (8, 8), 0.0, 1.0, shift)
    expected = image[:, first[0] : first[0] + 8, first[1] : first[1] + 8]
    torch.testing.assert_close(window, expected, rtol=0, atol=1e-5)


def test_beyond_the_end_the_last_voxel_is_repeated_in_every_channel_as_in_sampling():
    image = channels(2, 6, 8)
    window = move_slice(image, (10, 16), 0.0, 1.0, (0.0, 0.0))
    assert torch.equal(window, padded(image, (10, 16)))


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.25, 2.0])
def test_scaling_makes_the_object_that_many_times_as_large(scale):
    places = torch.stack(torch.meshgrid(torch.arange(21.0), torch.arange(21.0), indexing="ij"))
    moved = move_slice(places, (9, 9), 0.0, scale, (0.0, 0.0))
    torch.testing.assert_close(moved[0, 5, 4] - moved[0, 4, 4], torch.tensor(1 / scale), rtol=0, atol=1e-4)
    assert moved[:, 4, 4].tolist() == pytest.approx([10, 10], abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(degrees=st.floats(-180, 180))
def test_a_turn_keeps_distances_and_handedness(degrees):
    places = torch.stack(torch.meshgrid(torch.arange(31.0), torch.arange(31.0), indexing="ij"))
    moved = move_slice(places, (9, 9), degrees, 1.0, (0.0, 0.0))
    turn = torch.stack([moved[:, 5, 4] - moved[:, 4, 4], moved[:, 4, 5] - moved[:, 4, 4]], dim=1).double()
    torch.testing.assert_close(turn @ turn.T, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-4)
    assert torch.linalg.det(turn) > 0


def test_a_sample_is_a_slice_with_its_control_noise_and_time():
    items = dataset()
    sample = items[3]
    assert {name: tuple(tensor.shape) for name, tensor in sample.items()} == {
        "image": (1, 16, 16),
        "control": (2, 16, 16),
        "tokens": (12,),
        "noise": (4, 8, 8),
        "timestep": (),
    }
    assert sample["control"].min() >= 0
    assert sample["control"].max() <= 1


@settings(max_examples=20, deadline=None)
@given(number=st.integers(0, 10**9))
def test_the_number_decides_all(number):
    torch.manual_seed(number % 7)
    first, again = dataset()[number], dataset()[number]
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_seed_and_purpose_make_other_samples():
    draws = {str(dataset(plan).draw(0)) for plan in (PLAN, replace(PLAN, seed=1), replace(PLAN, purpose="finetune"))}
    assert len(draws) == 3


def test_image_and_control_of_a_sample_are_of_the_same_place():
    items = dataset(replace(PLAN, drop_control=0.0))
    for number in range(20):
        sample = items[number]
        torch.testing.assert_close(sample["image"][0], sample["control"][0], rtol=0, atol=1e-5)
        torch.testing.assert_close(sample["image"][0], 1 - sample["control"][1], rtol=0, atol=1e-5)


def test_the_drawn_slice_is_the_one_given():
    items = dataset(STILL)
    for number in range(20):
        draw = items.draw(number)
        expected = 0.1 * (draw.source + 1) + 0.01 * draw.position
        assert float(items[number]["image"].mean()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_across_the_asked_axis(axis):
    image = np.indices((6, 7, 8), dtype=np.float32)[axis] / 10
    plan = replace(STILL, axis=axis, size=(8, 8))
    items = SliceDataset([SliceSource(image, image[None] * 0)], "", TOKENIZER, PackingCodec("haar", 1), plan)
    for number in range(8):
        assert float(items[number]["image"].std()) < 1e-6
        assert float(items[number]["image"].mean()) == pytest.approx(items.draw(number).position / 10, abs=1e-5)


def test_text_and_control_are_dropped_as_often_as_asked_and_apart():
    items = dataset(replace(PLAN, drop_text=0.3, drop_control=0.2))
    draws = [items.draw(number) for number in range(2000)]
    text, control = (np.array([getattr(draw, f"drop_{what}") for draw in draws]) for what in ("text", "control"))
    assert abs(text.mean() - 0.3) < 0.05
    assert abs(control.mean() - 0.2) < 0.05
    assert abs((text & control).mean() - 0.06) < 0.03
    for number in range(30):
        sample = items[number]
        assert torch.equal(sample["tokens"], TOKENIZER("" if text[number] else "Hippocampus"))
        assert bool(sample["control"].any()) is not bool(control[number])


@pytest.mark.parametrize(("share", "dropped"), [(0.0, False), (1.0, True)])
def test_drops_of_none_and_of_all(share, dropped):
    items = dataset(replace(PLAN, drop_text=share, drop_control=share))
    for number in range(50):
        draw = items.draw(number)
        assert draw.drop_text is draw.drop_control is dropped


def test_draws_cover_their_ranges():
    items = dataset(replace(PLAN, size=(8, 8)))
    draws = [items.draw(number) for number in range(1500)]
    assert {draw.source for draw in draws} == {0, 1}
    assert {draw.position for draw in draws if draw.source == 0} == set(range(5))
    assert {draw.position for draw in draws if draw.source == 1} == set(range(4))
    times = np.array([draw.timestep for draw in draws])
    assert times.min() < 20
    assert 980 < times.max() < 1000
    assert np.histogram(times, bins=4, range=(0, 1000))[0].min() > 300
    assert max(abs(draw.degrees) for draw in draws) <= 10
    assert 0.9 <= min(draw.scale for draw in draws) < 0.91
    largest = np.abs([draw.shift for draw in draws if draw.source == 0]).max(axis=0)
    assert largest == pytest.approx([3, 5], abs=0.2)  # half of what 14 x 18 has beyond 8 x 8


def test_noise_is_standard_normal_and_differs_from_sample_to_sample():
    items = dataset()
    noise = torch.stack([items[number]["noise"] for number in range(60)])
    assert abs(float(noise.mean())) < 0.05
    assert float(noise.std()) == pytest.approx(1, abs=0.05)
    assert not torch.equal(noise[0], noise[1])


def test_the_training_size_covers_every_volume_in_multiples_of_the_divisor():
    shapes = [(35, 51, 35), (40, 30, 20)]
    assert training_size(shapes, 2, 8, 256) == (40, 56)
    assert training_size(shapes, 0, 8, 256) == (56, 40)
    assert training_size(shapes, 1, 16, 256) == (48, 48)


def test_the_training_size_stays_within_its_limit_but_never_below_the_divisor():
    assert training_size([(300, 40, 9)], 2, 16, 100) == (96, 48)
    assert training_size([(300, 40, 9)], 2, 32, 16) == (32, 32)


@pytest.mark.parametrize("size", [(16, 16), (24, 8), (8, 24)])
def test_without_jitter_a_slice_keeps_the_very_voxels_of_its_source(size):
    """Odd sides too: half a voxel off, interpolation would take away the finest detail, and the generator would learn that."""
    volume = np.random.default_rng(0).random((13, 11, 3)).astype(np.float32)
    items = SliceDataset(
        [SliceSource(volume, volume[None])],
        "",
        ByteTokenizer(12),
        PackingCodec("haar", 1),
        replace(PLAN, size=size, jitter=0.0),
    )
    voxels = set(volume.ravel().tolist())
    for number in range(10):
        assert set(items[number]["image"].ravel().tolist()) <= voxels


def test_as_many_slices_are_jittered_as_asked():
    items = dataset(replace(PLAN, jitter=0.3))
    moved = [items.draw(number).degrees != 0.0 for number in range(2000)]
    assert abs(np.mean(moved) - 0.3) < 0.04


def test_jitter_keeps_most_of_the_fine_detail():
    image = torch.rand((1, 40, 40), generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(torch.nn.functional.avg_pool2d(image[None], 3, 1, 1), 2, 1)[0]
    turned = move_slice(smooth, (24, 24), 9.0, 1.0, (0.3, 0.2))
    still = move_slice(smooth, (24, 24), 0.0, 1.0, (0.0, 0.0))
    detail = [float((one[:, 1:] - one[:, :-1]).square().mean()) for one in (turned, still)]
    assert detail[0] > 0.8 * detail[1]
    assert turned.min() >= smooth.min()
    assert turned.max() <= smooth.max()
