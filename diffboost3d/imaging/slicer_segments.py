"""Names of segments in the header of an NRRD file, as 3D Slicer writes them (`SegmentN_Name`, `SegmentN_LabelValue`).

https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html
"""

from __future__ import annotations

import re
from pathlib import Path

NRRD_ENDINGS = (".nrrd", ".nhdr")
_FIELD = re.compile(r"(Segment\d+)_(Name|LabelValue):=(.*)")
_LONGEST = 2**20  # bytes of a header


def slicer_segments(path: Path) -> dict[int, str]:
    """Label value -> name of a file's segments; none where it is no NRRD file, can't be read, or names none."""
    if not path.name.lower().endswith(NRRD_ENDINGS):
        return {}
    try:
        with path.open("rb") as file:
            head = file.read(_LONGEST)
    except OSError:
        return {}
    text = re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0].decode("utf-8", errors="replace")
    facts: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if found := _FIELD.fullmatch(line.strip()):
            facts.setdefault(found[1], {})[found[2]] = found[3].strip()
    told = (one for one in facts.values() if one.get("Name") and one.get("LabelValue", "").isdecimal())
    return {int(one["LabelValue"]): one["Name"] for one in told}
