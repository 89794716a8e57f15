"""The records that flow between stages: small, frozen, written as JSON with relative paths."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffboost3d.cases.preparation import Preparation
from diffboost3d.errors import ConfigError
from diffboost3d.imaging.files import PICTURE_ENDINGS, ending_like, ending_of
from diffboost3d.imaging.geometry import Grid
from diffboost3d.imaging.intensity import IntensityMap

MANIFEST_VERSION = 1
IGNORED = 255  # value, in prepared labels, of voxels that nobody labelled; they are in no loss and no score


@dataclass(frozen=True)
class Case:
    """One image of the data set.

    Attributes:
        id: unique name, also the folder name in `prepared/`.
        patient: cases of one patient never span a split.
        image, label: paths relative to the manifest's `source`; label None: unlabelled.
        source_grid: voxel grid of the files; grid: of the prepared arrays (canonical, target spacing).
        intensity: units of the file <-> [-1, 1].
        digest: SHA-256 of the prepared arrays' inputs and settings.
        masks: further files that are joined with the label. stratum: class for splits that keep its share; "": none.
        channels: paths of further image channels' files, as `image`; (): one channel, or several in one 4D file.
        channel_maps: intensity maps of the further channels, as `intensity`.
    """

    id: str
    patient: str
    image: str
    label: str | None
    source_grid: Grid
    grid: Grid
    intensity: IntensityMap
    digest: str
    masks: tuple[str, ...] = ()
    stratum: str = ""
    channels: tuple[str, ...] = ()
    channel_maps: tuple[IntensityMap, ...] = ()

    @property
    def images(self) -> tuple[str, ...]:
        """The paths of all its image files."""
        return (self.image, *self.channels)

    @property
    def maps(self) -> tuple[IntensityMap, ...]:
        """The intensity maps of all its channels."""
        return (self.intensity, *self.channel_maps)

    def of_channel(self, number: int) -> Case:
        """The case as if that channel were its only one."""
        return dataclasses.replace(self, intensity=self.maps[number], channels=(), channel_maps=())

    def moved_from(self, found: Grid) -> str:
        """How the grid that a file of the case has now differs from that of its image; empty where it doesn't.

        A picture's file knows no size of its pixels, so only its shape can differ.
        """
        is_picture = ending_of(self.image) in PICTURE_ENDINGS
        return self.source_grid.apart_from(Grid.of(found.shape, self.source_grid.matrix) if is_picture else found)


def channel_endings(case: Case) -> list[str]:
    """Endings of what is written in the form of a case's image files: one, or _0000.nii.gz, _0001.nii.gz, ... of one each."""
    if not case.channels:
        return [ending_like(case.image)]
    return [f"_{number:04d}{ending_like(path)}" for number, path in enumerate(case.images)]


@dataclass(frozen=True)
class Manifest:
    """What `prepare` found and made.

    Attributes:
        labels: name -> value in the user's files, background (0) included; in prepared labels the values are 0, 1, 2, ...
            in this order.
        source: the data folder, relative to the workspace.
        ignore_label: value in the user's files of voxels that nobody labelled (`IGNORED` in prepared labels); None: none.
        spatial_dims: 2 where every case is a single slice, else 3.
        physical: whether distances are in mm (NIfTI, and pictures whose pixel size is given) or in pixels (pictures).
        preparation: how its images were prepared; None: written by a version that did not say.
        colours: red, green and blue (0 to 255) of each label but the background; {}: written by a version that did not say.
        channels: names of the image channels.
        merged: value in the user's label files -> value that it counts as; see `labels.grouped`.
        series: patterns by which the DICOM series of the channels were chosen (`data.series`); (): none, or not said.
    """

    name: str
    modality: str
    prompt: str
    labels: dict[str, int]
    source: str
    spatial_dims: int
    physical: bool
    licence: str
    cases: tuple[Case, ...]
    version: int = MANIFEST_VERSION
    preparation: Preparation | None = None
    ignore_label: int | None = None
    colours: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    channels: tuple[str, ...] = ("image",)
    merged: Mapping[int, int] = dataclasses.field(default_factory=dict)
    series: tuple[str, ...] = ()

    @property
    def channel_count(self) -> int:
        """Number of image channels."""
        return len(self.channels)

    @property
    def label_count(self) -> int:
        """Number of labels without the background."""
        return len(self.labels) - 1

    @property
    def foreground(self) -> dict[str, int]:
        """Label name -> value in prepared arrays (1, 2, ...)."""
        return {name: index for index, name in enumerate(self.labels) if index > 0}

    @property
    def values(self) -> dict[int, int]:
        """Value in prepared labels -> value in the user's files, background first, that of ignored voxels last."""
        known = dict(enumerate(self.labels.values()))
        return known if self.ignore_label is None else {**known, IGNORED: self.ignore_label}

    def label_values(self, names: Sequence[str], key: str) -> tuple[int, ...]:
        """Values in prepared arrays of labels by name. Raises ConfigError naming the configuration's `key`."""
        foreground = self.foreground
        for name in names:
            if name not in foreground:
                raise ConfigError(f"{key}: {name!r} is no label of {self.name}; allowed: {', '.join(foreground)}")
        return tuple(foreground[name] for name in names)

    def case(self, identifier: str) -> Case:
        """The case of that id."""
        return next(case for case in self.cases if case.id == identifier)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; `from_json` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Manifest:
        """Inverse of `to_json`."""
        cases = tuple(_case(item) for item in value["cases"])
        told = value.get("preparation")
        read: dict[str, Any] = {"cases": cases, "preparation": Preparation.from_json(told) if told else None}
        read["channels"] = tuple(value.get("channels", ("image",)))
        read["merged"] = {int(own): counts_as for own, counts_as in value.get("merged", {}).items()}
        read["series"] = tuple(value.get("series", ()))
        return cls(**{**value, **read})


def _case(value: dict[str, Any]) -> Case:
    grids = {name: Grid.of(value[name]["shape"], value[name]["affine"]) for name in ("source_grid", "grid")}
    more = {
        "intensity": IntensityMap(**value["intensity"]),
        "masks": tuple(value.get("masks", ())),
        "channels": tuple(value.get("channels", ())),
        "channel_maps": tuple(IntensityMap(**one) for one in value.get("channel_maps", ())),
    }
    return Case(**{**value, **grids, **more})


@dataclass(frozen=True)
class Split:
    """Case ids of one fold; the four parts share no patient but that unlabelled ones may be siblings of training ones."""

    training: tuple[str, ...]
    unlabelled: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @classmethod
    def from_json(cls, value: dict[str, list[str]]) -> Split:
        """From {"training": [ids], "unlabelled": [ids], "validation": [ids], "test": [ids]}."""
        return cls(**{part: tuple(value.get(part, ())) for part in SPLIT_PARTS})


SPLIT_PARTS = tuple(field.name for field in dataclasses.fields(Split))


@dataclass(frozen=True)
class SyntheticRecord:
    """What made one synthetic volume, and from which case; lies beside it as JSON.

    Attributes:
        model: digest of the fine-tuned generator. seed, noise: of its noise, and how slices share it. path: relative to the
            record's folder. look: the appearance word it was asked for with, or "".
        anatomy: where its shapes come from; "same": they are those of its case.
        label: path of its own label, relative to the record's folder; "": it has that of its case.
        attempt: how many samples of this number the gate rejected before. accepted: whether it may train anything;
            reasons: why not, a line each. checks: figures of the gate; none: it was not judged. nearest: the training image of
            another patient that is most like it.
        channels: paths of further channels' files, as `path`; (): none, or all are in one 4D file.
        refiner: digest of the 3D network that went over it. refine, refine_steps: the noise that it took away, in units of
            [-1, 1], and in how many steps; "" and 0: none did.
    """

    case: str
    fold: int
    sample: int
    seed: int
    model: str
    digest: str
    path: str
    prompt: str
    look: str
    sampler: str
    steps: int
    guidance_scale: float
    strength: float
    unit: str
    noise: str = ""
    anatomy: str = "same"
    label: str = ""
    attempt: int = 0
    accepted: bool = True
    reasons: tuple[str, ...] = ()
    checks: Mapping[str, float] = dataclasses.field(default_factory=dict)
    nearest: str = ""
    synthetic: bool = True
    channels: tuple[str, ...] = ()
    refiner: str = ""
    refine: float = 0.0
    refine_steps: int = 0

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SyntheticRecord:
        """From what lies beside a volume."""
        lists = {name: tuple(value.get(name, ())) for name in ("reasons", "channels")}
        return cls(**{**value, **lists})

    @property
    def images(self) -> tuple[str, ...]:
        """The paths of all its image files, relative to the record's folder."""
        return (self.path, *self.channels)


@dataclass(frozen=True)
class Score:
    """One number of one test case."""

    arm: str
    fold: int
    seed: int
    case: str
    label: str
    metric: str
    value: float
    unit: str


@dataclass(frozen=True)
class Finding:
    """Something wrong with a case: what, in one line that names the file, and what became of the case."""

    case: str
    problem: str
    outcome: str

    def __str__(self) -> str:
        return f"{self.case}: {self.problem}; {self.outcome}"
