"""Figures of a study: the forest of its comparisons and the curve over training sizes, as PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffboost3d.report.figures import ACCENT, FAINT, INK, LABEL_COLOURS, QUIET, axes_of
from diffboost3d.report.study_parts import has_seeds
from diffboost3d.report.tables import name_of

# Okabe and Ito's, with an ink of our own, for the arms; twelve are told apart by the marker too
ARM_COLOURS = (INK, *LABEL_COLOURS)
MARKERS = "osD^vP"
CLAIM_COLOURS = {"helps": ACCENT, "hurts": "#D55E00"}


def forest_plot(summary: Mapping[str, Any], metric: str = "dice") -> dict[str, bytes]:
    """Paired differences with their intervals over cases (thick) and over cases and seeds, where there are several (thin), a row
    a comparison, grouped by variant and size; what helps is blue, what hurts orange, all else grey.

    Returns {png: bytes, svg: bytes}.

    Raises ValueError where nothing is compared.
    """
    groups = [
        (_title(summary, part), [row for row in part["comparisons"] if _is_shown(row, metric)])
        for part in summary["parts"]
    ]
    for size in dict.fromkeys(row["size"] for row in summary["between_variants"]):
        rows = [row for row in summary["between_variants"] if row["size"] == size and _is_shown(row, metric)]
        groups.append((f"between variants{'' if size is None else f', n = {size}'}", rows))
    groups = [group for group in groups if group[1]]
    if not groups:
        raise ValueError(f"there are no comparisons of {metric} to draw")
    unit = next(one["unit"] for one in summary["metrics"] if one["name"] == metric)
    scale = 1.0 if unit else 100.0
    count = sum(len(rows) + 1 for _, rows in groups)
    figure, axes = axes_of(width=7.4, height=0.9 + 0.26 * count)
    axes.axvline(0, color=QUIET, linewidth=1)
    place, ticks = 0.0, []
    for title, rows in groups:
        axes.text(
            0.0,
            place,
            f" {title}",
            transform=axes.get_yaxis_transform(),
            fontsize=9,
            color=INK,
            weight="bold",
            va="center",
        )
        for row in rows:
            place += 1
            _draw_row(axes, place, row, scale)
            ticks.append((place, f"{row['arm']} – {row['reference']}"))
        place += 1.1
    axes.set_yticks([at for at, _ in ticks], [text for _, text in ticks])
    axes.set_ylim(place - 0.4, -0.7)
    axes.set_xlabel(f"difference in {name_of(metric)} ({unit or 'points'}); {_bars(summary)}")
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.tick_params(axis="y", length=0)
    return _files(figure)


def _bars(summary: Mapping[str, Any]) -> str:
    if not has_seeds(summary):
        return "95 % over cases, of one seed (thick: bootstrap, thin: t)"
    return "thick: 95 % over cases, thin: over cases and seeds"


def learning_curve(summary: Mapping[str, Any], metric: str = "dice") -> dict[str, bytes]:
    """Mean of every arm over the number of labelled cases (a logarithmic axis), a line an arm and a panel a variant.

    Bars: 95 % bootstrap interval over patients. Returns {png: bytes, svg: bytes}.

    Raises ValueError for a study with fewer than two sizes.
    """
    sizes = [size for size in summary["sizes"] if size is not None]
    if len(sizes) < 2:
        raise ValueError("a curve needs two training sizes or more")
    variants = summary["variants"]
    unit = next(one["unit"] for one in summary["metrics"] if one["name"] == metric)
    scale = 1.0 if unit else 100.0
    figure, first = axes_of(width=5.6 * len(variants) + 1.2, height=4.0, columns=len(variants))
    arms = list(dict.fromkeys(arm for part in summary["parts"] for arm in part["arms"]))
    for axes, variant in zip(np.atleast_1d(first), variants, strict=True):
        for number, arm in enumerate(arms):
            found = {
                part["size"]: part["arms"][arm][metric]
                for part in summary["parts"]
                if part["variant"] == variant and part["size"] is not None and metric in part["arms"].get(arm, {})
            }
            if found:
                _draw_curve(axes, found, arm, number, len(arms), scale)
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("labelled training cases")
        axes.grid(axis="y", color=FAINT, linewidth=0.5)
        if len(variants) > 1:
            axes.set_title(variant, fontsize=10, color=INK)
    np.atleast_1d(first)[0].set_ylabel(f"{name_of(metric)} ({unit or '%'})")
    handles, names = np.atleast_1d(first)[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", frameon=False, fontsize=9)
    return _files(figure)


def _draw_row(axes: Any, place: float, row: Mapping[str, Any], scale: float) -> None:
    colour = CLAIM_COLOURS.get(row.get("claim") or "", QUIET)
    for name, width in (("difference", 1.2), ("over_cases", 3.5)):
        low, high = row[name]["low"], row[name]["high"]
        if low is not None:
            axes.plot([scale * low, scale * high], [place, place], color=colour, linewidth=width, solid_capstyle="butt")
    axes.plot(
        scale * row["difference"]["mean"], place, "o", color="white", markeredgecolor=colour, markersize=5, zorder=4
    )


def _draw_curve(
    axes: Any, found: Mapping[int, Mapping[str, Any]], arm: str, number: int, arms: int, scale: float
) -> None:
    """Of one arm; a little aside, so that bars of several don't hide one another."""
    aside = 1 + 0.02 * (number - (arms - 1) / 2)
    colour, marker = ARM_COLOURS[number % len(ARM_COLOURS)], MARKERS[number % len(MARKERS)]
    at = sorted(found)
    means = [scale * found[size]["mean"] for size in at]
    axes.plot([size * aside for size in at], means, color=colour, marker=marker, markersize=5, linewidth=1.4, label=arm)
    for size, mean in zip(at, means, strict=True):
        low, high = found[size]["low"], found[size]["high"]
        if low is not None:
            axes.plot([size * aside] * 2, [scale * low, scale * high], color=colour, linewidth=1, alpha=0.6)
        assert np.isfinite(mean)


def _is_shown(row: Mapping[str, Any], metric: str) -> bool:
    return row["metric"] == metric and row["difference"]["mean"] is not None


def _title(summary: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    words = [part["variant"]] if len(summary["variants"]) > 1 else []
    words += ["all labelled cases"] if part["size"] is None else [f"n = {part['size']}"]
    return ", ".join(words)


def _files(figure: Any) -> dict[str, bytes]:
    """Both forms, without time stamps and random ids, so that equal figures are equal bytes."""
    import matplotlib

    made = {}
    with matplotlib.rc_context({"svg.hashsalt": "diffboost3d", "svg.fonttype": "none"}):
        for form, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=form, dpi=160, facecolor="white", metadata=metadata)
            made[form] = buffer.getvalue()
    return made
