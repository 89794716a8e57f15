"""Training slices for the generator: image and control of a random slice, moved together, with its noise and timestep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from diffboost3d.diffusion.codecs import Codec, latent_shape, padded_size
from diffboost3d.diffusion.looks import LOOKS, with_look
from diffboost3d.diffusion.text import Tokenizer
from diffboost3d.imaging.channels import channels_of
from diffboost3d.seeds import generator


@dataclass(frozen=True)
class SliceSource:
    """A prepared volume: image (I, J, K) or (C, I, J, K) in [-1, 1], control (C, I, J, K) in [0, 1], and how often it is drawn.

    `second_control` is that of slices across the second axis, whose neighbours are others; needed with `SlicePlan.second_axis`.
    """

    image: NDArray[np.float32]
    control: NDArray[np.float32]
    weight: float = 1.0
    second_control: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class SliceDraw:
    """What is random about one training slice."""

    source: int
    axis: int
    position: int
    degrees: float
    scale: float
    shift: tuple[float, float]
    drop_text: bool
    drop_control: bool
    timestep: int
    noise_seed: int
    look: str


@dataclass(frozen=True)
class SlicePlan:
    """How slices are drawn: size (A, B) in voxels, jitter, drops, and the key of the random draws.

    Attributes:
        jitter: share of the slices that are rotated and scaled. The others are cut out on whole voxels and keep their finest
            detail: interpolated images are smoother, and a generator that sees only these makes only these.
        looks: share of the slices that are given one of `looks.LOOKS` and its word.
        stack: consecutive slices a sample, moved alike; with 1 a sample is a slice and has no axis for them.
        second_axis: half of the samples are of slices across this axis; None: all are across `axis`.
        spacing_mm: of the volumes, so that slices of oblong voxels turn without shear.
    """

    size: tuple[int, int]
    axis: int
    rotation_degrees: float
    scale: tuple[float, float]
    drop_text: float
    drop_control: float
    timesteps: int
    seed: int
    purpose: str
    looks: float = 0.0
    jitter: float = 1.0
    stack: int = 1
    second_axis: int | None = None
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def still(self) -> SlicePlan:
        """The same without jitter, drops and looks, drawn anew: for validation."""
        return replace(
            self,
            rotation_degrees=0.0,
            scale=(1.0, 1.0),
            drop_text=0.0,
            drop_control=0.0,
            looks=0.0,
            jitter=0.0,
            purpose=f"{self.purpose} validation",
        )


class SliceDataset(Dataset[dict[str, torch.Tensor]]):
    """Sample number -> image (1, A, B), control (C, A, B), tokens (T,), noise (c, h, w), timestep (); nothing else is random.

    Of images with N channels: image (N, A, B).

    With stacks of S slices: image (S, 1, A, B), control (S, C, A, B), noise (S, c, h, w); a volume of fewer repeats its last.
    """

    def __init__(
        self, sources: Sequence[SliceSource], prompt: str, tokenizer: Tokenizer, codec: Codec, plan: SlicePlan
    ) -> None:
        self.sources, self.plan = sources, plan
        weights = np.array([source.weight for source in sources])
        self._shares = weights / weights.sum()
        self._latent = latent_shape(codec, plan.size)
        self._tokens = {"": tokenizer(prompt)}
        self._tokens |= {look: tokenizer(f"{prompt}, {look}") for look in LOOKS if plan.looks}
        self._no_tokens = tokenizer("")
        self._channels = len(channels_of(sources[0].image))

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        draw = self.draw(number)
        source = self.sources[draw.source]
        last, own = source.image.shape[-3:][draw.axis] - 1, self._channels
        slices = [self._slice(source, min(draw.position + at, last), draw) for at in range(self.plan.stack)]
        noise = torch.randn(len(slices), *self._latent, generator=torch.Generator().manual_seed(draw.noise_seed))
        images, controls = (
            torch.stack([moved[:own] for moved in slices]),
            torch.stack([moved[own:] for moved in slices]),
        )
        if draw.look:
            images = with_look(images, draw.look, draw.noise_seed + 1)
        controls = torch.zeros_like(controls) if draw.drop_control else controls.clamp(0.0, 1.0)
        single = self.plan.stack == 1
        return {
            "image": images[0] if single else images,
            "control": controls[0] if single else controls,
            "tokens": self._no_tokens if draw.drop_text else self._tokens[draw.look],
            "noise": noise[0] if single else noise,
            "timestep": torch.tensor(draw.timestep),
        }

    def _slice(self, source: SliceSource, position: int, draw: SliceDraw) -> torch.Tensor:
        """Image and control (N + C, A, B) of one slice, moved."""
        volume = source.control if draw.axis == self.plan.axis else source.second_control
        if volume is None:
            raise ValueError("slices across a second axis need their own control")
        image = torch.from_numpy(np.take(channels_of(source.image), position, axis=draw.axis + 1))
        control = torch.from_numpy(np.take(volume, position, axis=draw.axis + 1))
        a, b = (space for axis, space in enumerate(self.plan.spacing_mm) if axis != draw.axis)
        return move_slice(torch.cat([image, control]), self.plan.size, draw.degrees, draw.scale, draw.shift, b / a)

    def draw(self, number: int) -> SliceDraw:
        """The random choices of a sample."""
        plan = self.plan
        random = generator(plan.seed, plan.purpose, number)
        source = int(random.choice(len(self.sources), p=self._shares))
        shape = self.sources[source].image.shape[-3:]
        across = self._axis(number)
        position = int(random.integers(max(1, shape[across] - plan.stack + 1)))
        sides = [size for axis, size in enumerate(shape) if axis != across]
        free = [max(0, side - wanted) / 2 for side, wanted in zip(sides, plan.size, strict=True)]
        jitters = random.random() < plan.jitter
        return SliceDraw(
            source,
            across,
            position,
            degrees=float(random.uniform(-plan.rotation_degrees, plan.rotation_degrees)) if jitters else 0.0,
            scale=float(random.uniform(*plan.scale)) if jitters else 1.0,
            shift=(float(random.uniform(-free[0], free[0])), float(random.uniform(-free[1], free[1]))),
            drop_text=bool(random.random() < plan.drop_text),
            drop_control=bool(random.random() < plan.drop_control),
            timestep=int(random.integers(plan.timesteps)),
            noise_seed=int(random.integers(2**62)),
            look=str(random.choice(list(LOOKS))) if random.random() < plan.looks else "",
        )

    def _axis(self, number: int) -> int:
        """Across which axis a sample is cut; by a stream of its own, so that without a second axis no draw is another."""
        plan = self.plan
        if plan.second_axis is None or generator(plan.seed, plan.purpose, number, "plane").random() < 0.5:
            return plan.axis
        return plan.second_axis


def move_slice(
    channels: torch.Tensor,
    size: tuple[int, int],
    degrees: float,
    scale: float,
    shift: tuple[float, float],
    aspect: float = 1.0,
) -> torch.Tensor:
    """Rotate and scale channels (C, A, B) about their centre and cut a window (C, *size) that is `shift` voxels off centre.

    `aspect` is the voxel's length along B over that along A.

    All channels move alike; beyond the border the nearest voxel is repeated in all of them, so that control and image agree
    there too. Without rotation and scaling the window lies on whole voxels and nothing is interpolated; else splines of
    third order are, and values stay within the range of their channel.
    """
    if degrees == 0.0 and scale == 1.0:
        return _whole_voxels(channels, size, shift)
    from scipy.ndimage import map_coordinates

    cos, sin = math.cos(math.radians(degrees)) / scale, math.sin(math.radians(degrees)) / scale
    sides = channels.shape[1:]
    window = [np.arange(wanted) - (wanted - 1) / 2 for wanted in size]
    a, b = np.meshgrid(*window, indexing="ij")
    at = (
        cos * a - sin * b * aspect + shift[0] + (sides[0] - 1) / 2,
        sin * a / aspect + cos * b + shift[1] + (sides[1] - 1) / 2,
    )
    moved = [
        np.clip(map_coordinates(channel, at, order=3, mode="nearest"), channel.min(), channel.max())
        for channel in channels.numpy()
    ]  # splines overshoot
    return torch.from_numpy(np.stack(moved))


def _whole_voxels(channels: torch.Tensor, size: tuple[int, int], shift: tuple[float, float]) -> torch.Tensor:
    """The window (C, *size), nearest to `shift` off centre, without interpolation.

    What a window has beyond the image lies at its end, as `codecs.padded` puts it for sampling: a network that saw repeated
    voxels on all sides would make them on all sides.
    """
    at = []
    for side, wanted, off in zip(channels.shape[1:], size, shift, strict=True):
        first = max(0, math.floor((side - wanted) / 2 + off + 0.5))
        at.append((torch.arange(wanted) + first).clamp(0, side - 1))
    return channels[:, at[0]][:, :, at[1]]


def training_size(
    shapes: Sequence[tuple[int, ...]], axis: int, divisor: int, largest: int, second_axis: int | None = None
) -> tuple[int, int]:
    """Slice size (A, B) that covers every volume, as multiples of `divisor`, at most `largest` (rounded down) a side.

    With a second axis it covers the slices across either.
    """
    axes = [axis] if second_axis is None else [axis, second_axis]
    sides = np.max(
        [[size for index, size in enumerate(shape) if index != across] for shape in shapes for across in axes], axis=0
    )
    limit = max(divisor, largest // divisor * divisor)
    a, b = (min(limit, side) for side in padded_size(sides, divisor))
    return int(a), int(b)
