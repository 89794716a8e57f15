"""What a key of the configuration is: a dataclass field that carries its meaning and its allowed values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field, fields, is_dataclass
from functools import partial
from typing import Any


def key(
    default: Any,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] | None = None,
    length: tuple[int, ...] | None = None,
) -> Any:
    """A dataclass field with its meaning and its allowed values.

    Args:
        default: plain value, list or dictionary (copied for every instance).
        meaning: one sentence; units where the number has one.
        low, high: inclusive bounds, also of every element of a list.
        choices: the allowed values, also of every element of a list.
        length: the allowed lengths of a list.
    """
    metadata = {"meaning": meaning, "low": low, "high": high, "choices": choices, "length": length}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: default.copy(), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(kind: type, **values: Any) -> Any:
    """A nested section of the configuration; `values` are its defaults where they aren't those of its type."""
    return field(default_factory=partial(kind, **values) if values else kind)


def leaves(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, dataclass field) of every value below a section."""
    for one in fields(section):
        value = getattr(section, one.name)
        path = f"{prefix}{one.name}"
        if is_dataclass(value):
            yield from leaves(value, f"{path}.")
        else:
            yield path, one
