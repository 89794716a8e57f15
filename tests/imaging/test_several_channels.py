"""Reading and writing several channels, and the shading of MR images: the first file's grid and every file's units are kept."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from diffboost3d.errors import DataError
from diffboost3d.imaging.bias_field import BiasFieldPlan, bias_field
from diffboost3d.imaging.channels import read_channels, write_channels_like
from diffboost3d.imaging.edge_operators import edge_map
from diffboost3d.imaging.files import read, read_prepared, write_label_like, write_prepared
from diffboost3d.imaging.geometry import Grid
from diffboost3d.imaging.scratch import Scratch

AFFINE = np.array([[-0.7, 0.0, 0.1, 12.0], [0.0, 0.0, 3.2, -5.0], [0.0, 0.7, 0.0, 8.0], [0.0, 0.0, 0.0, 1.0]])
SHAPE = (6, 5, 4)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).integers(-900, 900, shape).astype(np.int16)


def saved(path, array, affine=AFFINE, scaled=False):
    image = nib.Nifti1Image(array, affine)
    if scaled:
        image.header.set_slope_inter(0.5, 100)
    nib.save(image, path)
    return path


def test_a_4d_file_and_a_file_a_channel_are_read_alike(tmp_path):
    array = numbers(*SHAPE, 2)
    whole = saved(tmp_path / "whole.nii.gz", array)
    parts = [saved(tmp_path / f"part{at}.nii", array[..., at]) for at in range(2)]
    one, two = read_channels([whole], 2), read_channels(parts, 2)
    assert one.array.shape == (2, *SHAPE)
    assert np.array_equal(one.array, two.array)
    assert one.grid == two.grid
    assert read_channels(parts[:1], 1).array.shape == SHAPE


def test_a_series_in_time_is_told_from_channels_in_one_line(tmp_path):
    path = saved(tmp_path / "cine.nii.gz", numbers(*SHAPE, 30))
    with pytest.raises(DataError, match=r"30 volumes of shape 6x5x4 in the file, but 2 channels are named"):
        read_channels([path], 2)
    with pytest.raises(
        DataError, match=r"4D image .* name its 30 channels \(data\.channels\) if it is no series in time"
    ):
        read_channels([path], 1)
    with pytest.raises(DataError, match="1 volume of shape"):
        read_channels([saved(tmp_path / "flat.nii.gz", numbers(*SHAPE))], 2)


@pytest.mark.parametrize("resampled", [False, True])
def test_a_channel_whose_header_was_rounded_keeps_its_voxels_and_its_own_header(resampled, tmp_path):
    array, moved = numbers(*SHAPE, 2), AFFINE.copy()
    moved[:3, 3] += 0.005  # voxels of 0.7 mm and more
    parts = [saved(tmp_path / f"part{at}.nii", array[..., at], (AFFINE, moved)[at]) for at in range(2)]
    read_both = read_channels(parts, 2, resampled)
    assert np.array_equal(read_both.array, np.moveaxis(array, -1, 0))
    made = [tmp_path / f"made{at}.nii" for at in range(2)]
    write_channels_like(made, [[one] for one in read_both.array], parts)
    assert [read(path).dtype for path in made] == ["int16", "int16"]
    assert read(made[1]).grid == read(parts[1]).grid


def test_channels_on_other_grids_are_refused_or_moved_to_the_first(tmp_path):
    ramp = np.arange(12, dtype=np.float32)[:, None, None] * np.ones((12, 5, 4), np.float32)
    fine = saved(tmp_path / "fine.nii", ramp, np.diag([1.0, 2.0, 3.0, 1.0]))
    shifted = np.diag([2.0, 2.0, 3.0, 1.0])
    coarse = saved(tmp_path / "coarse.nii", ramp[::2], shifted)
    with pytest.raises(
        DataError, match=r"coarse\.nii: the channel lies on another grid than fine\.nii .*channel_grids=resample"
    ):
        read_channels([fine, coarse], 2)
    first, second = read_channels([fine, coarse], 2, resampled=True).array
    assert np.allclose(second[:11], first[:11], atol=1e-4)  # a ramp is what linear interpolation keeps
    with pytest.raises(DataError, match="2 files of channels, but 3 channels are named"):
        read_channels([fine, coarse], 3)


@pytest.mark.parametrize("together", [True, False])
def test_what_is_written_in_their_form_is_read_back_with_its_header(together, tmp_path):
    arrays = numbers(2, *SHAPE)
    if together:
        templates = [saved(tmp_path / "t.nii.gz", np.moveaxis(numbers(2, *SHAPE, seed=1), 0, 3), scaled=True)]
    else:
        templates = [saved(tmp_path / f"t{at}.nii", numbers(*SHAPE, seed=at), scaled=at > 0) for at in range(2)]
    targets = [tmp_path / f"made{at}.nii.gz" for at in range(len(templates))]
    slabs = [[one[:, :, :3], one[:, :, 3:]] for one in arrays]
    write_channels_like(targets, slabs, templates, "synthetic")
    assert np.array_equal(read_channels(targets, 2).array, arrays)
    for target, template in zip(targets, templates, strict=True):
        made, source = nib.load(target), nib.load(template)
        assert made.shape == source.shape
        assert np.array_equal(made.affine, source.affine)
        assert (made.get_data_dtype(), made.dataobj.slope) == (source.get_data_dtype(), source.dataobj.slope)


def test_a_label_of_an_image_of_channels_is_one_volume(tmp_path):
    template = saved(tmp_path / "t.nii.gz", numbers(*SHAPE, 3))
    label = np.abs(numbers(*SHAPE)) % 3
    write_label_like(tmp_path / "label.nii.gz", label, template)
    made = read(tmp_path / "label.nii.gz")
    assert np.array_equal(made.array, label)
    assert not made.grid.difference(Grid.of(SHAPE, AFFINE))


def test_prepared_channels_are_read_back_in_memory_and_from_files(tmp_path):
    image = np.random.default_rng(0).uniform(-1, 1, (2, 6, 5, 20)).astype(np.float32)
    write_prepared(tmp_path / "image.nii.gz", image, Grid.of(image.shape[1:], AFFINE))
    assert nib.load(tmp_path / "image.nii.gz").shape == (6, 5, 20, 2)
    for scratch in (Scratch(), Scratch(0, tmp_path)):
        assert np.array_equal(read_prepared(tmp_path / "image.nii.gz", scratch), image)


def test_edges_of_channels_are_joined_as_asked_for():
    first, second = -np.ones((2, 12, 12, 6), np.float32)
    first[:4], second[:, 8:] = 1.0, 1.0
    both, spacing = np.stack([first, second]), (1.0, 1.0, 2.0)
    one, two = edge_map(first, spacing), edge_map(second, spacing)
    assert np.array_equal(edge_map(both, spacing), np.maximum(one, two))
    assert np.allclose(edge_map(both, spacing, channels="mean"), (one + two) / 2)
    assert np.array_equal(edge_map(both, spacing, channels="first"), one)


# --- shading ---------------------------------------------------------------------------------------------------------
def shaded(shape):
    """Two tissues under a slow field along the first axis, and the field."""
    random = np.random.default_rng(0)
    tissue = np.where(np.indices(shape).sum(axis=0) // 6 % 2, 700.0, 1000.0) + random.normal(0, 10, shape)
    field = np.exp(0.4 * np.linspace(-1, 1, shape[0]))[:, None, None] * np.ones(shape)
    return tissue * field, field


@pytest.mark.parametrize("shape", [(32, 28, 8), (40, 36, 1)])
def test_n4_finds_most_of_a_slow_field(shape):
    image, field = shaded(shape)
    plan = BiasFieldPlan(mask="positive", shrink=2, iterations=(30, 30))
    found = bias_field(image, Grid.of(shape, np.diag([1.0, 1.0, 3.0, 1.0])), plan)
    assert found.shape == shape
    assert found.min() > 0
    left = np.log(field / found)
    assert left.std() < 0.35 * np.log(field).std()
    assert np.corrcoef(np.log(found).ravel(), np.log(field).ravel())[0, 1] > 0.95


def test_n4_leaves_what_it_can_t_look_at():
    for array in (np.zeros((8, 8, 4)), -np.ones((8, 8, 4)), np.pad(np.ones((1, 1, 1)), ((3, 4), (3, 4), (1, 2)))):
        assert (bias_field(array, Grid.of(array.shape, np.eye(4)), BiasFieldPlan()) == 1).all()
