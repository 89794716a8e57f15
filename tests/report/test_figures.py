"""Figures: they render, say what they show, and handle what is degenerate."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from diffboost3d.cases.records import Score
from diffboost3d.evaluation.summary import summarise
from diffboost3d.report.figures import ACCENT, LABEL_COLOURS, Panel, gain_plot, montage, per_case_plot


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def near(image, colour, tolerance=30):
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return (np.abs(image - wanted) <= tolerance).all(axis=-1)


def test_the_per_case_plot_is_a_png_that_is_the_same_each_time(scores):
    first = per_case_plot(scores)
    assert pixels(first).std() > 0
    assert per_case_plot(scores) == first


@pytest.mark.parametrize("metric", ["hd95", "nsd"])
def test_every_metric_can_be_plotted(scores, summary, metric):
    assert pixels(per_case_plot(scores, metric)).std() > 0
    assert pixels(gain_plot(summary, metric)).std() > 0


def test_cases_of_a_patient_count_together_in_the_interval(scores):
    cases = sorted({score.case for score in scores})
    own, shared = ({case: case for case in cases}, {case: str(at // 3) for at, case in enumerate(cases)})
    assert per_case_plot(scores, patients=own) == per_case_plot(scores)
    assert per_case_plot(scores, patients=shared) != per_case_plot(scores)


def test_one_case_in_one_arm_can_be_plotted():
    assert pixels(per_case_plot([Score("none", 0, 0, "a", "organ", "dice", 0.5, "")])).std() > 0


def test_a_case_absent_from_an_arm_can_be_plotted(scores):
    assert per_case_plot([s for s in scores if not (s.arm == "diffboost" and s.case == "case03")])


def test_nothing_to_draw_is_refused(scores, summary):
    with pytest.raises(ValueError, match="no scores of dice"):
        per_case_plot([])
    with pytest.raises(ValueError, match="no comparisons of dice"):
        gain_plot(summarise([]))
    with pytest.raises(ValueError, match="no panels"):
        montage([])
    with pytest.raises(ValueError, match="no panels"):
        montage([[], []])


@pytest.mark.parametrize(("p_crossed_holm", "claimed"), [(0.01, True), (0.2, False)])
def test_only_what_is_claimed_is_dark(p_crossed_holm: float, claimed: bool) -> None:
    row = {
        "metric": "dice",
        "arm": "cutmix",
        "reference": "none",
        "difference": {"mean": 0.02, "low": 0.01, "high": 0.03},
    }
    row |= {"p_holm": 0.01, "p_crossed_holm": p_crossed_holm}
    drawn = pixels(gain_plot({"comparisons": [row], "metrics": []}))
    assert near(drawn, ACCENT).any() == claimed


def test_one_comparison_of_one_case_can_be_plotted():
    scores = [Score(arm, 0, 0, "a", "organ", "dice", 0.5, "") for arm in ("none", "diffboost")]
    assert pixels(gain_plot(summarise(scores))).std() > 0


def test_i_runs_to_the_right_and_j_upwards():
    image = np.zeros((20, 20))
    image[14:, 14:] = 1.0  # large i, large j: the upper right
    shown = pixels(montage([[Panel("", image)]])).sum(axis=-1)
    dark = np.argwhere(shown < 30)
    rows, columns = dark.min(axis=0), dark.max(axis=0)
    centre = (rows + columns) // 2
    quarter = (columns - rows) // 2 - 8
    assert shown[centre[0] - quarter[0], centre[1] + quarter[1]] == 765
    for row, column in ((-1, -1), (1, -1), (1, 1)):
        assert shown[centre[0] + row * quarter[0], centre[1] + column * quarter[1]] < 30


def test_the_aspect_follows_the_spacing():
    shown = pixels(montage([[Panel("", np.zeros((10, 10)), spacing_mm=(1.0, 3.0), vmax=1.0)]])).sum(axis=-1)
    dark = np.argwhere(shown < 30)
    height, width = dark.max(axis=0) - dark.min(axis=0)
    assert height / width == pytest.approx(3.0, rel=0.05)


def test_labels_are_outlined_in_their_own_colours_also_at_the_border():
    label = np.zeros((32, 32), dtype=int)
    label[:12, :12], label[20:28, 20:28] = 1, 2
    shown = pixels(montage([[Panel("t", np.zeros((32, 32)), label, vmin=0, vmax=1)]]))
    assert near(shown, LABEL_COLOURS[0]).sum() > 50
    assert near(shown, LABEL_COLOURS[1]).sum() > 50
    assert near(shown, LABEL_COLOURS[2]).sum() == 0
    told = {1: (20, 200, 40)}
    shown = pixels(montage([[Panel("t", np.zeros((32, 32)), label, vmin=0, vmax=1, colours=told)]]))
    assert near(shown, "#14c828").sum() > 50  # as told
    assert near(shown, LABEL_COLOURS[0]).sum() == 0
    assert near(shown, LABEL_COLOURS[1]).sum() > 50  # not told


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.ones((1, 1))], ids=["constant", "nan", "one pixel"]
)
def test_degenerate_images_can_be_shown(image):
    assert montage([[Panel("t", image, np.zeros(image.shape, dtype=int))]])


def test_rows_may_be_short_and_titled():
    panel = Panel("t", np.eye(5))
    assert montage([[panel, panel], [panel]], row_titles=["real", "synthetic"])
    with pytest.raises(ValueError, match="1 row titles for 2 rows"):
        montage([[panel], [panel]], row_titles=["real"])


def test_shapes_that_do_not_fit_are_refused_by_panel():
    with pytest.raises(ValueError, match=r"'mine'.*\(4, 4\).*\(4, 5\)"):
        montage([[Panel("mine", np.eye(4), np.zeros((4, 5), dtype=int))]])
    with pytest.raises(ValueError, match=r"'mine'.*\(I, J\)"):
        montage([[Panel("mine", np.zeros((4, 4, 4)))]])


def test_the_report_needs_neither_torch_nor_pyplot():
    code = (
        "import sys, numpy\n"
        "from diffboost3d.report import page, tables\n"
        "from diffboost3d.report.figures import Panel, montage\n"
        "montage([[Panel('t', numpy.eye(4))]])\n"
        "print([name for name in ('torch', 'monai', 'matplotlib.pyplot') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
