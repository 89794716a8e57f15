"""Tables: the right number in the right column, and forms that line up."""

from __future__ import annotations

import math

import pytest

from diffboost3d.cases.records import Score
from diffboost3d.evaluation.summary import summarise
from diffboost3d.report.tables import Table, arms_table, comparisons_table, to_markdown, to_text


def small_summary():
    """Three cases, one label; the gain is 10 points in each."""
    dice = [
        Score("none", 0, 0, case, "organ", "dice", value, "")
        for case, value in zip("abc", (0.5, 0.6, 0.7), strict=True)
    ]
    gained = [Score("diffboost", 0, 0, s.case, "organ", "dice", s.value + 0.1, "") for s in dice]
    far = [Score("none", 0, 0, "a", "organ", "hd95", 12.345, "px")]
    return summarise([*dice, *gained, *far])


def test_cells_hold_percent_points_distances_and_gains():
    table = arms_table(small_summary())
    assert table.columns == ("arm", "Dice (%)", "HD95 (px)", "gain over none (points)")
    none, diffboost = table.rows
    assert none == ("none", "60.0 [50.0, 70.0]", "12.35", "-")
    assert diffboost == ("diffboost", "70.0 [60.0, 80.0]", "-", "+10.0 [+10.0, +10.0]")


def test_several_labels_get_a_column_each(summary):
    table = arms_table(summary)
    assert table.columns == (
        "arm",
        "Dice (%)",
        "Dice left atrium (%)",
        "Dice pulmonary veins (%)",
        "HD95 (mm)",
        "ASSD (mm)",
        "NSD (%)",
        "gain over none (points)",
    )
    assert [row[0] for row in table.rows] == list(summary["arms"])
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_numbers_that_do_not_exist_show_as_a_dash():
    summary = small_summary()
    summary["arms"]["none"]["dice"].update(mean=math.nan, low=math.nan, high=None)
    assert arms_table(summary).rows[0][1] == "-"


def test_a_mean_without_interval_stands_alone():
    summary = summarise([Score("none", 0, 0, "a", "organ", "dice", 0.5, "")])
    assert arms_table(summary).rows == (("none", "50.0", "-"),)


def test_an_empty_summary_gives_a_table_without_rows():
    table = arms_table(summarise([]))
    assert table.rows == ()
    assert to_text(table)


def test_comparisons_show_difference_and_p_values(summary):
    table = comparisons_table(summary)
    assert table.columns == ("arm", "against", "Dice difference (points)", "p", "p (Holm)", "cases")
    assert [row[:2] for row in table.rows] == [
        ("classical", "none"),
        ("diffboost", "none"),
        ("diffboost_classical", "none"),
        ("diffboost_classical", "classical"),
    ]
    assert table.rows[2][3] == "< 0.001"
    assert table.rows[0][5] == "24"
    assert comparisons_table(summary, "hd95").columns[2] == "HD95 difference (mm)"


TABLE = Table(("arm", "Dice (%)"), (("none", "60.0"), ("diff|boost", "100.0")))


def test_plain_text_lines_up():
    assert to_text(TABLE).splitlines() == [
        "arm         Dice (%)",
        "----------  --------",
        "none            60.0",
        "diff|boost     100.0",
    ]


def test_markdown_aligns_numbers_right_and_escapes_bars():
    assert to_markdown(TABLE).splitlines() == [
        "| arm         | Dice (%) |",
        "| ----------- | -------: |",
        "| none        |     60.0 |",
        "| diff\\|boost |    100.0 |",
    ]


@pytest.mark.parametrize("form", [to_text, to_markdown])
def test_every_line_of_a_real_table_is_equally_wide(form, summary):
    lines = form(arms_table(summary)).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == 2 + len(summary["arms"])
