"""The gate: what a synthetic volume must pass before it may train anything.

Three questions: does a segmenter that has seen neither the volume nor its source find the label it is said to have, are the
intensities inside the labels those of real cases, and is the volume a copy of an image that the generator has learned from?
Every limit is drawn from real cases. What passes has shown none of these faults; it isn't thereby good, or anonymous.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.records import IGNORED
from diffboost3d.evaluation.memorisation import DetailIndex, Places, correlation, shared_detail, upper_limit

Float = NDArray[np.float32]
Labels = NDArray[np.uint8]
FIDELITY, INTENSITY, COPY, SOURCE = "label fidelity", "intensity", "copy", "too close to its source"
KINDS = (FIDELITY, INTENSITY, COPY, SOURCE)
FALSE = "false "  # begins the name of a check


@dataclass(frozen=True)
class Limit:
    """Between which values a check has to lie.

    Attributes:
        check: name of the figure. kind: one of `KINDS`. low, high: inclusive; None: no limit on that side.
        references: how many real cases it rests on. typical: their mean; None without any. origin: where it comes from, in words.
    """

    check: str
    kind: str
    low: float | None
    high: float | None
    references: int
    typical: float | None
    origin: str

    def refusal(self, value: float) -> str | None:
        """Why a value is refused, in one line; None if it isn't."""
        if self.low is not None and value < self.low:
            return f"{self.kind}: {self.check} {value:.3f} is below {self.low:.3f}, {self.origin}"
        if self.high is not None and value > self.high:
            return f"{self.kind}: {self.check} {value:.3f} is above {self.high:.3f}, {self.origin}"
        return None


@dataclass(frozen=True)
class Verdict:
    """What the gate says: the reasons against a volume (none: it is accepted), its figures, the most similar image."""

    reasons: tuple[str, ...]
    checks: Mapping[str, float]
    nearest: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the volume may train anything."""
        return not self.reasons


@dataclass(frozen=True)
class Learned:
    """The images that the generator has learned from: id and patient of each, in the order of the index of their detail."""

    ids: tuple[str, ...]
    patients: tuple[str, ...]
    detail: DetailIndex

    def of(self, patient: str) -> list[int]:
        """Numbers of a patient's images."""
        return [number for number, own in enumerate(self.patients) if own == patient]

    def others(self, patient: str) -> list[int]:
        """Numbers of all other patients' images."""
        return [number for number, own in enumerate(self.patients) if own != patient]


class Gate:
    """Judges volumes of one fold.

    Args:
        labels: name -> value, without the background.
        spacing_mm: of all volumes. where: places at which details are compared.
        segment: (volume (I, J, K) in [-1, 1], patient) -> label, by a segmenter that hasn't seen the patient; None: there is
            none.
        channels: names of image channels; volumes of several are (C, I, J, K).
    """

    def __init__(
        self,
        labels: Mapping[str, int],
        spacing_mm: Sequence[float],
        where: Places,
        learned: Learned,
        limits: Sequence[Limit],
        segment: Callable[[Float, str], NDArray[Any]] | None,
        channels: Sequence[str] = ("image",),
    ) -> None:
        self.limits, self.learned, self.where = tuple(limits), learned, where
        self._labels, self._spacing_mm, self._segment, self._channels = labels, spacing_mm, segment, channels

    def judge(self, volume: Float, label: Labels, start: Float, patient: str) -> Verdict:
        """Measure a synthetic volume and hold it against the limits.

        Args:
            volume: (I, J, K) in [-1, 1]. label: that it is said to have. start: the real image, warped if it was, that it was
                made from. patient: whose image that is.
        """
        checks = label_medians(volume, label, self._labels, self._channels)
        if self._segment is not None:
            checks |= label_agreement(self._segment(volume, patient), label, self._labels)
        other = self.learned.detail.nearest(volume, self.learned.others(patient))
        own = self.learned.detail.nearest(volume, self.learned.of(patient))
        checks |= {
            "detail of another patient": other.similarity,
            "detail of its own patient": own.similarity,
            "detail of its start": shared_detail(volume, start, self._spacing_mm, self.where),
            "correlation with its start": correlation(volume, start),
        }
        checks = {name: round(float(value), 4) for name, value in checks.items()}
        found = [limit.refusal(checks[limit.check]) for limit in self.limits if limit.check in checks]
        nearest = self.learned.ids[other.image] if other.similarity > -1 else ""
        return Verdict(tuple(reason for reason in found if reason), checks, nearest)


# --- figures ---------------------------------------------------------------------------------------------------------
def label_agreement(predicted: NDArray[Any], truth: NDArray[Any], labels: Mapping[str, int]) -> dict[str, float]:
    """{"dice": mean, "dice LABEL": of each that is in the truth, "false LABEL": share of voxels given to each that is not}.

    A label that isn't there has no Dice but 0 or 1: among cases without it a few stray voxels would lower the limit to 0 for
    all. Voxels that are to be ignored in the truth count in none.
    """
    dices, false = {}, {}
    predicted = np.where(truth == IGNORED, 0, predicted)
    for name, value in labels.items():
        one, other = predicted == value, truth == value
        if other.any():
            dices[f"dice {name}"] = 2.0 * int((one & other).sum()) / (int(one.sum()) + int(other.sum()))
        else:
            false[f"{FALSE}{name}"] = float(one.mean())
    mean = {"dice": float(np.mean(list(dices.values())))} if dices else {}
    return {**mean, **dices, **false}


def label_medians(
    image: NDArray[Any], label: NDArray[Any], labels: Mapping[str, int], channels: Sequence[str] = ("image",)
) -> dict[str, float]:
    """{"median NAME": of the intensities inside each label that is there, and of the background}.

    Of several channels (C, I, J, K): {"median NAME CHANNEL": of each}.
    """
    if image.ndim == 4:
        return {
            f"{check} {channel}": value
            for channel, one in zip(channels, image, strict=True)
            for check, value in label_medians(one, label, labels).items()
        }
    named = {"background": 0, **labels}
    inside = {name: image[label == value] for name, value in named.items()}
    return {f"median {name}": float(np.median(values)) for name, values in inside.items() if values.size}


# --- limits ----------------------------------------------------------------------------------------------------------
def fidelity_limits(dices: Sequence[Mapping[str, float]], percentile: float) -> list[Limit]:
    """Of the mean Dice: that percentile of the real ones. Of one label, and of what is found of one that isn't there: the worst.

    So a label that is wrong alone can't hide in the mean, and volumes with many labels aren't refused more often for that.
    Percentiles are interpolated between cases; with few of them the tenth is near the worst.
    """
    limits = []
    for check in dict.fromkeys(name for dice in dices for name in dice):
        values = [dice[check] for dice in dices if check in dice]
        if check.startswith(FALSE):
            origin = f"the most of {len(values)} real held-out cases without it"
            limits.append(_limit(check, FIDELITY, None, max(values), values, origin))
            continue
        low = float(np.percentile(values, percentile if check == "dice" else 0.0))
        which = f"the {percentile:g}th percentile" if check == "dice" else "the worst"
        limits.append(_limit(check, FIDELITY, low, None, values, f"{which} of {len(values)} real held-out cases"))
    return limits


def intensity_limits(medians: Sequence[Mapping[str, float]], margin: float, least: float) -> list[Limit]:
    """Of every median: the range of the real ones, widened on both sides.

    A new case falls outside the range of n others in 2 of n + 1 times: half the time for three, which would refuse good ones.
    Widened by half its width on both sides, the range of normal values misses 1 in 4 for three cases, 1 in 16 for six, 1 in 55
    for ten. A sample that starts from one of the cases is less often outside than a new case.

    Args:
        margin: share of the range's width that is added on each side. least: the width counts as this at least, in units
            of [-1, 1]; where all are air, the range has none.
    """
    limits = []
    for check in dict.fromkeys(name for case in medians for name in case):
        values = [case[check] for case in medians if check in case]
        more = margin * max(max(values) - min(values), least)
        origin = f"beyond the range of {len(values)} real cases and its margin"
        limits.append(_limit(check, INTENSITY, min(values) - more, max(values) + more, values, origin))
    return limits


def copy_limits(between: Sequence[float], source: Sequence[float], share: float, most: float) -> list[Limit]:
    """Of the similarity of detail with other patients' images, with the patient's own, and with the start.

    Args:
        between: largest similarity of real images to those of other patients. source: detail that samples of cases which the
            generator has never seen share with what they started from, one a case.
        share: of innocent volumes that each limit may flag. most: what is above it is a copy in any case.
    """
    plain = f"above which it is a copy in any case (gate.copy_similarity={most:g})"
    other, start = upper_limit(between, share, most), upper_limit(source, share, most)
    pairs = f"what {len(between)} real images have in common with those of other patients"
    unseen = f"what settings and edges explain, by {len(source)} cases the generator has never seen"
    return [
        _limit("detail of another patient", COPY, None, other, between, pairs if other < most else plain),
        _limit("detail of its own patient", COPY, None, most, [], plain),
        _limit("detail of its start", SOURCE, None, start, source, unseen if start < most else plain),
    ]


def _limit(check: str, kind: str, low: float | None, high: float | None, values: Sequence[float], origin: str) -> Limit:
    typical = float(np.mean(values)) if len(values) else None
    return Limit(check, kind, low, high, len(values), typical, origin)


# --- parts -----------------------------------------------------------------------------------------------------------
def parts_of(patients: Sequence[str], wanted: int, leave_one_out: int, random: np.random.Generator) -> dict[str, int]:
    """Patient -> part, for cross-fitting: parts of like size, or each patient one of its own where there are few.

    One patient makes one part, whose segmenter would have nothing to learn from.
    """
    names = sorted(set(patients))
    random.shuffle(names)
    parts = len(names) if len(names) <= leave_one_out else min(wanted, len(names))
    return {name: number % parts for number, name in enumerate(names)}
