"""Built-in cohorts: CT-like and MR-like volumes and ultrasound-like pictures with labels, written as ordinary folders."""

from __future__ import annotations

from pathlib import Path

from diffboost3d.errors import ConfigError

COHORTS: tuple[str, ...] = ("mr", "ct", "ultrasound")


def write_cohort(
    kind: str, folder: Path | str, cases: int, seed: int = 0, shape: tuple[int, ...] | None = None
) -> Path:
    """Write `cases` cases to `folder`; equal arguments give equal bytes, and a case does not depend on their number.

    Args:
        kind: mr or ct: imagesTr/, labelsTr/ and dataset.json (MSD layout), NIfTI, two labels; ultrasound: images/, labels/ and
            dataset.json, 8-bit PNG, labels 0 and 255.
        shape: (I, J, K) voxels, for ultrasound (width, height); None: 48 x 48 x 32 or 112 x 96.

    Raises:
        ConfigError: an unknown kind, no cases, or a shape of the wrong length.
    """
    if kind not in COHORTS:
        raise ConfigError(f"cohort={kind} is unknown; allowed: {', '.join(COHORTS)}")
    if cases < 1:
        raise ConfigError(f"a cohort needs at least 1 case, not {cases}")
    from diffboost3d.cohort.writing import write_pictures, write_volumes

    axes = 2 if kind == "ultrasound" else 3
    if shape is not None and len(shape) != axes:
        raise ConfigError(f"shape={shape} has {len(shape)} sizes; the cohort {kind} takes {axes}")
    if kind == "ultrasound":
        return write_pictures(Path(folder), cases, seed, shape or (112, 96))
    return write_volumes(kind, Path(folder), cases, seed, shape or (48, 48, 32))
