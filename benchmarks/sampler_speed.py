"""How fast is the default sampler against the released recipe, with the same generator, and how real are its slices?

    python benchmarks/sampler_speed.py --data PATH/hippocampus --workspace WORKSPACE

The recipe: DDIM 20 steps, guidance 9 (two passes a step), one slice at a time with K samples of it as the batch. Ours: the
default plan, slices batched, the matching of the spectrum included. The recipe is also timed from our start (the partly noised
real slice). All run by turns in one process, repeated; the ratio is that of the medians. Runs on CUDA too. Prints slices/s, peak
memory and model FLOP utilisation (against --peak-tflops, or a matrix product). How real the samples
are stands in `results/realism.json`, which is made first. Writes `results/sampler_speed.json`.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import time
from typing import Any

import numpy as np
import torch
from held_out import RECIPE, RESULTS, Float, HeldOut, code_digest, parser, write
from torch.utils.flop_counter import FlopCounterMode

from diffboost3d.diffusion.codecs import latent_shape, padded_size
from diffboost3d.diffusion.sampling import SamplingPlan, sample
from diffboost3d.diffusion.text import embed_mixture
from diffboost3d.synthesis.spectrum import with_spectrum_of

K = 4


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument(
        "--peak-tflops",
        type=float,
        help="of the device; default: measured by a matrix product",
    )
    given = arguments.parse_args()
    held_out = HeldOut(given.data, given.workspace, given.overrides, given.cases, given.seed, given.part)
    match = held_out.config.synthesize.match_spectrum
    ours, recipe = Timed(held_out, held_out.default, match), Timed(held_out, RECIPE)
    same_start = Timed(held_out, dataclasses.replace(RECIPE, strength=held_out.default.strength))
    for _ in range(given.repeats):
        recipe.run(one_slice_at_a_time=True)
        same_start.run(one_slice_at_a_time=True)
        ours.run(one_slice_at_a_time=False)
    realism = json.loads((RESULTS / "realism.json").read_text(encoding="utf-8"))
    plan = json.loads(json.dumps(dataclasses.asdict(held_out.default)))  # tuples are lists there
    of = realism.get("of", {})
    if (realism["plan"], realism["training"], of.get("model")) != (plan, held_out.overrides, held_out.model):
        raise SystemExit("results/realism.json is of another generator or plan: run realism.py with it first")
    peak = given.peak_tflops or matmul_tflops(ours.device)
    figures = {
        "ratio": round(ours.rate() / recipe.rate(), 2),
        "ratio_same_start": round(ours.rate() / same_start.rate(), 2),
        "auc_ours": realism["auc_default"],
        "auc_recipe": realism["auc_released_recipe"],
        "auc_of": {"commit": realism["commit"], "same_code": of["code"] == code_digest()},
        "ours": ours.facts(peak),
        "recipe": recipe.facts(peak),
        "recipe_same_start": same_start.facts(peak),
        "peak_tflops": round(peak, 3),
        "samples_a_slice": K,
        "peak_memory_mb": peak_memory_mb(),
        "device": str(ours.device),
        "threads": torch.get_num_threads(),
    }
    write("sampler_speed", given, held_out.overrides, len(held_out.cases), **figures)


class Timed:
    """A sampler with the trained generator, timed on K samples of the slices of one case."""

    def __init__(self, held_out: HeldOut, plan: SamplingPlan, match_spectrum: float = 0.0) -> None:
        self.plan, self.match_spectrum, self.slow_mm = plan, match_spectrum, held_out.slow_mm
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.denoiser, self.scheduler, self.codec = held_out.generator
        self.denoiser.to(self.device)
        self.text = embed_mixture(self.denoiser, {held_out.manifest.prompt: 1.0})
        self.negative = embed_mixture(self.denoiser, {"": 1.0})
        case, axis = held_out.cases[0], held_out.axis
        self.control = self._slices(np.moveaxis(held_out.control(case), axis + 1, 0))
        self.real = np.moveaxis(held_out.real(case), axis, 0)
        self.start = self._slices(self.real[:, None])
        self.batch = held_out.config.synthesize.batch
        self.rates: list[float] = []
        self._sample(torch.arange(2))  # warm up
        self.flops_a_slice = self._flops()

    def run(self, one_slice_at_a_time: bool) -> None:
        """Time K samples of every slice."""
        repeated = torch.arange(len(self.control)).repeat_interleave(K)
        size = K if one_slice_at_a_time else self.batch
        self._wait()
        started = time.perf_counter()
        made = [self._sample(repeated[first : first + size]) for first in range(0, len(repeated), size)]
        if self.match_spectrum:
            slices = torch.cat(made)[:, 0].cpu().numpy()
            for number in range(K):
                with_spectrum_of(slices[number::K], self.real, self.match_spectrum, slow_mm=self.slow_mm)
        self._wait()
        self.rates.append(len(repeated) / (time.perf_counter() - started))

    def rate(self) -> float:
        """Median slices/s."""
        return float(np.median(self.rates))

    def facts(self, peak_tflops: float) -> dict[str, Any]:
        """What was measured, for the record."""
        tflops = self.flops_a_slice * self.rate() / 1e12
        return {
            "slices_per_second": [round(rate, 2) for rate in self.rates],
            "gflops_a_slice": round(self.flops_a_slice / 1e9, 3),
            "tflops": round(tflops, 4),
            "model_flop_utilisation": round(tflops / peak_tflops, 3),
            "plan": dataclasses.asdict(self.plan),
        }

    def _slices(self, array: Float) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _sample(self, numbers: torch.Tensor) -> torch.Tensor:
        """A sample of each of the slices with these numbers."""
        control, start = self.control[numbers], self.start[numbers]
        size = padded_size(control.shape[-2:], self.denoiser.divisor)
        noise = torch.randn(len(control), *latent_shape(self.codec, size), device=self.device)
        return sample(
            self.denoiser, self.scheduler, self.codec, self.plan, noise, self.text, self.negative, control, start
        )

    def _flops(self) -> float:
        with FlopCounterMode(display=False) as counter:
            self._sample(torch.arange(1))
        return float(counter.get_total_flops())

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def matmul_tflops(device: torch.device, side: int = 2048) -> float:
    """What a product of large matrices reaches here in fp32: the best of five."""
    matrix = torch.randn(side, side, device=device)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # waits for the device
        times.append(time.perf_counter() - started)
    return 2 * side**3 / min(times) / 1e12


def peak_memory_mb() -> int:
    """Of the device, or of this process on a CPU."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
