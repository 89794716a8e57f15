"""Labels that move: batchgeneratorsv2's own, to the byte, in 2D and 3D, at borders, at ties and beyond the volume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

from diffboost3d.augmentation.resampling import Movement

SETTINGS = {
    "patch_center_dist_from_border": 0,
    "random_crop": False,
    "p_rotation": 1,
    "rotation": (-0.5, 0.5),
    "p_scaling": 1,
    "scaling": (0.7, 1.4),
    "p_elastic_deform": 0.3,
    "elastic_deform_magnitude": (0, 3),
    "elastic_deform_scale": (0.1, 0.2),
    "padding_mode_image": "constant",
    "padding_value_image": -1.0,
}


def both(label, patch, seed, **settings):
    """The label moved by ours and by theirs, the draw alike."""
    moved = []
    for kind in (Movement, SpatialTransform):
        np.random.seed(seed)
        torch.manual_seed(seed)
        data = {"image": label.float(), "segmentation": label.clone()}
        moved.append(kind(patch, **{**SETTINGS, **settings})(**data))
    return moved


@pytest.mark.parametrize(
    ("shape", "patch"), [((17, 20, 12), (12, 16, 9)), ((23, 18), (16, 13)), ((9, 8, 7), (14, 12, 9))]
)
@pytest.mark.parametrize("values", [(0,), (3,), (0, 1), (2, 5), (0, 1, 2, 255)])
@pytest.mark.parametrize("side", [1, 4])
def test_labels_are_those_of_batchgeneratorsv2_to_the_byte(shape, patch, values, side):
    random = np.random.default_rng(len(values) * side)
    for seed in range(6):
        coarse = random.choice(values, size=(2, *(-(-size // side) for size in shape))).astype(np.int16)
        for axis in range(1, len(shape) + 1):
            coarse = coarse.repeat(side, axis)
        label = torch.from_numpy(coarse[(slice(None), *(slice(size) for size in shape))].copy())
        ours, theirs = both(label, patch, seed)
        assert ours["segmentation"].dtype == theirs["segmentation"].dtype
        assert torch.equal(ours["segmentation"], theirs["segmentation"])
        assert torch.equal(ours["image"], theirs["image"])


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_ties_are_settled_alike(scale):
    """Of an even number of voxels read by halves, every border lies exactly between two of them."""
    label = (torch.arange(8 * 10 * 6).reshape(1, 8, 10, 6) // 3 % 4).short()
    for turn in (0.0, np.pi / 2):
        ours, theirs = both(label, (7, 9, 5), 0, scaling=scale, rotation=turn, p_elastic_deform=0)
        assert torch.equal(ours["segmentation"], theirs["segmentation"])


def test_beyond_the_volume_lies_label_0_not_the_nearest():
    ours, _ = both(
        torch.full((1, 4, 4), 3, dtype=torch.int16), (8, 8), 0, scaling=1.0, rotation=0.0, p_elastic_deform=0
    )
    expected = torch.zeros(1, 8, 8)
    expected[:, 2:6, 2:6] = 3
    assert torch.equal(ours["segmentation"], expected.short())
