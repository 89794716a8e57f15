"""Is an image a copy? Similarity of fine detail between a volume and the images that a generator has learned from.

Anatomy is alike in all people, noise and texture are not. So volumes are compared by what a fine high-pass filter leaves,
with its local contrast evened out, in blocks large enough that chance agrees little: blocks of 4096 voxels of unlike detail
correlate by about 0.02, and the best of a hundred thousand places by about 0.1; shared anatomy adds to that, so real images of
different patients are the yardstick. A copy correlates by 1, wherever it lies within the search.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.imaging.channels import channels_of

Float = NDArray[np.float32]
Size = tuple[int, int, int]

FINE_SIGMA, EVEN_SIGMA = 1.0, 2.0  # voxels of the finest axis: what is finer than the first is detail
TRUNCATE = 3.0
MARGIN = 10  # voxels that both filters reach together
FAINTEST = 0.005  # of a range of 2; weaker detail is rounding and is not blown up
EMPTY = 0.05  # a window with less than this share of the median energy has no detail to compare


@dataclass(frozen=True)
class Places:
    """Where blocks are cut from volumes: the same places, counted from the centre, in all of them.

    Attributes:
        block: sides of a block in voxels. search: by how many voxels it is moved on each axis, both ways.
        offsets: (N, 3) in voxels, of the centres of blocks from the centre of the volume.
    """

    block: Size
    search: Size
    offsets: tuple[tuple[float, float, float], ...]

    @property
    def window(self) -> Size:
        """Sides of a block with all its moves."""
        i, j, k = (side + 2 * move for side, move in zip(self.block, self.search, strict=True))
        return (i, j, k)


@dataclass(frozen=True)
class Nearest:
    """The most similar block of all.

    Attributes:
        similarity: -1 to 1. image, place: their numbers. shift: from the place in the volume to that in the image, in voxels.
    """

    similarity: float
    image: int
    place: int
    shift: Size


def places(shape: Sequence[int], voxels: int, most: int, search: int) -> Places:
    """Places side by side over a volume of `shape`.

    Args:
        voxels: of a block, about; sides are equal where the volume is large enough, else its own.
        most: blocks; of more, evenly spread ones are taken. search: voxels; none along an axis of one voxel.
    """
    block = _block(shape, voxels)
    counts = [max(1, side // own) for side, own in zip(shape, block, strict=True)]
    axes = [(np.arange(count) - (count - 1) / 2) * (side / count) for count, side in zip(counts, shape, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    chosen = grid[np.linspace(0, len(grid) - 1, min(most, len(grid))).round().astype(int)]
    moves = (search if shape[0] > 1 else 0, search if shape[1] > 1 else 0, search if shape[2] > 1 else 0)
    return Places(block, moves, tuple((float(i), float(j), float(k)) for i, j, k in chosen))


def _block(shape: Sequence[int], voxels: int) -> Size:
    """Sides of a block: short axes whole, the others equal."""
    sides, left, product = [0, 0, 0], 3, float(voxels)
    for axis in np.argsort(shape, kind="stable"):
        sides[axis] = max(1, min(int(shape[axis]), round(product ** (1 / left))))
        product, left = max(1.0, product / sides[axis]), left - 1
    return (sides[0], sides[1], sides[2])


def fine_detail(volume: NDArray[Any], spacing_mm: Sequence[float]) -> Float:
    """What is finer than a Gaussian of a voxel (of the finest axis), divided by its own local strength.

    Args:
        volume: (I, J, K) in [-1, 1].

    Returns:
        (I, J, K), about -3 to 3; near 0 where the volume is even.
    """
    from scipy.ndimage import gaussian_filter

    finest = min(spacing_mm)
    fine, even = ([sigma * finest / space for space in spacing_mm] for sigma in (FINE_SIGMA, EVEN_SIGMA))
    array = np.asarray(volume, np.float32)
    high = array - gaussian_filter(array, fine, mode="nearest", truncate=TRUNCATE)
    strength = gaussian_filter(high * high, even, mode="nearest", truncate=TRUNCATE)
    detail: Float = (high / np.sqrt(strength + FAINTEST**2)).astype(np.float32)
    return detail


def detail_blocks(volume: NDArray[Any], where: Places, size: Size, spacing_mm: Sequence[float]) -> Float:
    """The fine detail (N, *size) about every place; 0 beyond the volume. Only what lies about the places is filtered."""
    made = np.zeros((len(where.offsets), *size), np.float32)
    for block, offset in zip(made, where.offsets, strict=True):
        spans = [_span(*along) for along in zip(volume.shape, offset, size, strict=True)]
        if all(low < high for _, low, high in spans):
            near = tuple(
                slice(max(low - MARGIN, 0), min(high + MARGIN, side))
                for (_, low, high), side in zip(spans, volume.shape, strict=True)
            )
            inner = tuple(
                slice(low - around.start, high - around.start)
                for (_, low, high), around in zip(spans, near, strict=True)
            )
            target = tuple(slice(low - first, high - first) for first, low, high in spans)
            block[target] = fine_detail(volume[near], spacing_mm)[inner]
    return made


def _span(side: int, shift: float, wanted: int) -> tuple[int, int, int]:
    """First voxel of a block whose centre is `shift` from the middle of a side, and what of it is there (low, high)."""
    first = math.floor(side / 2 + shift - wanted / 2 + 0.5)
    return first, max(first, 0), min(first + wanted, side)


class DetailIndex:
    """The fine detail of images, ready to be searched.

    Images of several channels are compared channel by channel, and the largest similarity counts: a copy of one is a copy.

    Args:
        images: (I, J, K) or (C, I, J, K) each in [-1, 1], of any shape; read once, one after the other.

    Memory: about 8 bytes times images, channels, places and voxels of a window (0.15 MB for blocks of 16 voxels moved by 8).
    """

    def __init__(self, images: Iterable[NDArray[Any]], spacing_mm: Sequence[float], where: Places) -> None:
        import scipy.fft as fft

        self._where, self._spacing_mm = where, tuple(spacing_mm)
        first = np.zeros(where.window, np.float32)
        first[tuple(slice(side) for side in where.block)] = 1
        one = np.conj(fft.rfftn(first))
        spectra, energies = [], []
        self._channels = 1
        for image in images:
            channels = channels_of(image)
            self._channels = len(channels)
            for channel in channels:
                windows = detail_blocks(channel, where, where.window, spacing_mm)
                spectra.append(fft.rfftn(windows, axes=(1, 2, 3)))
                energies.append(self._moves(fft.rfftn(windows * windows, axes=(1, 2, 3)) * one))
        if not spectra:
            raise ValueError("there are no images to index")
        self._spectra, self._energies = np.stack(spectra), np.stack(energies)
        self._floor = EMPTY * float(np.median(self._energies)) + 1e-12

    def __len__(self) -> int:
        return len(self._spectra) // self._channels

    def nearest(self, volume: NDArray[Any], among: Iterable[int] | None = None) -> Nearest:
        """The most similar block over all images, places and moves.

        Args:
            volume: (I, J, K) or (C, I, J, K) in [-1, 1].
            among: numbers of the images that are asked about; None: all. Where there are none, the similarity is -1.
        """
        numbers = range(len(self)) if among is None else list(among)
        best = Nearest(-1.0, 0, 0, (0, 0, 0))
        for channel, one in enumerate(channels_of(volume)):
            found = self._nearest(one, channel, numbers)
            best = found if found.similarity > best.similarity else best
        return best

    def _nearest(self, volume: NDArray[Any], channel: int, among: Iterable[int]) -> Nearest:
        """Of one channel (I, J, K), among the same one of the images."""
        import scipy.fft as fft

        blocks = detail_blocks(volume, self._where, self._where.block, self._spacing_mm)
        padded = np.zeros((len(blocks), *self._where.window), np.float32)
        padded[(slice(None), *(slice(side) for side in self._where.block))] = blocks
        sought = np.conj(fft.rfftn(padded, axes=(1, 2, 3)))
        own = np.maximum((blocks * blocks).sum(axis=(1, 2, 3)), self._floor)[:, None, None, None]
        best = Nearest(-1.0, 0, 0, (0, 0, 0))
        for number in among:
            at = number * self._channels + channel
            products = self._moves(self._spectra[at] * sought)
            found = products / np.sqrt(own * np.maximum(self._energies[at], self._floor))
            if (highest := float(found.max())) > best.similarity:
                place, *move = np.unravel_index(int(found.argmax()), found.shape)
                i, j, k = (int(at) - most for at, most in zip(move, self._where.search, strict=True))
                best = Nearest(highest, number, int(place), (i, j, k))
        return best

    def _moves(self, product: NDArray[Any]) -> Float:
        """From a product of spectra the values for every move of a block within its window."""
        import scipy.fft as fft

        whole = fft.irfftn(product, s=self._where.window, axes=(1, 2, 3))
        moves: Float = whole[(slice(None), *(slice(2 * move + 1) for move in self._where.search))]
        return moves


def shared_detail(volume: NDArray[Any], other: NDArray[Any], spacing_mm: Sequence[float], where: Places) -> float:
    """Mean correlation of the fine detail of two volumes (I, J, K) of one grid, block by block in place; 0 for even ones.

    Of several channels (C, I, J, K), the largest of them. Blocks without detail in either volume count as 0.
    """
    if volume.shape != other.shape:
        raise ValueError(f"shapes differ: {volume.shape} and {other.shape}")
    if volume.ndim == 4:
        return max(shared_detail(first, second, spacing_mm, where) for first, second in zip(volume, other, strict=True))
    one, two = (detail_blocks(array, where, where.block, spacing_mm) for array in (volume, other))
    energies = [(blocks * blocks).sum(axis=(1, 2, 3)) for blocks in (one, two)]
    floors = [EMPTY * float(np.median(energy)) + 1e-12 for energy in energies]
    strength = np.sqrt(np.maximum(energies[0], floors[0]) * np.maximum(energies[1], floors[1]))
    return float(((one * two).sum(axis=(1, 2, 3)) / strength).mean())


def correlation(volume: NDArray[Any], other: NDArray[Any]) -> float:
    """Plain correlation of the voxels of two volumes laid centre on centre, over what both have; 0 where one is even.

    Of several channels (C, I, J, K), the largest of them.
    """
    if volume.ndim == 4:
        return max(correlation(first, second) for first, second in zip(volume, other, strict=True))
    sides = [min(pair) for pair in zip(volume.shape, other.shape, strict=True)]
    first, second = (
        array[tuple(slice((side - own) // 2, (side - own) // 2 + own) for side, own in zip(array.shape, sides, strict=True))]
        for array in (volume, other)
    )  # fmt: skip
    middles = [array.mean(dtype=np.float64) for array in (first, second)]
    powers, shared = np.zeros(2), 0.0
    for planes in zip(first, second, strict=True):  # plane by plane, so that no volume of float64 is made
        a, b = (plane.astype(np.float64) - middle for plane, middle in zip(planes, middles, strict=True))
        powers += (np.sum(a * a), np.sum(b * b))
        shared += float(np.sum(a * b))
    spread = float(np.sqrt(powers.prod()))
    return shared / spread if spread > 1e-12 * first.size else 0.0


def upper_limit(similarities: Sequence[float], share: float, most: float) -> float:
    """Above what a similarity is too high, judged by those of innocent volumes.

    The larger of the largest one given and the bound that a new one exceeds with probability `share`, were their Fisher
    transforms normal: mean + t(1 - share, n - 1) s sqrt(1 + 1/n), a prediction limit, which is wide where n is small. Never
    above `most`, and just that for fewer than two.
    """
    from scipy.stats import t

    values = np.asarray(similarities, np.float64)
    if len(values) < 2:
        return most
    turned = np.arctanh(np.clip(values, -0.999999, 0.999999))
    count = len(values)
    bound = turned.mean() + t.ppf(1 - share, count - 1) * turned.std(ddof=1) * math.sqrt(1 + 1 / count)
    return float(min(most, max(values.max(), math.tanh(bound))))
