"""What `synthesize` has to make: groups of samples, their share for each process, how long they take and how much disk."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from diffboost3d.cases.records import Case, Manifest, SyntheticRecord
from diffboost3d.cases.workspace import Workspace
from diffboost3d.diffusion.sampling import SamplingPlan
from diffboost3d.errors import WorkspaceError
from diffboost3d.imaging.files import bytes_of, ending_like, ending_of
from diffboost3d.imaging.scratch import Scratch
from diffboost3d.schema import SynthesizeConfig
from diffboost3d.synthesis.translated import TranslatedVolumes
from diffboost3d.synthesis.volumes import VolumeSampler

MARGIN = 1.1  # synthetic volumes compress about as well as their sources


@dataclass(frozen=True)
class Group:
    """Samples of one case that are denoised in the same batches; `missing` are those not on disk yet.

    A group is always sampled whole, so that what is made after an interruption, or by another number of processes, has the
    very bytes it would have had.
    """

    case: Case
    records: list[SyntheticRecord]
    missing: list[SyntheticRecord]

    @property
    def voxels(self) -> int:
        """Voxels to be denoised."""
        i, j, k = self.case.grid.shape
        return i * j * k * len(self.records)


def groups_of(
    records: Sequence[SyntheticRecord],
    missing: Sequence[SyntheticRecord],
    manifest: Manifest,
    axis: int,
    sampler: VolumeSampler | TranslatedVolumes,
) -> list[Group]:
    """The groups that have something missing; `records` are in the order of their cases."""
    lacking = {(record.case, record.sample) for record in missing}
    groups = []
    for name, of_case in itertools.groupby(records, key=lambda record: record.case):
        case = manifest.case(name)
        samples, together = list(of_case), sampler.together(case.grid.shape, axis)
        for first in range(0, len(samples), together):
            block = samples[first : first + together]
            open_ones = [record for record in block if (record.case, record.sample) in lacking]
            if open_ones:
                groups.append(Group(case, block, open_ones))
    return groups


def shares(groups: Sequence[Group], processes: int) -> list[list[Group]]:
    """A share for each process, as even as groups allow: the largest group goes first, to who has least (Graham 1969)."""
    loads = [0] * processes
    owners = {}
    for number in sorted(range(len(groups)), key=lambda number: -groups[number].voxels):
        owner = loads.index(min(loads))
        owners[number] = owner
        loads[owner] += groups[number].voxels
    return [[group for number, group in enumerate(groups) if owners[number] == rank] for rank in range(processes)]


def forecast(
    parts: Sequence[Sequence[Group]], seconds_a_voxel: float, needed_bytes: int, free_bytes: int, done: int
) -> str:
    """In words, before the work begins: how many volumes, how long, how much disk."""
    count = sum(len(group.missing) for part in parts for group in part)
    longest = max(sum(group.voxels for group in part) for part in parts)
    on = f" with {len(parts)} processes" if len(parts) > 1 else ""
    there = f" ({done} are there)" if done else ""
    return (
        f"{count} volume{'' if count == 1 else 's'} to make{there}, about {duration(longest * seconds_a_voxel)}{on}, "
        f"{size_in_words(needed_bytes)} of disk ({size_in_words(free_bytes)} free)"
    )


def disk_needed(workspace: Workspace, manifest: Manifest, missing: Sequence[SyntheticRecord]) -> int:
    """Bytes that the missing volumes take, by the size of their source files."""
    sizes: dict[str, int] = {}
    for record in missing:
        if record.case not in sizes:
            case = manifest.case(record.case)
            paths = [workspace.source(manifest, path) for path in case.images]
            i, j, k = case.source_grid.shape
            same = ending_like(case.image) == ending_of(case.image)
            there = same and all(path.is_file() for path in paths)
            sizes[record.case] = sum(map(bytes_of, paths)) if there else i * j * k
    return round(MARGIN * sum(sizes[record.case] for record in missing))


def files_in_use(scratch: Scratch, manifest: Manifest, missing: Sequence[SyntheticRecord], processes: int) -> int:
    """Bytes of the temporary files that are there at the same time, where each process makes the largest volume."""
    shapes = [manifest.case(name).grid.shape for name in {record.case for record in missing}]
    return processes * manifest.channel_count * max(map(scratch.file_bytes, shapes), default=0)


def require_disk(workspace: Workspace, needed_bytes: int, temporary_bytes: int = 0) -> int:
    """The free bytes. Raises WorkspaceError where they don't hold what is to be made, or the files that come and go meanwhile."""
    there = shutil.disk_usage(workspace.root).free
    if needed_bytes + temporary_bytes > there:
        parts = f" ({size_in_words(temporary_bytes)} of it for temporary files)" if temporary_bytes else ""
        remedy = ", raise synthesize.memory_gb" if temporary_bytes else ""
        raise WorkspaceError(
            f"synthesize needs about {size_in_words(needed_bytes + temporary_bytes)}{parts} and the disk of {workspace.root} has "
            f"{size_in_words(there)} free; free some{remedy}, or lower synthesize.samples"
        )
    return there


def sampling_plan(settings: SynthesizeConfig) -> SamplingPlan:
    """The numbers that sampling needs."""
    return SamplingPlan(
        steps=settings.steps,
        sampler=settings.sampler,
        step_power=settings.step_power,
        guidance_scale=settings.guidance_scale,
        control_guidance_scale=settings.control_guidance_scale,
        guidance_rescale=settings.guidance_rescale,
        guidance_range=(settings.guidance_range[0], settings.guidance_range[1]),
        control_strength=settings.control_strength,
        guess_mode=settings.guess_mode,
        strength=settings.strength,
        eta=settings.eta,
    )


def duration(seconds: float) -> str:
    """In words: s, min, h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def size_in_words(count: int) -> str:
    """Bytes in words: kB, MB, GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{max(1, round(count / 1e3))} kB"
