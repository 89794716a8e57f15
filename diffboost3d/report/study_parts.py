"""How the parts of a study (its variants and sizes) are told apart in tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def part_columns(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Which columns tell the parts apart."""
    return (*(("variant",) if len(summary["variants"]) > 1 else ()), *(("n",) if has_sizes(summary) else ()))


def part_cells(summary: Mapping[str, Any], part: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of a part, {variant, size}, in these columns."""
    cells = {"variant": part["variant"], "n": size_text(part["size"])}
    return tuple(cells[column] for column in part_columns(summary))


def where_of(summary: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    """A part in words, such as n = 5; empty where there is no other."""
    cells = zip(part_columns(summary), part_cells(summary, part), strict=True)
    return ", ".join(f"n = {cell}" if name == "n" else cell for name, cell in cells)


def has_sizes(summary: Mapping[str, Any]) -> bool:
    """Whether there are several training sizes."""
    return len(summary["sizes"]) > 1


def size_text(size: int | None) -> str:
    """A number of labelled training cases; None is all there are."""
    return "all" if size is None else str(size)


def has_seeds(summary: Mapping[str, Any]) -> bool:
    """Whether anything was trained with several seeds."""
    return any(
        len(result["seeds"]) > 1
        for part in summary["parts"]
        for arm in part["arms"].values()
        for result in arm.values()
    )


def interval_over(summary: Mapping[str, Any]) -> str:
    """What the intervals of a study's differences are over, in words."""
    if not has_seeds(summary):
        return "cases alone (of one seed, whose luck it doesn't hold)"
    rows = [row for part in summary["parts"] for row in part["comparisons"]] + list(summary["between_variants"])
    once = any(row["seeds"] == 1 for row in rows)
    return "cases and seeds" + (" (where there is one seed: over cases alone)" if once else "")
