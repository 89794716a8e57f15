"""The refiner: its sampler finds the known answer, blocks give what the whole gives, texture made slice by slice is joined."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from diffboost3d.imaging.scratch import IN_MEMORY, Scratch
from diffboost3d.refinement.batches import NoisyPatches, spread_of_images
from diffboost3d.refinement.blocks import block_of, in_blocks, voxels_seen, windows
from diffboost3d.refinement.learning import RefinementLearner
from diffboost3d.refinement.networks import Refiner, RefinerPlan, drawn_sigma
from diffboost3d.refinement.sampling import RefinePlan, refine, sigmas_of
from diffboost3d.refinement.texture import spread_of, texture_of
from diffboost3d.refinement.weights import load_refiner, save_refiner
from diffboost3d.synthesis.refining import Refining
from diffboost3d.training import TrainingPlan, fit

CPU = torch.device("cpu")
SIGMA = (0.01, 0.5)


def small(channels=(4, 8), blocks=1, image_channels=1, spread=0.3, seed=0):
    numbers = 3 * image_channels
    plan = RefinerPlan(channels, blocks, SIGMA, spread, (0.0,) * numbers, (1.0,) * numbers, image_channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Refiner(plan)


def busy(refiner):
    """With weights everywhere, also where training begins from nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in refiner.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
    return refiner.eval()


class OfWhiteNoise(Refiner):
    """The exact answer where every voxel is normal with standard deviation s by itself: x s^2 / (s^2 + sigma^2)."""

    s = 0.2

    def forward(self, noisy, sigma, texture):
        return noisy * self.s**2 / (self.s**2 + sigma.view(-1, 1, 1, 1, 1) ** 2)


def exact():
    return OfWhiteNoise(small().plan)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def standard(shape, seed=0):
    return torch.randn(shape, generator=stream(seed))


def refined(refiner, volume, texture, plan, random, scratch=IN_MEMORY):
    """A refined copy of a volume (N, I, J, K)."""
    channels = [channel.copy() for channel in volume.numpy()]
    refine(refiner, channels, texture, plan, random, scratch)
    return torch.from_numpy(np.stack(channels))


# --- the sampler -----------------------------------------------------------------------------------------------------
def error(steps):
    """Of the sampler on a distribution whose probability flow is known: x(0) = x(sigma) s / sqrt(s^2 + sigma^2)."""
    noise, volume = standard((1, 8, 8, 8)), torch.zeros(1, 8, 8, 8)
    made = refined(exact(), volume, torch.zeros(3), RefinePlan(0.4, steps), stream())
    return float((made - 0.4 * noise * OfWhiteNoise.s / math.hypot(OfWhiteNoise.s, 0.4)).abs().max())


def first_order_error(steps):
    """Of Euler's method in the same steps."""
    noisy = sigma = None
    for following in [*sigmas_of(RefinePlan(0.4, steps), SIGMA[0]), 0.0]:
        noisy = 0.4 * standard((1, 8, 8, 8)) if noisy is None else noisy
        if sigma is not None:
            clean = exact()(noisy[None], torch.tensor([sigma]), torch.zeros(1, 3))[0]
            noisy = noisy * (following / sigma) + clean * (1 - following / sigma)
        sigma = following
    known = 0.4 * standard((1, 8, 8, 8)) * OfWhiteNoise.s / math.hypot(OfWhiteNoise.s, 0.4)
    return float((noisy - known).abs().max())


def test_the_sampler_comes_to_the_known_answer_with_more_steps_and_faster_than_one_of_first_order():
    assert error(40) < 0.01
    assert error(40) < error(10) < error(3)
    assert error(10) < 0.5 * first_order_error(10)


def test_noise_that_is_put_on_and_taken_away_leaves_the_distribution_as_it_was():
    volume = OfWhiteNoise.s * standard((1, 24, 24, 24), 1)
    made = refined(exact(), volume, torch.zeros(3), RefinePlan(0.3, 30), stream(2))
    assert float(made.std()) == pytest.approx(OfWhiteNoise.s, rel=0.02)
    assert 0.2 < float(torch.corrcoef(torch.stack([made.flatten(), volume.flatten()]))[0, 1]) < 0.8


@pytest.mark.parametrize(("sigma", "steps", "count"), [(0.3, 10, 10), (0.3, 1, 1), (0.005, 10, 1)])
def test_steps_fall_from_the_noise_that_is_put_on_to_the_least_that_is_known(sigma, steps, count):
    strengths = sigmas_of(RefinePlan(sigma, steps), 0.01)
    assert len(strengths) == count
    assert strengths[0] == pytest.approx(sigma)
    assert strengths == sorted(strengths, reverse=True)
    assert count == 1 or strengths[-1] == pytest.approx(0.01)


@pytest.mark.parametrize("shape", [(1, 7, 9, 5), (1, 3, 1, 2), (2, 8, 8, 8)])
def test_a_volume_of_any_shape_comes_back_in_its_shape_and_range(shape):
    refiner = busy(small(image_channels=shape[0]))
    made = refined(refiner, torch.zeros(shape), torch.zeros(3 * shape[0]), RefinePlan(0.5, 3), stream())
    assert made.shape == shape
    assert float(made.abs().max()) <= 1.0


@pytest.mark.parametrize("shape", [(1, 21, 14, 17), (1, 40, 30, 5)])
def test_blocks_of_a_large_volume_give_what_the_whole_gives(shape):
    refiner, volume = busy(small()), 0.3 * standard(shape) - 0.7  # far from 0, with which nothing may be filled up
    whole, blocks = (
        refined(refiner, volume, torch.zeros(3), RefinePlan(0.1, 3, voxels), stream(3)) for voxels in (2**20, 4000)
    )
    assert float((whole - blocks).abs().max()) < 0.05  # the borders of blocks lie elsewhere
    assert float((whole - blocks).abs().mean()) < 0.1 * float((whole - volume).abs().mean())
    exactly = [
        refined(exact(), volume, torch.zeros(3), RefinePlan(0.3, 4, voxels), stream(3)) for voxels in (2**20, 1000)
    ]
    assert torch.allclose(*exactly, atol=1e-5)


def test_a_volume_that_is_kept_in_files_gets_the_same_bytes(tmp_path):
    refiner, volume = busy(small()), 0.3 * standard((1, 21, 14, 17))
    made = [
        refined(refiner, volume, torch.zeros(3), RefinePlan(0.1, 3, 2000), stream(3), scratch)
        for scratch in (IN_MEMORY, Scratch(1.0, tmp_path))
    ]
    assert torch.equal(*made)


class Counting(Scratch):
    """Knows how many arrays it made."""

    made = 0

    def empty(self, shape, dtype=np.float32):
        self.made += 1
        return super().empty(shape, dtype)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_refining_keeps_three_arrays_of_the_volume_however_many_steps_it_takes(steps):
    scratch = Counting()
    refined(busy(small()), standard((1, 21, 14, 17)), torch.zeros(3), RefinePlan(0.1, steps, 2000), stream(), scratch)
    assert scratch.made == 3


def test_half_precision_refines_to_about_the_same_volume():
    real = 0.3 * standard((12, 16, 8)).numpy()
    both = []
    for precision in ("no", "bf16"):
        volume = real.copy()
        Refining(busy(small()), RefinePlan(0.1, 3), CPU, precision)([volume], real, seed=0)
        both.append(volume)
    assert both[1].dtype == np.float32
    assert 0 < np.abs(both[0] - both[1]).max() < 0.05
    assert np.abs(both[0] - both[1]).mean() < 0.1 * np.abs(both[0] - real).mean()


def test_blocks_come_together_again():
    volume = standard((2, 30, 9, 12))
    joined = torch.empty_like(volume)
    in_blocks(lambda block: block.clone(), volume, [12, 8, 12], joined)
    assert torch.allclose(joined, volume, atol=1e-6)
    assert [first for first, _ in windows(30, 12)] == [0, 9, 18]
    assert [first for first, _ in windows(12, 12)] == [0]


@pytest.mark.parametrize(("shape", "voxels"), [((64, 64, 64), 4096), ((100, 8, 300), 10000), ((8, 8, 4), 2**20)])
def test_blocks_keep_to_the_limit_and_cover_evenly(shape, voxels):
    sides = block_of(shape, voxels, 4)
    assert all(side % 4 == 0 and side <= whole for side, whole in zip(sides, shape, strict=True))
    assert math.prod(sides) <= voxels


@pytest.mark.parametrize("shape", [(30, 9, 13), (64, 64, 64), (100, 8, 300)])
def test_the_voxels_that_are_seen_are_those_of_all_blocks(shape):
    seen, whole = [], [side + -side % 4 for side in shape]
    volume = torch.zeros(1, *whole)
    in_blocks(
        lambda block: seen.append(block.numel()) or block.clone(), volume, block_of(tuple(whole), 4096, 4), volume
    )
    assert voxels_seen(shape, 4096, 4) == sum(seen)
    assert voxels_seen(shape, 10**9, 4) == math.prod(whole)


def test_a_volume_just_above_the_limit_goes_in_blocks_of_about_half_its_sides():
    assert sorted(block_of((104, 104, 104), 2**20, 4)) == [60, 60, 104]


# --- the network -----------------------------------------------------------------------------------------------------
def test_a_refiner_without_training_predicts_the_best_scaling_of_what_it_sees():
    refiner, noisy = small(spread=0.3), standard((2, 1, 8, 8, 8))
    made = refiner(noisy, torch.tensor([0.1, 0.3]), torch.zeros(2, 3))
    assert torch.allclose(made[0], noisy[0] * 0.09 / (0.09 + 0.01), atol=1e-6)
    assert torch.allclose(made[1], noisy[1] * 0.5, atol=1e-6)


def test_the_loss_weighs_every_strength_of_noise_alike():
    clean, noise = 0.3 * standard((2, 1, 16, 16, 16)), standard((2, 1, 16, 16, 16), 5)
    losses = small(spread=0.3).losses(clean, noise, torch.tensor([0.02, 0.5]), torch.zeros(2, 3))
    assert torch.allclose(losses, torch.ones(2), atol=0.1)  # 1 before training, whatever the noise


def test_what_it_makes_of_a_voxel_does_not_depend_on_the_size_of_the_patch():
    refiner, noisy = busy(small()), standard((1, 1, 48, 8, 8))
    whole = refiner(noisy, torch.tensor([0.2]), torch.zeros(1, 3))
    part = refiner(noisy[:, :, :32], torch.tensor([0.2]), torch.zeros(1, 3))
    assert torch.allclose(whole[:, :, :8], part[:, :, :8], atol=1e-5)


def test_it_reads_the_strength_of_noise_and_the_texture():
    refiner, noisy = busy(small()), standard((1, 1, 8, 8, 8))
    made = [
        refiner(noisy, torch.tensor([0.2]), torch.tensor([numbers])) for numbers in ([0.0, 0.0, 0.0], [0.0, 0.0, 2.0])
    ]
    assert not torch.equal(*made)


def test_weights_come_back_with_their_plan(tmp_path):
    refiner = busy(small(image_channels=2))
    save_refiner(tmp_path, refiner)
    again = load_refiner(tmp_path)
    assert again.plan == refiner.plan
    noisy = standard((1, 2, 8, 8, 8))
    assert torch.equal(*(one(noisy, torch.tensor([0.1]), torch.zeros(1, 6)) for one in (refiner, again)))


# --- texture and patches ---------------------------------------------------------------------------------------------
def test_texture_of_white_noise_is_its_known_second_difference_along_each_axis():
    image = 0.1 * np.random.default_rng(0).standard_normal((40, 40, 40)).astype(np.float32)
    assert texture_of(image) == pytest.approx(math.log(0.1 * math.sqrt(6)), abs=0.03)  # 1 + 4 + 1


def test_texture_tells_the_axis_that_is_smooth_and_leaves_out_what_is_cut_off():
    image = 0.1 * np.random.default_rng(0).standard_normal((20, 20, 20)).astype(np.float32)
    smooth = gaussian_filter(image, (0, 0, 2))
    i, j, k = texture_of(smooth)
    assert k < min(i, j) - 1
    image[:10] = -1.0
    assert texture_of(image) == pytest.approx(math.log(0.1 * math.sqrt(6)), abs=0.1)
    assert np.isfinite(texture_of(image[:, :, :1])).all()
    assert len(texture_of(np.stack([image, image]))) == 6


def test_a_patch_is_a_function_of_its_number_and_lies_in_its_image():
    images = [np.random.default_rng(n).random((6, 9, 10), dtype=np.float32) for n in range(3)]
    patches, again = (NoisyPatches(images, (8, 8, 8), SIGMA, 0, "test") for _ in range(2))
    other = NoisyPatches(images, (8, 8, 8), SIGMA, 0, "another")
    for number in range(20):
        sample = patches[number]
        assert sample["image"].shape == sample["noise"].shape == (1, 8, 8, 8)
        assert SIGMA[0] <= float(sample["sigma"]) <= SIGMA[1]
        assert all(torch.equal(value, again[number][name]) for name, value in sample.items())
        values = set(sample["image"].unique().tolist())
        assert any(values <= set(image.ravel().tolist()) for image in images)
    assert not torch.equal(patches[0]["noise"], other[0]["noise"])


def test_strengths_of_noise_lie_evenly_on_a_logarithmic_scale():
    assert drawn_sigma(0.0, SIGMA) == SIGMA[0]
    assert drawn_sigma(1.0, SIGMA) == pytest.approx(SIGMA[1])
    assert drawn_sigma(0.5, SIGMA) == pytest.approx(math.sqrt(SIGMA[0] * SIGMA[1]))


def test_units_are_those_of_the_training_images():
    images = [np.full((4, 4, 4), value, np.float32) for value in (-0.5, 0.5)]
    assert spread_of_images(images) == pytest.approx(0.5)
    mean, spread = spread_of([np.array([1.0, 2.0, 3.0], np.float32), np.array([3.0, 2.0, 3.0], np.float32)])
    assert mean == (2.0, 2.0, 3.0)
    assert spread == (1.0, 0.05, 0.05)  # what doesn't differ is not blown up


# --- what it is for --------------------------------------------------------------------------------------------------
def fields(count, sigma=1.0, shape=(20, 20, 20)):
    """Smooth random volumes of standard deviation 0.25."""
    made = [gaussian_filter(np.random.default_rng(n).standard_normal(shape), sigma, mode="wrap") for n in range(count)]
    return [(0.25 * one / one.std()).astype(np.float32) for one in made]


def likeness(volume):
    """Correlation of neighbouring slices along the last axis."""
    return float(np.corrcoef(volume[..., 1:].ravel(), volume[..., :-1].ravel())[0, 1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    from diffboost3d.training import make_accelerator

    images = fields(8)
    mean, spread = spread_of([texture_of(image) for image in images])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        refiner = Refiner(RefinerPlan((8, 16), 1, SIGMA, spread_of_images(images), mean, spread))
    learner = RefinementLearner(
        refiner, NoisyPatches(images, (12, 12, 12), SIGMA, 0, "t"), NoisyPatches(images, (12, 12, 12), SIGMA, 0, "v")
    )
    before = learner.validate(CPU)
    plan = TrainingPlan(300, 4, 3e-3, 5, 0.0, 1.0, 1, 0.9, 300, 300, 300, 0)
    fit(learner, plan, tmp_path_factory.mktemp("refiner"), "d", make_accelerator("cpu", "no"), "test", print)
    return learner, before


def test_it_learns_every_strength_of_noise(trained):
    learner, before = trained
    after = learner.validate(CPU)
    assert set(after) == {"loss", "loss_little_noise", "loss_middle_noise", "loss_much_noise"}
    assert before["loss"] == pytest.approx(1.0, abs=0.15)
    assert after["loss"] < 0.7 * before["loss"]
    assert after["loss_much_noise"] < 0.5
    picture = learner.images(CPU)["noisy_refined_real"]
    assert picture.shape == (3 * 12, 5 * 12, 3)


def test_texture_that_was_made_slice_by_slice_goes_on_through_the_slices_afterwards(trained):
    refiner = trained[0].refiner
    real = fields(12)[8]
    # coarse shapes are the real ones; fine texture of each slice is of another volume
    other = np.stack([fields(1, shape=(20, 20, 20))[0][..., at] for at in range(20)], axis=-1)
    fine = np.random.default_rng(3).permutation(other.transpose(2, 0, 1)).transpose(1, 2, 0)
    made = (0.7 * real + 0.7 * fine).astype(np.float32)
    assert likeness(made) < 0.6 < likeness(real)
    channels = [made.copy()]
    Refining(refiner, RefinePlan(0.4, 8), CPU)(channels, real, seed=5)
    assert likeness(channels[0]) > likeness(made) + 0.6 * (likeness(real) - likeness(made))
    assert np.corrcoef(channels[0].ravel(), real.ravel())[0, 1] > 0.6  # shapes stay


def test_the_seed_decides_the_noise(trained):
    refine = Refining(trained[0].refiner, RefinePlan(0.2, 3), CPU)
    made = []
    for seed in (1, 1, 2):
        channels = [fields(1)[0]]
        refine(channels, fields(1)[0], seed)
        made.append(channels[0])
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_channels_are_refined_jointly_each_in_its_place():
    refiner = busy(small(image_channels=2))
    channels = [fields(1)[0], fields(2)[1]]
    before = [channel.copy() for channel in channels]
    refine = Refining(refiner, RefinePlan(0.02, 2), CPU)
    refine(channels, np.stack(channels), seed=1)
    for old, new in zip(before, channels, strict=True):
        assert np.corrcoef(old.ravel(), new.ravel())[0, 1] > 0.9
        assert not np.array_equal(old, new)
    assert refine.seconds((20, 20, 20)) > 0
