"""Several image channels in the generator: codecs side by side, a single-channel generator that becomes one of several."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_networks import CONTROLS, small_denoiser

from diffboost3d.config import compose
from diffboost3d.diffusion.autoencoder import AutoencoderCodec, AutoencoderPlan, build_autoencoder
from diffboost3d.diffusion.batches import SliceDataset, SlicePlan, SliceSource
from diffboost3d.diffusion.codecs import ChannelsCodec, PackingCodec, for_channels
from diffboost3d.diffusion.networks import widen_channels
from diffboost3d.diffusion.schedule import make_scheduler
from diffboost3d.diffusion.text import ByteTokenizer
from diffboost3d.diffusion.weights import load_generator, save_generator
from diffboost3d.errors import ConfigError
from diffboost3d.stages.generator_start import with_channels
from diffboost3d.stages.generator_training import shape_of


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def vae():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderCodec(build_autoencoder(AutoencoderPlan((8, 8), 2, 1)))


@pytest.mark.parametrize("single", [PackingCodec("haar", 2, (2.0, 1.0, 0.5, 0.1)), PackingCodec("pixel", 4), vae()])
def test_channels_are_packed_one_beside_the_other(single):
    codec, images = for_channels(single, 3), noise(2, 3, 8, 12)
    maps = codec.encode(images)
    assert maps.shape[1] == codec.channels == 3 * single.channels
    apart = torch.cat([single.encode(images[:, at : at + 1]) for at in range(3)], dim=1)
    assert torch.equal(maps, apart)
    decoded = codec.decode(maps)
    assert decoded.shape == images.shape
    assert torch.equal(decoded[:, 1:2], single.decode(single.encode(images[:, 1:2])))


def test_a_widened_denoiser_gives_each_of_equal_channels_what_it_gave_the_single_one():
    single = PackingCodec("haar", 2)
    denoiser = small_denoiser(single)
    maps, control = single.encode(noise(2, 1, 16, 16)), torch.rand(2, CONTROLS, 16, 16)
    rest = torch.tensor([10, 900]), denoiser.tokenizer("MRI")[None], control
    with torch.no_grad():
        before = denoiser.eval()(maps, *rest)
        widen_channels(denoiser, 3)
        after = denoiser(maps.repeat(1, 3, 1, 1), *rest)
    torch.testing.assert_close(after, before.repeat(1, 3, 1, 1), rtol=1e-4, atol=1e-5)


def test_a_pool_s_generator_of_one_channel_goes_on_with_two_and_is_read_again(tmp_path):
    scheduler = make_scheduler(1000, "squaredcos_cap_v2", "v_prediction", True)
    single = PackingCodec("haar", 2, (2.0, 1.0, 1.0, 0.5))
    made = small_denoiser(single), scheduler, single
    denoiser, _, codec = with_channels(compose(), made, 2)
    assert isinstance(codec, ChannelsCodec)
    codec.parts[1].adapt(noise(4, 1, 8, 8))  # each channel has scales of its own
    save_generator(tmp_path, denoiser, scheduler, codec)
    again, _, read = load_generator(tmp_path)
    assert (read.image_channels, read.channels) == (2, 8)
    assert [part.scales for part in read.parts] == [part.scales for part in codec.parts]
    assert again.unet.config.in_channels == again.unet.config.out_channels == again.controlnet.config.in_channels == 8
    assert torch.equal(again.unet.conv_in.weight, denoiser.unet.conv_in.weight)


def test_a_generator_of_other_channels_and_a_locked_base_are_refused():
    scheduler = make_scheduler(1000, "squaredcos_cap_v2", "v_prediction", True)
    single = PackingCodec("haar", 2)
    two = small_denoiser(single), scheduler, for_channels(single, 2)
    with pytest.raises(ConfigError, match="generator of 2 image channels; this training has 3"):
        with_channels(compose(), two, 3)
    one = small_denoiser(single), scheduler, single
    with pytest.raises(ConfigError, match=r"pretrain\.trained=control is refused.*allowed: all"):
        with_channels(compose(["diffusion.pretrain.trained=control"]), one, 2)


def test_training_slices_take_all_channels_from_the_same_place():
    first = np.random.default_rng(0).uniform(-1, 1, (12, 10, 5)).astype(np.float32)
    source = SliceSource(np.stack([first, -first]), np.zeros((1, 12, 10, 5), np.float32))
    plan = SlicePlan((8, 8), 2, 10.0, (0.9, 1.1), 0.0, 0.0, 1000, 0, "test", jitter=0.5)
    data = SliceDataset([source], "MRI", ByteTokenizer(8), for_channels(PackingCodec("haar", 2), 2), plan)
    alone = SliceDataset([SliceSource(first, source.control)], "MRI", ByteTokenizer(8), PackingCodec("haar", 2), plan)
    for number in range(8):
        image = data[number]["image"]
        assert image.shape == (2, 8, 8)
        assert data[number]["noise"].shape == (8, 4, 4)
        torch.testing.assert_close(image[0], -image[1])
        assert torch.equal(image[:1], alone[number]["image"])


def contrasts():
    """Three images (8, 3, 16, 16): the second is much like the first, the third is something else."""
    first, other = noise(8, 1, 16, 16, seed=1), noise(8, 1, 16, 16, seed=2)
    return torch.cat([first, first + 0.1 * noise(8, 1, 16, 16, seed=3), other], dim=1)


def adapted(images, name="haar", factor=2, share=1.0):
    codec = for_channels(PackingCodec(name, factor), images.shape[1])
    for at, part in enumerate(codec.parts):
        part.adapt(images[:, at : at + 1])
    codec.adapt(images, share)
    return codec


@pytest.mark.parametrize(("name", "factor"), [("haar", 2), ("haar", 4), ("pixel", 2)])
def test_decorrelated_maps_have_unit_variance_and_no_correlation_and_go_back_to_the_images(name, factor):
    images = contrasts()
    codec = adapted(images, name, factor)
    maps = codec.encode(images)
    of_channels = maps.unflatten(1, (3, factor**2)).double()
    moments = torch.einsum("bcmhw,bdmhw->mcd", of_channels, of_channels) / (8 * (16 // factor) ** 2)
    torch.testing.assert_close(moments, torch.eye(3).double().expand(factor**2, 3, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(codec.decode(maps), images, atol=1e-5, rtol=0)


def test_errors_of_decorrelated_maps_leave_the_difference_of_like_channels():
    """The same white error on the maps: the small difference of the first two contrasts drowns only without mixing."""
    images, wrong = contrasts(), 0.2 * noise(8, 12, 8, 8, seed=4)
    mixed = adapted(images)
    apart = ChannelsCodec(mixed.parts)
    errors = [codec.decode(codec.encode(images) + wrong) - images for codec in (mixed, apart)]
    of_image = [float(error.std()) for error in errors]
    assert of_image[0] == pytest.approx(of_image[1], rel=0.1)
    of_difference = [float((error[:, 0] - error[:, 1]).std()) for error in errors]
    assert of_difference[0] < 0.2 * of_difference[1]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_mixed_in_part_what_channels_have_in_common_keeps_more_of_the_variance(share):
    images = contrasts()
    whole, part = adapted(images).encode(images), adapted(images, share=share).encode(images)
    assert float(part.square().mean()) == pytest.approx(1.0, rel=1e-3)
    spread = [
        float((maps[:, :4] - maps[:, 4:8]).std()) for maps in (whole, part)
    ]  # of the difference of like contrasts
    assert spread[1] < 0.9 * spread[0]
    torch.testing.assert_close(adapted(images, share=share).decode(part), images, atol=1e-5, rtol=0)


def test_channels_without_correlation_are_not_mixed_and_equal_ones_stay_finite():
    apart = adapted(noise(64, 2, 32, 32))
    torch.testing.assert_close(apart.mixing, torch.eye(2).double().expand(4, 2, 2), atol=0.05, rtol=0)
    equal = noise(4, 1, 16, 16).repeat(1, 2, 1, 1)
    codec = adapted(equal)
    torch.testing.assert_close(codec.decode(codec.encode(equal)), equal, atol=1e-5, rtol=0)


def test_a_generator_is_read_with_its_mixing_and_one_without_stays_unmixed(tmp_path):
    scheduler, images = make_scheduler(1000, "squaredcos_cap_v2", "v_prediction", True), contrasts()
    mixed = adapted(images)
    denoiser = small_denoiser(mixed)
    for name, codec in (("mixed", mixed), ("apart", ChannelsCodec(mixed.parts))):
        save_generator(tmp_path / name, denoiser, scheduler, codec)
        _, _, read = load_generator(tmp_path / name)
        torch.testing.assert_close(read.encode(images), codec.encode(images), atol=1e-6, rtol=0)
        assert read.mixing is not None  # measured or not: a generator that goes on keeps its maps


def test_half_precision_does_not_round_the_differences_of_channels():
    images = contrasts()
    codec = adapted(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = codec.decode(codec.encode(images))
    torch.testing.assert_close(again, images, atol=1e-5, rtol=0)


def test_how_far_channels_are_mixed_is_a_part_of_a_generator_of_several_only():
    assert "decorrelate" not in shape_of(compose(["diffusion.codec.decorrelate=1.0"]), 1)
    assert shape_of(compose(), 2)["decorrelate"] == 0.5
    assert shape_of(compose(["diffusion.codec.decorrelate=1.0"]), 2)["decorrelate"] == 1.0
    for word in ("diffusion.codec.decorrelate=0.0", "diffusion.codec.normalise=false", "diffusion.codec.name=vae"):
        assert "decorrelate" not in shape_of(compose([word]), 2)
