"""Prompts as mixtures: templates are filled as written, and embeddings add up by their weights."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from diffboost3d.config import compose
from diffboost3d.diffusion.looks import LOOKS
from diffboost3d.diffusion.text import ByteTokenizer, embed_mixture, fill_templates, require_fitting
from diffboost3d.errors import ConfigError


@pytest.mark.parametrize(
    ("mixture", "look", "filled"),
    [
        ({"{prompt}, {look}": 1.0}, "blurred", {"Liver, CT, blurred": 1.0}),
        ({"{prompt}, {look}": 1.0}, "", {"Liver, CT": 1.0}),
        ({"{look}, {prompt}": 1.0}, "", {"Liver, CT": 1.0}),
        ({"{prompt}": 0.25, "{prompt}, {look}": 0.5}, "", {"Liver, CT": 0.75}),
        ({"{prompt}": 0.25, "{look}": 0.5, "sketch": 2.0}, "grainy", {"Liver, CT": 0.25, "grainy": 0.5, "sketch": 2.0}),
        ({"{look}": 1.0}, "", {"": 1.0}),
        ({"{prompt}, no {organ}": -1.0}, "", {"Liver, CT, no {organ}": -1.0}),
    ],
)
def test_templates_are_filled(mixture, look, filled):
    assert fill_templates(mixture, "Liver, CT", look) == filled


def test_the_weights_of_the_published_mixture_sum_to_one():
    settings = compose(["preset=paper"]).synthesize
    mixture = dict(zip(settings.text, settings.text_weights, strict=True))
    for look in ("", "blurred"):
        filled = fill_templates(mixture, "Liver, CT", look)
        assert sum(filled.values()) == pytest.approx(1.0)
        assert filled["gray, sketch"] == 0.95


def test_embeddings_are_those_of_the_network(denoiser):
    with torch.no_grad():
        expected = denoiser.embed(denoiser.tokenizer("MRI")[None])
    assert torch.equal(embed_mixture(denoiser, {"MRI": 1.0}), expected)


def test_a_mixture_is_linear_in_its_weights(denoiser):
    mri, ct = (embed_mixture(denoiser, {prompt: 1.0}) for prompt in ("MRI", "CT"))
    assert not torch.allclose(mri, ct, atol=1e-3)
    for a, b in ((0.3, 0.7), (2.0, -1.0), (0.0, 1.0)):
        torch.testing.assert_close(embed_mixture(denoiser, {"MRI": a, "CT": b}), a * mri + b * ct)


@pytest.mark.parametrize(
    ("prompt", "fits"), [("", True), ("x" * 14, True), ("x" * 15, False), ("ü" * 7, True), ("ü" * 8, False)]
)
def test_a_prompt_that_would_be_cut_is_refused(prompt, fits):
    tokenizer = ByteTokenizer(16)
    assert tokenizer.fits(prompt) == fits
    with nullcontext() if fits else pytest.raises(ConfigError, match="longer than the text encoder reads"):
        require_fitting(tokenizer, prompt)


def test_every_preset_reads_its_own_prompts_to_the_end():
    """With a task prompt of the usual length."""
    for preset in ("demo", "quick", "standard", "paper"):
        config = compose([f"preset={preset}", "prompt=Hippocampus, MRI"])
        mixture = dict(zip(config.synthesize.text, config.synthesize.text_weights, strict=True))
        for look in LOOKS:
            for prompt in (*fill_templates(mixture, "Hippocampus, MRI", look), config.synthesize.negative_prompt):
                require_fitting(ByteTokenizer(config.diffusion.denoiser.text_length), prompt)
