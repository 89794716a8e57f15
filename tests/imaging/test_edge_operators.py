"""The edge operators besides the default one: Canny in mm on any voxels, and HED with the user's weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import binary_dilation

from diffboost3d.errors import ConfigError
from diffboost3d.imaging import canny
from diffboost3d.imaging.canny import canny_edges
from diffboost3d.imaging.edge_operators import edge_map
from diffboost3d.imaging.edges import soft_edges
from diffboost3d.imaging.hed import HedNetwork, hed_edges, load_hed
from diffboost3d.schema import EdgeConfig

NEIGHBOURS = np.ones((3, 3, 3))


def ball(spacing_mm: tuple[float, ...], radius_mm: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball in a dark cube of 32 mm, its border 2 mm wide, and the voxels on both sides of its surface."""
    axes = [(np.arange(round(32 / space)) - (round(32 / space) - 1) / 2) * space for space in spacing_mm]
    beyond = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij"))) - radius_mm
    surface = np.zeros(beyond.shape, bool)
    for axis in range(beyond.ndim):
        crossed = np.moveaxis(np.diff(beyond < 0, axis=axis), axis, 0)
        sides = np.moveaxis(surface, axis, 0)  # a view
        sides[:-1] |= crossed
        sides[1:] |= crossed
    return np.clip(-beyond, -1, 1).astype(np.float32), surface


# --- canny -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 3.0), (3.0, 1.0, 1.0), (0.8, 0.8, 4.0), (1.0, 2.0, 4.0)]
)
def test_canny_finds_the_surface_of_a_ball_within_a_voxel(spacing: tuple[float, ...]) -> None:
    image, surface = ball(spacing)
    edges = canny_edges(image, spacing)
    assert edges.dtype == np.float32
    assert set(np.unique(edges)) == {0, 1}
    assert not (edges > 0)[~binary_dilation(surface, NEIGHBOURS)].any()
    assert binary_dilation(edges > 0, NEIGHBOURS)[surface].mean() > 0.95


def test_canny_keeps_outlines_thin_in_slices_that_are_thick() -> None:
    """The outline of a slanted tube: one or two voxels wide in each slice, however far apart the slices are."""
    i, j, k = np.meshgrid(np.arange(40.0), np.arange(40.0), np.arange(6.0), indexing="ij")
    beyond = np.hypot(i - 14 - 2 * k, j - 20) - 9  # 2 mm to the side from slice to slice
    edges = canny_edges(np.clip(-beyond, -1, 1).astype(np.float32), (1.0, 1.0, 8.0))
    for index in range(1, 5):
        assert 40 < edges[..., index].sum() < 100  # the circumference is 57 mm
        assert np.abs(beyond[..., index][edges[..., index] > 0]).max() < 2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_canny_finds_a_flat_step_between_two_thick_slices(axis: int) -> None:
    image = -np.ones((12, 12, 12), np.float32)
    np.moveaxis(image, axis, 0)[5:] = 1.0
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 4.0
    profile = np.moveaxis(canny_edges(image, spacing), axis, 0).mean(axis=(1, 2))
    assert profile[[4, 5]].max() == 1
    assert not profile[[0, 1, 2, 3, 6, 7, 8, 9, 10, 11]].any()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 4.0)])
def test_canny_finds_nothing_where_there_is_nothing(spacing: tuple[float, ...]) -> None:
    for value in (-1.0, 0.3, 1.0):
        assert not canny_edges(np.full((9, 8, 7), value, np.float32), spacing).any()
    assert not canny_edges(np.full((9, 8, 1), 0.3, np.float32), spacing).any()
    assert not canny_edges(np.full((1, 1, 1), 0.3, np.float32), spacing).any()


@pytest.mark.parametrize("spacing", [(1.0, 1.2, 1.1), (1.0, 1.5, 3.0)])
def test_canny_follows_millimetres_not_voxels(spacing: tuple[float, ...]) -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (14, 12, 10)).astype(np.float32)
    doubled = [2 * space for space in spacing]
    assert np.array_equal(canny_edges(image, spacing, 1.0), canny_edges(image, doubled, 2.0))
    assert not np.array_equal(canny_edges(image, spacing, 1.0), canny_edges(image, doubled, 1.0))


def test_canny_of_one_ball_is_the_same_surface_at_two_voxel_sizes() -> None:
    fine, coarse = (canny_edges(ball(spacing)[0], spacing, 1.5) for spacing in ((1.0, 1.0, 1.0), (1.0, 1.0, 2.0)))
    together = fine[:, :, ::2] + fine[:, :, 1::2] > 0
    assert not (coarse > 0)[~binary_dilation(together, NEIGHBOURS)].any()
    assert not together[~binary_dilation(coarse > 0, NEIGHBOURS)].any()


def test_canny_is_free_of_contrast_and_of_empty_background() -> None:
    image, _ = ball((1.0, 1.0, 1.0))
    image += np.random.default_rng(0).normal(0, 0.2, image.shape).astype(np.float32)
    edges = canny_edges(image, (1.0, 1.0, 1.0))
    assert 0.02 < edges.mean() < 0.2
    assert (canny_edges(0.25 * image, (1.0, 1.0, 1.0)) == edges).mean() > 0.999
    alone, _ = ball((1.0, 1.0, 1.0))
    far_away = np.pad(alone, 20, constant_values=-1.0)
    found = canny_edges(far_away, (1.0, 1.0, 1.0))[20:-20, 20:-20, 20:-20]
    assert np.array_equal(found, canny_edges(alone, (1.0, 1.0, 1.0)))


def test_canny_keeps_weak_edges_that_join_strong_ones_only() -> None:
    image = -np.ones((40, 24, 1), np.float32)
    image[:20, 6:] = np.linspace(-0.8, 1, 20)[:, None, None]  # a step that grows from weak to strong
    image[28:36, 14:20] = -0.8  # a weak square on its own
    kept = canny_edges(image, (1.0, 1.0, 1.0), thresholds=(0.0, 0.6))
    assert kept[2:18, 5:7].any(axis=1).all()
    assert not kept[26:].any()
    assert canny_edges(image, (1.0, 1.0, 1.0), thresholds=(0.0, 0.0))[26:].any()


def test_canny_works_on_pictures_along_any_flat_axis() -> None:
    image = ball((1.0, 1.0))[0]
    edges = canny_edges(image[..., None], (1.0, 1.0, 1.0))
    assert edges.shape == (32, 32, 1)
    assert 40 < edges.sum() < 120  # the circumference is 63 mm
    for axis in range(2):
        turned = np.expand_dims(image, axis)
        assert np.array_equal(canny_edges(turned, (1.0, 1.0, 1.0)).squeeze(axis), edges[..., 0])


def test_canny_does_not_depend_on_its_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (14, 12, 11)).astype(np.float32)
    whole = canny_edges(image, (1.0, 1.0, 3.0))
    monkeypatch.setattr(canny, "SLAB", 2)
    assert np.array_equal(canny_edges(image, (1.0, 1.0, 3.0)), whole)


# --- hed -------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the published layout, written down here name by name."""
    random = torch.Generator().manual_seed(0)
    tensors = {"norm": torch.full((1, 3, 1, 1), 120.0)}
    before = 3
    for number, (count, channels) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], start=1):
        for index in range(count):
            name, scale = f"block{number}.convs.{index}", (2 / (9 * before)) ** 0.5
            tensors[f"{name}.weight"] = scale * torch.randn(channels, before, 3, 3, generator=random)
            tensors[f"{name}.bias"] = torch.zeros(channels)
            before = channels
        tensors[f"block{number}.projection.weight"] = 0.01 * torch.randn(1, channels, 1, 1, generator=random)
        tensors[f"block{number}.projection.bias"] = torch.zeros(1)
    path = tmp_path_factory.mktemp("hed") / "hed.pth"
    torch.save(tensors, path)
    return path


@pytest.fixture(scope="module")
def network(weights: Path) -> HedNetwork:
    return load_hed(weights)


@pytest.mark.parametrize(("shape", "axis"), [((18, 20, 3), 2), ((3, 18, 20), 0), ((18, 3, 21), 1), ((7, 40, 1), 2)])
def test_hed_gives_one_map_a_slice(network: HedNetwork, shape: tuple[int, ...], axis: int) -> None:
    image = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    edges = edge_map(image, (1.0, 1.0, 1.0), "hed", hed=network, hed_size=32, slice_axis=axis)
    assert (edges.shape, edges.dtype) == (shape, np.float32)
    assert 0 <= edges.min() < edges.max() <= 1
    assert len(np.unique(edges)) > 256  # not 8 bits
    first = np.take(image, [0], axis)
    alone = hed_edges(first, (1.0, 1.0, 1.0), network, axis, 32)
    assert np.allclose(np.take(edges, [0], axis), alone, atol=1e-5)


def test_hed_sees_one_grey_scale_from_0_to_255(network: HedNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def look(self: HedNetwork, pictures: torch.Tensor) -> torch.Tensor:
        seen.append(pictures)
        return pictures[:, :1] / 255

    monkeypatch.setattr(HedNetwork, "forward", look)
    image = np.stack([np.full((20, 30), value, np.float32) for value in (-1, 0, 1)], axis=2)
    edges = hed_edges(image, (1.0, 2.0, 5.0), network, 2, 60)
    (pictures,) = seen
    assert [one.unique().tolist() for one in pictures] == [[0.0], [127.5], [255.0]]
    assert pictures.shape == (3, 3, 32, 64)  # 20 x 60 mm as 20 x 60 pixels, then multiples of 16
    assert edges[0, 0].tolist() == [0.0, 0.5, 1.0]


def test_hed_keeps_things_in_their_place(network: HedNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HedNetwork, "forward", lambda self, pictures: pictures[:, :1] / 255)
    i, j = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 33), indexing="ij")
    image = (0.6 * np.sin(3 * i) * np.cos(2 * j)).astype(np.float32)[..., None]
    assert np.abs(hed_edges(image, (1.0, 1.0, 1.0), network, 2, 100) - (image + 1) / 2).max() < 0.02


def test_hed_weights_may_be_safetensors(weights: Path, tmp_path: Path, network: HedNetwork) -> None:
    save_file(torch.load(weights, weights_only=True), tmp_path / "hed.safetensors")
    again = load_hed(tmp_path / "hed.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True))


def test_other_weights_are_refused_in_one_line(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "noise.pth").write_bytes(b"not a file of weights")
    (tmp_path / "noise.safetensors").write_bytes(b"not a file of weights")
    torch.save({"netVggOne.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "older.pth")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    torch.save({"path": Path("any object")}, tmp_path / "objects.pth")
    tensors = torch.load(weights, weights_only=True)
    torch.save({**tensors, "norm": torch.zeros(1, 1, 1, 1)}, tmp_path / "grey.pth")
    words = {
        "absent.pth": "there is no file",
        "noise.pth": "can't be read",
        "noise.safetensors": "can't be read",
        "objects.pth": "can't be read",
        "older.pth": "has not the layout of ControlNetHED.pth: block1.convs.0.bias is absent there, 64 in the network",
        "list.pth": "has not the layout",
        "grey.pth": "norm is 1x1x1x1 there, 1x3x1x1 in the network",
    }
    for name, said in words.items():
        with pytest.raises(ConfigError) as refusal:
            load_hed(tmp_path / name)
        assert said in str(refusal.value)
        assert str(tmp_path / name) in str(refusal.value)
        assert "\n" not in str(refusal.value)


# --- all of them -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("operator", EdgeConfig.__dataclass_fields__["operator"].metadata["choices"])
@pytest.mark.parametrize("shape", [(18, 17, 4), (18, 17, 1)])
def test_every_operator_of_the_configuration_gives_a_map_between_0_and_1(
    operator: str, shape: tuple[int, ...], network: HedNetwork
) -> None:
    image = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    edges = edge_map(image, (1.0, 1.0, 2.0), operator, hed=network, hed_size=16)
    assert (edges.shape, edges.dtype) == (shape, np.float32)
    assert edges.min() >= 0
    assert 0 < edges.max() <= 1


def test_soft_edges_are_the_default_and_another_name_is_refused_with_the_allowed_ones() -> None:
    image = ball((1.0, 1.0, 2.0))[0]
    assert np.array_equal(edge_map(image, (1.0, 1.0, 2.0)), soft_edges(image, (1.0, 1.0, 2.0)))
    with pytest.raises(ValueError, match="'sobel' is unknown; allowed: soft, canny, hed"):
        edge_map(image, (1.0, 1.0, 2.0), "sobel")
    with pytest.raises(ValueError, match="needs a network"):
        edge_map(image, (1.0, 1.0, 2.0), "hed")
