"""Tables of a study in Markdown and LaTeX: arms, comparisons with verdicts, effects by label and size of the label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffboost3d.report.study_basis import (
    about_cases,
    arms_without_volumes,
    cases_table,
    synthetic_table,
    trainings_table,
)
from diffboost3d.report.study_parts import has_seeds, interval_over, part_cells, part_columns, size_text, where_of
from diffboost3d.report.tables import Table, interval_text, name_of, number_text, p_text, to_markdown

THIRDS = ("small", "middle", "large")
P_VALUES = ("Wilcoxon p", "Holm", "p of the mean, Holm")


def arms_of_study(summary: Mapping[str, Any], metric: str = "dice") -> Table:
    """A row an arm and part: mean with interval, SD between seeds where there are several, cases."""
    unit = _unit(summary, metric)
    rows = [
        (
            *part_cells(summary, part),
            arm,
            interval_text(result[metric], metric),
            *((number_text(result[metric]["seed_sd"], metric),) if has_seeds(summary) else ()),
            str(result[metric]["cases"]),
        )
        for part in summary["parts"]
        for arm, result in part["arms"].items()
        if metric in result
    ]
    words = (*part_columns(summary), "arm")
    spread = ("SD between seeds",) if has_seeds(summary) else ()
    return Table((*words, f"{name_of(metric)} ({unit}) [95 %]", *spread, "cases"), tuple(rows), len(words))


def comparisons_of_study(summary: Mapping[str, Any], metric: str = "dice") -> Table:
    """A row a comparison and part: difference with interval, standard errors by source, p, claim."""
    unit = "points" if _unit(summary, metric) == "%" else _unit(summary, metric)
    rows = [
        (*part_cells(summary, part), row["arm"], row["reference"], *_difference_cells(summary, row, metric))
        for part in summary["parts"]
        for row in part["comparisons"]
        if row["metric"] == metric
    ]
    words = (*part_columns(summary), "arm", "against")
    return Table((*words, *_difference_columns(summary, metric, unit)), tuple(rows), len(words))


def between_variants(summary: Mapping[str, Any], metric: str = "dice") -> Table:
    """A row an arm, variant and size: its difference from itself in the first variant."""
    unit = "points" if _unit(summary, metric) == "%" else _unit(summary, metric)
    rows = [
        (size_text(row["size"]), row["arm"], row["reference"], *_difference_cells(summary, row, metric))
        for row in summary["between_variants"]
        if row["metric"] == metric
    ]
    return Table(("n", "variant/arm", "against", *_difference_columns(summary, metric, unit)), tuple(rows), 3)


def effects_of_study(summary: Mapping[str, Any]) -> Table:
    """A row a comparison, part and label: the Dice difference of all cases and of each third by the label's volume."""
    rows = [
        (
            *part_cells(summary, part),
            row["arm"],
            row["reference"],
            label,
            interval_text(effect, "dice", sign=True),
            *(interval_text(row["terciles"].get(label, {}).get(third), "dice", sign=True) for third in THIRDS),
        )
        for part in summary["parts"]
        for row in part["comparisons"]
        if row["metric"] == "dice"
        for label, effect in row["labels"].items()
    ]
    columns = (*part_columns(summary), "arm", "against", "label", "all (points)", *(f"{third}" for third in THIRDS))
    return Table(columns, tuple(rows), len(columns) - 4)


def markdown_of_study(title: str, summary: Mapping[str, Any], notes: Sequence[str]) -> str:
    """The whole study as a page of Markdown."""
    blocks = [
        f"# {title}",
        *(f"- {note}" for note in notes),
        "## Verdicts",
        f"Rule: {summary['rule']}. Verdicts are of Dice; other metrics are shown without.",
        _verdicts(summary),
    ]
    for heading, text, table in _tables(summary):
        blocks += [f"## {heading}", text, to_markdown(table)]
    if "command" in summary:
        versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
        blocks += ["## How it was made", f"```bash\n{summary['command']}\n```", f"With {versions}."]
    return "\n\n".join(block for block in blocks if block) + "\n"


def latex_of_study(title: str, summary: Mapping[str, Any]) -> str:
    """The tables as LaTeX (booktabs), each a `table` with caption and label."""
    blocks = [f"% {title}; \\usepackage{{booktabs}}"]
    for number, (heading, text, table) in enumerate(_tables(summary), 1):
        blocks.append(to_latex(table, f"{heading}. {text}", f"tab:study{number}"))
    return "\n\n".join(blocks) + "\n"


def to_latex(table: Table, caption: str, label: str) -> str:
    """A table in LaTeX's `table` environment with rules of booktabs; words left, numbers right."""
    kinds = "l" * table.text_columns + "r" * (len(table.columns) - table.text_columns)
    lines = [
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_escaped(caption)}}}",
        f"\\label{{{label}}}",
        f"\\begin{{tabular}}{{{kinds}}}",
        "\\toprule",
        _latex_row(table.columns),
        "\\midrule",
        *(_latex_row(row) for row in table.rows),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines)


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(f"{{{cell}}}" if cell.startswith("[") else cell for cell in map(_escaped, cells)) + " \\\\"


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\textbackslash ")
    for sign in "&%$#_{}":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("~", "\\textasciitilde ").replace("^", "\\textasciicircum ").replace("<", "$<$")


def verdict_lines(summary: Mapping[str, Any]) -> list[str]:
    """One sentence a comparison, with the part it is of where there are several."""
    lines = []
    for part in summary["parts"]:
        where, empty = where_of(summary, part), arms_without_volumes(summary, part)
        lines += [
            f"{where + ': ' if where else ''}{row['verdict']}"
            + ("; it had nothing to merge" if row["arm"] in empty else "")
            for row in part["comparisons"]
            if row.get("verdict")
        ]
    for row in summary["between_variants"]:
        if row.get("verdict"):
            where = f"n = {size_text(row['size'])}: " if len(summary["sizes"]) > 1 else ""
            lines.append(where + row["verdict"])
    return lines


def _verdicts(summary: Mapping[str, Any]) -> str:
    return "\n".join(f"- {line}" for line in verdict_lines(summary)) or "There is nothing to compare yet."


def _tables(summary: Mapping[str, Any]) -> list[tuple[str, str, Table]]:
    """(heading, what it shows, table), without empty ones."""
    found = [("Cases", about_cases(summary), cases_table(summary))]
    for metric in (one["name"] for one in summary["metrics"]):
        found.append(
            (
                f"{name_of(metric)} by arm",
                "Mean over test cases, 95 % bootstrap over patients.",
                arms_of_study(summary, metric),
            )
        )
        text = _about_differences(summary, metric)
        found.append((f"{name_of(metric)} differences", text, comparisons_of_study(summary, metric)))
        found.append((f"{name_of(metric)} between variants", text, between_variants(summary, metric)))
    text = "Where the best validation of most trainings was the last one, longer trainings may have come further."
    found.append(("Trainings", text, trainings_table(summary)))
    text = "Differences in Dice points; thirds of the test cases by the label's volume. Described, not tested."
    found.append(("Effect by label and by size of the label", text, effects_of_study(summary)))
    text = "Volumes that were accepted train. What draws were refused for, all attempts counted; one may have several reasons."
    found.append(("Synthetic volumes", text, synthetic_table(summary)))
    return [one for one in found if one[2].rows]


def _about_differences(summary: Mapping[str, Any], metric: str) -> str:
    errors = "standard errors of cases and of seeds" if has_seeds(summary) else "standard error"
    verdict = "No verdict is given of this metric."
    if metric == "dice":
        verdict = "The verdict goes by both p-values as Holm's adjustment, which counts all comparisons of a size, makes them."
    return (
        f"Arm minus reference on the same cases: 95 % interval over {interval_over(summary)}, {errors}, Wilcoxon's p over cases "
        f"and the p of the same mean. Each interval is its pair's own: of many some leave out 0 by chance. {verdict}"
    )


def _difference_columns(summary: Mapping[str, Any], metric: str, unit: str) -> tuple[str, ...]:
    errors = ("SE cases", "SE seeds") if has_seeds(summary) else ("SE cases",)
    verdict = ("verdict",) if metric == "dice" else ()
    return (f"{name_of(metric)} difference ({unit}) [95 %]", *errors, *P_VALUES, *verdict)


def _difference_cells(summary: Mapping[str, Any], row: Mapping[str, Any], metric: str) -> tuple[str, ...]:
    once = " (one training)" if row["seeds"] == 1 and row.get("claim") in ("helps", "hurts") else ""
    return (
        interval_text(row["difference"], metric, sign=True),
        number_text(row["se_cases"], metric, digits=1),
        *((number_text(row["se_seeds"], metric, digits=1),) if has_seeds(summary) else ()),
        p_text(row["p_value"]),
        p_text(row["p_holm"]),
        p_text(row["p_crossed_holm"]),
        *((row["claim"] + once,) if "claim" in row else ()),
    )


def _unit(summary: Mapping[str, Any], metric: str) -> str:
    unit = next((str(one["unit"]) for one in summary["metrics"] if one["name"] == metric), "")
    return unit or "%"
