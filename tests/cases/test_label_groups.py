"""Label groups: members count as one, everything else stays, and what can't be is refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from diffboost3d.cases.labels import grouped, with_groups
from diffboost3d.errors import ConfigError

ZONES = {"background": 0, "PZ": 1, "TZ": 2, "lesion": 7}


def test_a_group_takes_the_place_of_its_members_with_their_smallest_value():
    labels, merged = grouped(ZONES, {"gland": ["TZ", "PZ"]})
    assert labels == {"background": 0, "gland": 1, "lesion": 7}
    assert merged == {2: 1}
    assert with_groups(np.array([0, 1, 2, 7, 255]), merged).tolist() == [0, 1, 1, 7, 255]


def test_labels_may_be_given_to_the_background():
    labels, merged = grouped(ZONES, {"background": ["background", "lesion"]})
    assert (labels, merged) == ({"background": 0, "PZ": 1, "TZ": 2}, {7: 0})


def test_without_groups_nothing_changes():
    label = np.arange(4)
    assert grouped(ZONES, {}) == (ZONES, {})
    assert with_groups(label, {}) is label


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"gland": ["PZ", "CZ"]}, "'CZ' is no label; allowed: background, PZ, TZ, lesion"),
        ({"a": ["PZ"], "b": ["PZ", "TZ"]}, "'PZ' is in a and in b"),
        ({"lesion": ["PZ", "TZ"]}, "lesion is called as a label that is not in it"),
        ({"gland": []}, "gland is empty"),
        ({"all": [*ZONES]}, "nothing but one label"),
    ],
)
def test_groups_that_can_t_be_are_refused(groups, words):
    with pytest.raises(ConfigError, match=words):
        grouped(ZONES, groups)
