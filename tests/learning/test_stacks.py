"""Layers along the slice axis: no effect until trained, only within a stack; windows over stacks; stacks as training samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_networks import CONTROLS, small_denoiser

from diffboost3d.diffusion.batches import SliceDataset, SlicePlan, SliceSource
from diffboost3d.diffusion.objective import DenoisingObjective
from diffboost3d.diffusion.sampling import SamplingPlan, Windows, sample_maps
from diffboost3d.diffusion.stacks import AlongStack
from diffboost3d.diffusion.weights import load_generator, save_generator

SIDE = 16


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def mixing(codec):
    """A denoiser whose layers along the slices have an effect."""
    denoiser = small_denoiser(codec)
    denoiser.mix_along_slices()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for layer in denoiser.mixer.layers:
            torch.nn.init.normal_(layer.out.weight, std=0.5)
    return denoiser


def inputs(codec, count):
    return (
        noise(count, codec.channels, SIDE // codec.factor, SIDE // codec.factor),
        torch.full((count,), 400),
        noise(1, 3, 16, seed=2).expand(count, -1, -1),
        noise(count, CONTROLS, SIDE, SIDE, seed=3).clamp(0, 1),
    )


def test_an_untrained_layer_changes_nothing(codec):
    plain, added = small_denoiser(codec), small_denoiser(codec)
    added.mix_along_slices()
    with torch.no_grad():
        torch.testing.assert_close(added.predict(*inputs(codec, 4), slices=4), plain.predict(*inputs(codec, 4)))


def test_a_slice_depends_on_its_neighbours_in_the_stack_and_on_no_other_stack(codec, mixing):
    given = inputs(codec, 6)
    changed = given[0].clone()
    changed[1] += 1.0
    with torch.no_grad():
        before, after = (mixing.predict(maps, *given[1:], slices=3) for maps in (given[0], changed))
    moved = (before - after).abs().amax(dim=(1, 2, 3)) > 1e-6
    assert moved.tolist() == [True, True, True, False, False, False]


def test_single_slices_are_not_mixed(codec, mixing):
    given = inputs(codec, 3)
    with torch.no_grad():
        torch.testing.assert_close(mixing.predict(*given), small_denoiser(codec).predict(*given))


def test_a_layer_averages_neighbours_and_repeats_the_ends():
    layer = AlongStack(1)
    with torch.no_grad():
        layer.norm = torch.nn.Identity()
        layer.mix.weight.copy_(torch.tensor([[[1.0, 0.0, 0.0]]]))  # takes the slice before
        layer.mix.bias.zero_()
        layer.out.weight.fill_(1.0)
    stacks = torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0, 60.0]).view(6, 1, 1, 1)  # silu(x) is x for such numbers
    expected = torch.tensor([20.0, 30.0, 50.0, 80.0, 90.0, 110.0]).view(6, 1, 1, 1)
    torch.testing.assert_close(layer(stacks, slices=3), expected, rtol=0, atol=1e-2)


def test_gradients_are_the_same_when_activations_are_computed_again(codec, mixing):
    def gradients():
        mixing.zero_grad()
        mixing.train().predict(*inputs(codec, 4), slices=2).square().mean().backward()
        return [layer.out.weight.grad.clone() for layer in mixing.mixer.layers]

    plain = gradients()
    mixing.spare_memory(attention_slicing=False, gradient_checkpointing=True)
    for one, other in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(one, other)
    assert any(one.any() for one in plain)


def test_the_layers_come_back_from_disk(codec, scheduler, mixing, tmp_path):
    save_generator(tmp_path, mixing, scheduler, codec)
    loaded, _, _ = load_generator(tmp_path)
    with torch.no_grad():
        given = inputs(codec, 3)
        torch.testing.assert_close(loaded.predict(*given, slices=3), mixing.predict(*given, slices=3))
    names = {path.name for path in (tmp_path / "model" / "unet").iterdir()}
    assert names == {"config.json", "diffusion_pytorch_model.safetensors"}  # what diffusers opens is as it was


# --- windows ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("stack", "size", "overlap", "runs"),
    [
        (5, 9, 2, [(0, 5)]),
        (5, 5, 0, [(0, 5)]),
        (6, 3, 0, [(0, 3), (3, 6)]),
        (7, 3, 1, [(0, 3), (2, 5), (4, 7)]),
        (8, 3, 1, [(0, 3), (2, 5), (4, 7), (5, 8)]),
        (1, 1, 0, [(0, 1)]),
    ],
)
def test_windows_cover_every_slice_and_end_with_the_stack(stack, size, overlap, runs):
    assert Windows(stack, size, overlap).runs() == runs
    assert (Windows(stack, size, overlap).weights(min(stack, size)) > 0).all()


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (3, 3), (3, 4), (3, -1)])
def test_windows_that_never_move_on_are_refused(size, overlap):
    with pytest.raises(ValueError, match="overlap"):
        Windows(9, size, overlap)


def made(denoiser, scheduler, codec, plan, slices, window, overlap):
    maps, _, text, control = inputs(codec, slices)
    given = (maps, text[:1], text[:1], control, None, None, slices, window, overlap)
    return sample_maps(denoiser, scheduler, codec, plan, *given)


def test_windows_of_a_generator_without_such_layers_change_nothing(codec, scheduler):
    plain, plan = small_denoiser(codec), SamplingPlan(3, guidance_scale=2.0)
    whole, windows = (made(plain, scheduler, codec, plan, 7, *window) for window in ((7, 0), (3, 1)))
    torch.testing.assert_close(whole, windows, rtol=0, atol=1e-4)


def test_windows_of_a_mixing_generator_are_near_the_whole_and_smoother_with_overlap(codec, scheduler, mixing):
    plan = SamplingPlan(3)
    whole = made(mixing, scheduler, codec, plan, 8, 8, 0)
    apart, overlapping = (made(mixing, scheduler, codec, plan, 8, 4, overlap) for overlap in (0, 3))
    assert float((overlapping - whole).abs().mean()) < float((apart - whole).abs().mean())


def test_stacks_in_one_batch_are_what_they_are_alone(codec, scheduler, mixing):
    maps, _, text, control = inputs(codec, 10)
    common = (mixing, scheduler, codec, SamplingPlan(2))

    def sampled(rows):
        return sample_maps(*common, maps[rows], text[:1], text[:1], control[rows], None, None, 5, 3, 2)

    both = sampled(slice(0, 10))
    torch.testing.assert_close(both, torch.cat([sampled(slice(0, 5)), sampled(slice(5, 10))]), rtol=0, atol=1e-4)


# --- training --------------------------------------------------------------------------------------------------------
def dataset(codec, tokenizer, stack, shape=(20, 18, 6), **more):
    image = np.broadcast_to(np.linspace(-1, 1, shape[2], dtype=np.float32), shape).copy()  # slice k has one value
    control = np.broadcast_to(np.linspace(0, 1, shape[2], dtype=np.float32), (CONTROLS, *shape)).copy()
    plan = SlicePlan((16, 16), 2, 0.0, (1.0, 1.0), 0.0, 0.0, 1000, 3, "test", jitter=0.0, stack=stack, **more)
    return SliceDataset([SliceSource(image, control)], "MRI", tokenizer, codec, plan)


def test_a_stack_is_consecutive_slices_with_one_timestep(codec):
    tokenizer = small_denoiser(codec).tokenizer
    for number in range(20):
        item = dataset(codec, tokenizer, 4)[number]
        assert item["image"].shape == (4, 1, 16, 16)
        assert item["control"].shape == (4, CONTROLS, 16, 16)
        assert item["noise"].shape == (4, codec.channels, 16 // codec.factor, 16 // codec.factor)
        values = item["image"][:, 0, 0, 0]
        torch.testing.assert_close(values.diff(), torch.full((3,), 0.4))  # of six slices from -1 to 1
        torch.testing.assert_close(item["control"][:, 0, 0, 0] * 2 - 1, values)
        assert item["timestep"].shape == ()


def test_a_volume_of_too_few_slices_repeats_its_last(codec):
    item = dataset(codec, small_denoiser(codec).tokenizer, 4, shape=(20, 18, 2))[0]
    assert item["image"][:, 0, 0, 0].tolist() == [-1.0, 1.0, 1.0, 1.0]


def test_looks_alter_a_whole_stack(codec):
    item = dataset(codec, small_denoiser(codec).tokenizer, 3, looks=1.0)[1]
    assert item["image"].shape == (3, 1, 16, 16)
    assert item["image"].abs().max() <= 1


def test_the_loss_of_stacks_is_that_of_their_slices_where_nothing_is_mixed(codec, scheduler):
    denoiser = small_denoiser(codec)
    items = [dataset(codec, denoiser.tokenizer, 3)[number] for number in range(2)]
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    objective = DenoisingObjective(denoiser, scheduler, codec)
    with torch.no_grad():
        losses = objective.losses(batch)
        single = [
            objective.losses(
                {
                    "image": item["image"],
                    "control": item["control"],
                    "noise": item["noise"],
                    "tokens": item["tokens"].repeat(3, 1),
                    "timestep": item["timestep"].repeat(3),
                }
            ).mean()
            for item in items
        ]
    torch.testing.assert_close(losses, torch.stack(single))
