"""Networks: every one takes any size in 2D and 3D, topologies are those of nnU-Net's rule, and refusals are one line."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from diffboost3d.errors import ConfigError
from diffboost3d.segmentation.networks import NetworkSpec, VolumeNetwork, build_network
from diffboost3d.segmentation.topology import plan_topology, side_products
from diffboost3d.segmentation.weights import load_segmenter, save_segmenter

UNET = {"channels": [4, 8], "strides": [2], "num_res_units": 1, "norm": "INSTANCE"}
UNETR = {"feature_size": 4, "hidden_size": 24, "mlp_dim": 32, "num_heads": 2}
SMALL = {
    "unet": UNET,
    "residual_unet": {"channels": [4, 8, 8], "strides": [2, [2, 2, 1]], "num_res_units": 2, "norm": "INSTANCE"},
    "attention_unet": {"channels": [4, 8, 8], "strides": [2, 2]},
    "dynunet": {"deep_supervision": True, "filters": [4] * 8},
    "unetr": UNETR,
    "swin_unetr": {"feature_size": 12, "num_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1]},
    "monai": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
}


def spec(name, dims=3, patch=(13, 9, 5), spacing=(1.0, 1.0, 2.5), **more):
    arguments = dict(SMALL[name])
    if dims == 2 and name == "residual_unet":
        arguments["strides"] = [2, [2, 1]]
    target = "monai.networks.nets.SegResNet" if name == "monai" else None
    return NetworkSpec(name, dims, 3, patch, arguments, spacing, in_channels=2, target=target, **more)


def volumes(*size):
    return torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(0))


# --- any size --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("dims", "patch"), [(3, (13, 9, 5)), (2, (13, 9, 1))])
@pytest.mark.parametrize("name", SMALL)
def test_logits_have_the_size_of_the_input_and_reach_every_weight(name, dims, patch):
    network = build_network(spec(name, dims, patch)).train()
    sum(head.square().mean() for head in network.heads(volumes(*patch))).backward()
    assert [one for one, weight in network.named_parameters() if weight.requires_grad and weight.grad is None] == []
    with torch.no_grad():
        for size in (patch, (1, 1, 1), (9, 3, 1 if dims == 2 else 4)):
            logits = network.eval()(volumes(*size))
            assert logits.shape == (1, 3, *size)
            assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["unet", "attention_unet", "dynunet", "unetr", "monai"])
def test_one_voxel_can_be_trained_on(name):
    """Nothing is normalised over a single value."""
    build_network(spec(name, patch=(1, 1, 1))).train().heads(volumes(1, 1, 1))[0].sum().backward()


class Seen(torch.nn.Module):
    def forward(self, images):
        self.images = images
        return images


def test_sides_are_filled_evenly_with_air_and_cut_back():
    seen = Seen()
    network = VolumeNetwork(seen, 3, (4, 2, 1))
    image = volumes(5, 3, 6)
    assert torch.equal(network(image), image)
    assert seen.images.shape[2:] == (8, 4, 6)
    assert torch.equal(seen.images[:, :, 1:6, 0:3], image)
    assert (seen.images[:, :, [0, 6, 7]] == -1).all()
    assert (seen.images[:, :, :, 3] == -1).all()


def test_what_fits_is_left_as_it_is():
    seen, image = Seen(), volumes(8, 4, 6)
    VolumeNetwork(seen, 3, (4, 2, 1))(image)
    assert seen.images is image


def test_more_than_unetr_was_built_for_is_refused():
    network = build_network(spec("unetr", patch=(16, 20, 16)))
    assert network(volumes(16, 32, 16)).shape[2:] == (16, 32, 16)
    with pytest.raises(ValueError, match=r"at most \(16, 32, 16\) voxels, got \(16, 33, 16\)"):
        network(volumes(16, 33, 16))


# --- topology --------------------------------------------------------------------------------------------------------
def test_isotropic_voxels_are_pooled_alike_until_four_are_left():
    planned = plan_topology((1.0, 1.0, 1.0), (40, 56, 40))  # nnU-Net's own plan for hippocampus
    assert planned.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert planned.kernels == ((3, 3, 3),) * 4
    assert planned.divisor == (8, 8, 8)


def test_thick_slices_are_pooled_in_plane_first():
    # spacing 1 1 5: in plane to 2 and 4, which is within twice of 5; then all, while the axis across has 8 voxels
    planned = plan_topology((1.0, 1.0, 5.0), (256, 192, 16))
    assert planned.strides == (
        (1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 1),
    )  # fmt: skip
    assert planned.kernels == ((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert planned.divisor == (32, 32, 4)


def test_a_short_axis_keeps_four_voxels():
    # 12 -> 6, which is below 8
    assert plan_topology((1.0, 1.0, 1.0), (64, 64, 12)).divisor == (16, 16, 2)


def test_a_single_axis_needs_twelve_voxels():
    assert plan_topology((1.0, 1.0), (8, 48)).strides == ((1, 1), (2, 2), (1, 2), (1, 2))  # 48 24 12 6, not 3
    assert plan_topology((1.0, 1.0), (7, 11)).strides == ((1, 1),) * 3


@pytest.mark.parametrize("patch", [(1, 1, 1), (4, 7, 3), (9, 8, 8)])
def test_there_are_three_levels_at_least(patch):
    planned = plan_topology((1.0, 0.5, 3.0), patch)
    assert len(planned.strides) == len(planned.kernels) >= 3


def test_pictures_are_planned_in_two_axes():
    planned = plan_topology((1.0, 1.0), (64, 96))
    assert planned.divisor == (16, 16)
    assert planned.kernels[0] == (3, 3)


def test_products_take_numbers_for_all_axes():
    assert side_products([2, [2, 2, 1], (1, 2, 3)], 3) == (4, 8, 6)


# --- DynUNet ---------------------------------------------------------------------------------------------------------
def test_dynunet_is_supervised_on_all_but_the_two_lowest_levels():
    """As nnU-Net, which gives the lowest level of the decoder the weight 0."""
    network = build_network(spec("dynunet", 2, (64, 64, 1), (1.0, 1.0, 1.0)))  # 5 levels, 4 of them in the decoder
    image = volumes(64, 64, 1)
    heads = network.train().heads(image)
    assert [head.shape for head in heads] == [(1, 3, 64, 64, 1)] * 3
    for level, head in enumerate(heads[1:], start=1):
        cell = 2**level
        blocks = head[..., 0].unfold(2, cell, cell).unfold(3, cell, cell)
        assert torch.equal(blocks, blocks[..., :1, :1].expand_as(blocks))  # each of its voxels repeated
    assert len(network.eval().heads(image)) == 1


def test_dynunet_takes_strides_of_its_own():
    given = {"strides": [[1, 1, 1], [2, 2, 1], [2, 2, 2]], "filters": [4, 4, 4]}
    network = build_network(NetworkSpec("dynunet", 3, 3, (16, 16, 16), given))
    assert network.divisor == (4, 4, 2)


# --- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("unet", {**UNET, "nonsense": 1}),
        ("unet", {"channels": [4, 8]}),
        ("unet", {"channels": [4], "strides": []}),
        ("unet", {"channels": [4, 8, 16], "strides": [2]}),
        ("attention_unet", {"channels": [4, 8], "strides": []}),
        ("dynunet", {"strides": [1, 2], "filters": [4, 4]}),
        ("unetr", {**UNETR, "hidden_size": 25}),
        ("unetr", {**UNETR, "nonsense": 1}),
        ("unetr", {**UNETR, "dropout_rate": 7}),
        ("swin_unetr", {"feature_size": 13}),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_one_line(name, arguments):
    with pytest.raises(ConfigError, match=r"network\.arguments") as refusal:
        build_network(NetworkSpec(name, 3, 3, (16, 16, 16), arguments))
    assert "\n" not in str(refusal.value)
    assert name in str(refusal.value)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("monai.networks.nets.SegResNett", "did you mean monai.networks.nets.SegResNet"),
        ("monai.networks.nets.dynunet", "no network class"),
        ("monai.networks.nets.DenseNet121", "unless the network classifies"),
        ("monai.networks.nets.ViT", "out_channels"),
        ("os.system", "no network class"),
        ("antigravity.fly", "no network class"),
    ],
)
def test_what_is_no_segmenter_of_monai_is_refused_in_one_line_and_not_imported(target, said):
    with pytest.raises(ConfigError, match=r"network\._target_") as refusal:
        build_network(NetworkSpec("monai", 3, 3, (16, 16, 16), {}, target=target))
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "antigravity" not in sys.modules


# --- files -----------------------------------------------------------------------------------------------------------
def test_a_segmenter_comes_back_from_its_file(tmp_path):
    built = spec("dynunet", patch=(16, 12, 5))
    network = build_network(built).eval()
    save_segmenter(tmp_path / "x.safetensors", network.state_dict(), built)
    again, patch = load_segmenter(tmp_path / "x.safetensors", torch.device("cpu"))
    assert patch == (16, 12, 5)
    with torch.no_grad():
        assert torch.equal(network(volumes(16, 12, 5)), again(volumes(16, 12, 5)))


def test_a_specification_survives_json_and_earlier_ones_have_defaults():
    built = spec("monai", divisor=4)
    assert NetworkSpec.from_facts(json.loads(json.dumps(built.facts()))) == built
    earlier = {"network": "unet", "arguments": UNET, "patch": [8, 8, 8], "classes": 3, "spatial_dims": 3}
    assert NetworkSpec.from_facts(earlier) == NetworkSpec("unet", 3, 3, (8, 8, 8), UNET)
