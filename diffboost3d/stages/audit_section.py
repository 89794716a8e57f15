"""The report's audit of synthetic volumes: limits and their origin, what was refused, and pictures of the closest pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.records import Case, Manifest, SyntheticRecord
from diffboost3d.cases.workspace import Workspace
from diffboost3d.evaluation.memorisation import DetailIndex, Places, fine_detail
from diffboost3d.imaging.channels import first_channel
from diffboost3d.imaging.files import PICTURE_ENDINGS, ending_of
from diffboost3d.report.figures import Panel, montage
from diffboost3d.report.page import PageFigure, Section
from diffboost3d.report.tables import MISSING, Table
from diffboost3d.schema import Config
from diffboost3d.stages.gating import places_of, read_limits
from diffboost3d.stages.inputs import cases_of, prepared, prepared_again, slice_axis
from diffboost3d.stages.synthetic_draws import draws_by_reason, draws_of
from diffboost3d.synthesis.gate import INTENSITY, Limit

Float = NDArray[np.float32]
SHOWN_PAIRS = 2
CAVEAT = (
    "The audit finds volumes that contradict their label, leave the range of real intensities, or copy fine detail. It does not "
    "prove that a volume is right, useful, or anonymous: shapes are those of a patient, and likeness that these measures don't "
    "see is not counted. Limits that rest on few references are rough."
)


def audit_section(config: Config, workspace: Workspace, manifest: Manifest) -> list[Section]:
    """The audit of the first fold; empty without synthetic volumes."""
    fold = config.folds[0]
    settled, draws = draws_of(config, workspace, fold)
    if not settled:
        return []
    if not any(record.checks for record in draws):
        return [Section("Audit of the synthetic volumes", "No volume was judged: gate.enabled=false.")]
    limits = read_limits(workspace, fold)
    accepted = [record for record in settled if record.accepted]
    table = _table(limits, accepted, [record for record in draws if not record.accepted])
    said = [_counts(settled, draws), _fidelity(limits, accepted), intensities_in_hu(manifest, limits, accepted), CAVEAT]
    text = "\n\n".join(filter(None, said))
    figure = _closest_pairs(config, workspace, manifest, fold, draws)
    return [Section("Audit of the synthetic volumes", text, (figure,) if figure else (), table)]


# --- words -----------------------------------------------------------------------------------------------------------
def _counts(settled: Sequence[SyntheticRecord], draws: Sequence[SyntheticRecord]) -> str:
    accepted, refused = sum(record.accepted for record in settled), sum(not record.accepted for record in draws)
    lines = f"{accepted} of {len(settled)} samples were accepted; of {len(draws)} draws {refused} were refused."
    if reasons := draws_by_reason(draws):
        lines += "\n\n" + "\n".join(f"- {kind}: {count} draws" for kind, count in reasons.items())
    lost = [f"{record.case} {record.sample:02d}" for record in settled if not record.accepted]
    return lines + (f"\n\nWithout an accepted draw: {', '.join(lost)}. They train nothing." if lost else "")


def _fidelity(limits: Sequence[Limit], accepted: Sequence[SyntheticRecord]) -> str:
    real = next((limit.typical for limit in limits if limit.check == "dice"), None)
    found = [record.checks["dice"] for record in accepted if "dice" in record.checks]
    if real is None or not found:
        return "Label fidelity was not checked."
    mean = float(np.mean(found))
    return (
        f"Label fidelity: segmenters that saw neither source nor sample find the labels of accepted volumes with a mean Dice of "
        f"{mean:.3f}, those of real held-out cases with {real:.3f}" + (f" (ratio {mean / real:.2f})." if real else ".")
    )


def intensities_in_hu(manifest: Manifest, limits: Sequence[Limit], accepted: Sequence[SyntheticRecord]) -> str:
    """The gate's median intensities inside each label, in HU, a line each; empty where cases have no one unit (MR, pictures)."""
    to_hu = manifest.cases[0].intensity
    if to_hu.kind != "ct_window":
        return ""
    lines = []
    for limit in limits:
        values = [record.checks[limit.check] for record in accepted if limit.check in record.checks]
        if limit.kind == INTENSITY and values and limit.typical is not None:
            hu = to_hu.inverse(np.array([np.mean(values), limit.typical, min(values), max(values)]))
            real = f"{hu[1]:.0f} in {limit.references} real cases"
            lines.append(f"- {limit.check}: {hu[0]:.0f} HU in accepted volumes ({hu[2]:.0f} to {hu[3]:.0f}), {real}")
    note = f"What lies beyond {to_hu.low:.0f} to {to_hu.high:.0f} HU counts as the window's end."
    return "Intensities, as the mean of medians inside each label:\n\n" + "\n".join([*lines, "", note]) if lines else ""


def _table(limits: Sequence[Limit], accepted: Sequence[SyntheticRecord], refused: Sequence[SyntheticRecord]) -> Table:
    rows = []
    for limit in limits:
        values = [record.checks[limit.check] for record in accepted if limit.check in record.checks]
        by_it = [record for record in refused if limit.check in record.checks]
        rows.append(
            (
                limit.check,
                limit.kind,
                limit.origin,
                _span(limit),
                str(limit.references),
                MISSING if limit.typical is None else f"{limit.typical:.3f}",
                f"{np.mean(values):.3f}" if values else MISSING,
                str(sum(limit.refusal(record.checks[limit.check]) is not None for record in by_it)),
            )
        )
    columns = ("check", "kind", "limit from", "limit", "references", "their mean", "accepted, mean", "draws refused")
    return Table(columns, tuple(rows), text_columns=3)


def _span(limit: Limit) -> str:
    if limit.low is None:
        return f"at most {limit.high:.3f}"
    return f"at least {limit.low:.3f}" if limit.high is None else f"{limit.low:.3f} to {limit.high:.3f}"


# --- pictures --------------------------------------------------------------------------------------------------------
def _closest_pairs(
    config: Config, workspace: Workspace, manifest: Manifest, fold: int, draws: Sequence[SyntheticRecord]
) -> PageFigure | None:
    """Draws most like another patient's image, the one most like its source, and the most similar real images."""
    by_id = {case.id: case for case in manifest.cases}
    where = places_of(config, cases_of(manifest, workspace.read_split(fold).training))
    rows, titles = [], []

    def add(title: str, first: tuple[str, Case, Float], second: tuple[str, Case, Float]) -> None:
        rows.append(_pair(first, second, where, slice_axis(config, manifest)))
        titles.append(title)

    def real(identifier: str, name: str) -> tuple[str, Case, Float]:
        case = by_id[identifier]
        return f"{name} {identifier}", case, np.asarray(first_channel(prepared(workspace, case, "image")), np.float32)

    def made(record: SyntheticRecord) -> tuple[str, Case, Float]:
        case = by_id[record.case]
        folder = workspace.synthetic(fold) / case.id
        made = prepared_again(workspace, folder, {"path": record.path, "channels": record.channels}, case)
        return f"synthetic {record.case}", case, first_channel(made)

    key = "detail of another patient"
    judged = [record for record in draws if record.nearest]
    for record in sorted(judged, key=lambda one: -one.checks[key])[:SHOWN_PAIRS]:
        state = "accepted" if record.accepted else "refused"
        add(f"other {record.checks[key]:.2f}, {state}", made(record), real(record.nearest, "training"))
    closest = max(draws, key=lambda one: one.checks.get("detail of its start", -1.0))
    state = "accepted" if closest.accepted else "refused"
    share = closest.checks.get("detail of its start", 0.0)
    add(f"source {share:.2f}, {state}", made(closest), real(closest.case, "its source"))
    facts = workspace.require(workspace.gate(fold), "synthesize").get("closest_real")
    if facts:
        first, second = facts["cases"]
        add(f"real {facts['similarity']:.2f}", real(first, "real"), real(second, "real"))
    caption = (
        "Left: slices through the most similar blocks; right: their fine detail, which is compared. Last row: the most similar "
        "real images of different patients, the yardstick."
    )
    return PageFigure(
        montage(rows, titles), "Closest pairs of synthetic and training images, and of real ones", caption
    )


def _pair(first: tuple[str, Case, Float], second: tuple[str, Case, Float], where: Places, axis: int) -> list[Panel]:
    """Slices of two volumes through their most similar blocks, and of their detail."""
    spacing = first[1].grid.spacing_mm
    found = DetailIndex([second[2]], spacing, where).nearest(first[2])
    offset = where.offsets[found.place][axis]
    panels, details = [], []
    for (title, case, volume), shift in ((first, 0), (second, found.shift[axis])):
        at = int(np.clip(round(volume.shape[axis] / 2 + offset + shift - 0.5), 0, volume.shape[axis] - 1))
        panels.append(_panel(title, volume, axis, at, case, 1.0))
        details.append(_panel("detail", fine_detail(volume, spacing), axis, at, case, 2.0))
    return [*panels, *details]


def _panel(title: str, volume: NDArray[Any], axis: int, at: int, case: Case, most: float) -> Panel:
    spacing = [space for index, space in enumerate(case.grid.spacing_mm) if index != axis]
    plane = np.take(volume, at, axis=axis)
    if ending_of(case.image) in PICTURE_ENDINGS:  # a picture's rows run down, a figure's j runs up
        plane = plane[:, ::-1]
    return Panel(title, plane, None, (spacing[0], spacing[1]), -most, most)
