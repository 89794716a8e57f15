"""Which anatomy each sample of a case gets: a warp drawn once by the sample's number, checked, kept, and used by all who need it.

Synthesis and the control arm `warp_only` take the same warps. Sources are training cases of the fold only: unlabelled images and,
where there are none, other labelled ones for `registered`; other labelled ones for `between`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffboost3d.augmentation.anatomy import Limits, RandomPlan, random_motion
from diffboost3d.augmentation.motion import Motion
from diffboost3d.augmentation.registration import RegistrationPlan, register_images, register_labels
from diffboost3d.augmentation.warping import Warp, warp_image, warp_label
from diffboost3d.cases.records import Case, Manifest, Split
from diffboost3d.cases.workspace import Workspace
from diffboost3d.config import digest
from diffboost3d.errors import ConfigError
from diffboost3d.imaging.channels import first_channel, for_each_channel
from diffboost3d.schema import AnatomyConfig, Config
from diffboost3d.seeds import generator, seed_of
from diffboost3d.stages.inputs import cases_of, prepared
from diffboost3d.training import load_tensors, save_tensors

SAME = "same"
SOURCES = (SAME, "warped", "registered", "between")  # also their keys in the configuration


@dataclass(frozen=True)
class Anatomy:
    """Where a sample's shapes come from, in words for its record, and the warp that makes them; None: those of the case."""

    text: str
    warp: Warp | None


class Anatomies:
    """The anatomies of one fold's samples.

    Raises:
        ConfigError: a source is asked for, and the fold has no training case for it.
    """

    def __init__(self, config: Config, workspace: Workspace, manifest: Manifest, split: Split, fold: int) -> None:
        self._config, self._workspace, self._fold = config, workspace, fold
        self._settings = config.synthesize.anatomy
        self._labelled = cases_of(manifest, split.training)
        self._targets = cases_of(manifest, split.unlabelled) or self._labelled
        for name in ("registered", "between"):
            if getattr(self._settings, name) > 0 and any(not self._others(name, case) for case in self._labelled):
                raise ConfigError(
                    f"synthesize.anatomy.{name}={getattr(self._settings, name)} needs another training case, and fold "
                    f"{fold} has only {self._labelled[0].id}; allowed: 0"
                )

    def digest(self, case: Case, sample: int) -> str:
        """Digest of all that decides the anatomy of a sample."""
        source = self._source(case, sample)
        if source == SAME:
            return SAME
        settings = {key: value for key, value in dataclasses.asdict(self._settings).items() if key not in SOURCES}
        others = [(other.id, other.digest) for other in self._others(source, case)]
        return digest(settings, source, self._seed(case, sample), case.digest, others)

    def of(self, case: Case, sample: int) -> Anatomy:
        """The anatomy of a sample of a labelled training case; read where it was drawn before."""
        source = self._source(case, sample)
        if source == SAME:
            return Anatomy(SAME, None)
        path, own = self._workspace.anatomy(self._fold, case.id, sample), self.digest(case, sample)
        kept = _kept(path, own)
        if kept is None:
            text, warp = self._draw(source, case, sample)
            moved = np.zeros((3, 1, 1, 1), np.float32) if warp is None else warp.displacement
            facts = {"digest": own, "anatomy": text, "warped": warp is not None}
            facts |= {} if warp is None else {"jacobian": warp.jacobian_range()}
            kept = {"displacement": torch.from_numpy(moved).half()}, facts
            save_tensors(path, *kept)
        return _anatomy(kept, case)

    def _others(self, source: str, case: Case) -> list[Case]:
        """Cases that a source may take a shape from."""
        pool = {"registered": self._targets, "between": self._labelled}.get(source, [])
        others = [other for other in pool if other.id != case.id]
        if source == "registered" and not others:
            others = [other for other in self._labelled if other.id != case.id]
        return others

    def _seed(self, case: Case, sample: int) -> int:
        return seed_of(self._config.seed, "anatomy", self._fold, case.id, sample)

    def _source(self, case: Case, sample: int) -> str:
        """Drawn by the shares; a sample keeps its place in [0, 1], so that a share moved a little moves few samples."""
        place = float(generator(self._seed(case, sample), "source").random())
        for source in SOURCES[:-1]:
            place -= getattr(self._settings, source)
            if place < 0:
                return source
        return SOURCES[-1] if getattr(self._settings, SOURCES[-1]) > 0 else SAME

    def _draw(self, source: str, case: Case, sample: int) -> tuple[str, Warp | None]:
        """The first of some draws that keeps the limits; the case's own anatomy where none does."""
        settings = self._settings
        low, high = settings.volume_factors
        limits = Limits(settings.jacobian_floor, (low, high))
        label, refusal = self._read(case, "label"), ""
        for attempt in range(settings.redraws + 1):
            random = generator(self._seed(case, sample), source, attempt)
            text, warp = getattr(self, f"_{source}")(case, random)
            refusal = limits.refusal(label, warp)
            if not refusal:
                return text, warp
        line = f"{SAME}: {settings.redraws + 1} draws of {source} were refused, the last as {refusal}"
        self._workspace.log(f"! {case.id} sample {sample:02d} keeps its anatomy: {line.removeprefix(f'{SAME}: ')}")
        return line, None

    def _warped(self, case: Case, random: np.random.Generator) -> tuple[str, Warp]:
        label = self._read(case, "label")
        return "warped", random_motion(label, case.grid.spacing_mm, random_plan(self._settings), random).warp()

    def _registered(self, case: Case, random: np.random.Generator) -> tuple[str, Warp]:
        others = self._others("registered", case)
        other, share = others[int(random.integers(len(others)))], _within(self._settings.registered_share, random)
        return f"registered to {other.id}, share {share:.2f}", self._registration(case, other).warp(share)

    def _between(self, case: Case, random: np.random.Generator) -> tuple[str, Warp]:
        others = self._others("between", case)
        other, share = others[int(random.integers(len(others)))], _within(self._settings.between_share, random)
        label, far = self._read(case, "label"), self._read(other, "label")
        if not (label.any() and far.any()):  # nothing lies between a shape and none
            text, warp = self._warped(case, random)
            return f"{text}, since {case.id if far.any() else other.id} has no label", warp
        motion = register_labels(label, far, share, case.grid.spacing_mm, registration_plan(self._settings))
        return f"between {case.id} and {other.id}, share {share:.2f}", motion.warp()

    def _registration(self, case: Case, other: Case) -> Motion:
        """The motion that registers two cases; kept, since many samples and all folds may ask for it."""
        plan = registration_plan(self._settings)
        path, own = self._workspace.registration(case.id, other.id), digest(plan, case.digest, other.digest)
        kept = _kept(path, own)
        if kept is None:
            spacing = case.grid.spacing_mm
            image, label = first_channel(self._read(case, "image")), self._read(case, "label")
            motion = register_images(image, label, first_channel(self._read(other, "image")), spacing, plan)
            kept = {"velocity": torch.from_numpy(motion.velocity)}, {"digest": own, "case": case.id, "to": other.id}
            save_tensors(path, *kept)
        return Motion(np.zeros((4, 4)), kept[0]["velocity"].numpy(), case.grid.shape, case.grid.spacing_mm)

    def _read(self, case: Case, kind: str) -> NDArray[Any]:
        return prepared(self._workspace, case, kind)


def anatomy_kept(workspace: Workspace, fold: int, case: Case, sample: int) -> Anatomy:
    """The anatomy that a sample was given, whatever the settings are now; that of the case where none was kept."""
    path = workspace.anatomy(fold, case.id, sample)
    return _anatomy(load_tensors(path), case) if path.is_file() else Anatomy(SAME, None)


def in_anatomy(workspace: Workspace, case: Case, anatomy: Anatomy) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The real image and label (I, J, K) of a case in an anatomy."""
    image, label = prepared(workspace, case, "image"), prepared(workspace, case, "label")
    warp = anatomy.warp
    if warp is None:
        return image, label
    return for_each_channel(lambda one: warp_image(one, warp), image), warp_label(label, warp)


def random_plan(settings: AnatomyConfig) -> RandomPlan:
    """The numbers that random warps need."""
    return RandomPlan(
        rotation_degrees=settings.rotation_degrees,
        scale=(settings.scale[0], settings.scale[1]),
        shear=settings.shear,
        elastic_mm=settings.elastic_mm,
        smoothness_mm=settings.elastic_smoothness_mm,
        label_volume=(settings.label_volume[0], settings.label_volume[1]),
        voxels=settings.nodes,
    )


def registration_plan(settings: AnatomyConfig) -> RegistrationPlan:
    """The numbers that registration needs."""
    first, second, third = settings.registration_iterations
    return RegistrationPlan(
        (first, second, third), settings.rigid_iterations, settings.registration_smoothness_mm, settings.nodes
    )


def _within(span: list[float], random: np.random.Generator) -> float:
    return float(random.uniform(span[0], span[1]))


def _anatomy(kept: tuple[dict[str, torch.Tensor], dict[str, Any]], case: Case) -> Anatomy:
    tensors, facts = kept
    if not facts["warped"]:
        return Anatomy(facts["anatomy"], None)
    warp = Warp(tensors["displacement"].float().numpy(), case.grid.shape, case.grid.spacing_mm)
    return Anatomy(facts["anatomy"], warp)


def _kept(path: Path, own: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """What was kept under this digest, if anything."""
    if not path.is_file():
        return None
    tensors, facts = load_tensors(path)
    return (tensors, facts) if facts["digest"] == own else None
