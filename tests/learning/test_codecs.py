"""Codecs: nothing is lost, lengths are kept and white noise stays white, for every name and factor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffboost3d.diffusion.codecs import PackingCodec, latent_shape, padded, padded_size

EACH = pytest.mark.parametrize(("name", "factor"), [(n, f) for n in ("haar", "pixel") for f in (1, 2, 4, 8)])


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@EACH
def test_decoding_gives_the_image_back(name, factor):
    codec, images = PackingCodec(name, factor), noise(3, 1, 24, 40)
    maps = codec.encode(images)
    assert maps.shape == (3, codec.channels, 24 // factor, 40 // factor)
    torch.testing.assert_close(codec.decode(maps), images, rtol=0, atol=2e-6)


@EACH
def test_encoding_gives_the_maps_back(name, factor):
    codec = PackingCodec(name, factor)
    maps = noise(2, codec.channels, 3, 5)
    torch.testing.assert_close(codec.encode(codec.decode(maps)), maps, rtol=0, atol=2e-6)


@EACH
def test_inner_products_are_kept(name, factor):
    codec = PackingCodec(name, factor)
    a, b = noise(1, 1, 16, 24).double(), noise(1, 1, 16, 24, seed=1).double()
    for one, two in ((a, a), (b, b), (a, b)):
        kept = (codec.encode(one) * codec.encode(two)).sum()
        torch.testing.assert_close(kept, (one * two).sum(), rtol=1e-12, atol=1e-10)


@EACH
def test_white_noise_stays_white(name, factor):
    codec = PackingCodec(name, factor)
    maps = codec.encode(noise(64, 1, 64, 64).double())
    table = maps.permute(1, 0, 2, 3).reshape(codec.channels, -1)
    covariance = table @ table.T / table.shape[1]
    error = 6 / table.shape[1] ** 0.5  # six standard errors
    assert (covariance - torch.eye(codec.channels)).abs().max() < error * 2**0.5
    neighbours = (maps[..., 1:] * maps[..., :-1]).mean()
    assert neighbours.abs() < error


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_haar_puts_the_block_mean_first_and_nothing_else_for_a_flat_image(factor):
    maps = PackingCodec("haar", factor).encode(torch.full((1, 1, 16, 16), 0.5))
    torch.testing.assert_close(maps[:, :1], torch.full((1, 1, 16 // factor, 16 // factor), 0.5 * factor))
    assert maps[:, 1:].abs().max() < 1e-6
    image = noise(1, 1, 16, 16)
    means = torch.nn.functional.avg_pool2d(image, factor) * factor
    torch.testing.assert_close(PackingCodec("haar", factor).encode(image)[:, :1], means, rtol=0, atol=1e-6)


@EACH
def test_a_block_of_the_map_is_a_block_of_the_image(name, factor):
    image = torch.zeros(1, 1, 32, 32)
    image[..., 9:15, 17:23] = 1.0
    maps = PackingCodec(name, factor).encode(image).abs().amax(dim=1)[0] > 1e-6
    touched = torch.nn.functional.max_pool2d(image, factor)[0, 0] > 0
    assert not (maps & ~touched).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 37), st.integers(1, 37), st.sampled_from([1, 2, 4, 8]), st.sampled_from(["haar", "pixel"]))
def test_odd_sizes_come_back_from_their_padded_maps(a, b, factor, name):
    codec, images = PackingCodec(name, factor), noise(2, 1, a, b)
    size = padded_size((a, b), factor)
    whole = padded(images, size)
    assert whole.shape == (2, 1, *size)
    assert all(0 <= new - old < factor for new, old in zip(size, (a, b), strict=True))
    assert torch.equal(whole[..., :a, :b], images)
    assert torch.equal(whole[..., a:, :b], images[..., -1:, :].expand(-1, -1, size[0] - a, -1))
    maps = codec.encode(whole)
    assert maps.shape[1:] == latent_shape(codec, size)
    torch.testing.assert_close(codec.decode(maps)[..., :a, :b], images, rtol=0, atol=2e-6)
