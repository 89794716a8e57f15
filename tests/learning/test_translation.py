"""Pix2Pix: each network learns from its own loss only, dropout is the noise and a seed decides it, and a cut-off run resumes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffboost3d.synthesis.translated import TranslatedVolumes
from diffboost3d.synthesis.volumes import SampleRequest
from diffboost3d.training import TrainingPlan, fit, load_tensors, make_accelerator
from diffboost3d.translation.batches import PairedSlices, PairedVolume, filled, multiples, window_size
from diffboost3d.translation.learning import AdversarialObjective, TranslationLearner, translate
from diffboost3d.translation.networks import Translator, TranslatorPlan, build, fitting_depth, fitting_levels
from diffboost3d.translation.weights import load_translator, save_translator

CPU = torch.device("cpu")
PLAN = TranslatorPlan(control_channels=2, channels=4, depth=3, dropout=0.5, discriminator_levels=1)


def networks(plan=PLAN):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(plan)


def volume(number, shape=(10, 9, 6)):
    """The image is 1 - 2 times its first control channel."""
    random = np.random.default_rng(number)
    coarse = random.random((2, *(-(-side // 3) for side in shape)))
    control = coarse.repeat(3, 1).repeat(3, 2).repeat(3, 3)[:, : shape[0], : shape[1], : shape[2]].astype(np.float32)
    return PairedVolume((1 - 2 * control[0]).astype(np.float32), control)


def slices(axis=2, size=(8, 8), seed=0, shape=(10, 9, 6)):
    return PairedSlices([volume(0, shape), volume(1, shape)], size, axis, seed, "test")


# --- networks --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("size", "depth"), [((8, 8), 3), ((16, 32), 4), ((4, 4), 2), ((32, 16), 8)])
def test_a_slice_becomes_an_image_of_its_size_in_range(size, depth):
    plan = TranslatorPlan(3, 4, fitting_depth(size, depth), 0.5, 1)
    made = Translator(plan)(torch.rand(2, 3, *size))
    assert made.shape == (2, 1, *size)
    assert made.abs().max() <= 1


@pytest.mark.parametrize("side", [8, 11, 16, 48, 70, 256])
def test_the_discriminator_judges_at_least_one_patch_of_whatever_fits(side):
    plan = TranslatorPlan(1, 4, 3, 0.5, fitting_levels((side, side), 3))
    judged = build(plan)[1](torch.zeros(1, 1, side, side), torch.zeros(1, 1, side, side))
    assert min(judged.shape) >= 1
    assert plan.discriminator_levels == (3 if side >= 24 else 2 if side >= 12 else 1)


def test_sizes():
    assert fitting_depth((64, 48), 8) == 5
    assert multiples((33, 58), 32) == (64, 64)
    assert window_size([(10, 20, 30), (12, 18, 5)], 2, 16) == (12, 16)


# --- objective -------------------------------------------------------------------------------------------------------
def gradients(network):
    return [None if one.grad is None else one.grad.clone() for one in network.parameters()]


def test_each_network_learns_from_its_own_loss_only():
    translator, discriminator = networks()
    objective = AdversarialObjective(translator, discriminator, 100.0)
    batch = {"image": torch.rand(3, 1, 8, 8) * 2 - 1, "control": torch.rand(3, 2, 8, 8)}

    def told(which):
        objective.zero_grad(set_to_none=True)
        torch.manual_seed(1)
        losses = objective(batch)
        total = losses["loss"] if which is None else sum(losses[name] * weight for name, weight in which.items())
        total.backward()
        return gradients(translator), gradients(discriminator)

    of_both = told(None)
    of_translator, nothing = told({"loss_gan": 1.0, "loss_l1": 100.0})
    none, of_discriminator = told({"loss_discriminator": 1.0})
    assert all(one is None for one in [*nothing, *none])
    for whole, part in zip(of_both, (of_translator, of_discriminator), strict=True):
        assert all(torch.allclose(one, other) for one, other in zip(whole, part, strict=True))


def test_an_undecided_discriminator_costs_as_much_as_a_coin():
    translator, discriminator = networks()
    for weight in discriminator.parameters():
        torch.nn.init.zeros_(weight)
    batch = {"image": torch.rand(1, 1, 8, 8), "control": torch.rand(1, 2, 8, 8)}
    with torch.no_grad():
        losses = AdversarialObjective(translator, discriminator, 0.0)(batch)
    assert float(losses["loss_gan"]) == pytest.approx(np.log(2))
    assert float(losses["loss_discriminator"]) == pytest.approx(np.log(2))


# --- learning --------------------------------------------------------------------------------------------------------
def trained(folder, steps=6, read=None, plan=PLAN, rate=2e-3):
    """A training that ends after `read` samples, if it is given, as by a kill."""
    translator, discriminator = networks(plan)
    dataset = slices()
    if read is not None:
        original = dataset.__class__.__getitem__

        class Cut(PairedSlices):
            def __getitem__(self, number):
                if number >= read:
                    raise KeyboardInterrupt
                return original(self, number)

        dataset = Cut(dataset.volumes, dataset.size, 2, 0, "test")
    learner = TranslationLearner(translator, discriminator, dataset, slices(seed=5), 100.0, 7)
    numbers = TrainingPlan(steps, 2, rate, 0, 0.0, 0.0, 1, 0.0, steps, 2, steps, seed=1, betas=(0.5, 0.999))
    fit(learner, numbers, folder, "digest", make_accelerator("cpu", "no"), "toy", print)
    return learner


def test_a_cut_off_training_ends_as_an_undisturbed_one(tmp_path):
    whole = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", read=9)
    resumed = trained(tmp_path / "cut")
    for name, weight in whole.module.state_dict().items():
        assert torch.equal(weight, resumed.module.state_dict()[name]), name
    states = [load_tensors(tmp_path / one / "checkpoint" / "state.safetensors")[0] for one in ("whole", "cut")]
    assert any(name.startswith("module.discriminator") for name in states[0])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_it_learns_a_simple_translation(tmp_path):
    still = replace(PLAN, dropout=0.0)
    before = trained(tmp_path / "no", steps=1, plan=still).validate(CPU)["l1"]
    after = trained(tmp_path / "yes", steps=60, plan=still, rate=8e-3)
    assert after.validate(CPU)["l1"] < 0.75 * before
    assert after.images(CPU)["control_translation_real"].shape == (24, 48, 3)


def test_weights_are_read_back(tmp_path):
    translator, _ = networks()
    save_translator(tmp_path, translator)
    control = torch.rand(2, 2, 8, 8)
    assert torch.equal(translate(translator, control, 3, CPU), translate(load_translator(tmp_path), control, 3, CPU))


# --- slices ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("axis", "size"), [(2, (8, 8)), (0, (9, 6)), (1, (16, 16)), (2, (4, 16))])
def test_image_and_control_are_cut_alike_and_the_number_decides(axis, size):
    items = slices(axis, size)
    for number in range(12):
        sample = items[number]
        assert sample["image"].shape == (1, *size)
        assert torch.allclose(sample["image"][0], 1 - 2 * sample["control"][0])
        assert torch.equal(sample["image"], slices(axis, size)[number]["image"])
    assert len({items[number]["image"].numpy().tobytes() for number in range(12)}) > 3


def test_what_is_filled_up_repeats_the_border_at_the_end():
    image = torch.arange(6.0).reshape(1, 2, 3)
    whole = filled(image, (4, 5))
    assert torch.equal(whole[:, :2, :3], image)
    assert torch.equal(whole[0, 3], torch.tensor([3.0, 4, 5, 5, 5]))


# --- volumes ---------------------------------------------------------------------------------------------------------
def request(seed, shape=(10, 9, 6), number=0):
    made = volume(number, shape)
    return SampleRequest(seed, {"": 1.0}, made.image, made.control)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_volumes_are_translated_slice_by_slice_along_any_axis(axis):
    translator, _ = networks()
    (made,) = TranslatedVolumes(translator, CPU).volumes(axis, (1.0, 1.0, 1.0), [request(3)])
    assert made.shape == (10, 9, 6)
    at = 4
    control = torch.from_numpy(np.take(volume(0).control, at, axis=axis + 1))[None]
    sides = control.shape[-2:]
    alone = translate(translator, filled(control, multiples(sides, 8)), 3, CPU)[0, 0, : sides[0], : sides[1]]
    assert np.array_equal(np.take(made, at, axis=axis), alone.numpy())


def test_the_seed_is_the_only_noise():
    translator, _ = networks()
    make = TranslatedVolumes(translator, CPU).volumes
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, other = make(2, 1.0, [request(3), request(4)])
    (again,) = make(2, 1.0, [request(3)])
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_slices_of_equal_edges_are_equal_so_that_noise_brings_no_stripes():
    translator, _ = networks()
    flat = volume(0).control[..., :1].repeat(6, axis=3)
    asked = SampleRequest(3, {"": 1.0}, volume(0).image, flat)
    (made,) = TranslatedVolumes(translator, CPU).volumes(2, (1.0, 1.0, 1.0), [asked])
    assert np.array_equal(made, made[..., :1].repeat(6, axis=2))
    assert TranslatedVolumes(translator, CPU).seconds_a_slice((10, 9, 6), 2) > 0
