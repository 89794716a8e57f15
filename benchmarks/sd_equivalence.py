"""The same latents as diffusers: our loader and sampler beside StableDiffusionControlNetPipeline, on the same weights.

    python benchmarks/sd_equivalence.py

Random weights in the layout of Stable Diffusion 1.5 and 2.1 with a ControlNet whose zero convolutions are filled, saved as
diffusers folders. Published settings: DDIM, 20 steps, guidance 9, eta 0, a negative prompt; guess mode off and on; the same
first noise. In double precision too, to tell rounding from a difference of method. Then what we save is opened by diffusers,
and back. Writes `benchmarks/results/sd_equivalence.json`.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
from small_stable_diffusion import write_base, write_control  # noqa: E402

from diffboost3d.diffusion.networks import ConditionalDenoiser  # noqa: E402
from diffboost3d.diffusion.sampling import SamplingPlan, sample_maps  # noqa: E402
from diffboost3d.diffusion.stable_diffusion import load_stable_diffusion  # noqa: E402
from diffboost3d.diffusion.text import embed_mixture  # noqa: E402
from diffboost3d.diffusion.weights import FOLDER, load_generator, save_generator  # noqa: E402

RESULTS = HERE / "results"
SEEDS = (0, 1)
PROMPT, NEGATIVE = "Hippocampus, MRI, best quality", "lowres, blurry, low quality"
STEPS, GUIDANCE = 20, 9.0
SLICES, MAP, FACTOR = 2, 16, 8
LIMIT = 1e-4


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = compare(Path(folder))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "sd_equivalence.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if max(result["max_abs_diff"], result["max_abs_diff_guess_mode"]) >= LIMIT or result["round_trip_max_abs_diff"]:
        raise SystemExit("the latents differ")


def compare(folder: Path) -> dict[str, Any]:
    """Every seed, both layouts, guess mode off and on."""
    differences: dict[bool, list[float]] = {False: [], True: []}
    effects, sizes, round_trips, in_double = [], [], [], []
    for version in (1, 2):
        base = write_base(folder / f"base{version}", version)
        control = write_control(folder / f"control{version}", base)
        ours, theirs = load_stable_diffusion(base, control, 3), pipeline_of(base, control)
        for seed in SEEDS:
            noise, hint = draw(seed)
            for guess_mode in (False, True):
                own = our_latents(*ours, noise, hint, guess_mode)
                blank = our_latents(*ours, noise, torch.zeros_like(hint), guess_mode)
                reference = their_latents(theirs, noise, hint, guess_mode)
                differences[guess_mode].append(largest(own, reference))
                effects.append(largest(own, blank))
                sizes.append(float(reference.abs().max()))
        round_trips.append(round_trip(folder / f"saved{version}", ours))
        noise, hint = (tensor.double() for tensor in draw(SEEDS[0]))
        ours[0].double(), theirs.to(torch.float64)
        for guess_mode in (False, True):
            own = our_latents(*ours, noise, hint, guess_mode)
            in_double.append(largest(own, their_latents(theirs, noise, hint, guess_mode)))
    return {
        "max_abs_diff": max(differences[False]),
        "max_abs_diff_guess_mode": max(differences[True]),
        "limit": LIMIT,
        "smallest_effect_of_the_control_image": min(effects),
        "largest_latent": max(sizes),
        "max_abs_diff_fp64": max(in_double),
        "round_trip_max_abs_diff": max(round_trips),
        "cases": sum(len(values) for values in differences.values()),
        "seeds": list(SEEDS),
        "settings": {
            "layouts": ["Stable Diffusion 1.5 (epsilon)", "Stable Diffusion 2.1 (v_prediction)"],
            "weights": "random, small widths",
            "sampler": "DDIM",
            "steps": STEPS,
            "guidance_scale": GUIDANCE,
            "eta": 0.0,
            "negative_prompt": NEGATIVE,
            "latents": [SLICES, 4, MAP, MAP],
            "precision": "fp32",
        },
        "command": "python benchmarks/sd_equivalence.py",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("diffboost3d", "diffusers", "torch", "transformers")},
    }


def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First noise (B, 4, h, w) and control images (B, 3, A, B) in [0, 1]."""
    random = torch.Generator().manual_seed(seed)
    side = MAP * FACTOR
    hint = torch.rand(SLICES, 3, side, side, generator=random)
    return torch.randn(SLICES, 4, MAP, MAP, generator=random), hint


def pipeline_of(base: Path, control: Path) -> Any:
    """The reference: diffusers alone."""
    from diffusers import (
        AutoencoderKL,
        ControlNetModel,
        DDIMScheduler,
        StableDiffusionControlNetPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

    pipeline = StableDiffusionControlNetPipeline(
        vae=AutoencoderKL.from_pretrained(base / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(base / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(base / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(base / "unet"),
        controlnet=ControlNetModel.from_pretrained(control),
        scheduler=DDIMScheduler.from_pretrained(base / "scheduler", clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def their_latents(pipeline: Any, noise: torch.Tensor, hint: torch.Tensor, guess_mode: bool) -> torch.Tensor:
    """Latents of the pipeline, before its decoder."""
    latents: torch.Tensor = pipeline(
        [PROMPT] * len(noise),
        image=hint,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        eta=0.0,
        negative_prompt=[NEGATIVE] * len(noise),
        guess_mode=guess_mode,
        latents=noise.clone(),
        output_type="latent",
    ).images
    return latents


def our_latents(
    denoiser: ConditionalDenoiser,
    scheduler: Any,
    codec: Any,
    noise: torch.Tensor,
    hint: torch.Tensor,
    guess_mode: bool,
) -> torch.Tensor:
    """Latents of our sampler, before the codec."""
    plan = SamplingPlan(steps=STEPS, guidance_scale=GUIDANCE, guess_mode=guess_mode)
    text, negative = embed_mixture(denoiser, {PROMPT: 1.0}), embed_mixture(denoiser, {NEGATIVE: 1.0})
    return sample_maps(denoiser, scheduler, codec, plan, noise, text, negative, hint)


def round_trip(folder: Path, generator: tuple[Any, Any, Any]) -> float:
    """Largest difference of any weight: saved by us, opened and saved by diffusers, opened by us."""
    from diffusers import StableDiffusionControlNetPipeline

    save_generator(folder, *generator)
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(folder / FOLDER, safety_checker=None)
    facts = (folder / FOLDER / "diffboost3d.json").read_text()
    again = folder.with_name(f"{folder.name}-again")
    pipeline.save_pretrained(again / FOLDER, safe_serialization=True)
    (again / FOLDER / "diffboost3d.json").write_text(facts)
    denoiser, _, codec = load_generator(again)
    pairs = [(denoiser, generator[0]), (codec.vae, generator[2].vae)]  # type: ignore[attr-defined]
    differences = []
    for new, old in pairs:
        kept = old.state_dict()
        assert new.state_dict().keys() == kept.keys()
        differences += [largest(value, kept[name]) for name, value in new.state_dict().items()]
    return max(differences)


def largest(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


if __name__ == "__main__":
    main()
