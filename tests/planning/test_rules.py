"""The rules of a plan: known answers, and what holds for any data."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffboost3d.planning.rules import (
    codec_factor,
    denoised_voxels,
    memory_for_volumes,
    plan_batch,
    plan_patch,
    plan_slices,
    planned_unet,
    target_spacing,
    windows,
)
from diffboost3d.segmentation.topology import plan_topology
from diffboost3d.training import loading
from diffboost3d.training.loading import loader_workers

PLAIN, THICK = (1.0, 1.0, 1.0), (1.5, 1.5, 10.0)


def divisor_for(spacing):
    return lambda patch: plan_topology(spacing[: len(patch)], patch).divisor


# --- spacing -------------------------------------------------------------------------------------------------------
def test_the_spacing_is_the_median_of_each_axis() -> None:
    spacing, why = target_spacing([[1, 1, 2], [2, 1, 2], [3, 1, 2.5]], [[50, 50, 40]] * 3)
    assert spacing == (2.0, 1.0, 2.0)
    assert why == "median of 3 cases"


def test_a_thick_axis_of_few_slices_gets_its_tenth_percentile() -> None:
    thick = [5.0 + slice_ for slice_ in range(11)]  # 5 to 15 mm: median 10, tenth percentile 6
    spacing, why = target_spacing([[1, 1.2, step] for step in thick], [[200, 220, 12]] * 11)
    assert spacing == (1.0, 1.2, 6.0)
    assert "axis 2" in why


def test_a_thick_axis_with_as_many_voxels_as_the_others_keeps_its_median() -> None:
    thick = [5.0 + slice_ for slice_ in range(11)]
    assert target_spacing([[1, 1.2, step] for step in thick], [[200, 220, 70]] * 11)[0] == (1.0, 1.2, 10.0)


def test_a_thick_axis_never_becomes_finer_than_the_others() -> None:
    spacing, _ = target_spacing([[0.5, 1, 0.2], *[[0.5, 1, 8]] * 3], [[200, 200, 12]] * 4)
    assert spacing[2] >= 1.0


# --- patch and batch -----------------------------------------------------------------------------------------------
def test_hippocampus_gets_the_patch_and_batch_of_nnunet() -> None:
    median = (36, 50, 35)
    patch = plan_patch(median, divisor_for(PLAIN), lambda patch: True)
    assert patch == (40, 56, 40)
    assert plan_batch(1000, math.prod(patch), 260 * math.prod(median), 1000) == 9


def test_the_axis_that_is_longest_beside_the_median_is_cut_first() -> None:
    cut = plan_patch((32, 64, 30), lambda patch: (4, 4, 4), lambda patch: math.prod(patch) < 32 * 64 * 32)
    assert cut == (32, 64, 28)  # 32 of 30 is more than all
    assert plan_patch((64, 64), lambda patch: (16, 16), lambda patch: math.prod(patch) <= 1024) == (32, 32)


def test_every_axis_of_a_thin_volume_keeps_about_the_same_share() -> None:
    median = (256, 200, 10)
    patch = plan_patch(median, divisor_for(THICK), lambda patch: math.prod(patch) <= 100_000)
    assert math.prod(patch) <= 100_000
    shares = [side / whole for side, whole in zip(patch, median, strict=True)]
    assert max(shares) - min(shares) <= 0.25


def test_where_nothing_fits_the_smallest_patch_comes_out() -> None:
    assert plan_patch((40, 24, 16), lambda patch: (8, 8, 8), lambda patch: False) == (8, 8, 8)


@given(
    st.lists(st.integers(1, 300), min_size=2, max_size=3),
    st.lists(st.sampled_from([0.5, 1.0, 1.5, 3.0, 10.0]), min_size=3, max_size=3),
    st.integers(10, 10**7),
)
@settings(max_examples=60, deadline=None)
def test_any_patch_fits_its_own_network(median, spacing, most) -> None:
    divisor_of = divisor_for(spacing)
    patch = plan_patch(median, divisor_of, lambda patch: math.prod(patch) <= most)
    divisors = divisor_of(patch)
    assert all(side % divisor == 0 for side, divisor in zip(patch, divisors, strict=True))
    assert math.prod(patch) <= most or all(side == one for side, one in zip(patch, divisors, strict=True))


def test_a_batch_is_two_at_least_and_no_more_than_fit() -> None:
    assert plan_batch(0, 1000, 10**9, 100) == 2
    assert plan_batch(7, 1000, 10**9, 100) == 7
    assert plan_batch(70, 1000, 10**9, 8) == 8
    assert plan_batch(70, 1000, 100_000, 100) == 5  # 5 % of 100 patches


def test_channels_double_and_thick_slices_are_not_pooled_until_in_plane_voxels_are_as_thick() -> None:
    made = planned_unet(plan_topology(THICK, (128, 128, 10)), 16)
    assert made["strides"][:2] == [[2, 2, 1], [2, 2, 1]]
    assert made["channels"] == [16, 32, 64, 128, 256, 256]
    assert planned_unet(plan_topology(PLAIN, (40, 56, 40)), 16) == {"channels": [16, 32, 64, 128], "strides": [2, 2, 2]}


@pytest.mark.parametrize(
    ("shape", "patch", "overlap", "count"),
    [((10, 10, 1), (10, 12, 1), 0.5, 1), ((16, 8, 8), (8, 8, 8), 0.5, 3), ((17, 9, 8), (8, 8, 8), 0.0, 6)],
)
def test_windows_are_those_of_monai(shape, patch, overlap, count) -> None:
    from monai.data.utils import dense_patch_slices

    step = [max(1, int(side * (1 - overlap))) for side in patch]
    whole = [max(a, b) for a, b in zip(shape, patch, strict=True)]
    assert windows(shape, patch, overlap) == len(dense_patch_slices(whole, patch, step)) == count


# --- generator -----------------------------------------------------------------------------------------------------
def test_the_haar_codec_packs_more_where_slices_are_large() -> None:
    assert [codec_factor(side) for side in (48, 256, 257, 512, 900)] == [2, 2, 4, 4, 4]


def test_slices_are_whole_where_they_fit() -> None:
    plan = plan_slices(50, 2, 3, 16, 1, lambda size, batch: True)
    assert (plan.max_size, plan.batch) == (56, 16)
    assert plan_slices(900, 4, 3, 16, 1, lambda size, batch: True).max_size == 512


def test_the_batch_is_halved_before_slices_are_cropped() -> None:
    assert plan_slices(256, 2, 3, 16, 1, lambda size, batch: size * size * batch <= 256 * 256 * 4).batch == 4
    small = plan_slices(256, 2, 3, 16, 1, lambda size, batch: size * size * batch <= 128 * 128 * 4)
    assert (small.max_size, small.batch) == (128, 4)
    least = plan_slices(256, 2, 3, 16, 1, lambda size, batch: False)
    assert (least.max_size, least.batch) == (64, 4)


def test_a_batch_holds_whole_stacks() -> None:
    for stack in (1, 3, 5, 20):
        plan = plan_slices(100, 2, 3, 16, stack, lambda size, batch: batch <= 8)
        assert plan.batch % stack == 0
        assert plan.batch >= stack


def test_at_least_one_slice_is_denoised_at_once() -> None:
    assert denoised_voxels(10**9, 100.0, 2500, 2**20) == 2**20
    assert denoised_voxels(10**6, 100.0, 2500, 2**20) == 10_000
    assert denoised_voxels(-5, 100.0, 2500, 2**20) == 2500


def test_only_a_gpu_gets_loader_processes_where_they_can_share_memory(monkeypatch) -> None:
    monkeypatch.setattr(loading, "start_method", lambda: "fork")
    monkeypatch.setattr(loading, "_shared_memory", lambda: 2**30)
    assert [loader_workers(cores, device) for cores in (1, 64) for device in ("cpu", "mps")] == [0] * 4
    assert [loader_workers(cores, "cuda") for cores in (1, 4, 64)] == [0, 3, 8]
    assert [loader_workers(16, "cuda", processes) for processes in (1, 2, 4, 16)] == [8, 7, 3, 0]
    monkeypatch.setattr(loading, "_shared_memory", lambda: 2**26)  # a container
    assert loader_workers(64, "cuda") == 0
    monkeypatch.setattr(loading, "_shared_memory", lambda: 2**40)
    monkeypatch.setattr(loading, "start_method", lambda: None)  # not Linux
    assert loader_workers(64, "cuda") == 0
    assert memory_for_volumes(8 * 10**9) == 2.0
    assert memory_for_volumes(10**12) == 8.0
