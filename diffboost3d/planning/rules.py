"""The rules of a plan: numbers of the data and of the machine in, settings out. Pure, each with its source.

Those of the segmenter are nnU-Net's: Isensee et al., Nature Methods 18:203-211, 2021, with its supplement; in its public code
`default_experiment_planner.py`. Those of the generator are our own; they hold what this package was tried with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from diffboost3d.segmentation.topology import Axes, Topology

ANISOTROPIC = 3.0  # nnU-Net: a spacing this many times the others', on an axis with this many times fewer voxels
LEAST_BATCH = 2  # nnU-Net: patches a step at least
DATA_SHARE = 0.05  # nnU-Net: a step sees at most this share of the voxels of all images
COVERED = (
    0.25  # nnU-Net: below this share of the median image a patch sees too little, and a coarser grid is worth a look
)
WIDEST = 256  # channels of a planned U-Net's deepest levels
LARGEST_MAP = 128  # sides of the maps that this package's generators were tried with
FACTORS = (2, 4)  # of the haar codec
LEAST_SLICES = 4  # of a generator's batch; below, slices are cropped instead
LEAST_SIZE = 64  # side of a training slice that is not cropped further

Size = tuple[int, int, int]


# --- grid ------------------------------------------------------------------------------------------------------------
def target_spacing(spacings_mm: ArrayLike, shapes: ArrayLike) -> tuple[tuple[float, float, float], str]:
    """Spacing in mm along three axes, and why: nnU-Net's rule for full resolution.

    The median of each axis. But where the coarsest axis is more than 3 times as coarse as both others and has less than a third
    of their voxels, its 10th percentile, never finer than the others: else most cases would lose slices that they have.

    Args:
        spacings_mm, shapes: (cases, 3).
    """
    spacing, sizes = np.asarray(spacings_mm, dtype=float), np.asarray(shapes, dtype=float)
    middle, voxels = np.median(spacing, axis=0), np.median(sizes, axis=0)
    worst = int(np.argmax(middle))
    others = [axis for axis in range(3) if axis != worst]
    coarsest_other = float(middle[others].max())
    why = f"median of {len(spacing)} cases"
    if middle[worst] > ANISOTROPIC * coarsest_other and voxels[worst] * ANISOTROPIC < voxels[others].min():
        fine = float(np.percentile(spacing[:, worst], 10))
        middle[worst] = max(fine, coarsest_other)
        why += f"; axis {worst} is thick, so its 10th percentile"
    i, j, k = (round(float(value), 3) for value in middle)
    return (i, j, k), why


# --- segmenter -------------------------------------------------------------------------------------------------------
def plan_patch(
    median_shape: Sequence[int],
    divisor_of: Callable[[Sequence[int]], Axes],
    fits: Callable[[Sequence[int]], bool],
) -> tuple[int, ...]:
    """A patch (two or three axes): as large as the median image, then smaller until it fits. nnU-Net's rule.

    Sides are multiples of the network's divisors. Each time the axis that is longest relative to the median image loses one
    divisor. Where nothing fits, the smallest patch comes out.

    Args:
        divisor_of: divisors of the network that is planned for a patch. fits: whether a patch fits.
    """
    patch = _padded(median_shape, divisor_of(median_shape))
    while not fits(patch):
        divisors = divisor_of(patch)
        long = [axis for axis, side in enumerate(patch) if side > divisors[axis]]
        if not long:
            break
        axis = max(long, key=lambda one: patch[one] / median_shape[one])
        smaller = [side - divisors[axis] if at == axis else side for at, side in enumerate(patch)]
        patch = _padded(smaller, divisor_of(smaller))
    return patch


def _padded(sides: Sequence[int], divisors: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.ceil(side / divisor) * divisor for side, divisor in zip(sides, divisors, strict=True))


def plan_batch(fitting: int, patch_voxels: int, data_voxels: int, most: int) -> int:
    """Patches a step: as many as fit, at most 5 % of all voxels of the data set (nnU-Net) and `most`, at least 2."""
    share = round(DATA_SHARE * data_voxels / patch_voxels)
    return max(LEAST_BATCH, min(fitting, share, most))


def planned_unet(topology: Topology, width: int) -> dict[str, Any]:
    """Arguments of MONAI's UNet for planned levels: channels that double from `width` on, at most 256 (nnU-Net: 320)."""
    strides = [list(one) for one in topology.strides[1:]]
    channels = [min(width * 2**level, max(width, WIDEST)) for level in range(len(strides) + 1)]
    return {"channels": channels, "strides": [one[0] if len(set(one)) == 1 else one for one in strides]}


def windows(shape: Sequence[int], patch: Sequence[int], overlap: float) -> int:
    """Windows of a sliding-window inference over an image, as MONAI's `sliding_window_inference` lays them."""
    count = 1
    for side, own in zip(shape, patch, strict=True):
        step = max(1, int(own * (1 - overlap)))
        count *= 1 if side <= own else math.ceil((side - own) / step) + 1
    return count


# --- generator -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class SlicePlan:
    """Slices of a generator's training: factor of the codec, largest side in voxels, slices a step."""

    factor: int
    max_size: int
    batch: int


def codec_factor(longest: int) -> int:
    """Factor of the haar codec for slices with this longest side: the smallest whose maps have sides of at most 128.

    It is exact at any factor; a larger one makes maps of fewer voxels and more channels, which cost less and are harder to
    learn. Beyond 512 voxels slices are cropped.
    """
    return next((factor for factor in FACTORS if longest <= LARGEST_MAP * factor), FACTORS[-1])


def plan_slices(
    longest: int, factor: int, levels: int, batch: int, stack: int, fits: Callable[[int, int], bool]
) -> SlicePlan:
    """Size and number of training slices: whole slices (sides of maps at most 128) and the wanted batch, if they fit.

    Else the batch is halved down to 4, then the size down to 64. Sizes are multiples of the network's divisor, batches of the
    stack.

    Args:
        levels: of the U-Net. batch: wanted. stack: slices that go together. fits: (side, batch) -> whether it fits.
    """
    divisor = factor * 2 ** (levels - 1)
    size = min(math.ceil(longest / divisor) * divisor, max(divisor, LARGEST_MAP * factor // divisor * divisor))
    wanted = max(stack, batch // stack * stack)
    least = max(stack, math.ceil(min(LEAST_SLICES, wanted) / stack) * stack)
    while not fits(size, wanted):
        halved = wanted // 2 // stack * stack
        if halved >= least:
            wanted = halved
        elif size // 2 >= max(LEAST_SIZE, divisor):
            size = math.ceil(size / 2 / divisor) * divisor
        else:
            break
    return SlicePlan(factor, size, wanted)


def denoised_voxels(budget: int, bytes_a_voxel: float, plane: int, most: int) -> int:
    """`synthesize.batch_voxels`: what fits into a memory of `budget` bytes, from one slice of `plane` voxels to `most`."""
    return int(max(plane, min(most, budget / max(bytes_a_voxel, 1e-9))))


# --- machine ---------------------------------------------------------------------------------------------------------
def memory_for_volumes(free_memory: int) -> float:
    """`synthesize.memory_gb`: a quarter of the free main memory, at most 8 GB; beyond it lie temporary files."""
    return float(max(0.5, min(8.0, round(free_memory / 4e9, 1))))
