"""What `inspect` says of cases and sets: words that stay the same, each with its weight and what to do."""

from __future__ import annotations

from dataclasses import dataclass

PROBLEM, NOTE = "problem", "note"


@dataclass(frozen=True)
class Observation:
    """Something about a case or a set.

    Attributes:
        code: one of `CODES`. level: problem (the case is skipped, or a wrong result is likely) or note (handled, good to know).
        case: "" where it is of the set. file: relative to the data folder, or "".
        what: one line. advice: what to do, one line.
    """

    code: str
    level: str
    case: str
    file: str
    what: str
    advice: str


CODES: dict[str, tuple[str, str]] = {
    "unreadable": (PROBLEM, "copy or convert the file again from its source"),
    "4d-file": (PROBLEM, "give one 3D volume a file, or name its channels if they are channels"),
    "colour-picture": (PROBLEM, "convert it to grey"),
    "mask-colours": (PROBLEM, "store the numbers of the labels, or name the one label by data.labels"),
    "nan-voxels": (PROBLEM, "replace NaN and infinite voxels by real values, e.g. that of air"),
    "constant-image": (PROBLEM, "the conversion went wrong; export the image again"),
    "bad-geometry": (PROBLEM, "export it again, or resample it on a right-angled grid"),
    "swapped": (PROBLEM, "exchange the two files"),
    "label-like-image": (PROBLEM, "take it out if it is a label; a real image has many values"),
    "label-grid": (PROBLEM, "resample the label on its image's grid, or copy the affine if only the header is wrong"),
    "label-not-whole": (PROBLEM, "resample labels by nearest neighbour, and store them as whole numbers"),
    "unknown-label-value": (PROBLEM, "correct the label, or name the value in dataset.json, data.labels or data.ignore_label"),
    "unusable": (PROBLEM, "see the line before"),
    "missing-label": (PROBLEM, "put the label there; without it the image is used unlabelled"),
    "mixed-spacing": (PROBLEM, "compare the header with the scanner's; a placeholder spacing deforms the case"),
    "mixed-dimensions": (PROBLEM, "keep 2D and 3D cases in folders of their own"),
    "mixed-intensity-scale": (PROBLEM, "bring it to the scale of the others (CT: HU, with slope and intercept applied)"),
    "not-hounsfield": (PROBLEM, "apply slope and intercept, or set data.modality if it is no CT"),
    "duplicate": (PROBLEM, "remove one, or put both in one patient (data.patients), so that no split parts them"),
    "flipped-label": (PROBLEM, "turn the label's array as said, keep its affine, and look at it in a viewer"),
    "shifted-label": (PROBLEM, "move the label as said, and look at it in a viewer"),
    "channel-grid": (PROBLEM, "resample the channel on the first one's grid, or allow prepare.channel_grids=resample"),
    "same-channels": (PROBLEM, "give each channel its own image, or name one channel alone"),
    "two-series": (PROBLEM, "keep one series in a folder, or say which one is meant"),
    "near-duplicate": (NOTE, "if they are of one patient, say so by data.patients"),
    "odd-label": (NOTE, "look at it in a viewer: the image is unusual, or the label is of another"),
    "other-orientation": (NOTE, "nothing: axes are turned to R, A, S"),
    "no-common-scale": (NOTE, "nothing: every image is scaled by its own percentiles"),
    "anisotropic": (NOTE, "nothing: slices are made along the coarse axis; `diffboost3d plan` chooses patches for it"),
    "no-label": (NOTE, "nothing: images without a label serve the generator"),
    "empty-label": (NOTE, "nothing, if there is nothing to find in them"),
    "label-stored-as-float": (NOTE, "nothing: the values are whole numbers"),
    "read-as": (NOTE, "nothing, if it is meant so"),
    "rare-label": (NOTE, "check that it is meant; a split may have none of it"),
    "absent-label": (NOTE, "take the label away from dataset.json or data.labels if it is not meant"),
    "unlisted-image": (NOTE, "list it in dataset.json if it is meant to be used"),
    "fit-not-checked": (NOTE, "look at some labels in a viewer"),
    "folder": (NOTE, "nothing, if it is meant"),
}  # fmt: skip


def observation(
    code: str, case: str, file: str, what: str, level: str | None = None, advice: str | None = None
) -> Observation:
    """With the usual level and advice of its code, unless given."""
    usual, usual_advice = CODES[code]
    return Observation(code, level or usual, case, file, what, advice or usual_advice)
