"""Tables of a summary, and their plain text and Markdown forms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "-"
_FRACTIONS = ("dice", "nsd")  # shown as percentages, so that gains in points can be read off
_NAMES = {"dice": "Dice", "hd95": "HD95", "assd": "ASSD", "nsd": "NSD"}


def name_of(metric: str) -> str:
    """A metric's name as it is read: dice is Dice."""
    return _NAMES.get(metric, metric)


@dataclass(frozen=True)
class Table:
    """Cells as text; the first `text_columns` columns are words, aligned left, the rest numbers, aligned right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1


def arms_table(summary: Mapping[str, Any]) -> Table:
    """Tabulate the arms of a summary (`diffboost3d.evaluation.summary.summarise`), one row each.

    Columns: the arm; each metric's mean and 95 % interval, fractions in percent and distances in the metric's unit;
    after Dice, the Dice of each label when there are several; last the gain in Dice points over the reference, present
    when Dice is. What doesn't exist shows as "-"; a summary without arms gives a table without rows.
    """
    metrics, labels = summary["metrics"], summary["labels"]
    columns = ["arm"]
    for metric in metrics:
        columns.append(_heading(metric))
        if metric["name"] == "dice" and len(labels) > 1:
            columns += [f"Dice {label} (%)" for label in labels]
    has_dice = any(metric["name"] == "dice" for metric in metrics)
    if has_dice:
        columns.append(f"gain over {summary['reference']} (points)")
    rows = []
    for arm, results in summary["arms"].items():
        row = [arm]
        for metric in metrics:
            row += _metric_cells(metric["name"], results.get(metric["name"]), labels)
        rows.append(tuple([*row, _gain(summary, arm)] if has_dice else row))
    return Table(tuple(columns), tuple(rows))


def comparisons_table(summary: Mapping[str, Any], metric: str = "dice") -> Table:
    """Tabulate the paired comparisons of one metric: difference with interval, p, Holm's p and the number of cases."""
    described = next((entry for entry in summary["metrics"] if entry["name"] == metric), {"name": metric, "unit": ""})
    unit = "points" if metric in _FRACTIONS else described["unit"]
    columns = ("arm", "against", f"{_NAMES.get(metric, metric)} difference ({unit})", "p", "p (Holm)", "cases")
    rows = tuple(
        (
            row["arm"],
            row["reference"],
            interval_text(row["difference"], metric, sign=True),
            p_text(row["p_value"]),
            p_text(row["p_holm"]),
            str(row["cases"]),
        )
        for row in summary["comparisons"]
        if row["metric"] == metric
    )
    return Table(columns, rows, text_columns=2)


def to_text(table: Table) -> str:
    """Lay a table out in aligned columns for the terminal, with a rule below the heading."""
    widths = _widths(table)
    lines = [_aligned(table, row, widths, gap="  ") for row in (table.columns, *table.rows)]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def to_markdown(table: Table) -> str:
    """Write a table in GitHub's Markdown; vertical bars within cells are escaped."""
    rows = tuple(tuple(cell.replace("|", "\\|") for cell in row) for row in (table.columns, *table.rows))
    escaped = Table(rows[0], rows[1:], table.text_columns)
    widths = [max(3, width) for width in _widths(escaped)]
    lines = [f"| {_aligned(escaped, row, widths, gap=' | ')} |" for row in rows]
    rule = ["-" * w if i < table.text_columns else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines.insert(1, f"| {' | '.join(rule)} |")
    return "\n".join(lines)


def _widths(table: Table) -> list[int]:
    return [max(len(row[i]) for row in (table.columns, *table.rows)) for i in range(len(table.columns))]


def _aligned(table: Table, row: Sequence[str], widths: Sequence[int], gap: str) -> str:
    return gap.join(
        cell.ljust(width) if i < table.text_columns else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    )


def _heading(metric: Mapping[str, Any]) -> str:
    name = _NAMES.get(metric["name"], metric["name"])
    unit = "%" if metric["name"] in _FRACTIONS else metric["unit"]
    return f"{name} ({unit})" if unit else name


def _metric_cells(metric: str, result: Mapping[str, Any] | None, labels: Sequence[str]) -> list[str]:
    cells = [interval_text(result, metric) if result else MISSING]
    if metric == "dice" and len(labels) > 1:
        by_label = result["labels"] if result else {}
        cells += [number_text(by_label.get(label, {}).get("mean"), metric) for label in labels]
    return cells


def _gain(summary: Mapping[str, Any], arm: str) -> str:
    for row in summary["comparisons"]:
        if (row["metric"], row["arm"], row["reference"]) == ("dice", arm, summary["reference"]):
            return interval_text(row["difference"], "dice", sign=True)
    return MISSING


def interval_text(interval: Mapping[str, Any] | None, metric: str, sign: bool = False) -> str:
    """A mean with its interval, fractions in percent; "-" for what doesn't exist."""
    if interval is None:
        return MISSING
    mean = number_text(interval["mean"], metric, sign)
    low, high = (number_text(interval[end], metric, sign) for end in ("low", "high"))
    return mean if MISSING in (low, high) else f"{mean} [{low}, {high}]"


def number_text(value: float | None, metric: str, sign: bool = False, digits: int = 0) -> str:
    """A number of a metric, fractions in percent with one decimal, others with two; `digits`: so many decimals more."""
    if value is None or not math.isfinite(value):
        return MISSING
    percent = metric in _FRACTIONS
    decimals = (1 if percent else 2) + digits
    rounded = round(100 * value if percent else value, decimals) + 0.0  # no negative zero
    return f"{rounded:{'+' if sign else ''}.{decimals}f}"


def p_text(value: float | None) -> str:
    """A p-value with three decimals."""
    if value is None or not math.isfinite(value):
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
