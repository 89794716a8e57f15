"""What is odd about a set of cases, or about one beside the others: pure rules on what `look` has seen."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.inspection import CaseFacts
from diffboost3d.cases.observations import NOTE, PROBLEM, Observation, observation
from diffboost3d.imaging.label_fit import Gain, LabelFit

CT_SHIFT_HU = 500.0  # by which all of low, middle and high grey values must be off
DECADES = 1.5  # of the range of intensities, beyond which a scale is another one
ODD = 5.0  # robust deviations below the median, from which a label that no move mends is worth a look
TRIED = 3.0  # deviations of the fit in the set that a shift must gain: of hundreds that are tried, one gains by chance
SHARED = 0.25  # of the mean gain, that a class of the label may lose
CLEARLY = 0.2  # nats a voxel that every other case loses, where a gain needs no comparison
USUAL = 2.5  # robust deviations below the median, down to which the fit of a label is nothing special
ROUGHLY = 0.25  # decades: images whose ranges spread less have a common scale


@dataclass(frozen=True)
class Limits:
    """From which on something is odd; see `inspect` in the configuration reference."""

    spacing_ratio: float = 1.5
    few: float = 0.25
    anisotropy: float = 3.0
    near_duplicate: float = 0.98
    flip_gain: float = 0.1
    shift_gain: float = 0.15
    outlier: float = 4.0
    least_cases: int = 6


def set_observations(
    facts: Sequence[CaseFacts], labels: Mapping[str, int], is_ct: Mapping[str, bool], limits: Limits
) -> list[Observation]:
    """All rules that need no second reading.

    Args:
        labels: name -> value, background included. is_ct: name of each channel, and whether its values are HU.
    """
    return [
        *spacing(facts, limits),
        *dimensions(facts),
        *orientation(facts),
        *anisotropy(facts, limits),
        *_of_channels(facts, is_ct, limits),
        *label_values(facts, labels, limits),
    ]


def spacing(facts: Sequence[CaseFacts], limits: Limits) -> Iterator[Observation]:
    """A few cases at another spacing than the rest are odd; a set of many spacings is just told."""
    physical = [(one, np.asarray(one.spacing_mm)) for one in facts if one.physical and one.grid is not None]
    if len(physical) < 3:
        return
    middle = np.median([values for _, values in physical], axis=0)
    off = [(one, values) for one, values in physical if _ratio(values, middle) > limits.spacing_ratio]
    if not off:
        return
    if len(off) > limits.few * len(physical):
        yield observation(
            "mixed-spacing", "", "", f"{len(off)} of {len(physical)} cases are over {limits.spacing_ratio:g} times as fine or "
            f"coarse as the median, {_mm(middle)}", NOTE, "nothing: all are resampled to one spacing",
        )  # fmt: skip
        return
    for one, values in off:
        yield observation(
            "mixed-spacing", one.case, one.image, f"voxels of {_mm(values)}; the median of the set is {_mm(middle)}"
        )


def dimensions(facts: Sequence[CaseFacts]) -> Iterator[Observation]:
    """Single slices among volumes, or another number of channels."""
    read = [one for one in facts if one.grid is not None]
    flat = [one for one in read if one.grid is not None and one.grid.spatial_dims == 2]
    few = flat if len(flat) * 2 <= len(read) else [one for one in read if one not in flat]
    for one in few if flat and len(flat) < len(read) else ():
        what = "a single slice among volumes" if one in flat else "a volume among single slices"
        yield observation("mixed-dimensions", one.case, one.image, what)
    common = _most(one.channels for one in read)
    for one in read:
        if one.channels != common:
            yield observation(
                "mixed-dimensions", one.case, one.image, f"{one.channels} channels; the others have {common}",
                advice="give every case the same channels",
            )  # fmt: skip


def orientation(facts: Sequence[CaseFacts]) -> Iterator[Observation]:
    """Cases stored with other axes than most."""
    codes = {one.case: one.orientation for one in facts if one.orientation}
    common = _most(codes.values())
    for one in facts:
        if codes.get(one.case, common) != common:
            yield observation(
                "other-orientation", one.case, one.image, f"stored as {codes[one.case]}, most others as {common}"
            )


def anisotropy(facts: Sequence[CaseFacts], limits: Limits) -> Iterator[Observation]:
    """Thick slices, told of the set."""
    ratios = [
        max(one.spacing_mm) / min(one.spacing_mm)
        for one in facts
        if one.physical and one.spacing_mm and one.grid is not None and one.grid.spatial_dims == 3
    ]
    thick = [ratio for ratio in ratios if ratio > limits.anisotropy]
    if thick:
        yield observation(
            "anisotropic", "", "", f"slices are up to {max(thick):.1f} times as thick as their pixels are wide, "
            f"{len(thick)} of {len(ratios)} cases more than {limits.anisotropy:g} times",
        )  # fmt: skip


# --- each channel by itself ------------------------------------------------------------------------------------------
def _of_channels(facts: Sequence[CaseFacts], is_ct: Mapping[str, bool], limits: Limits) -> Iterator[Observation]:
    """What is odd about the images of a channel among those of the same one; a twin is told once."""
    twins: set[str] = set()
    for number, (name, has_units) in enumerate(is_ct.items()):
        own = [_as_first(one, number) for one in facts if len(one.further) >= number]
        found = [*intensity(own, has_units), *duplicates([one for one in own if one.case not in twins], limits)]
        twins |= {one.case for one in found if one.code == "duplicate"}
        yield from (dataclasses.replace(one, what=f"{name}: {one.what}") if len(is_ct) > 1 else one for one in found)


def _as_first(one: CaseFacts, number: int) -> CaseFacts:
    """A case as if that channel were its first; only the real first is compared by its thumbnail."""
    if number == 0:
        return one
    channel = one.further[number - 1]
    return dataclasses.replace(
        one, image=channel.image, intensity=channel.intensity, content=channel.content, thumbnail=None
    )


# --- intensities -----------------------------------------------------------------------------------------------------
def intensity(facts: Sequence[CaseFacts], is_ct: bool) -> Iterator[Observation]:
    """A case on another scale than the others: wrong for CT, whose numbers mean something; good to know for others."""
    known = [one for one in facts if one.intensity]
    if is_ct and known and min(one.intensity["min"] for one in known) > -10:
        yield observation(
            "not-hounsfield", "", "", "no image has a value below 0, but CT in HU has air at -1000 and fat at -100"
        )
    if len(known) < 3:
        return
    keys = ("p0.5", "p50", "p99.5")
    values = np.array([[one.intensity[key] for key in keys] for one in known])
    ranges = np.log10(np.maximum(values[:, 2] - values[:, 0], 1e-12))
    middle, _ = _middle(ranges)
    off = values - np.median(values, axis=0)
    if not is_ct:
        yield from _scales(known, ranges)
        return
    for one, shift, size in zip(known, off, ranges - middle, strict=True):
        if abs(size) > 1:
            yield _of_scale(one, f"its range is {10**size:.2g} times that of the others", PROBLEM)
        elif np.abs(shift).min() > CT_SHIFT_HU and len(set(np.sign(shift))) == 1:
            yield _of_scale(one, f"all its values are about {np.median(shift):+.0f} off those of the others", PROBLEM)


def _scales(known: Sequence[CaseFacts], ranges: NDArray[np.float64]) -> Iterator[Observation]:
    """Of images without a unit: the few that are on another scale than the rest, or that there is no common one."""
    middle, spread = _middle(ranges)
    odd = np.abs(ranges - middle) > DECADES
    if spread < ROUGHLY and odd.sum() <= max(1, 0.05 * len(known)):
        for one, size in ((known[at], ranges[at] - middle) for at in map(int, np.flatnonzero(odd))):
            what = f"its range is {10**size:.2g} times that of the others; it is scaled by its own percentiles"
            yield _of_scale(one, what, NOTE)
    elif odd.any() or np.ptp(ranges) > DECADES:
        low, high = 10 ** ranges.min(), 10 ** ranges.max()
        yield observation(
            "no-common-scale", "", "", f"the range of intensities (0.5 to 99.5 %) goes from {low:.3g} to {high:.3g}"
        )


def _of_scale(one: CaseFacts, what: str, level: str) -> Observation:
    advice = None if level == PROBLEM else "nothing, but see whether it was exported like the others"
    return observation("mixed-intensity-scale", one.case, one.image, what, level, advice)


# --- the same image twice --------------------------------------------------------------------------------------------
def duplicates(facts: Sequence[CaseFacts], limits: Limits) -> Iterator[Observation]:
    """The same image under two ids, and images that are nearly the same."""
    first: dict[str, CaseFacts] = {}
    again: set[str] = set()
    for one in facts:
        other = first.setdefault(one.content, one) if one.content else one
        if other is one:
            continue
        again.add(one.case)
        together = other.patient == one.patient
        level, advice = (NOTE, "nothing: both are of one patient") if together else (None, None)
        yield observation("duplicate", one.case, one.image, f"the same image as {other.image}", level, advice)
    yield from _near(
        [one for one in facts if one.thumbnail is not None and one.case not in again], limits.near_duplicate
    )


def _near(facts: Sequence[CaseFacts], least: float) -> Iterator[Observation]:
    """Each image that is much like an earlier one of another patient, by correlation of thumbnails; row by row."""
    by_size: dict[int, list[CaseFacts]] = {}
    for one in facts:
        assert one.thumbnail is not None
        by_size.setdefault(one.thumbnail.size, []).append(one)
    for group in by_size.values():
        vectors: NDArray[np.float32] = np.stack([one.thumbnail for one in group if one.thumbnail is not None])
        for number, one in enumerate(group[1:], start=1):
            alike = vectors[:number] @ vectors[number]
            alike[[other.patient == one.patient for other in group[:number]]] = -1
            nearest = int(np.argmax(alike))
            if alike[nearest] >= least:
                what = f"much like {group[nearest].image} (correlation {alike[nearest]:.3f})"
                yield observation("near-duplicate", one.case, one.image, what)


# --- labels ----------------------------------------------------------------------------------------------------------
def label_values(facts: Sequence[CaseFacts], labels: Mapping[str, int], limits: Limits) -> Iterator[Observation]:
    """Labels that no case or few cases have, and cases with none."""
    labelled = [one for one in facts if one.label_voxels is not None]
    for name, value in labels.items():
        count = sum(value in (one.label_voxels or {}) for one in labelled)
        if labelled and value != 0 and count == 0:
            yield observation("absent-label", "", "", f"no case has {name} ({value})")
        elif value != 0 and 0 < count <= max(1, 0.05 * len(labelled)) and len(labelled) >= limits.least_cases:
            yield observation("rare-label", "", "", f"{name} ({value}) is in {count} of {len(labelled)} labelled cases")
    for one in labelled:
        if one.label_voxels is not None and set(one.label_voxels) <= {0}:
            yield observation("empty-label", one.case, str(one.label), "the label is background everywhere")


def missing_labels(facts: Sequence[CaseFacts], few: float) -> list[CaseFacts]:
    """The facts, missing labels being a note where many are missing: such a set is partly unlabelled on purpose."""
    missing = sum(any(o.code == "missing-label" for o in one.observations) for one in facts)
    if missing <= few * len(facts):
        return list(facts)
    return [
        dataclasses.replace(
            one,
            observations=tuple(
                o if o.code != "missing-label" else observation("no-label", o.case, o.file, o.what)
                for o in one.observations
            ),
        )
        for one in facts
    ]


def label_fits(
    fits: Mapping[str, LabelFit], facts: Mapping[str, CaseFacts], factors: Mapping[str, Sequence[int]], limits: Limits
) -> Iterator[Observation]:
    """Labels that would fit their images far better turned or shifted, in a set where those of the others would not.

    Args:
        factors: how much smaller than the file the images were on which the labels were tried.
    """
    if len(fits) < limits.least_cases:
        return
    middle, spread = _middle([fit.agreement for fit in fits.values()])
    usual = (
        middle - USUAL * spread
    )  # what is moved to its place fits like the others, or the image is just hard to read
    turns = {name: [f.turns[name].mean for f in fits.values() if name in f.turns] for name in _names(fits)}
    shifts = [fit.shift_gain.mean for fit in fits.values()]
    for case, fit in fits.items():
        name, gain = max(fit.turns.items(), key=lambda item: item[1].mean)
        turned = _stands_out(gain, turns[name], max(limits.flip_gain, spread), limits.outlier)
        shifted = _stands_out(fit.shift_gain, shifts, max(limits.shift_gain, TRIED * spread), limits.outlier)
        turned, shifted = (
            ok and fit.agreement + by.mean >= usual for ok, by in ((turned, gain), (shifted, fit.shift_gain))
        )
        if turned and (not shifted or gain.mean >= fit.shift_gain.mean):
            what = f"the label fits its image better {name} (by {gain.mean:.2f} nats a voxel)"
            yield observation("flipped-label", case, str(facts[case].label), what)
        elif shifted:
            what = _shift_in_words(fit, factors[case], facts[case])
            yield observation("shifted-label", case, str(facts[case].label), what)
        elif (far := (middle - fit.agreement) / max(spread, 0.01)) > ODD:
            what = f"the label fits its image far worse than the others do theirs (by {far:.0f} robust deviations)"
            yield observation("odd-label", case, str(facts[case].label), what)


def not_told(fits: Mapping[str, LabelFit], labelled: int, limits: Limits) -> Iterator[Observation]:
    """What `label_fits` could not see in a set: all, of too few cases, or turns by which a label in its place loses little.

    Args:
        labelled: cases that have labels; of those without a fit the label could not be judged.
    """
    if len(fits) < limits.least_cases:
        few = f"{labelled} labelled case{'s are' if labelled != 1 else ' is'} too few to tell"
        if labelled >= limits.least_cases:
            few = f"{labelled - len(fits)} of {labelled} labels could not be judged, and the others are too few to tell"
        what = f"mirrored and shifted labels were not looked for: {few} (inspect.least_cases={limits.least_cases})"
        yield observation("fit-not-checked", "", "", what)
        return
    _, spread = _middle([fit.agreement for fit in fits.values()])
    needed = max(limits.flip_gain, spread)  # as `label_fits` asks of a gain; a turned label gains what the others lose
    losses = {
        name: -_middle([fit.turns[name].mean for fit in fits.values() if name in fit.turns])[0] for name in _names(fits)
    }
    if alike := [name for name, loss in losses.items() if loss < needed]:
        yield observation(
            "fit-not-checked", "", "", f"labels that are {' or '.join(alike)} can't be told from others in this set: they fit "
            f"nearly as well so ({min(losses.values()):.2f} nats a voxel less, {needed:.2f} are needed)",
        )  # fmt: skip


def _shift_in_words(fit: LabelFit, factors: Sequence[int], one: CaseFacts) -> str:
    directions = ("towards right", "to the front", "towards the head") if one.physical else ("to the right", "down", "")
    opposite = ("towards left", "to the back", "towards the feet") if one.physical else ("to the left", "up", "")
    unit = "voxels" if one.physical else "pixels"
    parts = [
        f"{abs(step) * factor} {unit} {directions[axis] if step > 0 else opposite[axis]}"
        for axis, (step, factor) in enumerate(zip(fit.shift, factors, strict=True))
        if step
    ]
    return f"the label fits its image better {', '.join(parts)} (by {fit.shift_gain.mean:.2f} nats a voxel)"


def _names(fits: Mapping[str, LabelFit]) -> list[str]:
    return list(dict.fromkeys(name for fit in fits.values() for name in fit.turns))


def _stands_out(gain: Gain, all_gains: Sequence[float], least: float, outlier: float) -> bool:
    """Whether a gain is large, shared by all classes, and far from those of a set whose labels would lose.

    A label in its place on an odd image may gain in one class, where it meets tissue that looks like the usual one; it loses in
    others then.
    """
    middle, spread = _middle(all_gains)
    next_best = sorted(all_gains)[-2]
    far = gain.mean - middle >= outlier * max(spread, 0.01) or next_best <= -CLEARLY
    return middle < 0 and gain.mean >= least and gain.least >= -SHARED * gain.mean and far


# --- robust numbers --------------------------------------------------------------------------------------------------
def _middle(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    """Median, and the deviation of a normal distribution with the same median absolute deviation."""
    middle = float(np.median(values))
    return middle, 1.4826 * float(np.median(np.abs(np.asarray(values) - middle)))


def _ratio(values: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    return float(np.maximum(values / others, others / values).max())


def _most(values: object) -> object:
    counted = Counter(values)  # type: ignore[call-overload]
    return counted.most_common(1)[0][0] if counted else None


def _mm(values: Sequence[float] | NDArray[np.float64]) -> str:
    return " x ".join(f"{float(x):.3g}" for x in values) + " mm"
