"""Looks: each word does to an image what it says, and reaches the prompts of training as often as asked."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffboost3d.diffusion.batches import SliceDataset, SlicePlan, SliceSource
from diffboost3d.diffusion.codecs import PackingCodec
from diffboost3d.diffusion.looks import LOOKS, with_look
from diffboost3d.diffusion.text import ByteTokenizer

EVERY_LOOK = pytest.mark.parametrize("look", sorted(LOOKS))
SEEDS = range(8)


def image():
    """Air, a grey disc and a bright core (1, 32, 32), with some texture."""
    places = torch.stack(torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij"))
    radius = places.norm(dim=0)[None]
    texture = 0.05 * torch.randn((1, 32, 32), generator=torch.Generator().manual_seed(0))
    return torch.where(radius < 0.4, 0.5 + texture, torch.where(radius < 0.8, -0.1 + texture, torch.tensor(-0.9)))


def roughness(picture):
    return float(picture.diff(dim=1).abs().mean() + picture.diff(dim=2).abs().mean())


@EVERY_LOOK
def test_a_look_changes_the_image_within_its_range_by_the_seed_alone(look):
    given = image()
    results = []
    for seed in SEEDS:
        torch.manual_seed(seed % 3)
        made = with_look(given, look, seed)
        assert made.shape == given.shape
        assert made.min() >= -1
        assert made.max() <= 1
        assert (made - given).abs().mean() > 0.005
        assert torch.equal(made, with_look(given, look, seed))
        results.append(made)
    assert len({tuple(one.flatten().tolist()) for one in results}) == len(SEEDS)
    assert torch.equal(given, image())


@EVERY_LOOK
def test_a_look_moves_nothing(look):
    """The core stays brighter than the disc, and this brighter than air, everywhere."""
    core, disc, air = (slice(14, 18), slice(14, 18)), (slice(5, 8), slice(14, 18)), (slice(0, 2), slice(0, 2))
    for seed in SEEDS:
        made = with_look(image(), look, seed)[0]
        assert made[core].mean() > made[disc].mean() + 0.1 > made[air].mean() + 0.2


@pytest.mark.parametrize(
    ("look", "measure", "rises"),
    [
        ("brighter", torch.mean, True),
        ("darker", torch.mean, False),
        ("bright mid-tones", torch.mean, True),
        ("dark mid-tones", torch.mean, False),
        ("strong contrast", torch.std, True),
        ("weak contrast", torch.std, False),
        ("blurred", roughness, False),
        ("sharpened", roughness, True),
        ("grainy", roughness, True),
    ],
)
def test_a_look_does_what_its_word_says(look, measure, rises):
    for seed in SEEDS:
        before, after = float(measure(image())), float(measure(with_look(image(), look, seed)))
        assert (after > 1.03 * before if before > 0 and rises else after > before) if rises else after < before


@pytest.mark.parametrize("look", ["bright mid-tones", "dark mid-tones"])
def test_mid_tones_leave_black_and_white(look):
    ends = torch.tensor([[[-1.0, 0.0, 1.0]]])
    made = with_look(ends, look, 3)[0, 0]
    assert made[[0, 2]].tolist() == [-1.0, 1.0]
    assert (made[1] > 0) == (look == "bright mid-tones")


@pytest.mark.parametrize("look", ["strong contrast", "weak contrast"])
def test_contrast_keeps_the_mean(look):
    given = 0.5 * image()
    assert float(with_look(given, look, 3).mean()) == pytest.approx(float(given.mean()), abs=1e-5)


def test_uneven_brightness_is_a_plane_that_leaves_air_black():
    made = with_look(torch.full((1, 17, 21), -0.5), "uneven brightness", 3)[0]
    torch.testing.assert_close(made.diff(dim=0).diff(dim=0), torch.zeros(15, 21), rtol=0, atol=1e-5)
    torch.testing.assert_close(made.diff(dim=1).diff(dim=1), torch.zeros(17, 19), rtol=0, atol=1e-5)
    assert float(made.mean()) == pytest.approx(-0.5, abs=1e-5)
    assert made.std() > 0.01
    assert with_look(torch.full((1, 9, 9), -1.0), "uneven brightness", 3).unique().tolist() == [-1.0]


def test_blur_keeps_flat_images_and_grain_has_the_asked_spread():
    flat = torch.full((1, 64, 64), 0.2)
    torch.testing.assert_close(with_look(flat, "blurred", 3), flat)
    for seed in SEEDS:
        assert 0.045 < float(with_look(flat, "grainy", seed).std()) < 0.16


# --- in training -----------------------------------------------------------------------------------------------------
TOKENIZER = ByteTokenizer(40)
PLAN = SlicePlan((16, 16), 2, 10.0, (0.9, 1.1), 0.1, 0.1, 1000, 0, "pretrain", looks=0.4)


def dataset(plan=PLAN):
    random = np.random.default_rng(0)
    picture = random.uniform(-0.6, 0.6, (16, 16, 4)).astype(np.float32)
    source = SliceSource(picture, random.uniform(0, 1, (2, 16, 16, 4)).astype(np.float32))
    return SliceDataset([source], "Hippocampus", TOKENIZER, PackingCodec("haar", 2), plan)


def test_every_look_comes_as_often_as_the_others_and_all_as_often_as_asked():
    drawn = Counter(dataset().draw(number).look for number in range(3000))
    assert drawn.keys() == {"", *LOOKS}
    assert drawn[""] / 3000 == pytest.approx(0.6, abs=0.04)
    for look in LOOKS:
        assert drawn[look] / 3000 == pytest.approx(0.04, abs=0.015)


def test_the_word_joins_the_prompt_and_the_image_alone_changes():
    with_looks, without = dataset(), dataset(replace(PLAN, looks=0.0))
    looked = 0
    for number in range(80):
        one, other, draw = with_looks[number], without[number], with_looks.draw(number)
        prompt = "" if draw.drop_text else f"Hippocampus, {draw.look}" if draw.look else "Hippocampus"
        assert torch.equal(one["tokens"], TOKENIZER(prompt))
        for name in ("control", "noise", "timestep"):
            assert torch.equal(one[name], other[name])
        assert torch.equal(one["image"], other["image"]) is not bool(draw.look)
        looked += bool(draw.look)
    assert 20 < looked < 45


def test_validation_slices_have_no_look():
    assert {dataset(PLAN.still()).draw(number).look for number in range(100)} == {""}
