"""The trained segmenters of a low-data study on test cases as another scanner might have made them.

    python benchmarks/robustness.py --data PATH/hippocampus --workspace study-hippocampus --size 10

The study has to be there (`low_data.py` with the same --data, --workspace, --sizes, --seeds, --arms and overrides). Each
shift, in three strengths, is done by TorchIO (low resolution: by thicker slices) to the image of the case's own file, before
it is prepared: a scanner's shift comes in the file, and the percentiles that scale it to [-1, 1] are those of the shifted
image, as they would be of such a file. The label file stays.

Shifts: bias field, gamma, inverted contrast (mixed with the image), low resolution across the slices, noise, ghosting,
motion, spike. None is part of the merging arms' training; whether one is part of a classical stack, its configuration says.
What is drawn is keyed by case and shift; a stronger one is the same draw, more of it. Inverted contrast is no three strengths:
scaling by percentiles undoes strength 1, and 2 and 3 are the same image, of which no segmenter here makes anything; `gain` has
them in its mean all the same, `gain_without_inversion` doesn't.

Writes `results/SET_robustness.json` {shift: {arm: Dice}, ..., "gain": [mean, low, high]} (fractions; means over cases,
labels, seeds and strengths; gain: diffboost_classical - classical on the mean over shifts, 95 % over cases and seeds;
`gains`: other pairs and single shifts) and the CSV of every case. Resumable: scores lie in the study's folder robustness/, a
file each segmenter, shift and strength.
"""

from __future__ import annotations

import csv
import inspect
import json
import os
import platform
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torchio as tio
from held_out import commit, quoted
from low_data import RESULTS, arguments, overrides_of
from numpy.typing import NDArray

from diffboost3d.cases.atomic import replacing, write_json
from diffboost3d.cases.records import Case, Manifest
from diffboost3d.cases.study import BASE, Study
from diffboost3d.cases.workspace import SEGMENTER, Workspace, versions
from diffboost3d.config import compose, digest
from diffboost3d.evaluation.crossed import crossed_mean, luck_of_seeds
from diffboost3d.imaging.files import read
from diffboost3d.imaging.geometry import resample
from diffboost3d.imaging.intensity import fit_intensity_map
from diffboost3d.schema import Config
from diffboost3d.seeds import generator
from diffboost3d.segmentation.inference import label_in_source, probabilities
from diffboost3d.segmentation.weights import load_segmenter
from diffboost3d.stages.inputs import accelerator_of, cases_of

Float = NDArray[np.float32]
STRENGTHS = (1, 2, 3)
PAIRS = (("diffboost_classical", "classical"), ("diffboost_classical", "cutmix_classical"), ("diffboost", "cutmix"))
Shift = Callable[[np.random.Generator, int, int], tio.Transform]  # (draw, strength 1 to 3, slice axis)


def _bias_field(draw: np.random.Generator, strength: int, axis: int) -> tio.Transform:
    return tio.BiasField(coefficients=list(draw.uniform(-0.15, 0.15, 20) * strength), order=3)


def _gamma(draw: np.random.Generator, strength: int, axis: int) -> tio.Transform:
    return tio.Gamma(gamma=float(np.exp(0.25 * strength * draw.choice([-1, 1]))))


def _inverted(draw: np.random.Generator, strength: int, axis: int) -> tio.Transform:
    share = (0.3, 0.7, 1.0)[strength - 1]  # at 0.5 nothing would be left to see
    return tio.Lambda(lambda image: (1 - share) * image + share * (1 - image))


def _low_resolution(draw: np.random.Generator, strength: int, axis: int) -> tio.Transform:
    def slabs(image: torch.Tensor) -> torch.Tensor:
        """Thick slices, each the mean of what it covers, interpolated to the old places; nothing is moved."""
        thick = list(image.shape[1:])
        thick[axis] = max(1, round(thick[axis] / (1 + strength)))
        small = torch.nn.functional.interpolate(image[None], thick, mode="area")
        return torch.nn.functional.interpolate(small, image.shape[1:], mode="trilinear", align_corners=False)[0]

    return tio.Lambda(slabs)


def _noise(draw: np.random.Generator, strength: int, axis: int) -> tio.Transform:
    return tio.Noise(mean=0.0, std=0.05 * strength, seed=int(draw.integers(2**31)))


def _ghosting(draw: np.random.Generator, strength: int, axis: int) -> tio.Transform:
    return tio.Ghosting(
        num_ghosts=int(draw.integers(3, 7)), axis=int(draw.integers(3)), intensity=0.15 * strength, restore=0.02
    )


def _motion(draw: np.random.Generator, strength: int, axis: int) -> tio.Transform:
    degrees, shifts = (draw.uniform(-1, 1, (2, 3)) * scale * strength for scale in (1.5, 1.0))
    times = np.sort(draw.uniform(0.55, 0.95, 2))  # late, so that the organ stays where its label is
    return tio.Motion(degrees=degrees, translation=shifts, times=times, image_interpolation="linear")


def _spike(draw: np.random.Generator, strength: int, axis: int) -> tio.Transform:
    return tio.Spike(spikes_positions=draw.uniform(0.2, 0.8, (1, 3)), intensity=0.15 * strength)


SHIFTS: dict[str, Shift] = {
    "bias_field": _bias_field,
    "gamma": _gamma,
    "inverted_contrast": _inverted,
    "low_resolution": _low_resolution,
    "noise": _noise,
    "ghosting": _ghosting,
    "motion": _motion,
    "spike": _spike,
}


def shifted(config: Config, workspace: Workspace, manifest: Manifest, case: Case, shift: str, strength: int) -> Float:
    """The prepared image (I, J, K) of a case whose file was shifted first; strength 0: not at all."""
    image = read(workspace.source(manifest, case.image))
    array = image.array.astype(np.float64)
    if strength:
        low, high = np.percentile(array, (0.5, 99.5))  # scaled, so that strengths mean the same for every scanner
        scaled = torch.from_numpy(np.clip((array - low) / (high - low), 0, 1).astype(np.float32))[None]
        draw = generator("robustness", case.id, shift)
        transform = SHIFTS[shift](draw, strength, case.source_grid.slice_axis)
        made = transform(tio.ScalarImage(tensor=scaled, affine=np.asarray(case.source_grid.affine))).data[0].numpy()
        array = made.astype(np.float64) * (high - low) + low
    bounds = config.prepare.intensity
    window, percentiles = tuple(bounds.window_hu), tuple(bounds.percentiles)
    intensity = fit_intensity_map(array, case.intensity.kind, window, percentiles)
    grid = resample(intensity.forward(array), case.source_grid, case.grid, config.prepare.image_interpolation)
    return np.clip(grid, -1.0, 1.0).astype(np.float32)


class Shifted:
    """The images of the test cases under one shift, each made when it is first asked for and kept for all segmenters."""

    def __init__(self, config: Config, workspace: Workspace, manifest: Manifest, shift: str, strength: int) -> None:
        self.shift, self.strength = shift, strength
        self._made: dict[str, Float] = {}
        self._make = partial(shifted, config, workspace, manifest)

    def image(self, case: Case) -> Float:
        """(I, J, K) in [-1, 1] on the prepared grid."""
        if case.id not in self._made:
            self._made[case.id] = self._make(case, self.shift, self.strength)
        return self._made[case.id]


def cell_scores(
    config: Config, study: Study, workspace: Workspace, cell: tuple[int, str, int], images: Shifted, cases: int | None
) -> dict[str, dict[str, float]]:
    """{case: {label: Dice}} of one segmenter, shift and strength; read where it was scored before."""
    fold, arm, seed = cell
    folder = workspace.segmenter(fold, arm, seed)
    manifest = workspace.read_manifest()
    tested = cases_of(manifest, workspace.read_split(fold).test)[:cases]
    trained = workspace.require(folder, "train")["digest"]
    # a shift that was changed is another one
    done = inspect.getsource(SHIFTS[images.shift]) if images.strength else "nothing"
    own = digest(trained, [case.digest for case in tested], images.shift, images.strength, done, config.train.overlap)
    name = f"{images.shift}{images.strength}-f{fold}-{arm}-s{seed}.json"
    path = study.root / "robustness" / workspace.root.relative_to(study.root) / name
    if path.is_file() and (kept := json.loads(path.read_text()))["digest"] == own:
        return kept["scores"]
    device = accelerator_of(config).device
    network, patch = load_segmenter(folder / SEGMENTER, device)
    scores = {}
    for case in tested:
        classes = probabilities(network, images.image(case), patch, config.train.overlap, device)
        prediction = label_in_source(classes, case, list(manifest.labels.values()))
        truth = read(workspace.source(manifest, str(case.label))).array.round().astype(int)
        scores[case.id] = {label: dice(prediction == v, truth == v) for label, v in manifest.labels.items() if v}
    write_json(path, {"digest": own, "scores": scores})
    print(f"{path.relative_to(study.root)}: {np.mean([list(one.values()) for one in scores.values()]):.3f}", flush=True)
    return scores


def dice(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """2 |P and T| / (|P| + |T|), as `compare` has it; 1 where both are empty."""
    both = int(prediction.sum()) + int(truth.sum())
    return 2 * int((prediction & truth).sum()) / both if both else 1.0


Table = dict[
    tuple[str, int, str, int], dict[str, dict[str, float]]
]  # (shift, strength, arm, seed) -> {case: {label: Dice}}


def case_means(table: Table, arm: str, shifts: Sequence[str]) -> dict[str, dict[tuple[int, int], float]]:
    """{case: {(0, seed): Dice}}, each the mean over shifts, strengths and labels."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (shift, _, of_arm, seed), scores in table.items():
        if of_arm == arm and shift in shifts:
            for case, labels in scores.items():
                found[case][seed].append(float(np.mean(list(labels.values()))))
    return {case: {(0, seed): float(np.mean(v)) for seed, v in seeds.items()} for case, seeds in found.items()}


def gains_of(
    table: Table, pairs: Sequence[tuple[str, str]], shifts: Sequence[str], patients: dict[str, str]
) -> dict[str, list[float]]:
    """{first-second: [mean, low, high]} of the differences on the mean over shifts, by the rule of `compare`."""
    means = {arm: case_means(table, arm, shifts) for arm in {arm for pair in pairs for arm in pair}}
    differences = [
        {case: {run: v - means[second][case][run] for run, v in runs.items()} for case, runs in means[first].items()}
        for first, second in pairs
    ]
    found = {}
    for pair, values, luck in zip(pairs, differences, luck_of_seeds(differences), strict=True):
        interval = crossed_mean(values, patients, luck=luck).interval
        found["-".join(pair)] = [interval.mean, interval.low, interval.high]
    return found


def pairs_of(arms: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of PAIRS that are there, and each arm over none."""
    over_none = [(arm, "none") for arm in arms if arm != "none" and "none" in arms]
    return [*(pair for pair in PAIRS if set(pair) <= set(arms)), *over_none]


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--size", type=int, default=10, help="the study's size whose segmenters are taken")
    parser.add_argument("--variant", default=BASE, help="of the study, where it has several (compare=remedies)")
    parser.add_argument("--cases", type=int, help="test cases, at most")
    parser.add_argument("--shifts", nargs="+", choices=list(SHIFTS), default=list(SHIFTS))
    given = parser.parse_args()
    if (given.cases or set(given.shifts) != set(SHIFTS)) and not given.name:
        parser.error("--name is needed with --cases or --shifts: a part doesn't take the place of the whole")
    config = compose([*overrides_of(given), f"data.root={given.data}", f"workspace={given.workspace}"])
    study = Study(given.workspace, (given.variant,))
    workspace = Workspace(study.workspace(given.variant, given.size))
    manifest = workspace.read_manifest()
    fold = config.folds[0]
    table: Table = {}
    for shift in ["unchanged", *given.shifts]:
        for strength in STRENGTHS if shift != "unchanged" else (0,):
            images = Shifted(config, workspace, manifest, shift, strength)
            for arm in config.arms:
                for seed in config.seeds:
                    table[shift, strength, arm, seed] = cell_scores(
                        config, study, workspace, (fold, arm, seed), images, given.cases
                    )
    write(given, config, table, {case.id: case.patient for case in manifest.cases})
    return 0


def write(given: Any, config: Config, table: Table, patients: dict[str, str]) -> None:
    """The JSON and the CSV."""
    result: dict[str, Any] = {}
    for shift in ["unchanged", *given.shifts]:
        result[shift] = {arm: crossed_mean(case_means(table, arm, [shift])).interval.mean for arm in config.arms}
    pairs = pairs_of(config.arms)
    gains = gains_of(table, pairs, given.shifts, patients)
    by_shift = {
        f"{pair}@{shift}": values
        for shift in ["unchanged", *given.shifts]
        for pair, values in gains_of(table, pairs, [shift], patients).items()
    }
    result["gain"] = gains.get("diffboost_classical-classical")
    without_inversion = [shift for shift in given.shifts if shift != "inverted_contrast"]
    if without_inversion:
        others = gains_of(table, pairs, without_inversion, patients)
        result["gain_without_inversion"] = others.get("diffboost_classical-classical")
    result |= {
        "gains": {**gains, **by_shift},
        "size": given.size,
        "variant": given.variant,
        "strengths": list(STRENGTHS),
        "seeds": list(config.seeds),
    }
    result["by_strength"] = {
        f"{shift} {strength}": {
            arm: crossed_mean(case_means(of_one(table, shift, strength), arm, [shift])).interval.mean
            for arm in config.arms
        }
        for shift in given.shifts
        for strength in STRENGTHS
    }
    result |= {"cases": len(next(iter(table.values()))), "overrides": overrides_of(given), "commit": commit()}
    result |= {"command": command_of(given), "machine": {"cores": os.cpu_count(), "processor": platform.machine()}}
    result["versions"] = versions()
    usual = given.variant == BASE and given.size == 10
    name = given.name or f"{given.set}_robustness" + ("" if usual else f"_{given.variant}_{given.size}")
    write_json(RESULTS / f"{name}.json", _finite(result))
    with replacing(RESULTS / f"{name}.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["shift", "strength", "arm", "seed", "case", "label", "dice"])
        for (shift, strength, arm, seed), scores in table.items():
            for case, labels in scores.items():
                writer.writerows(
                    [shift, strength, arm, seed, case, label, f"{value:.6g}"] for label, value in labels.items()
                )
    print(json.dumps({key: result[key] for key in ("gain", "gains")}, indent=1, default=str))


def command_of(given: Any) -> str:
    """The command of a result; --data and --workspace are the reader's own."""
    words = ["--set", given.set, "--data", "DATA", "--workspace", "WORKSPACE", "--size", given.size]
    words += ["--variant", given.variant] if given.variant != BASE else []
    words += [word for name in ("sizes", "seeds") if (of := getattr(given, name)) for word in (f"--{name}", *of)]
    words += ["--arms", given.arms] if given.arms else []
    words += ["--validation", given.validation]
    words += ["--cases", given.cases] if given.cases else []
    words += ["--shifts", *given.shifts] if set(given.shifts) != set(SHIFTS) else []
    words += ["--name", given.name] if given.name else []
    return " ".join(["python benchmarks/robustness.py", *(quoted(str(word)) for word in [*words, *given.overrides])])


def of_one(table: Table, shift: str, strength: int) -> Table:
    """The part of a shift in one strength."""
    return {key: scores for key, scores in table.items() if key[:2] == (shift, strength)}


def _finite(value: Any) -> Any:
    """NaN, such as an interval of one case, becomes null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
