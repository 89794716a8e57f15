"""How faithful the synthetic volumes of a fold are to the real cases they were made from, for the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffboost3d.cases.atomic import write_json
from diffboost3d.cases.records import Case, Manifest
from diffboost3d.cases.workspace import Workspace
from diffboost3d.evaluation.channels import information_ratio
from diffboost3d.evaluation.coherence import body, coherence
from diffboost3d.evaluation.fidelity import (
    contrast_ratio,
    diversity,
    edge_agreement,
    label_histogram_distance,
    slice_spectrum_distance,
)
from diffboost3d.imaging.channels import first_channel
from diffboost3d.report.tables import Table
from diffboost3d.schema import Config
from diffboost3d.stages.blueprints import blueprint_of_made
from diffboost3d.stages.edge_operator import edge_operator
from diffboost3d.stages.inputs import accepted_records, cases_of, prepared_again, slice_axis

MEASURED_CASES = 20
EDGE_THRESHOLD = 0.5
MEANINGS = {
    "edge_recall": "edges of the real volume that the synthetic one has within a voxel (1 is best)",
    "edge_precision": "edges of the synthetic volume that the real one has within a voxel (1 is best)",
    "spectrum_distance": "difference of the power spectra of slices, in powers of ten (0 is best)",
    "histogram_distance": "difference of the intensities inside the labels, of a range of 2 (0 is best)",
    "contrast_ratio": "contrast at label borders, synthetic by real (1 is best)",
    "slice_difference_ratio": "difference of neighbouring slices, synthetic by real (1 is best; more: flicker, less: too alike)",
    "slice_ssim_gap": "similarity of neighbouring slices, synthetic less real (0 is best)",
    "slice_jump_ratio": "steps of the slices' mean intensity, synthetic by real (1 is best)",
    "channel_information_ratio": "information that image channels have in common, synthetic by real (1 is best)",
    "diversity": "difference among the samples of one case, of a range of 2 (0: all the same)",
}


def measure_fidelity(config: Config, workspace: Workspace, manifest: Manifest, fold: int) -> Table | None:
    """Means over the first training cases that have synthetic volumes, as a table; also written to fidelity.json beside them."""
    cases = cases_of(manifest, workspace.read_split(fold).training)[:MEASURED_CASES]
    edges = edge_operator(config.prepare.edges)
    found = {case.id: _of_case(config, workspace, manifest, case, fold, edges) for case in cases}
    measured = {case: figures for case, figures in found.items() if figures}
    if not measured:
        return None
    write_json(workspace.synthetic(fold) / "fidelity.json", measured)
    means = {name: [figures[name] for figures in measured.values() if name in figures] for name in MEANINGS}
    rows = tuple(
        (
            name.replace("_", " "),
            MEANINGS[name],
            f"{np.mean(values):.2f}",
            f"{np.min(values):.2f} to {np.max(values):.2f}",
        )
        for name, values in means.items()
        if values
    )
    return Table(("measure", "meaning", f"mean of {len(measured)} cases", "range"), rows, text_columns=2)


def _of_case(
    config: Config, workspace: Workspace, manifest: Manifest, case: Case, fold: int, operator: Callable[..., Any]
) -> dict[str, float]:
    """Figures of a case: of its first sample, diversity of all; empty without samples.

    A sample of new anatomy is compared with the real volume warped alike.
    """
    records = _records(config, workspace, case, fold)
    if not records:
        return {}
    folder = workspace.synthetic(fold) / case.id
    samples = [prepared_again(workspace, folder, record, case) for record in records]
    made = blueprint_of_made(config, workspace, manifest, case, records[0])
    edges = edge_agreement(made.edges, operator(samples[0], spacing_mm=case.grid.spacing_mm), EDGE_THRESHOLD)
    figures = {"edge_recall": edges.recall, "edge_precision": edges.precision}
    if made.image.ndim == 4:
        figures["channel_information_ratio"] = information_ratio(made.image, samples[0])
    # all that follows looks at the first channel
    real, label = first_channel(made.image), made.label
    values = list(manifest.foreground.values())
    fake, spacing = first_channel(samples[0]), case.grid.spacing_mm
    figures["spectrum_distance"] = slice_spectrum_distance(real, fake, spacing, slice_axis(config, manifest))
    figures["histogram_distance"] = _mean(label_histogram_distance(real, fake, label, values))
    figures["contrast_ratio"] = _mean(contrast_ratio(real, fake, label, values))
    if real.shape[slice_axis(config, manifest)] > 1:
        fit = coherence(real, fake, body(real), slice_axis(config, manifest))
        figures["slice_difference_ratio"], figures["slice_ssim_gap"] = fit.difference_ratio, fit.ssim_gap
        figures["slice_jump_ratio"] = fit.jump_ratio
    if len(samples) > 1:
        figures["diversity"] = diversity(np.stack([first_channel(one) for one in samples]))
    return {name: round(float(value), 4) for name, value in figures.items() if np.isfinite(value)}


def _records(config: Config, workspace: Workspace, case: Case, fold: int) -> list[dict[str, Any]]:
    """Of the accepted synthetic volumes of a case."""
    paths = accepted_records(workspace, fold, case.id, config.synthesize.samples).values()
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def _mean(values: Mapping[int, float]) -> float:
    return float(np.mean(list(values.values()))) if values else float("nan")
