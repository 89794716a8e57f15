"""Does text steer? One edge map, a prompt of every modality of the pool, and a classifier that has seen real images only.

    python benchmarks/text_steering.py --data PATH/hippocampus --pool PATH/pretrain2d --workspace WORKSPACE

A generator is pre-trained on the pool (the data folder is only there to prepare a workspace). Edge maps are those of held-out
pool images of all modalities; no patient that the file names tell is on both sides. Accuracy: share of samples that the
classifier assigns to the modality that was asked for. Unguided: guidance 0, where the prompt has no weight: 1 / modalities by
construction. Rows: guidance 1 (the prompt alone, not amplified), prompts of one word ("MRI": no anatomy), and the guidances that
were compared on edge maps of training pictures, of which the best is the one judged. Writes `results/text_steering.json`.
"""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from held_out import parser, write

from diffboost3d.cases.pool import PoolIndex
from diffboost3d.cases.prompts import modality_of, prompt_of, read_abbreviations
from diffboost3d.cases.workspace import Workspace
from diffboost3d.config import compose, configs_folder
from diffboost3d.diffusion.batches import SlicePlan
from diffboost3d.diffusion.codecs import latent_shape
from diffboost3d.diffusion.pool import PoolDataset, PoolPlan
from diffboost3d.diffusion.sampling import SamplingPlan, sample
from diffboost3d.diffusion.text import embed_mixture
from diffboost3d.diffusion.weights import load_generator
from diffboost3d.seeds import generator as random_of

PLAN = SamplingPlan(steps=12, sampler="dpmsolver++")
GUIDANCES = (4.0, 7.0, 10.0)  # compared on edge maps of training pictures
SIZE, BATCH = (64, 64), 48
TRAINING = (
    "prompt=Hippocampus, MRI",
    "diffusion.pool.size=[64,64]",
    "diffusion.pool.held_out=0.15",
    "diffusion.pool.patient_pattern='PGBM-[0-9]+|ct_torso'",
    "diffusion.pool.training.drop_control=0.2",
    "diffusion.pretrain.steps=0",
)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--pool", type=Path, required=True, help="folder tree modality/anatomy/finding/...")
    given = arguments.parse_args()
    pool = Pool(given.data, given.pool, given.workspace, given.overrides)
    classifier = train_classifier(*pool.real("training", 900), given.seed)
    real, truth = pool.real("held_out", 150)
    on_real = accuracy(classifier, real, truth)
    known, controls = pool.controls(given.cases, "training"), pool.controls(given.cases, "held_out")

    def judged(controls: torch.Tensor, guidance: float, whole: bool = True) -> dict[str, float]:
        plan = dataclasses.replace(PLAN, guidance_scale=guidance)
        found = accuracy(classifier, *pool.samples(controls, plan, given.seed, whole))
        print(guidance, whole, found, flush=True)
        return found

    choice = {guidance: judged(known, guidance) for guidance in GUIDANCES}
    chosen = max(GUIDANCES, key=lambda guidance: choice[guidance]["all"])
    guided, unguided = judged(controls, chosen), judged(controls, 0.0)
    rows = {
        "guidance 1": judged(controls, 1.0),
        "prompts of one word, the modality": judged(controls, chosen, whole=False),
    }
    figures = {
        "accuracy": guided["all"],
        "accuracy_unguided": unguided["all"],
        "modalities": list(pool.modalities),
        "by_modality": guided,
        "classifier_on_held_out_real": on_real,
        "edge_maps": len(controls),
        "plan": dataclasses.asdict(dataclasses.replace(PLAN, guidance_scale=chosen)),
        "guidance_on_training_pictures": {str(guidance): found for guidance, found in choice.items()},
        "rows": rows,
        "pool": pool.index.facts["modalities"],
    }
    write("text_steering", given, pool.overrides, len(controls), "--pool PATH/pretrain2d", **figures)


class Pool:
    """The generator pre-trained on a pool, and the pool's images."""

    def __init__(self, data: Path, root: Path, workspace: Path, overrides: list[str]) -> None:
        self.overrides = [*TRAINING, *overrides]
        options = [*self.overrides, f"data.root={data}", f"diffusion.pool.root={root}", f"workspace={workspace}"]
        for stage in ("prepare", "pretrain"):
            subprocess.run([sys.executable, "-m", "diffboost3d", stage, *options], check=True)
        self.config = compose(options)
        folder = Workspace(workspace).pool_generator()
        self.denoiser, self.scheduler, self.codec = load_generator(folder)
        self.index = PoolIndex(root.resolve(), folder / "index")
        self.modalities = self.index.modalities
        self.words = read_abbreviations(configs_folder() / "pool" / "abbreviations.yaml")

    def dataset(self, part: str, purpose: str) -> PoolDataset:
        """Pictures of a part without jitter."""
        plan = SlicePlan(SIZE, 2, 0.0, (1.0, 1.0), 0.0, 0.0, 1000, 0, purpose)
        edges = 2 * self.config.diffusion.denoiser.neighbours + 1
        pool = PoolPlan(edges, self.denoiser.control_channels - edges, "modality", part)
        return PoolDataset(self.index, self.words, self.denoiser.tokenizer, self.codec, plan, pool)

    def real(self, part: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(images (N, 1, A, B), number of their modality (N,)) drawn from a part."""
        dataset = self.dataset(part, "classifier")
        pictures = [dataset[number]["image"] for number in range(count)]
        names = [dataset.picture(number)[0].partition("/")[0] for number in range(count)]
        return torch.stack(pictures), torch.tensor([self.modalities.index(name) for name in names])

    def controls(self, count: int, part: str) -> torch.Tensor:
        """Control images (N, C, A, B) of a part's pictures, all modalities alike."""
        dataset = self.dataset(part, "controls")
        return torch.stack([dataset[number]["control"] for number in range(count)])

    def samples(
        self, controls: torch.Tensor, plan: SamplingPlan, seed: int, whole: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(a sample of every control with a prompt of every modality, number of the modality asked for).

        Args:
            whole: prompts of the pool's files; else the word of the modality alone.
        """
        made, asked = [], []
        negative = embed_mixture(self.denoiser, {"": 1.0})
        for number, modality in enumerate(self.modalities):
            random = random_of(seed, "prompt", modality)
            paths = [self.index.path(modality, int(random.integers(self.index.count(modality)))) for _ in controls]
            prompts = [prompt_of(path, self.words) if whole else modality_of(path, self.words) for path in paths]
            texts = torch.cat([embed_mixture(self.denoiser, {prompt: 1.0}) for prompt in prompts])
            noise = torch.randn(
                len(controls), *latent_shape(self.codec, SIZE), generator=torch.Generator().manual_seed(seed)
            )  # the same for every modality, so that text alone differs
            for first in range(0, len(controls), BATCH):
                part = slice(first, first + BATCH)
                images = sample(
                    self.denoiser, self.scheduler, self.codec, plan, noise[part], texts[part], negative, controls[part]
                )
                made.append(images)
            asked += [number] * len(controls)
        return torch.cat(made), torch.tensor(asked)


def train_classifier(images: torch.Tensor, truth: torch.Tensor, seed: int, steps: int = 400) -> torch.nn.Module:
    """A small network that tells modalities apart; brightness, contrast and flips vary in training."""
    torch.manual_seed(seed)
    widths = (1, 16, 32, 64, 96)
    blocks: list[torch.nn.Module] = []
    for inner, outer in itertools.pairwise(widths):
        blocks += [torch.nn.Conv2d(inner, outer, 3, 2, 1), torch.nn.BatchNorm2d(outer), torch.nn.ReLU()]
    network = torch.nn.Sequential(
        *blocks, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(widths[-1], int(truth.max()) + 1)
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    random = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(len(images), (32,), generator=random)
        batch = images[chosen] * (0.8 + 0.4 * torch.rand(32, 1, 1, 1, generator=random))
        batch = batch + 0.2 * (torch.rand(32, 1, 1, 1, generator=random) - 0.5)
        batch = batch.flip(-1) if torch.rand((), generator=random) < 0.5 else batch
        F.cross_entropy(network(batch), truth[chosen]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return network.eval()


@torch.inference_mode()
def accuracy(network: torch.nn.Module, images: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """Share of right answers, in all and for each modality number."""
    right = (network(images).argmax(dim=1) == truth).float()
    shares = {str(number): round(float(right[truth == number].mean()), 4) for number in truth.unique().tolist()}
    return {"all": round(float(right.mean()), 4), **shares}


if __name__ == "__main__":
    main()
