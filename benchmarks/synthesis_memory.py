"""Peak memory of synthesising a 512 x 512 x 300 CT volume with the small generator on the haar codec, and of refining it.

    python benchmarks/synthesis_memory.py --folder FOLDER

Makes CT-like volumes (int16, HU; no data needed) of 512 x 512 pixels and few or many slices below FOLDER, each as a workspace of
one case with an untrained generator of the sizes of `diffusion=small`, and runs `diffboost3d synthesize` on each in a
process of its own, whose peak the kernel counts:

- the whole command on few slices, one denoising step and three of the refiner: memory doesn't depend on how many there are
  beyond these; the gate refuses what an untrained generator makes, so that all is drawn twice;
- the same, and 100, 200 and 300 slices (`--slices`), with both networks left out (the generator's images are the ones it
  starts from, the refiner's blocks come back as they are): reading, control, noise, assembling, the refiner's blocks and
  steps, spectrum, units and writing are those of the real command.

What the networks cost is the largest difference of the first two. The peak is that of 300 slices without them plus that
cost, although both are not alive at the same time; the line through the runs without them says what a slice costs.
Runs on Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from diffboost3d.cases.records import Case, Manifest, Split
from diffboost3d.cases.workspace import Workspace, versions
from diffboost3d.config import compose
from diffboost3d.imaging.files import write_prepared
from diffboost3d.imaging.geometry import Grid, resample
from diffboost3d.imaging.intensity import IntensityMap
from diffboost3d.seeds import generator
from diffboost3d.stages.generator_start import first_generator
from diffboost3d.stages.generator_training import shape_of

RESULT = Path(__file__).resolve().parent / "results" / "synthesis_memory.json"
LIMIT_GB = 6.0
SEED, SIDE, SLICES = 0, 512, 300
WITH_NETWORK = (4, 8)
WORDS = (
    "diffusion=small",
    "synthesize.samples=1",
    "synthesize.steps=2",
    "synthesize.refine_steps=3",
    "gate.attempts=2",
    "runtime.device=cpu",
    "runtime.threads=1",
)
GB = 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="a folder for the volumes (5 GB)")
    parser.add_argument(
        "--slices",
        type=int,
        nargs="+",
        default=[100, 200, SLICES],
        help=f"of the volumes that the line goes through; with fewer than {SLICES} the peak is the line's",
    )
    parser.add_argument("--worker", choices=("network", "none"), help="used by the script itself")
    parser.add_argument(
        "overrides", nargs="*", help="of the configuration, e.g. synthesize.memory_gb=1; keep no result"
    )
    given = parser.parse_args()
    if given.worker:
        return worker(given.folder, given.worker == "network", given.overrides)
    with_network = {count: measured(given, count, "network") for count in WITH_NETWORK}
    without = {count: measured(given, count, "none") for count in (*WITH_NETWORK, *given.slices)}
    network = max(with_network[count]["peak_gb"] - without[count]["peak_gb"] for count in WITH_NETWORK)
    slope, offset = np.polyfit(given.slices, [without[count]["peak_gb"] for count in given.slices], 1)
    line = float(offset + slope * SLICES)
    result = {
        "peak_gb": round(without.get(SLICES, {"peak_gb": line})["peak_gb"] + network, 3),
        "limit_gb": LIMIT_GB,
        "shape": [SIDE, SIDE, SLICES],
        "network_gb": round(network, 3),
        "line_gb": {"a_slice": round(float(slope), 5), "at_0": round(float(offset), 3)},
        "line_at_300_gb": round(line + network, 3),
        "bytes_a_voxel": round(float(slope) * GB / SIDE**2, 1),
        "runs_with_network": with_network,
        "runs_without_network": without,
        "evaluations": 1,
        "settings": list(WORDS) + given.overrides,
        "command": f"python benchmarks/synthesis_memory.py --folder FOLDER --slices {' '.join(map(str, given.slices))}",
        "machine": {"cores": os.cpu_count(), "threads": 1, "processor": platform.machine()},
        "versions": versions(),
        "seeds": [SEED],
    }
    print(json.dumps(result, indent=1))
    if not given.overrides:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    if result["peak_gb"] > LIMIT_GB:
        raise SystemExit(f"{result['peak_gb']} GB is above the limit of {LIMIT_GB} GB")


def measured(given: argparse.Namespace, slices: int, network: str) -> dict[str, float]:
    """Run the command on a volume of so many slices in a process of its own."""
    folder = given.folder / f"{slices}"
    if not (folder / "ws" / "diffusion").is_dir():
        write_case(folder, slices)
    shutil.rmtree(folder / "ws" / "synthetic", ignore_errors=True)
    call = [sys.executable, __file__, "--folder", str(folder), "--worker", network, *given.overrides]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    print(slices, network, found, flush=True)
    return found


def worker(folder: Path, network: bool, overrides: list[str]) -> None:
    """Synthesize, and print the peak of this process."""
    import torch

    from diffboost3d.cli import main as diffboost3d
    from diffboost3d.refinement.networks import Refiner
    from diffboost3d.synthesis import volumes

    def started_from(*given: Any, **more: Any) -> torch.Tensor:
        start: torch.Tensor = given[8]
        return start.clone()

    if not network:
        volumes.sample = started_from
        Refiner.forward = lambda self, noisy, sigma, texture: noisy.clone()  # type: ignore[method-assign]
    # the short trial that the forecast of the time rests on takes as long as this run, and needs no more memory
    volumes.VolumeSampler.seconds_a_slice = lambda *given: 0.0  # type: ignore[method-assign]
    before = memory_gb("VmRSS")
    if diffboost3d(["synthesize", f"workspace={folder / 'ws'}", *WORDS, *overrides]):
        raise SystemExit("synthesize failed")
    peak, own = memory_gb("VmHWM"), memory_gb("VmRSS")
    print(json.dumps({"peak_gb": round(peak, 3), "start_gb": round(before, 3), "end_gb": round(own, 3)}))


def write_case(folder: Path, slices: int) -> None:
    """A workspace as `prepare` and `finetune` leave it: one CT-like case, stored L, P, S as scanners do."""
    import nibabel as nib

    config = compose([*WORDS, f"data.root={folder / 'data'}", f"workspace={folder / 'ws'}"])
    source = Grid.of((SIDE, SIDE, slices), np.diag([-0.8, -0.8, 1.5, 1.0]))
    grid = source.canonical()
    hounsfield, label = scan(slices)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(hounsfield, source.matrix)
    nib.save(image, folder / "data" / "case.nii.gz")
    intensity = IntensityMap("ct_window", -160.0, 240.0, "HU")
    prepared = resample(intensity.forward(hounsfield), source, grid)
    edges = np.abs(np.diff(prepared, axis=0, append=prepared[-1:])).clip(0, 1)
    workspace = Workspace(folder / "ws")
    for kind, array in (("image", prepared), ("edge", edges), ("label", resample(label, source, grid, "nearest"))):
        write_prepared(workspace.prepared("case", kind), array, grid)
    case = Case("case", "case", "case.nii.gz", "case.nii.gz", source, grid, intensity, "made by a benchmark")
    labels = {"background": 0, "liver": 1, "kidney": 2}
    manifest = Manifest("benchmark", "CT", "Abdomen, CT", labels, "../data", 3, True, "none", (case,))
    workspace.write_manifest(manifest)
    workspace.write_splits([Split(("case",), (), (), ())])
    workspace.write_config("finetune", "")
    write_generator(config, workspace, manifest)


def write_generator(config: Any, workspace: Workspace, manifest: Manifest) -> None:
    """And a refiner; untrained, with the scales of the codec set as training would."""
    import torch

    from diffboost3d.diffusion.weights import save_generator
    from diffboost3d.refinement.weights import save_refiner
    from diffboost3d.stages.inputs import prepared
    from diffboost3d.stages.refiners import STAGE, new_refiner, shape_of_refiner

    denoiser, scheduler, codec = first_generator(config, workspace, manifest, 0)
    codec.scales = tuple([1.0] * codec.channels)  # type: ignore[attr-defined]
    torch.manual_seed(SEED)
    save_generator(workspace.finetuned(0), denoiser, scheduler, codec)
    workspace.finish(workspace.finetuned(0), "finetune", "untrained", "now", shape=shape_of(config))
    image = np.asarray(prepared(workspace, manifest.cases[0], "image"), np.float32)
    save_refiner(workspace.refiner(0), new_refiner(config, [image], SEED))
    workspace.finish(workspace.refiner(0), STAGE, "untrained", "now", shape=shape_of_refiner(config))


def scan(slices: int) -> tuple[Any, Any]:
    """Hounsfield units int16 and labels uint8 (512, 512, slices): a body with two organs in air, noisy."""
    i, j = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) / (SIDE / 2)
    hounsfield = np.empty((SIDE, SIDE, slices), np.int16)
    label = np.zeros((SIDE, SIDE, slices), np.uint8)
    for k in range(slices):
        shift = 0.1 * np.sin(k / 40)
        body = (i / 0.85) ** 2 + (j / 0.65) ** 2 < 1
        label[..., k] = ((i - 0.3 - shift) ** 2 + j**2 < 0.25**2) + 2 * ((i + 0.4) ** 2 + (j - shift) ** 2 < 0.15**2)
        value = np.where(body, 45.0, -1000.0) + 55 * (label[..., k] == 1) + 100 * (label[..., k] == 2)
        value += generator(SEED, "slice", k).normal(0, 15, value.shape)
        hounsfield[..., k] = np.round(value).clip(-1024, 3071)
    return hounsfield, label


def memory_gb(line: str) -> float:
    """Resident memory (VmRSS) of this process now, or its peak (VmHWM)."""
    match = re.search(rf"^{line}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if match is None:
        raise SystemExit(f"this system does not tell {line}")
    return int(match.group(1)) * 1024 / GB


if __name__ == "__main__":
    main()
