"""What the benchmarks of the generator share: a generator trained on hippocampus, and samples of cases it never saw."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import diffboost3d
from diffboost3d.cases.atomic import replacing
from diffboost3d.cases.records import Case
from diffboost3d.cases.workspace import Workspace, versions
from diffboost3d.cohort import write_cohort
from diffboost3d.config import compose, digest
from diffboost3d.diffusion.sampling import SamplingPlan
from diffboost3d.diffusion.text import fill_templates
from diffboost3d.diffusion.weights import load_generator
from diffboost3d.refinement.sampling import RefinePlan
from diffboost3d.refinement.weights import load_refiner
from diffboost3d.seeds import seed_of
from diffboost3d.stages.inputs import cases_of, control_of, prepared, slice_axis
from diffboost3d.stages.noise import with_measured_noise
from diffboost3d.stages.refine_rule import USUAL, with_refine
from diffboost3d.stages.synthesis_work import sampling_plan
from diffboost3d.synthesis.refining import Refining
from diffboost3d.synthesis.volumes import NoisePlan, SampleRequest, SecondPlanePlan, SlabPlan, VolumeSampler, slow_mm_of

Float = NDArray[np.float32]
RESULTS = Path(__file__).resolve().parent / "results"
TRAINING = {
    "hippocampus": (
        "data=hippocampus",
        "prompt=Hippocampus, MRI",
        "data.labelled=10",
        "data.unlabelled=60",
        "data.validation_fraction=0.4",
    ),
    "acdc": ("data=cardiac", "prompt=Heart, cine MRI", "data.labelled=20", "data.unlabelled=60"),
    "ct": ("prompt=Abdomen, CT", "data.labelled=20", "data.unlabelled=60"),
}
CT_CASES = 150
PARTS = ("choose", "judge")
RECIPE = SamplingPlan(steps=20, sampler="ddim", guidance_scale=9.0)  # the released recipe


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments that all these scripts take."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--set",
        choices=list(TRAINING),
        default="hippocampus",
        help="hippocampus, acdc (thick slices), or the built-in CT cohort",
    )
    made.add_argument(
        "--data", type=Path, required=True, help="the folder of that set; for ct it is made where it is missing"
    )
    made.add_argument("--workspace", type=Path, required=True, help="where the generator is trained, or found trained")
    made.add_argument("--cases", type=int, default=30, help="test cases that are sampled, at most")
    made.add_argument(
        "--part",
        choices=PARTS,
        default="judge",
        help="half of the test patients: settings are chosen on one (choose), and committed results are of the other (judge)",
    )
    made.add_argument("--seed", type=int, default=0)
    made.add_argument(
        "--start-workspace", type=Path, help="another workspace, whose fine-tuned generator the training starts from"
    )
    made.add_argument("overrides", nargs="*", help="more overrides of the training, e.g. diffusion.pretrain.steps=9000")
    return made


class HeldOut:
    """Test cases of a workspace, and samples of them from its fine-tuned generator.

    Args:
        part: half of the test cases, those of every second patient.
        overrides: of the training; the stages up to `finetune` run where they haven't.
        name: of the data set, as in `TRAINING`.
        start: workspace of the generator that the training starts from.
    """

    def __init__(
        self,
        data: Path,
        workspace: Path,
        overrides: Sequence[str],
        cases: int,
        seed: int,
        part: str = "judge",
        name: str = "hippocampus",
        start: Path | None = None,
    ) -> None:
        self.overrides = [*TRAINING[name], *overrides]
        if name == "ct" and not (data / "dataset.json").is_file():
            write_cohort("ct", data, CT_CASES)
        given = [*self.overrides, f"data.root={data}", f"workspace={workspace}"]
        if start is not None:
            given.append(f"diffusion.start_from={Workspace(start).finetuned(0)}")
            self.overrides.append("diffusion.start_from=START-WORKSPACE/diffusion/fold0")
        for stage in ("prepare", "pretrain", "finetune"):
            subprocess.run([sys.executable, "-m", "diffboost3d", stage, *given], check=True)
        self._given = given
        self.config, self.workspace, self.seed = compose(given), Workspace(workspace), seed
        self.manifest = self.workspace.read_manifest()
        self.config = with_refine(self.config, self.manifest)
        split = self.workspace.read_split(0)
        known = cases_of(self.manifest, split.training)
        self.config = with_measured_noise(self.config, self.workspace, self.manifest, known)
        test = cases_of(self.manifest, split.test)
        patients = list(dict.fromkeys(case.patient for case in test))[PARTS.index(part) :: 2]
        half = [case for case in test if case.patient in patients]
        self.cases: list[Case] = [half[at] for at in np.linspace(0, len(half) - 1, min(cases, len(half))).astype(int)]
        self.patients = [patients.index(case.patient) for case in self.cases]
        self.axis = slice_axis(self.config, self.manifest)
        self.default, slow_mm = sampling_plan(self.config.synthesize), self.config.synthesize.keep_slow_mm
        self.slow_mm = slow_mm_of(self.cases[0].grid.spacing_mm) if slow_mm is None else slow_mm
        self.generator = load_generator(self.workspace.finetuned(0))
        self.model: str = json.loads((self.workspace.finetuned(0) / "record.json").read_text())["digest"]

    @functools.cached_property
    def refiner(self) -> Path:
        """Folder of the fold's refiner, trained where it isn't yet."""
        asked = [*self._given, f"synthesize.refine={USUAL}"]  # a refiner learns noise of every strength
        subprocess.run([sys.executable, "-m", "diffboost3d", "train-refiner", *asked], check=True)
        return self.workspace.refiner(0)

    def synthesize(self) -> None:
        """The command itself, on the training cases; the refiner is trained first, where volumes are refined."""
        if self.config.synthesize.refine:
            _ = self.refiner
        subprocess.run([sys.executable, "-m", "diffboost3d", "synthesize", *self._given], check=True)

    def real(self, case: Case) -> Float:
        """The prepared image (I, J, K) in [-1, 1]."""
        return np.asarray(prepared(self.workspace, case, "image"), np.float32)

    def control(self, case: Case) -> Float:
        """The control image (C, I, J, K)."""
        return control_of(self.config, self.manifest, self.workspace, case, with_label=True)

    def sampler(
        self,
        plan: SamplingPlan,
        noise: NoisePlan,
        match_spectrum: float,
        slow_mm: float,
        second_every: int = 0,
        refine: float = 0.0,
        slabs: SlabPlan | None = None,
    ) -> VolumeSampler:
        """A sampler of volumes; with `second_every` across the second plane of the configuration too, at so many steps; with
        `refine` they are gone over by the refiner, with noise of this standard deviation; `slabs` None: as configured.
        """
        settings, axis = self.config.synthesize, self.config.diffusion.second_axis
        slabs = slabs or SlabPlan(settings.slab, settings.slab_overlap, settings.batch_voxels, settings.slab_blend)
        second = None
        if second_every:
            assert axis is not None
            second = SecondPlanePlan(axis, second_every, self.cases[0].grid.spacing_mm[axis])
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        refining = None
        if refine:
            steps = RefinePlan(refine, settings.refine_steps, settings.batch_voxels)
            refining = Refining(load_refiner(self.refiner), steps, device)
        return VolumeSampler(
            *self.generator,
            plan,
            noise,
            settings.negative_prompt,
            settings.batch,
            device,
            match_spectrum=match_spectrum,
            slow_mm=slow_mm,
            slabs=slabs,
            second=second,
            refining=refining,
        )

    def requests(
        self, case: Case, count: int = 1, neighbours: bool = True, second: bool = False
    ) -> list[SampleRequest]:
        """Requests of samples of a case, with the task's prompt; neighbours: see `samples`; second: with its control image."""
        prompts = fill_templates({"{prompt}, {look}": 1.0}, self.manifest.prompt, "")
        image, control = self.real(case), self.control(case)
        if not neighbours:
            beside = self.config.diffusion.denoiser.neighbours
            control[: 2 * beside + 1] = control[beside]
        across = None
        if second:
            axis = self.config.diffusion.second_axis
            across = control_of(self.config, self.manifest, self.workspace, case, with_label=True, axis=axis)
        seeds = [seed_of(self.seed, "benchmark", case.id, at) for at in range(count)]
        return [SampleRequest(seed, prompts, image, control, second_control=across) for seed in seeds]

    def samples(
        self,
        plan: SamplingPlan,
        noise: NoisePlan | None = None,
        match_spectrum: float | None = None,
        neighbours: bool = True,
        slow_mm: float | None = None,
        second_every: int = 0,
        refine: float | None = None,
        slabs: SlabPlan | None = None,
    ) -> list[Float]:
        """One synthetic volume (I, J, K) of every case; kept in the workspace, so that benchmarks share them.

        Args:
            noise, match_spectrum: None: as configured. slow_mm: waves of this length and more are the real volume's; None: as
                configured.
            neighbours: whether a slice sees the edges of its neighbours; else its own in their place.
            second_every, refine, slabs: see `sampler`; None: as configured.
        """
        ids = [case.id for case in self.cases]
        prepared_as = [case.digest for case in self.cases]
        settings = self.config.synthesize
        noise = noise or NoisePlan(settings.noise, settings.rho or 0.0, settings.correlation_mm)
        match_spectrum = settings.match_spectrum if match_spectrum is None else match_spectrum
        slow_mm = self.slow_mm if slow_mm is None else slow_mm
        refine = settings.refine or 0.0 if refine is None else refine
        named = [dataclasses.asdict(noise), match_spectrum, slow_mm, settings.negative_prompt, second_every]
        if refine:
            named += [refine, settings.refine_steps, json.loads((self.refiner / "record.json").read_text())["digest"]]
        if slabs:
            named += [dataclasses.asdict(slabs)]
        own = digest(
            dataclasses.asdict(plan), named, self.seed, ids, prepared_as, self.model, code_digest(), neighbours
        )
        kept = self.workspace.root / "benchmarks" / f"{own}.npz"
        if kept.is_file():
            with np.load(kept, allow_pickle=False) as arrays:
                return [arrays[name] for name in ids]
        sampler = self.sampler(plan, noise, match_spectrum, slow_mm, second_every, refine, slabs)
        second = second_every > 0
        made = [
            sampler.volumes(self.axis, case.grid.spacing_mm, self.requests(case, 1, neighbours, second))[0]
            for case in self.cases
        ]
        with replacing(kept) as temporary:
            np.savez(temporary, **dict(zip(ids, made, strict=True)))  # type: ignore[arg-type]
        return made


def code_digest() -> str:
    """Of the package's own files: samples of other code are made anew."""
    folder = Path(diffboost3d.__file__).parent
    return digest(
        [
            path.read_text(encoding="utf-8")
            for name in ("diffusion", "synthesis", "imaging", "refinement")
            for path in sorted((folder / name).glob("*.py"))
        ]
    )


def commit() -> str:
    """Of the checkout that this script lies in; "+" where files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.stdout.strip() + ("+" if changed.stdout.strip() else "")


def slices_of(
    volumes: Sequence[Float],
    axis: int,
    size: tuple[int, int],
    every: int = 2,
    step: int = 1,
    patients: Sequence[int] | None = None,
) -> tuple[Float, list[int]]:
    """(every n-th slice of the volumes, cropped about the centre to `size`, (N, A, B); the patient, or volume, of each).

    Args:
        step: of the crop's first voxel, so that a grid of so many voxels keeps its place.
    """
    slices, groups = [], []
    for number, volume in enumerate(volumes):
        moved = np.moveaxis(volume, axis, 0)
        first = [(side - wanted) // 2 // step * step for side, wanted in zip(moved.shape[1:], size, strict=True)]
        cropped = moved[::every, first[0] : first[0] + size[0], first[1] : first[1] + size[1]]
        slices.append(cropped)
        groups += [number if patients is None else patients[number]] * len(cropped)
    return np.concatenate(slices), groups


def smallest_size(volumes: Sequence[Float], axis: int) -> tuple[int, int]:
    """The largest slice size that fits into all volumes."""
    shapes = [[side for index, side in enumerate(volume.shape) if index != axis] for volume in volumes]
    a, b = np.min(shapes, axis=0)
    return int(a), int(b)


def quoted(word: str) -> str:
    """For a shell."""
    return f'"{word}"' if set(word) & set(" []{}()'*?") else word


def write(
    name: str, given: argparse.Namespace, overrides: Sequence[str], cases: int, folders: str = "", **figures: Any
) -> None:
    """`results/<name>.json`: the figures, and what they rest on.

    Args:
        overrides: of the training. folders: further arguments of the script.
    """
    known = {
        "data",
        "workspace",
        "pool",
        "pixel_workspace",
        "stack_workspace",
        "second_workspace",
        "start_workspace",
        "start",
        "cases",
        "overrides",
    }
    plain = {
        "part": "judge",
        "seed": 0,
        "result": Path(sys.argv[0]).stem,
        "set": "hippocampus",
        "second_axis": 0,
        "second_steps": 700,
        "stack_steps": [600, 600],
        "refine": [],
    }
    extra = {
        key: value for key, value in vars(given).items() if key not in known and value not in (None, plain.get(key))
    }
    extra = {
        key.replace("_", "-"): " ".join(quoted(str(word)) for word in value) if isinstance(value, list) else value
        for key, value in extra.items()
    }
    words = [quoted(word) for word in given.overrides]
    command = ["python", f"benchmarks/{Path(sys.argv[0]).name}", f"--data PATH/{given.set}", "--workspace WORKSPACE"]
    if given.start_workspace is not None:
        command.append("--start-workspace START-WORKSPACE")
    command += [folders, *(f"--{key} {value}" for key, value in extra.items()), f"--cases {given.cases}", *words]
    result = {
        **figures,
        "command": " ".join(filter(None, command)),
        "training": list(overrides),
        "cases": cases,
        "part": given.part,
        "seeds": [given.seed],
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "commit": commit(),
        "versions": versions(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
