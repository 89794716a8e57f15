"""What `inspect` saw, as plain values for JSON and as a table for the terminal."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from diffboost3d.cases.inspection import CaseFacts
from diffboost3d.cases.layouts import Folder
from diffboost3d.cases.observations import PROBLEM, Observation

VERSION = 1
WIDTH = 12


def summary(
    root: str,
    folder: Folder | None,
    facts: Sequence[CaseFacts],
    labels: Mapping[str, int],
    modality: str,
    observations: Sequence[Observation],
    units: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """All that was seen, as JSON-able values; of numbers minimum, median and maximum.

    Args:
        folder: None: not recognised. units: name of each channel, and the unit of its values or "".
    """
    names = list(units or {"image": ""})
    ordered = sorted(observations, key=lambda one: (one.level != PROBLEM, one.code, one.case))
    return {
        "version": VERSION,
        "folder": root,
        "layout": folder.layout if folder else None,
        "name": folder.name if folder else None,
        "modality": modality,
        "licence": folder.licence if folder else None,
        "channels": names if len(names) > 1 else list(folder.channel_names if folder else ()) or [1] * bool(facts),
        "cases": len(facts),
        "labelled": sum(one.label_voxels is not None for one in facts),
        "unlabelled": sum(one.usable and one.label_voxels is None for one in facts),
        "skipped": sum(not one.usable for one in facts),
        "patients": len({one.patient for one in facts}),
        "geometry": _geometry(facts),
        "intensity": _intensity([one.intensity for one in facts], (units or {}).get(names[0], "")),
        "further_intensities": {
            name: _intensity([one.further[at].intensity for one in facts if len(one.further) > at], (units or {})[name])
            for at, name in enumerate(names[1:])
        },
        "labels": [_label(name, value, facts) for name, value in labels.items() if value != 0],
        "problems": sum(one.level == PROBLEM for one in ordered),
        "findings": [dataclasses.asdict(one) for one in ordered],
        "per_case": [_case(one) for one in facts],
    }


def _three(values: Sequence[float]) -> list[float] | None:
    return [float(np.min(values)), float(np.median(values)), float(np.max(values))] if len(values) else None


def _geometry(facts: Sequence[CaseFacts]) -> dict[str, Any]:
    """Axes turned to R, A, S; orientations as stored."""
    grids = [one.grid.canonical() for one in facts if one.grid is not None]
    physical = bool(facts) and all(one.physical for one in facts if one.grid is not None)
    return {
        "spatial_dims": sorted({grid.spatial_dims for grid in grids}),
        "spacing_mm": [_three([grid.spacing_mm[axis] for grid in grids]) for axis in range(3)] if physical else None,
        "shape": [_three([grid.shape[axis] for grid in grids]) for axis in range(3)] if grids else None,
        "orientation": dict(Counter(one.orientation for one in facts if one.orientation).most_common()),
        "types": dict(Counter(one.dtype for one in facts if one.dtype).most_common()),
    }


def _intensity(found: Sequence[Mapping[str, float]], unit: str) -> dict[str, Any]:
    """Of one channel."""
    known = [one for one in found if one]
    keys = list(known[0]) if known else []
    return {"unit": unit, **{key: _three([one[key] for one in known]) for key in keys}}


def _label(name: str, value: int, facts: Sequence[CaseFacts]) -> dict[str, Any]:
    """Cases that have it, voxels and volume in those (ml, or pixels for pictures)."""
    have = [one for one in facts if one.label_voxels and value in one.label_voxels]
    voxels = [one.label_voxels[value] for one in have if one.label_voxels]
    physical = all(one.physical for one in have)
    sizes = [float(np.prod(one.grid.spacing_mm)) / 1000 if one.grid else 0.0 for one in have]
    volumes = [size * count for size, count in zip(sizes, voxels, strict=True)] if physical else voxels
    return {
        "name": name,
        "value": value,
        "cases": len(have),
        "voxels": _three(voxels),
        "volume": _three(volumes),
        "unit": "ml" if physical else "pixels",
    }


def _case(one: CaseFacts) -> dict[str, Any]:
    return {
        "case": one.case,
        "patient": one.patient,
        "image": one.image,
        "label": one.label,
        "usable": one.usable,
        "shape": None if one.grid is None else list(one.grid.shape),
        "spacing_mm": None if one.grid is None or not one.physical else list(one.grid.spacing_mm),
        "orientation": one.orientation,
        "type": one.dtype,
        "channels": one.channels,
        "intensity": dict(one.intensity),
        "further_intensities": [dict(channel.intensity) for channel in one.further],
        "label_voxels": None if one.label_voxels is None else {str(v): n for v, n in one.label_voxels.items()},
    }


# --- the table -------------------------------------------------------------------------------------------------------
def lines_of(found: Mapping[str, Any], listed: int) -> Iterator[str]:
    """The table; of each kind of finding at most `listed` lines."""
    if found["layout"] is not None:
        yield from _head(found)
        yield from _labels(found)
        yield ""
    yield from _findings(found, listed)


def _head(found: Mapping[str, Any]) -> Iterator[str]:
    geometry = found["geometry"]
    yield _row("folder", f"{found['folder']} (layout {found['layout']})")
    yield _row("name", f"{found['name']}, {found['modality'] or 'modality not stated'}; licence: {found['licence']}")
    channels = ", ".join(map(str, found["channels"]))
    yield _row("channels", channels if found["channels"] else "1")
    counts = f"{found['labelled']} labelled, {found['unlabelled']} unlabelled, {found['skipped']} that can't be used"
    yield _row("cases", f"{found['cases']} of {found['patients']} patients: {counts}")
    if geometry["spacing_mm"] and all(geometry["spacing_mm"]):
        yield _row("spacing", " x ".join(_span(axis) for axis in geometry["spacing_mm"]) + " mm")
    if geometry["shape"] and all(geometry["shape"]):
        dims = 2 if geometry["spatial_dims"] == [2] else 3
        unit = "pixels" if not geometry["spacing_mm"] else "voxels"
        yield _row("shape", " x ".join(_span(axis) for axis in geometry["shape"][:dims]) + f" {unit}")
    if geometry["orientation"]:
        yield _row("orientation", _counted(geometry["orientation"], found["cases"]))
    yield _row("stored as", _counted(geometry["types"], found["cases"]))
    further = found["further_intensities"]
    first = str(found["channels"][0]) if further else ""
    for name, intensity in ((first, found["intensity"]), *further.items()):
        unit = f" {intensity['unit']}" if intensity["unit"] else ", no unit"
        values = [f"{key} {_span(value)}" for key, value in intensity.items() if key != "unit"]
        if values:
            yield _row("intensity", (f"{name}: " if name else "") + "; ".join(values) + unit)


def _labels(found: Mapping[str, Any]) -> Iterator[str]:
    rows = [("label", "value", "cases", "voxels: median (range)", "volume: median (range)")]
    for one in found["labels"]:
        volume = f"{_middle(one['volume'])} {one['unit']}" if one["cases"] else "-"
        rows.append((one["name"], str(one["value"]), str(one["cases"]), _middle(one["voxels"]), volume))
    if len(rows) == 1:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    yield ""
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _findings(found: Mapping[str, Any], listed: int) -> Iterator[str]:
    findings = found["findings"]
    notes = len(findings) - found["problems"]
    yield f"{found['problems'] or 'no'} problem{'s' * (found['problems'] != 1)}, {notes or 'no'} note{'s' * (notes != 1)}"
    for level, mark in ((PROBLEM, "!"), ("note", "-")):
        kinds: dict[tuple[str, str], list[Any]] = {}
        for one in findings:
            if one["level"] == level:
                kinds.setdefault((one["code"], one["advice"]), []).append(one)
        for (code, advice), group in kinds.items():
            yield f"{mark} {code}" + (f" ({len(group)} times)" if len(group) > 1 else "")
            for one in group[:listed]:
                yield f"    {_where(one)}{one['what']}"
            if len(group) > listed:
                yield f"    and {len(group) - listed} more (all are in inspect.json=FILE)"
            yield f"    what to do: {advice}"


def _where(one: Mapping[str, Any]) -> str:
    """The file, with the case before it where the file doesn't name it; nothing where the finding begins with the file."""
    if one["file"] and one["what"].startswith(one["file"]):
        return ""
    parts = [one["file"]] if one["case"] in one["file"] else [one["case"], one["file"]]
    return "".join(f"{part}: " for part in parts if part)


def _row(title: str, text: str) -> str:
    return f"{title.ljust(WIDTH)} {text}"


def _number(value: float) -> str:
    whole = abs(value) < 1e6 and (value == round(value) or abs(value) >= 100)
    return f"{value:.0f}" if whole else f"{value:.3g}"


def _span(three: Sequence[float]) -> str:
    low, middle, high = (_number(value) for value in three)
    return middle if low == high else f"{middle} ({low} to {high})"


def _middle(three: Sequence[float] | None) -> str:
    return "-" if three is None else _span(three)


def _counted(counts: Mapping[str, int], cases: int) -> str:
    return ", ".join(name if count == cases else f"{name} {count}" for name, count in counts.items())
