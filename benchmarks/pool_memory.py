"""How much memory pre-training on a pool costs beyond the model's own: 200,000 listed files, streamed for 500 steps.

    python benchmarks/pool_memory.py --folder FOLDER

Makes a pool of small PNG files and hard links to them below FOLDER, trains a small denoiser for 20 steps on one volume in
memory, notes the resident memory, then lists the pool and trains for 500 steps on it in the same process. The difference
of the peak (as the kernel counts it, so with every passing copy) to the note goes to `benchmarks/results/pool_memory.json`.
Runs on Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from diffboost3d.cases.pool import open_pool
from diffboost3d.cases.prompts import read_abbreviations
from diffboost3d.cases.workspace import versions
from diffboost3d.config import configs_folder
from diffboost3d.diffusion.batches import SliceDataset, SlicePlan, SliceSource
from diffboost3d.diffusion.codecs import PackingCodec
from diffboost3d.diffusion.networks import ConditionalDenoiser, DenoiserPlan, build_denoiser
from diffboost3d.diffusion.objective import DenoisingObjective
from diffboost3d.diffusion.pool import PoolDataset, PoolPlan
from diffboost3d.diffusion.schedule import make_scheduler
from diffboost3d.imaging.edges import control_channels
from diffboost3d.seeds import generator

RESULT = Path(__file__).resolve().parent / "results" / "pool_memory.json"
LIMIT_MB = 300
SEED, BATCH, OWN_STEPS = 0, 4, 20
PICTURES, PICTURE_SIDE, PLACES = 2000, 160, 60
NEIGHBOURS, LABELS = 1, 2
CONTROLS = control_channels(LABELS, NEIGHBOURS, "separate")
PLAN = SlicePlan((48, 48), 2, 10.0, (0.9, 1.1), 0.1, 0.1, 1000, SEED, "pool")
CODEC = PackingCodec("haar", 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, required=True, help="a folder for the pool (70 MB) on a disk with hard links"
    )
    parser.add_argument(
        "--files", type=int, default=200_000, help="listed files; fewer are for a try and keep no result"
    )
    parser.add_argument("--steps", type=int, default=500)
    given = parser.parse_args()
    torch.set_num_threads(1)
    root = given.folder / "pool"
    write_pool(root, given.files)

    torch.manual_seed(SEED)
    denoiser = small_denoiser()
    objective = DenoisingObjective(denoiser, make_scheduler(1000, "squaredcos_cap_v2", "v_prediction", True), CODEC)
    optimizer = torch.optim.AdamW(objective.parameters(), 5e-4)
    train(objective, optimizer, in_memory(denoiser), OWN_STEPS)
    own_mb = memory_mb("VmRSS")

    index = open_pool(root, given.folder / "index", refresh=True)
    listed_mb = memory_mb("VmRSS")
    abbreviations = read_abbreviations(configs_folder() / "pool" / "abbreviations.yaml")
    pool = PoolPlan(edge_channels=2 * NEIGHBOURS + 1, label_channels=LABELS)
    dataset = PoolDataset(index, abbreviations, denoiser.tokenizer, CODEC, PLAN, pool)
    rows = train(objective, optimizer, dataset, given.steps)

    result = {
        "extra_mb": round(memory_mb("VmHWM") - own_mb, 1),
        "limit_mb": LIMIT_MB,
        "own_mb": round(own_mb, 1),
        "after_listing_mb": round(listed_mb - own_mb, 1),
        "extra_mb_after_step": {step: round(row - own_mb, 1) for step, row in rows.items()},
        "files": index.facts["files"],
        "files_on_disk": PICTURES,
        "index_bytes": sum(path.stat().st_size for path in index.folder.iterdir()),
        "steps": given.steps,
        "batch": BATCH,
        "size": PLAN.size,
        "loader_workers": 0,
        "command": f"python benchmarks/pool_memory.py --folder FOLDER --files {given.files} --steps {given.steps}",
        "machine": {"cores": os.cpu_count(), "threads": 1, "processor": platform.machine()},
        "versions": versions(),
        "seeds": [SEED],
    }
    print(json.dumps(result, indent=1))
    if given.files == parser.get_default("files") and given.steps == parser.get_default("steps"):
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    if result["extra_mb"] > LIMIT_MB:
        raise SystemExit(f"{result['extra_mb']} MB is above the limit of {LIMIT_MB} MB")


def write_pool(root: Path, files: int) -> None:
    """Noisy discs as PNG, each under many names in three modalities; left as it is where it is there."""
    if root.is_dir():
        return
    pictures, new = root.with_name("pictures"), root.with_name("unfinished")
    shutil.rmtree(new, ignore_errors=True)
    pictures.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:PICTURE_SIDE, :PICTURE_SIDE] / PICTURE_SIDE - 0.5
    for number in range(PICTURES):
        random = generator(SEED, "picture", number)
        disc = np.hypot(x - random.uniform(-0.2, 0.2), y - random.uniform(-0.2, 0.2)) < random.uniform(0.1, 0.4)
        grey = 60 + 100 * disc + random.normal(0, 12, disc.shape)
        Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(pictures / f"{number}.png")
    names = [f"{('CT', 'MR', 'US')[place % 3]}/anatomy_{place % 10}/finding_{place}" for place in range(PLACES)]
    places = [new / name for name in names]
    for place in places:
        place.mkdir(parents=True)
    for number in range(files):
        os.link(pictures / f"{number % PICTURES}.png", places[number % PLACES] / f"{number:08d}.png")
    new.rename(root)


def small_denoiser() -> ConditionalDenoiser:
    """A denoiser of a few hundred thousand weights, so that what the pool costs is not lost beside it."""
    return build_denoiser(
        DenoiserPlan(
            channels=(16, 32),
            layers_per_level=1,
            attention_levels=1,
            head_channels=16,
            text_width=32,
            text_layers=1,
            text_length=48,
            latent_channels=CODEC.channels,
            factor=CODEC.factor,
            control_channels=CONTROLS,
        )
    )


def in_memory(denoiser: ConditionalDenoiser) -> SliceDataset:
    """One volume of noise, with samples of the same shapes as those of the pool."""
    random = generator(SEED, "volume")
    image = random.uniform(-1, 1, (*PLAN.size, 8)).astype(np.float32)
    control = random.uniform(0, 1, (CONTROLS, *PLAN.size, 8)).astype(np.float32)
    return SliceDataset([SliceSource(image, control)], "noise", denoiser.tokenizer, CODEC, PLAN)


def train(
    objective: DenoisingObjective,
    optimizer: torch.optim.Optimizer,
    dataset: Dataset[dict[str, torch.Tensor]],
    steps: int,
) -> dict[int, float]:
    """Train; the resident memory in MB after every hundredth step."""
    resident = {}
    numbers = [range(step * BATCH, (step + 1) * BATCH) for step in range(steps)]
    for step, batch in enumerate(DataLoader(dataset, batch_sampler=numbers), start=1):
        objective(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            resident[step] = memory_mb("VmRSS")
    return resident


def memory_mb(line: str) -> float:
    """Resident memory (VmRSS) of this process now, or its peak (VmHWM)."""
    match = re.search(rf"^{line}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if match is None:
        raise SystemExit(f"this system does not tell {line}")
    return int(match.group(1)) / 1024


if __name__ == "__main__":
    main()
