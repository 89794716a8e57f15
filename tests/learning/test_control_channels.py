"""A control branch that is given another number of control channels acts as before on those it knew."""

from __future__ import annotations

import pytest
import torch
from small_networks import CONTROLS, small_denoiser

from diffboost3d.diffusion.networks import adapt_control_channels
from diffboost3d.diffusion.text import embed_mixture
from diffboost3d.diffusion.weights import load_generator, save_generator


def control(channels, seed=1):
    return torch.rand((2, channels, 16, 16), generator=torch.Generator().manual_seed(seed))


def predict(denoiser, given):
    noisy = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    text = embed_mixture(denoiser, {"MRI": 1.0}).expand(2, -1, -1)
    with torch.no_grad():
        return denoiser.predict(noisy, torch.tensor([10, 900]), text, given)


def adapted(codec, channels):
    denoiser = small_denoiser(codec)
    adapt_control_channels(denoiser.controlnet, channels)
    return denoiser


def test_as_many_channels_change_nothing(codec):
    denoiser = small_denoiser(codec)
    layer = denoiser.controlnet.controlnet_cond_embedding.conv_in
    adapt_control_channels(denoiser.controlnet, CONTROLS)
    assert denoiser.controlnet.controlnet_cond_embedding.conv_in is layer


def test_new_channels_start_at_no_effect_and_can_be_learned(codec):
    more, known = adapted(codec, CONTROLS + 2), control(CONTROLS)
    assert more.control_channels == CONTROLS + 2
    expected = predict(small_denoiser(codec), known)
    for seed in (2, 3):
        seen = predict(more, torch.cat([known, control(2, seed)], dim=1))
        torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)
    text = embed_mixture(more, {"MRI": 1.0}).expand(2, -1, -1)
    more.predict(torch.ones(2, 4, 8, 8), torch.tensor([1, 2]), text, control(CONTROLS + 2)).square().mean().backward()
    assert more.controlnet.controlnet_cond_embedding.conv_in.weight.grad[:, CONTROLS:].any()


def test_a_branch_of_few_neighbours_becomes_the_middle_of_more(codec):
    denoiser, known = small_denoiser(codec), control(CONTROLS)
    expected = predict(denoiser, known)
    adapt_control_channels(denoiser.controlnet, CONTROLS + 4, edges=CONTROLS + 2)
    around = torch.cat([control(1, 2), known, control(3, 3)], dim=1)
    torch.testing.assert_close(predict(denoiser, around), expected, rtol=0, atol=1e-5)


def test_a_single_channel_acts_as_if_repeated(codec):
    one, edges = adapted(codec, 1), control(1)
    expected = predict(small_denoiser(codec), edges.expand(-1, CONTROLS, -1, -1))
    torch.testing.assert_close(predict(one, edges), expected, rtol=0, atol=1e-5)


def test_of_fewer_channels_the_last_are_dropped(codec):
    fewer, edges = adapted(codec, CONTROLS - 1), control(CONTROLS)
    edges[:, -1] = 0.0
    expected = predict(small_denoiser(codec), edges)
    torch.testing.assert_close(predict(fewer, edges[:, :-1]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, CONTROLS + 2])
def test_what_is_saved_opens_with_its_new_channels(tmp_path, codec, scheduler, channels):
    denoiser, given = adapted(codec, channels), control(channels)
    save_generator(tmp_path, denoiser, scheduler, codec)
    back, _, _ = load_generator(tmp_path)
    assert back.control_channels == channels
    assert torch.equal(predict(back, given), predict(denoiser, given))
