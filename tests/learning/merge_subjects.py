"""Subjects that cuboids are merged in."""

from __future__ import annotations

import numpy as np
import torch
import torchio as tio
from hypothesis import strategies as st

REAL, OTHER = 3, 7  # label values of the two sources
shapes = st.tuples(st.integers(1, 14), st.integers(1, 13), st.integers(1, 9))
cells = st.tuples(*[st.integers(1, 20)] * 3)
seeds = st.integers(0, 10**6)


def noise(shape, seed, channels=1):
    return torch.randn((channels, *shape), generator=torch.Generator().manual_seed(seed))


def flat(shape, value, affine=None):
    return tio.LabelMap(tensor=torch.full((1, *shape), value, dtype=torch.uint8), affine=affine)


def subject(shape=(12, 10, 6), spacing=(1.0, 1.0, 2.5), labelled=True, channels=1):
    affine = np.diag([*spacing, 1.0])
    images = {
        "image": tio.ScalarImage(tensor=noise(shape, 1, channels), affine=affine),
        "synthetic": tio.ScalarImage(tensor=noise(shape, 2, channels), affine=affine),
        "label": flat(shape, REAL, affine),
    }
    if labelled:
        images["synthetic_label"] = flat(shape, OTHER, affine)
    return tio.Subject(**images)


def with_structure(shape=(14, 12, 8), labelled=True):
    """A subject whose label has 1 and 2 in two corners and 0 elsewhere; that of the other is 0."""
    made = subject(shape, labelled=labelled)
    label = torch.zeros(1, *shape, dtype=torch.uint8)
    label[:, :5, :6, :3], label[:, 8:, 5:, 2:] = 1, 2
    made["label"].set_data(label)
    if labelled:
        made["synthetic_label"].set_data(torch.zeros_like(label))
    return made


def seeded(transform, subject, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transform(subject)


def equal(first, second, names=("image", "label")):
    return all(torch.equal(first[name].data, second[name].data) for name in names)
