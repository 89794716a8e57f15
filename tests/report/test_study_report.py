"""The report of a study: tables that LaTeX takes, sentences, and figures that are equal where the numbers are."""

from __future__ import annotations

import re

import pytest

from diffboost3d.cases.study import Study, StudyScore, read_study_scores
from diffboost3d.evaluation.study import summarise_study
from diffboost3d.report.study import latex_of_study, markdown_of_study, to_latex, verdict_lines
from diffboost3d.report.study_basis import basis_lines, unmerged_lines
from diffboost3d.report.study_figures import forest_plot, learning_curve
from diffboost3d.report.tables import Table


def scores(sizes=(3, 10), variants=("base",)):
    return [
        StudyScore(
            variant, size, arm, 0, seed, f"c{case}", f"c{case}", "left_part", 10.0 + case, metric,
            (0.5 + 0.01 * (size or 0) + gain + 0.003 * ((7 * case + 5 * seed) % 11)) * (1 if metric == "dice" else 9),
            "" if metric == "dice" else "mm",
        )
        for variant in variants
        for size in sizes
        for arm, gain in (("none", 0.0), ("cutmix_classical", 0.05 + 0.01 * variants.index(variant)))
        for seed in range(2)
        for case in range(12)
        for metric in ("dice", "hd95")
    ]  # fmt: skip


SUMMARY = summarise_study(scores(), ["none"])


def test_the_page_has_a_sentence_for_every_dice_comparison_and_tables_of_every_metric():
    text = markdown_of_study("Study x", SUMMARY, ["4 of 4 cells are finished"])
    assert [line.split(":")[0] for line in verdict_lines(SUMMARY)] == ["n = 3", "n = 10"]
    assert "- n = 3: cutmix_classical helps: +5.0 Dice points over none" in text
    for heading in ("## Dice by arm", "## Dice differences", "## HD95 differences", "## Effect by label and by size"):
        assert heading in text
    assert "4 of 4 cells" in text
    assert "p of the mean, Holm" in text
    assert "Verdicts are of Dice" in text
    assert "small" in text


def test_columns_that_would_say_one_thing_only_are_left_out():
    whole = markdown_of_study("x", summarise_study(scores(sizes=(None,)), ["none"]), [])
    assert not re.search(r"\| (n|variant) +\|", whole)
    assert "| variant" in markdown_of_study("x", summarise_study(scores(variants=("a", "b")), ["none"]), [])


def test_sets_of_synthetic_volumes_are_counted_and_one_without_any_is_said_to_be():
    row = {
        "variant": "base",
        "fold": 2,
        "volumes": 12,
        "judged": True,
        "not_checked": [],
        "refused_draws": 0,
        "refused_for": {},
    }
    rows = [
        {**row, "size": 3, "set": "default", "arms": ["diffboost"], "accepted": 11, "refused_draws": 5}
        | {"refused_for": {"copy": 4, "intensity": 2}, "not_checked": ["label fidelity"]},
        {**row, "size": 10, "set": "gan", "arms": ["none", "cutmix_classical"], "accepted": 0},
        {**row, "size": 10, "set": "lost", "arms": ["diffboost"], "accepted": None, "judged": False},
    ]
    summary = {**SUMMARY, "synthetic": rows}
    assert unmerged_lines(summary) == [
        "n = 10, fold 2: the gate accepted none of the 12 volumes of the set gan; "
        "none, cutmix_classical had nothing to merge and trained on real images alone"
    ]
    assert [line.endswith("; it had nothing to merge") for line in verdict_lines(summary)] == [False, True]
    shown = markdown_of_study("x", summary, []).split("## Synthetic volumes")[1].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown if line.startswith("| ")]
    assert cells[0] == ["n", "fold", "set", "arms", "gate", "draws refused", "volumes", "accepted"]
    assert cells[2:] == [
        ["3", "2", "default", "diffboost", "copy 4, intensity 2, label fidelity not checked", "5", "12", "11"],
        ["10", "2", "gan", "none, cutmix_classical", "-", "0", "12", "0"],
        ["10", "2", "lost", "diffboost", "judged nothing", "0", "12", "-"],
    ]


BASIS = {
    "command": "diffboost3d compare preset=quick",
    "versions": {"torch": "2.13"},
    "cases": [
        {
            "variant": "base",
            "size": 3,
            "fold": 1,
            "patients_told": True,
            "training": {"cases": 3, "patients": 1},
            "validation": {"cases": 1, "patients": 1},
        }
        | {"unlabelled": {"cases": 60, "patients": 20}, "test": {"cases": 12, "patients": 12}},
        {
            "variant": "base",
            "size": 10,
            "fold": 1,
            "patients_told": True,
            "training": {"cases": 10, "patients": 2},
            "validation": {"cases": 4, "patients": 1},
        }
        | {"unlabelled": {"cases": 53, "patients": 20}, "test": {"cases": 12, "patients": 12}},
    ],
    "trainings": [
        {"variant": "base", "size": 3, "arm": "none", "trainings": 6, "best_last": 3},
        {"variant": "base", "size": 10, "arm": "classical", "trainings": 6, "best_last": 4},
    ],
}


def test_a_study_says_what_it_rests_on_and_where_that_is_little():
    summary = {**SUMMARY, **BASIS}
    assert basis_lines(summary) == [
        "n = 3, fold 1: only 1 validation case chooses the checkpoint, largely by luck; "
        "a new study with compare.validation=4 has as many",
        "n = 3, fold 1: all 3 labelled training cases are of one patient",
        "n = 10: the best validation was the last one in most trainings of classical (4 of 6): "
        "more train.steps may bring them further",
    ]
    text = markdown_of_study("x", summary, [])
    assert re.search(r"\| 10 +\| 1 +\| +10 \(2\) \| +4 \(1\) \| +53 \(20\) \| 12 \(12\) \|", text)
    assert "diffboost3d compare preset=quick" in text.split("## How it was made")[1]


def test_of_patients_that_nobody_told_no_number_is_claimed():
    rows = [{**row, "patients_told": False} for row in BASIS["cases"]]
    assert "No patients are told (data.patients)" in markdown_of_study("x", {**SUMMARY, **BASIS, "cases": rows}, [])


def test_variants_with_other_splits_have_rows_and_lines_of_their_own():
    summary = summarise_study(scores(sizes=(3,), variants=("a", "b")), ["none"])
    row = {**BASIS["cases"][0], "training": {"cases": 3, "patients": 2}}
    rows = [{**row, "variant": "a"}, {**row, "variant": "b", "validation": {"cases": 5, "patients": 2}}]
    lines = basis_lines({**summary, "cases": rows})
    assert [line.partition(":")[0] for line in lines] == ["a, fold 1"]


def test_where_there_is_one_seed_nothing_speaks_of_several():
    one = summarise_study([score for score in scores() if score.seed == 0], ["none"])
    for text in (markdown_of_study("x", one, []), latex_of_study("x", one)):
        assert "over cases and seeds" not in text
        assert not re.search(r"(SD between|SE) seeds", text)
        assert "helps (one training)" in text
        assert "over cases alone (of one seed, whose luck it doesn't hold)" in text
    assert b"cases and seeds" not in forest_plot(one)["svg"]
    assert b"cases and seeds" in forest_plot(SUMMARY)["svg"]


def test_latex_has_closed_environments_and_no_naked_sign():
    text = latex_of_study("Study 50%", SUMMARY)
    assert text.count("\\begin{table}") == text.count("\\end{table}") == text.count("\\toprule") == 5
    assert "cutmix\\_classical" in text
    body = re.sub(r"\\[&%$#_{}]|\\label\{[^}]*\}|^%.*$", "", text, flags=re.MULTILINE)
    assert not re.search(r"[%#_$]", body.replace("$<$", ""))
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert all(len(re.findall(r"(?<!\\)&", row)) >= 4 for row in rows)


def test_a_table_in_latex_by_hand():
    table = Table(("arm", "p"), (("a_b", "< 0.001"),))
    assert to_latex(table, "100 %", "tab:x").splitlines()[2:8] == [
        "\\caption{100 \\%}",
        "\\label{tab:x}",
        "\\begin{tabular}{lr}",
        "\\toprule",
        "arm & p \\\\",
        "\\midrule",
    ]
    assert "a\\_b & $<$ 0.001 \\\\" in to_latex(table, "", "")


def test_figures_come_as_png_and_svg_and_are_equal_bytes_for_equal_numbers():
    for draw in (forest_plot, learning_curve):
        first, again = draw(SUMMARY), draw(SUMMARY)
        assert first["png"][:4] == b"\x89PNG"
        assert b"<svg" in first["svg"]
        assert first == again
    assert b"cutmix_classical" in forest_plot(SUMMARY)["svg"]


def test_a_curve_needs_sizes_and_a_forest_comparisons():
    with pytest.raises(ValueError, match="two training sizes"):
        learning_curve(summarise_study(scores(sizes=(3,)), ["none"]))
    with pytest.raises(ValueError, match="no comparisons"):
        forest_plot(summarise_study([], ["none"]))


def test_scores_go_to_csv_and_back(tmp_path):
    kept = scores(sizes=(3, None))
    study = Study(tmp_path)
    study.write_scores(kept)
    again = read_study_scores(study.scores_path)
    assert [(one.size, one.arm, one.case, one.volume) for one in again] == [
        (one.size, one.arm, one.case, one.volume) for one in kept
    ]
    assert [one.value for one in again] == pytest.approx([one.value for one in kept], abs=1e-5)
