"""Hydra's composition of `configs/`. The choice of files takes most of a second; a process makes each choice once.

A command composes once, but a study does for every variant, and a notebook for whatever it tries.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

PRIMARY = "config"


def composed(folder: Path, overrides: Sequence[str], keeps: bool = True) -> Any:
    """What `hydra.compose` makes of the files of `folder` and these overrides; raises what that raises.

    Values are put by Hydra's own function onto the kept composition of the groups that are chosen.

    Args:
        keeps: false where a choice may stand for another content next time.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    if not keeps or any(one.is_sweep_override() or one.is_hydra_override() for one in parsed):
        return _whole(folder, overrides)
    choices: list[Any] = []
    values: list[Any] = []
    for one in parsed:  # told apart as in hydra._internal.defaults_list
        chooses = (folder / one.key_or_group).is_dir() and not isinstance(one.value(), dict)
        (choices if chooses else values).append(one)
    config = copy.deepcopy(_of_choices(folder, tuple(str(one.input_line) for one in choices), _state_of(folder)))
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    return config


@lru_cache(maxsize=32)
def _of_choices(folder: Path, choices: tuple[str, ...], state: tuple[tuple[str, int, int], ...]) -> Any:
    return _whole(folder, choices)


def _state_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, time of writing and size of every file: what was edited or put in its place is read again."""
    found = ((str(path), path.stat()) for path in sorted(folder.rglob("*.yaml")))
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)


def _whole(folder: Path, overrides: Sequence[str]) -> Any:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose(PRIMARY, list(overrides))
