"""Training pictures for the generator from a pool: any number of files, read one at a time, in constant memory.

A sample is a function of its number, as in `batches`: no order, no epoch, no state, so that a training can be resumed,
spread over loader workers and processes, and read again. A file that can't be used is listed beside the index, and the
sample goes to another file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.utils.data import Dataset

from diffboost3d.cases.pool import PoolIndex
from diffboost3d.cases.prompts import Abbreviations, modality_of, prompt_of
from diffboost3d.diffusion.batches import SlicePlan, move_slice
from diffboost3d.diffusion.codecs import Codec, latent_shape
from diffboost3d.diffusion.looks import LOOKS, with_look
from diffboost3d.diffusion.text import Tokenizer
from diffboost3d.errors import DataError
from diffboost3d.imaging.edges import soft_edges
from diffboost3d.imaging.intensity import fit_intensity_map
from diffboost3d.imaging.planes import Plane, read_plane
from diffboost3d.seeds import generator

Float = NDArray[np.float32]

ATTEMPTS = 50
WINDOW_HU = (-160.0, 240.0)
PERCENTILES = (0.5, 99.5)


def edges_in_pixels(picture: Float) -> Float:
    """Soft edges of a picture (A, B, 1), scales in pixels."""
    return soft_edges(picture, (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class PoolPlan:
    """How a pool's pictures become samples, beyond what `SlicePlan` says.

    Attributes:
        edge_channels: control channels that the picture's edges fill, the slice's own and its neighbours'.
        label_channels: control channels that stay zero, as a pool has no labels.
        balance: modality or file; see `PoolIndex.draw`.
        part: training or held_out.
        window_hu: of CT in Hounsfield units (NIfTI, DICOM). percentiles: of every other plane, each by itself.
    """

    edge_channels: int
    label_channels: int = 0
    balance: str = "modality"
    part: str = "training"
    window_hu: tuple[float, float] = WINDOW_HU
    percentiles: tuple[float, float] = PERCENTILES


@dataclass(frozen=True)
class PictureDraw:
    """What is random about one sample, but for its file; shift is a share of the free play, -1 to 1."""

    degrees: float
    scale: float
    shift: tuple[float, float]
    drop_text: bool
    drop_control: bool
    timestep: int
    noise_seed: int
    look: str | None


class PoolDataset(Dataset[dict[str, torch.Tensor]]):
    """Sample number -> image (1, A, B), control (C, A, B), tokens (T,), noise (c, h, w), timestep (); see `SliceDataset`.

    Args:
        plan: its `axis` has no meaning here; planes of a volume are those across its coarsest axis.
        abbreviations: see `cases.prompts.read_abbreviations`.
        edges: image (A, B, 1) in [-1, 1] -> edges (A, B, 1) in [0, 1].

    Raises:
        DataError: no file of the pool is in the part asked for.
    """

    def __init__(
        self,
        index: PoolIndex,
        abbreviations: Abbreviations,
        tokenizer: Tokenizer,
        codec: Codec,
        plan: SlicePlan,
        pool: PoolPlan,
        edges: Callable[[Float], Float] = edges_in_pixels,
    ) -> None:
        if not index.count(part=pool.part):
            raise DataError(f"{index.root}: no {pool.part} files among {index.facts['files']}; change pool.held_out")
        self.index, self.plan, self.pool = index, plan, pool
        self._abbreviations, self._tokenizer, self._edges = abbreviations, tokenizer, edges
        self._latent = latent_shape(codec, plan.size)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        draw = self.draw(number)
        path, picture = self.picture(number)
        edge = self._edges(picture[:, :, None])[:, :, 0]
        free = [(side - wanted) / 2 for side, wanted in zip(picture.shape, self.plan.size, strict=True)]
        shift = (draw.shift[0] * free[0], draw.shift[1] * free[1])
        both = torch.from_numpy(np.stack([picture, edge]))
        moved = move_slice(both, self.plan.size, draw.degrees, draw.scale, shift)
        image, edges = moved[:1], moved[1:].clamp(0.0, 1.0)
        if draw.look is not None:
            image = with_look(image, draw.look, draw.noise_seed + 1)
        return {
            "image": image,
            "control": self._control(torch.zeros_like(edges) if draw.drop_control else edges),
            "tokens": self._tokenizer("" if draw.drop_text else self.prompt(path, draw.look)),
            "noise": torch.randn(self._latent, generator=torch.Generator().manual_seed(draw.noise_seed)),
            "timestep": torch.tensor(draw.timestep),
        }

    def draw(self, number: int) -> PictureDraw:
        """The random choices of a sample."""
        plan = self.plan
        random = generator(plan.seed, plan.purpose, number)
        jitters = random.random() < plan.jitter
        return PictureDraw(
            degrees=float(random.uniform(-plan.rotation_degrees, plan.rotation_degrees)) if jitters else 0.0,
            scale=float(random.uniform(*plan.scale)) if jitters else 1.0,
            shift=(float(random.uniform(-1.0, 1.0)), float(random.uniform(-1.0, 1.0))),
            drop_text=bool(random.random() < plan.drop_text),
            drop_control=bool(random.random() < plan.drop_control),
            timestep=int(random.integers(plan.timesteps)),
            noise_seed=int(random.integers(2**62)),
            look=str(random.choice(list(LOOKS))) if random.random() < plan.looks else None,
        )

    def picture(self, number: int) -> tuple[str, Float]:
        """Path and picture (A', B') in [-1, 1] of a sample, both sides at least those of the plan, one of them equal.

        Raises:
            DataError: `ATTEMPTS` files in a row are of no use.
        """
        for attempt in range(ATTEMPTS):
            random = generator(self.plan.seed, self.plan.purpose, number, "file", attempt)
            path = self.index.draw(random, self.pool.balance, self.pool.part)
            try:
                plane = read_plane(self.index.root / path, where=float(random.random()))
                return path, covering(self._normalised(path, plane), self.plan.size)
            except DataError as error:
                self.index.report_skipped(path, str(error).removeprefix(f"{self.index.root / path}: "))
        raise DataError(
            f"{self.index.root}: {ATTEMPTS} files in a row are of no use, the last {path}; see {self.index.folder}/skipped.txt"
        )

    def prompt(self, path: str, look: str | None = None) -> str:
        """The prompt of a file, with the word of a look."""
        prompt = prompt_of(path, self._abbreviations)
        return prompt if look is None else f"{prompt}, {look}"

    def _normalised(self, path: str, plane: Plane) -> Float:
        """A plane in [-1, 1]. Raises DataError where all of it is one value."""
        in_hounsfield = plane.measured and modality_of(path, self._abbreviations) == "CT"
        kind = "ct_window" if in_hounsfield else "percentiles"
        try:
            scale = fit_intensity_map(plane.array, kind, self.pool.window_hu, self.pool.percentiles)
        except ValueError as error:
            raise DataError(str(error)) from error
        mapped = scale.forward(plane.array)
        if mapped.min() == mapped.max():
            raise DataError(f"every voxel is {mapped.flat[0]:g} within the window")
        return mapped

    def _control(self, edge: torch.Tensor) -> torch.Tensor:
        """Control (C, A, B) of edges (1, A, B): a picture has no neighbours, so each is the picture itself."""
        absent = edge.new_zeros(self.pool.label_channels, *edge.shape[1:])
        return torch.cat([edge.expand(self.pool.edge_channels, -1, -1), absent])


def covering(picture: Float, size: tuple[int, int]) -> Float:
    """A picture scaled, its aspect kept, so that it just covers a window of `size`; made smaller without aliasing."""
    sides = picture.shape
    factor = max(wanted / side for wanted, side in zip(size, sides, strict=True))
    scaled = [max(wanted, round(side * factor)) for wanted, side in zip(size, sides, strict=True)]
    if scaled == list(sides):
        return picture
    resized = F.interpolate(torch.from_numpy(picture)[None, None], scaled, mode="bilinear", antialias=True)
    array: Float = resized[0, 0].numpy()
    return array
