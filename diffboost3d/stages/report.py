"""`report`: the scores as a table in the terminal, and one self-contained page with figures and provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.augmentation.cuboids import merge_images
from diffboost3d.cases.atomic import write_text
from diffboost3d.cases.records import Case, Manifest, Score, Split
from diffboost3d.cases.workspace import CONFIG, Workspace, versions
from diffboost3d.imaging.channels import first_channel, read_channels
from diffboost3d.imaging.colours import Colour, label_colours
from diffboost3d.imaging.files import PICTURE_ENDINGS, ending_like, ending_of, read
from diffboost3d.report.figures import Panel, gain_plot, montage, per_case_plot
from diffboost3d.report.page import PageFigure, Section, build_page
from diffboost3d.report.study_basis import nothing_accepted
from diffboost3d.report.tables import arms_table, to_text
from diffboost3d.schema import Config
from diffboost3d.seeds import seed_of
from diffboost3d.stages.audit_section import audit_section
from diffboost3d.stages.blueprints import blueprint_of_made
from diffboost3d.stages.inputs import (
    accepted_records,
    bias_of,
    cases_of,
    merge_plan,
    prepared,
    prepared_again,
    slice_axis,
    source_label,
)
from diffboost3d.stages.synthetic_draws import count_sets
from diffboost3d.stages.synthetic_fidelity import measure_fidelity

SHOWN_CASES = 3


def run(config: Config, workspace: Workspace) -> None:
    """Write report/index.html from scores.csv and summary.json; print the table and the page's path."""
    if not workspace.main:
        return
    manifest = workspace.read_manifest()
    scores = workspace.read_scores()
    summary = json.loads(workspace.summary_path.read_text(encoding="utf-8"))
    patients = {case.id: case.patient for case in manifest.cases}
    sections = [
        _results(
            summary,
            _caveat(config),
            [nothing_accepted(one) for one in count_sets(config, workspace) if one["accepted"] == 0],
        ),
        Section("Cases", "One dot a test case, averaged over labels and seeds.", (_per_case(scores, patients),)),
        *_synthetic_section(config, workspace, manifest),
        *audit_section(config, workspace, manifest),
        *_prediction_section(config, workspace, manifest, scores),
        _data_section(workspace, manifest, config),
    ]
    subtitle = f"{manifest.prompt} · {summary['cases']} test cases"
    page = build_page(f"{manifest.name}: does augmentation help?", subtitle, sections, _provenance(config, workspace))
    write_text(workspace.report_path, page)
    workspace.log("\n" + to_text(arms_table(summary)))
    for row in summary["comparisons"]:
        if row["metric"] == "dice" and row["reference"] == config.evaluate.reference:
            workspace.log(row["verdict"])
    workspace.log(f"\nreport: {workspace.report_path}")


def _caveat(config: Config) -> str:
    """What has to be said before the numbers of a run too short to mean anything."""
    if config.preset != "demo":
        return ""
    return (
        f"This is the demo: {config.train.steps} steps of training, a generator of {config.diffusion.pretrain.steps} "
        "steps, made-up organs. It shows that every stage works. Its pictures are still noisy, and its numbers and "
        "verdicts say nothing about the method.\n\n"
    )


PAIRED = (
    "Paired Dice differences. Dark: claimed. A claim counts all comparisons of the table, so that an interval may leave out 0 "
    "where nothing is claimed."
)


def _results(summary: dict[str, Any], caveat: str, unmerged: list[str]) -> Section:
    verdicts = [f"- {row['verdict']}" for row in summary["comparisons"] if row["metric"] == "dice"]
    notes = [f"- {note}" for note in (*unmerged, *summary["notes"])]
    figures: tuple[PageFigure, ...] = ()
    if verdicts:
        figures = (PageFigure(gain_plot(summary), "Forest plot of paired Dice differences", PAIRED),)
    over = "cases and seeds" if len(summary["seeds"]) > 1 else "cases, of one seed, whose luck they don't hold"
    text = (
        caveat
        + f"Mean over test cases with its 95 % bootstrap interval; those of gains are over {over}.\n\n"
        + "\n".join(verdicts)
    )
    return Section("Results", text + ("\n\n" + "\n".join(notes) if notes else ""), figures, arms_table(summary))


def _per_case(scores: list[Score], patients: dict[str, str]) -> PageFigure:
    return PageFigure(
        per_case_plot(scores, patients=patients), "Dice of every test case by arm", "Bars: mean and 95 % interval."
    )


# --- pictures --------------------------------------------------------------------------------------------------------
def _synthetic_section(config: Config, workspace: Workspace, manifest: Manifest) -> list[Section]:
    """Real | edge | synthetic | merged of some training cases of the first fold, across and along the slice axis."""
    fold = config.folds[0]
    cases = [
        case
        for case in cases_of(manifest, workspace.read_split(fold).training)
        if accepted_records(workspace, fold, case.id, config.synthesize.samples)
    ][:SHOWN_CASES]
    if not cases:
        return []
    axis = slice_axis(config, manifest)
    rows = [_synthetic_row(config, workspace, manifest, case, fold, axis) for case in cases]
    figures = [
        PageFigure(montage(rows, [case.id for case in cases]), "Real, edge, synthetic and merged slices", "In plane.")
    ]
    if manifest.spatial_dims == 3:
        across = (axis + 1) % 3
        rows = [_synthetic_row(config, workspace, manifest, case, fold, across) for case in cases]
        caption = "Re-sliced across the synthesis plane: here slices that don't fit together would show as streaks."
        figures.append(PageFigure(montage(rows, [case.id for case in cases]), "The same, re-sliced", caption))
    text = "Labels steer the synthesis as boundaries; they are those of the real case, or in new anatomy warped as the edges."
    return [Section("Synthetic volumes", text, tuple(figures), measure_fidelity(config, workspace, manifest, fold))]


def _synthetic_row(
    config: Config, workspace: Workspace, manifest: Manifest, case: Case, fold: int, axis: int
) -> list[Panel]:
    import torch

    real, label = first_channel(prepared(workspace, case, "image")), prepared(workspace, case, "label")
    path = next(iter(accepted_records(workspace, fold, case.id, config.synthesize.samples).values()))
    record = json.loads(path.read_text(encoding="utf-8"))
    made = blueprint_of_made(config, workspace, manifest, case, record)
    fake = first_channel(prepared_again(workspace, path.parent, record, case))
    merge, seed = merge_plan(config.merge, "synthetic", manifest), seed_of(config.seed, "report", case.id)
    _, mask = merge.masks(torch.from_numpy(label)[None], case.grid.spacing_mm, seed)
    mixed = merge_images(mask, torch.from_numpy(real)[None], torch.from_numpy(fake)[None])[0].numpy()
    at = _fullest(label, axis)
    panels = {
        "real": (real, label),
        "edges": (made.edges * 2 - 1, None),
        "synthetic": (fake, made.label),
    }
    panels |= {"merged": (mixed, None)}
    named = _colours(config, manifest)
    colours = {value: named[name] for name, value in manifest.foreground.items()}
    return [_panel(title, image, drawn, axis, at, case, colours) for title, (image, drawn) in panels.items()]


def _colours(config: Config, manifest: Manifest) -> dict[str, Colour]:
    """The labels' colours, as `predict` gives them to its outputs."""
    return label_colours(manifest.labels, {**manifest.colours, **(config.data.colours or {})})


def _prediction_section(config: Config, workspace: Workspace, manifest: Manifest, scores: list[Score]) -> list[Section]:
    """Truth and each arm's prediction of the worst, a middle and the best test case (by the first arm)."""
    fold, seed = config.folds[0], config.seeds[0]
    values: dict[str, list[float]] = {}
    for score in scores:
        if (score.arm, score.fold, score.seed, score.metric) == (config.arms[0], fold, seed, "dice"):
            values.setdefault(score.case, []).append(score.value)
    order = sorted(values, key=lambda case: float(np.mean(values[case])))
    chosen = list(dict.fromkeys([order[0], order[len(order) // 2], order[-1]])) if order else []
    rows = [_prediction_row(config, workspace, manifest, case, fold, seed) for case in cases_of(manifest, chosen)]
    if not rows:
        return []
    text = f"The worst, a middle and the best test case of fold {fold} by the arm {config.arms[0]}."
    figure = PageFigure(montage(rows, chosen), "Test cases with the true and the predicted labels", "Contours: labels.")
    return [Section("Predictions", text, (figure,))]


def _prediction_row(
    config: Config, workspace: Workspace, manifest: Manifest, case: Case, fold: int, seed: int
) -> list[Panel]:
    source = read_channels([workspace.source(manifest, path) for path in case.images], len(case.maps)).array
    image, field = first_channel(source), bias_of(workspace, case)
    image = case.intensity.forward(image if field is None else image / first_channel(field))
    truth = source_label(workspace, manifest, case)
    axis = case.source_grid.slice_axis
    at = _fullest(truth, axis)
    colours = {manifest.labels[name]: colour for name, colour in _colours(config, manifest).items()}
    panels = [_panel("truth", image, truth, axis, at, case, colours, case.source_grid.spacing_mm)]
    for arm in config.arms:
        path = workspace.prediction(fold, arm, seed, case.id, ending_like(case.image))
        if path.is_file():
            predicted = read(path).array.astype(int)
            panels.append(_panel(arm, image, predicted, axis, at, case, colours, case.source_grid.spacing_mm))
    return panels


def _panel(
    title: str,
    image: NDArray[Any],
    label: NDArray[Any] | None,
    axis: int,
    at: int,
    case: Case,
    colours: Mapping[int, Colour],
    spacing_mm: tuple[float, float, float] | None = None,
) -> Panel:
    """The plane `at` across `axis` of a volume (I, J, K) in [-1, 1], labels in the colours of their values."""
    spacing = [space for index, space in enumerate(spacing_mm or case.grid.spacing_mm) if index != axis]
    plane = np.take(image, at, axis=axis)
    flat = None if label is None else np.take(label, at, axis=axis)
    if ending_of(case.image) in PICTURE_ENDINGS:  # a picture's rows run down, a figure's j runs up
        plane, flat = plane[:, ::-1], None if flat is None else flat[:, ::-1]
    return Panel(title, plane, flat, (spacing[0], spacing[1]), -1.0, 1.0, colours)


def _fullest(label: NDArray[Any], axis: int) -> int:
    """The plane across `axis` with most labelled voxels."""
    return int((label > 0).sum(axis=tuple(index for index in range(3) if index != axis)).argmax())


# --- words -----------------------------------------------------------------------------------------------------------
def _data_section(workspace: Workspace, manifest: Manifest, config: Config) -> Section:
    findings = json.loads(workspace.findings_path.read_text(encoding="utf-8"))
    lines = [f"- {one['case']}: {one['problem']}; {one['outcome']}" for one in findings]
    parts = [_split_line(manifest, fold, workspace.read_split(fold)) for fold in config.folds]
    spacing = " x ".join(f"{space:g}" for space in manifest.cases[0].grid.spacing_mm)
    grid = f"prepared at {spacing} mm" if manifest.physical else "in pixels"
    text = f"{len(manifest.cases)} cases of {manifest.name}, {grid}; licence: {manifest.licence}.\n\n" + "\n".join(
        parts
    )
    return Section(
        "Data",
        text + ("\n\nFindings:\n\n" + "\n".join(lines) if lines else "\n\nNothing was found wrong with any case."),
    )


def _split_line(manifest: Manifest, fold: int, split: Split) -> str:
    """How many cases each side of a fold has, and of how many patients where these are fewer."""
    patients = {case.id: case.patient for case in manifest.cases}

    def count(cases: Sequence[str]) -> str:
        of = len({patients[case] for case in cases})
        return f"{len(cases)} (of {of} patient{'' if of == 1 else 's'})" if of < len(cases) else str(len(cases))

    return (
        f"- Fold {fold}: {count(split.training)} labelled training, {count(split.unlabelled)} unlabelled, "
        f"{count(split.validation)} validation, {count(split.test)} test cases."
    )


def _provenance(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Versions, and the configurations that lie beside the results: of the report itself only what it chose."""
    fold, seed = config.folds[0], config.seeds[0]
    folders = {"generator": workspace.finetuned(fold)}
    folders |= {f"segmenter, {arm}": workspace.segmenter(fold, arm, seed) for arm in config.arms[:1]}
    kept = {
        f"configuration: {what}": (folder / CONFIG).read_text(encoding="utf-8").splitlines()
        for what, folder in folders.items()
        if (folder / CONFIG).is_file()
    }
    return {"arms": config.arms, "folds": config.folds, "seeds": config.seeds, "versions": versions(), **kept}
