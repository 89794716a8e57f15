"""Cases listed in a CSV file of paths, and patients listed in one."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from diffboost3d.cases.layouts.folder import (
    Folder,
    Pair,
    described,
    pair_of,
    read_json,
    with_missing_labels,
    without_missing_channels,
)
from diffboost3d.cases.layouts.names import sounds_like_label
from diffboost3d.cases.records import Finding
from diffboost3d.errors import DataError
from diffboost3d.imaging.files import ending_of, stem_of

TABLE = "cases.csv"
TABLE_ENDINGS = (".csv", ".tsv")
COLUMNS = ("image", "label", "id", "patient", "stratum")
_IMAGE_COLUMN = re.compile(r"image\d*")
EXPECTED = (
    "expected columns image (image2, image3, ... for further channels, or one column a channel, named after it), label, id, "
    "patient, stratum"
)


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Column names and rows of a CSV file, separated by commas, semicolons or tabs; blanks around cells are cut off.

    Names of `COLUMNS` come in lower case, however they are written; all others as they are.

    Raises:
        DataError: it can't be read, has no header, names a column twice, or a row has more cells than the header.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read as a UTF-8 table ({error})") from error
    head = text.partition("\n")[0]
    lines = list(csv.reader(text.splitlines(), delimiter=max(",;\t", key=head.count)))
    columns = [_column(cell.strip()) for cell in lines[0]] if lines else []
    if not any(columns):
        raise DataError(f"{path}: has no header; {EXPECTED}")
    if twice := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise DataError(f"{path}: two columns are called {twice[0]}")
    rows = []
    for number, cells in enumerate(lines[1:], start=2):
        if len(cells) > len(columns):
            raise DataError(f"{path}: line {number} has {len(cells)} cells, but there are {len(columns)} columns")
        values = [cell.strip() for cell in cells] + [""] * (len(columns) - len(cells))
        if any(values):
            rows.append(dict(zip(columns, values, strict=True)))
    return columns, rows


def _column(name: str) -> str:
    low = name.lower()
    return low if low in COLUMNS or _IMAGE_COLUMN.fullmatch(low) else name


def read_csv(root: Path) -> Folder:
    """A CSV file, or a folder with `cases.csv` or just one table; paths are relative to its folder, cells may be empty.

    Raises:
        DataError: no such table, no column of images, no column `label` but one of files that sounds like it, or a patient of
            some cases only.
    """
    path = _table_in(root)
    base = path.parent
    columns, rows = read_rows(path)
    images, unknown = _image_columns(columns, rows)
    if "label" not in columns and (
        drawn := [one for one in unknown if sounds_like_label(one) and _holds_files(one, rows)]
    ):
        raise DataError(
            f"{path}: the column {drawn[0]} sounds like labels; call it label if it holds them, else take it out, or call the "
            "columns of images image, image2, ..."
        )
    if not images:
        raise DataError(f"{path}: no column of images among {', '.join(columns)}; {EXPECTED}")
    pairs: list[Pair] = []
    findings: list[Finding] = []
    for number, row in enumerate(rows, start=1):
        pair = _pair(base, row, images)
        empty = [name for name in images if not row[name]]
        if empty:
            who = row.get("id") or (pair.id if row[images[0]] else f"row {number}")
            findings.append(Finding(who, f"{path.name} has nothing in its column {empty[0]}", "the case is skipped"))
        else:
            pairs.append(pair)
    _refuse_empty_patients(path, pairs)
    pairs, lost = without_missing_channels(base, pairs)
    pairs = with_missing_labels(pairs, lambda pair: f"in {path.name}")
    notes = [f"{path.name}: unknown columns, left out: {', '.join(unknown)}; {EXPECTED}"] if unknown else []
    folder = described(base, "csv", read_json(base / "dataset.json"), pairs)
    told = [name for name in images if not _IMAGE_COLUMN.fullmatch(name)]
    names = tuple(told) if len(told) == len(images) else folder.channel_names
    return dataclasses.replace(
        folder, channel_names=names, findings=(*findings, *lost), notes=tuple(notes), name=folder.name
    )


def _refuse_empty_patients(path: Path, pairs: list[Pair]) -> None:
    """A case of which the patient isn't told could stand on both sides of a split; nothing is guessed."""
    nameless = [pair.id for pair in pairs if pair.patient is None]
    if nameless and len(nameless) < len(pairs):
        raise DataError(
            f"{path}: {nameless[0]} has no patient, but others have; give one, for a case alone its own name"
        )


def _table_in(root: Path) -> Path:
    if root.is_file():
        return root
    if (root / TABLE).is_file():
        return root / TABLE
    tables = sorted(path for path in root.iterdir() if path.name.lower().endswith(TABLE_ENDINGS))
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables) or "none"
        raise DataError(f"{root}: no {TABLE}, and not just one table ({names}); name it: data.root={root}/FILE.csv")
    return tables[0]


def _image_columns(columns: list[str], rows: list[dict[str, str]]) -> tuple[list[str], list[str]]:
    """Columns of image files in order of channels, and those that nothing is known of.

    Without a column `image` they are those that hold names of image files only, and don't sound like labels.
    """
    numbered = [name for name in columns if _IMAGE_COLUMN.fullmatch(name)]
    others = [name for name in columns if name and name not in numbered and name not in COLUMNS]
    if numbered:
        return sorted(numbered, key=lambda name: int(name[5:] or 1)), others
    channels = [name for name in others if _holds_files(name, rows) and not sounds_like_label(name)]
    return channels, [name for name in others if name not in channels]


def _holds_files(name: str, rows: list[dict[str, str]]) -> bool:
    values = [row[name] for row in rows if row[name]]
    return bool(values) and all(ending_of(value) for value in values)


def _pair(base: Path, row: Mapping[str, str], images: list[str]) -> Pair:
    first, *others = (base / row[name] for name in images)
    label = base / row["label"] if row.get("label") else None
    pair = pair_of(base, row.get("id") or stem_of(first), first, label)
    return dataclasses.replace(
        pair, channels=tuple(others), patient=row.get("patient") or None, stratum=row.get("stratum") or None
    )


# --- patients --------------------------------------------------------------------------------------------------------
def is_table(name: str) -> bool:
    """Whether a name is that of a table."""
    return name.lower().endswith(TABLE_ENDINGS)


def read_patients(path: Path) -> dict[str, str]:
    """Case id -> patient of a table with columns `id` and `patient`.

    Raises:
        DataError: no such file or column, an empty cell, or an id with two patients.
    """
    if not path.is_file():
        raise DataError(f"data.patients={path}: no such file")
    columns, rows = read_rows(path)
    if missing := [name for name in ("id", "patient") if name not in columns]:
        raise DataError(f"{path}: no column {missing[0]} among {', '.join(columns)}; expected id, patient")
    patients: dict[str, str] = {}
    for row in rows:
        case, patient = row["id"], row["patient"]
        if not case or not patient:
            raise DataError(f"{path}: {case or 'a row'} has no {'patient' if case else 'id'}")
        if patients.setdefault(case, patient) != patient:
            raise DataError(f"{path}: {case} has two patients, {patients[case]} and {patient}")
    return patients
