"""Figures of the report as PNG bytes: one dot a case, gains over a reference, and panels of slices with contours."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.records import Score
from diffboost3d.evaluation.comparisons import SIGNIFICANCE
from diffboost3d.evaluation.statistics import bootstrap_mean
from diffboost3d.evaluation.summary import case_values

# Okabe and Ito's palette for any colour vision, less black and the yellow that vanishes on white
LABEL_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2")
INK, QUIET, FAINT, ACCENT = "#1c1e21", "#6b7280", "#d5d9df", "#0072B2"
_FRACTIONS = ("dice", "nsd")
_NAMES = {"dice": "Dice", "hd95": "HD95", "assd": "ASSD", "nsd": "NSD"}
_DPI = 160


@dataclass(frozen=True, eq=False)
class Panel:
    """A slice to show: `image` (I, J) with i to the right and j up, and `label` (I, J) drawn as coloured contours.

    `spacing_mm` is that of i and j and sets the aspect. The grey values run from `vmin` to `vmax`, by default from the
    image's least to its largest finite value.

    colours: red, green and blue (0 to 255) of label values; others take those of `LABEL_COLOURS` in turn.
    """

    title: str
    image: NDArray[Any]
    label: NDArray[Any] | None = None
    spacing_mm: tuple[float, float] = (1.0, 1.0)
    vmin: float | None = None
    vmax: float | None = None
    colours: Mapping[int, Sequence[int]] = field(default_factory=dict)


def per_case_plot(scores: Sequence[Score], metric: str = "dice", patients: Mapping[str, str] | None = None) -> bytes:
    """Draw each case as a dot an arm (mean over labels and seeds), cases joined by thin lines, means with intervals.

    `patients` has the patient of each case, whose cases are drawn together for the interval; None: every case is one. Arms
    stand in the order of their first score. Returns PNG bytes; raises ValueError without finite scores of `metric`.
    """
    values = case_values(scores, metric)
    if not values:
        raise ValueError(f"there are no scores of {metric} to draw")
    unit = next(score.unit for score in scores if score.metric == metric)
    scale = 100.0 if metric in _FRACTIONS else 1.0
    figure, axes = axes_of(width=max(4.0, 1.6 + 1.25 * len(values)), height=4.2)
    arms = list(values)
    numbers = {patient: number for number, patient in enumerate(dict.fromkeys((patients or {}).values()))}
    places = _spread(sorted({case for cases in values.values() for case in cases}))
    for case, shift in places.items():
        at = [(i + shift, scale * values[arm][case]) for i, arm in enumerate(arms) if case in values[arm]]
        axes.plot(*zip(*at, strict=True), color=FAINT, linewidth=0.6, zorder=1)
        axes.plot(*zip(*at, strict=True), "o", color=ACCENT, alpha=0.45, markersize=4, markeredgewidth=0, zorder=2)
    for i, arm in enumerate(arms):
        clusters = None if patients is None else [numbers[patients[case]] for case in values[arm]]
        mean = bootstrap_mean([scale * value for value in values[arm].values()], clusters=clusters)
        _mean_and_interval(axes, i + 0.32, mean.mean, mean.low, mean.high)
    axes.set_xticks(range(len(arms)), [arm.replace("_", "\n+ ") for arm in arms])
    axes.set_xlim(-0.5, len(arms) - 0.5 + 0.05)
    name = _NAMES.get(metric, metric)
    axes.set_ylabel(f"{name} (%)" if metric in _FRACTIONS else f"{name} ({unit})" if unit else name)
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    return _png(figure)


def gain_plot(summary: Mapping[str, Any], metric: str = "dice") -> bytes:
    """Draw the paired differences of a summary with their intervals, one row a comparison, and a line at zero.

    Differences that are claimed (see `comparisons.verdict`) are dark, the others grey. Returns PNG bytes; raises ValueError
    when the summary has no comparison of `metric` with a case.
    """
    rows = [row for row in summary["comparisons"] if row["metric"] == metric and row["difference"]["mean"] is not None]
    if not rows:
        raise ValueError(f"there are no comparisons of {metric} to draw")
    fraction = metric in _FRACTIONS
    unit = "points" if fraction else next(m["unit"] for m in summary["metrics"] if m["name"] == metric)
    figure, axes = axes_of(width=7.0, height=1.1 + 0.36 * len(rows))
    axes.axvline(0, color=QUIET, linewidth=1)
    for place, row in enumerate(rows):
        mean, low, high = (
            np.nan if row["difference"][end] is None else (100 if fraction else 1) * row["difference"][end]
            for end in ("mean", "low", "high")
        )
        colour = ACCENT if max(row["p_holm"], row.get("p_crossed_holm", 0.0)) < SIGNIFICANCE else QUIET
        axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot(mean, place, "o", color=colour, markersize=6)
    axes.set_yticks(range(len(rows)), [f"{row['arm']} against {row['reference']}" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(f"difference in {_NAMES.get(metric, metric)} ({unit}), mean and 95 % interval")
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.tick_params(axis="y", length=0)
    return _png(figure)


def montage(rows: Sequence[Sequence[Panel]], row_titles: Sequence[str] = ()) -> bytes:
    """Draw panels in rows and columns; a short row leaves its last places empty. Returns PNG bytes.

    Each label value has the colour that its panel says, else the same in all panels; these repeat after six values. Raises
    ValueError without panels, for an image that isn't (I, J), a label of another shape, or row titles that don't match the rows.
    """
    from matplotlib.figure import Figure

    columns = max((len(row) for row in rows), default=0)
    if columns == 0:
        raise ValueError("there are no panels to draw")
    if row_titles and len(row_titles) != len(rows):
        raise ValueError(f"{len(row_titles)} row titles for {len(rows)} rows")
    figure = Figure(figsize=(1.9 * columns + (0.4 if row_titles else 0), 2.1 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for i, row in enumerate(rows):
        for j, axes in enumerate(grid[i]):
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if j < len(row):
                _draw_panel(axes, row[j])
        if row_titles:
            grid[i][0].set_ylabel(row_titles[i], fontsize=9, color=INK)
    return _png(figure)


def _draw_panel(axes: Any, panel: Panel) -> None:
    if panel.image.ndim != 2:
        raise ValueError(f"panel {panel.title!r}: the image must have the shape (I, J), got {panel.image.shape}")
    finite = panel.image[np.isfinite(panel.image)]
    vmin = panel.vmin if panel.vmin is not None else float(finite.min()) if finite.size else 0.0
    vmax = panel.vmax if panel.vmax is not None else float(finite.max()) if finite.size else 1.0
    step_i, step_j = panel.spacing_mm
    axes.imshow(
        panel.image.T,
        origin="lower",
        cmap="gray",
        vmin=vmin,
        vmax=vmax,
        aspect=step_j / step_i,
        interpolation="nearest",
    )
    axes.set_title(panel.title, fontsize=9, color=INK)
    if panel.label is not None:
        _draw_contours(axes, panel)


def _draw_contours(axes: Any, panel: Panel) -> None:
    assert panel.label is not None
    if panel.label.shape != panel.image.shape:
        raise ValueError(
            f"panel {panel.title!r}: image {panel.image.shape} and label {panel.label.shape} differ in shape"
        )
    size_i, size_j = panel.label.shape
    for value in np.unique(panel.label[panel.label != 0]):
        mask = np.pad(panel.label == value, 1).astype(float)  # padded, so that contours close at the border
        told = panel.colours.get(int(value))
        usual = LABEL_COLOURS[(int(value) - 1) % len(LABEL_COLOURS)]
        colour = usual if told is None else tuple(part / 255 for part in told)
        axes.contour(
            np.arange(-1, size_i + 1), np.arange(-1, size_j + 1), mask.T, levels=[0.5], colors=[colour], linewidths=1.2
        )
    axes.set_xlim(-0.5, size_i - 0.5)
    axes.set_ylim(-0.5, size_j - 0.5)


def axes_of(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    """A figure of that size in inches, and its axes in the house's dress: one, or an array of `columns` that share y."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, sharey=True)
    for one in np.atleast_1d(axes):
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(FAINT)
        one.tick_params(colors=INK, labelsize=9, color=FAINT)
        one.xaxis.label.set_color(INK)
        one.yaxis.label.set_color(INK)
        one.set_axisbelow(True)
    return figure, axes


def _mean_and_interval(axes: Any, x: float, mean: float, low: float, high: float) -> None:
    axes.plot([x, x], [low, high], color=INK, linewidth=2, solid_capstyle="round", zorder=4)
    axes.plot(x, mean, "o", color="white", markeredgecolor=INK, markeredgewidth=1.6, markersize=6.5, zorder=5)


def _spread(cases: Sequence[str]) -> dict[str, float]:
    """Give each case a fixed small sideways shift, the same in every arm, so that dots don't hide one another."""
    golden = 0.6180339887
    return {case: 0.3 * ((i * golden) % 1.0) - 0.15 for i, case in enumerate(cases)}


def _png(figure: Any) -> bytes:
    """Render without the time stamp and version that would make equal figures differ in bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
