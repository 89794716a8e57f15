"""Refusing values of the configuration that are impossible, by themselves or together: the key, the value, what is allowed."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffboost3d.errors import ConfigError
from diffboost3d.schema import ArmConfig, CompareConfig, Config, DiffusionConfig, MergeConfig, SynthesizeConfig
from diffboost3d.schema.keys import leaves
from diffboost3d.synthetic_sets import DEFAULT_SET, of_set


def validate(config: Config) -> None:
    """Refuse impossible values. Raises ConfigError naming the key, the value found and the allowed ones."""
    for path, one in leaves(config):
        value: Any = config
        for part in path.split("."):
            value = getattr(value, part)
        _check_value(path, value, one.metadata)
    for name, arm in config.arm.items():
        for one in dataclasses.fields(arm):
            _check_value(f"arm.{name}.{one.name}", getattr(arm, one.name), one.metadata)
        if arm.partner is not None and arm.merge not in ("synthetic", "warped"):
            raise ConfigError(
                f"arm.{name}.partner={arm.partner} is refused with arm.{name}.merge={arm.merge}, which has no such partner; "
                "allowed: null"
            )
    _check_together(config)
    for name in config.synthesize.sets:
        _check_set(config, name)


def _check_set(config: Config, name: str) -> None:
    """A further set is refused for what the default one would be."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == DEFAULT_SET or re.fullmatch(r"fold\d+", name):
        raise ConfigError(
            f"synthesize.sets: {name!r} is refused; allowed: small letters, digits and _, but not {DEFAULT_SET} and foldN"
        )
    made = dataclasses.replace(of_set(config, name), arms=["none"], arm={"none": ArmConfig()}, compare=CompareConfig())
    made.compare.references = ["none"]
    made = dataclasses.replace(made, evaluate=dataclasses.replace(config.evaluate, reference="none"))
    try:
        validate(made)
    except ConfigError as error:
        raise ConfigError(f"synthesize.sets.{name}: {error}") from error


def _check_value(path: str, value: Any, allowed: Any) -> None:
    if value is None:
        return
    length = allowed.get("length")
    if length and len(value) not in length:
        raise ConfigError(f"{path} has {len(value)} values; it takes {' or '.join(map(str, length))}")
    for element in value if isinstance(value, list) else [value]:
        if isinstance(element, float) and not math.isfinite(element):
            raise ConfigError(f"{path}={element} is refused; it takes a finite number")
        choices, low, high = allowed.get("choices"), allowed.get("low"), allowed.get("high")
        outside = (low is not None and not element >= low) or (high is not None and not element <= high)
        if outside or (choices is not None and element not in choices):
            raise ConfigError(f"{path}={element} is refused; allowed: {allowed_values(allowed)}")


def allowed_values(allowed: Mapping[str, Any]) -> str:
    """The values that a key's metadata allow, in words; empty where it bounds nothing."""
    choices, low, high = allowed.get("choices"), allowed.get("low"), allowed.get("high")
    if choices is not None:
        return ", ".join(map(str, choices))
    if low is None and high is None:
        return ""
    return f"at least {low}" if high is None else f"at most {high}" if low is None else f"from {low} to {high}"


def _check_together(config: Config) -> None:
    """Rules that bind several keys."""
    _check_study(config)
    _check_compare(config)
    _check_ranges(config)
    _check_mirroring(config)
    if config.prepare.edges.operator == "hed" and not config.prepare.edges.hed_weights:
        raise ConfigError(
            "prepare.edges.operator=hed needs its weights: prepare.edges.hed_weights=PATH/ControlNetHED.pth (soft and "
            "canny need none)"
        )
    _check_diffusion(config.diffusion)
    _check_sampling(config.synthesize, config.diffusion.schedule.timesteps)
    _check_slabs(config)
    _check_second_plane(config)
    _check_refiner(config)
    _check_merge(config.merge)
    _check_segmenter(config)
    _check_anatomy(config)
    _check_mixture(config.synthesize.text, config.synthesize.text_weights)
    if config.export.name is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", config.export.name):
        raise ConfigError(f"export.name={config.export.name!r} is refused; allowed: letters, digits, - and _")
    if not config.workspace:
        raise ConfigError("workspace= is empty; give the folder for the results, e.g. workspace=ws")
    _check_dicom(config)
    if config.data.patients not in ("case", "consecutive_numbers"):
        _check_patient_pattern(config.data.patients)


def _check_dicom(config: Config) -> None:
    """Patterns of series, and colours of labels."""
    for pattern in config.data.series:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"data.series: {pattern!r} is no regular expression ({error})") from error
    if len(set(config.data.series)) != len(config.data.series):
        raise ConfigError(f"data.series={config.data.series} is refused; it takes patterns, each once")
    for name, colour in (config.data.colours or {}).items():
        if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
            raise ConfigError(f"data.colours: {name}: {colour} is refused; allowed: red, green and blue of 0 to 255")


def _check_study(config: Config) -> None:
    """Folds, arms and seeds."""
    for fold in config.folds:
        if config.data.splits is None and fold >= config.data.folds:
            raise ConfigError(
                f"folds={config.folds}: there is no fold {fold}; data.folds={config.data.folds} "
                f"allows 0 to {config.data.folds - 1}"
            )
    for arm in config.arms:
        if arm not in config.arm:
            raise ConfigError(f"arms: {arm!r} is unknown; allowed: {', '.join(config.arm)}")
        of_set(config, config.arm[arm].synthetic_set)  # there must be one
    if config.evaluate.reference not in config.arm:
        raise ConfigError(
            f"evaluate.reference={config.evaluate.reference} is refused; allowed: {', '.join(config.arm)}"
        )
    listed = {name: getattr(config, name) for name in ("arms", "seeds", "folds")}
    listed |= {"predict.folds": config.predict.folds, "predict.seeds": config.predict.seeds}
    for name, values in listed.items():
        if not values or len(set(values)) != len(values):
            raise ConfigError(f"{name}={values} is refused; it takes one or more values, each once")


def _check_mirroring(config: Config) -> None:
    """An axis mirrored twice would be counted twice."""
    for name, axes in (("evaluate", config.evaluate.mirror_axes), ("predict", config.predict.mirror_axes)):
        if len(set(axes)) != len(axes):
            raise ConfigError(f"{name}.mirror_axes={axes} is refused; it takes axes, each once")


def _check_compare(config: Config) -> None:
    """What a study can't be made of."""
    compare = config.compare
    if len(set(compare.sizes)) != len(compare.sizes):
        raise ConfigError(f"compare.sizes={compare.sizes} is refused; it takes each size once")
    if unknown := [arm for arm in compare.references if arm not in config.arm]:
        raise ConfigError(f"compare.references={unknown[0]} is refused; allowed: {', '.join(config.arm)}")
    for name in compare.variants:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise ConfigError(
                f"compare.variants.{name} is refused; a name takes letters, digits, and _ - . after the first"
            )


def _check_ranges(config: Config) -> None:
    """Pairs of a low and a high value."""
    for path, (low, high) in {
        "prepare.intensity.window_hu": config.prepare.intensity.window_hu,
        "prepare.intensity.percentiles": config.prepare.intensity.percentiles,
        "prepare.edges.canny_thresholds": config.prepare.edges.canny_thresholds,
        "diffusion.codec.training.scale": config.diffusion.codec.training.scale,
        "diffusion.pretrain.scale": config.diffusion.pretrain.scale,
        "diffusion.finetune.scale": config.diffusion.finetune.scale,
        "diffusion.pool.training.scale": config.diffusion.pool.training.scale,
        "refiner.sigma": config.refiner.sigma,
        "synthesize.guidance_range": config.synthesize.guidance_range,
        "synthesize.anatomy.scale": config.synthesize.anatomy.scale,
        "synthesize.anatomy.label_volume": config.synthesize.anatomy.label_volume,
        "synthesize.anatomy.registered_share": config.synthesize.anatomy.registered_share,
        "synthesize.anatomy.between_share": config.synthesize.anatomy.between_share,
        "synthesize.anatomy.volume_factors": config.synthesize.anatomy.volume_factors,
        **_ranges("classical", config.classical),
        **_ranges("augmentations", config.augmentations),
    }.items():
        if not low <= high or (low == high and not re.search("^classical|^augment|scale|share|label_volume", path)):
            raise ConfigError(f"{path}=[{low}, {high}] is refused; the first must be below the second")


def _ranges(name: str, section: Any) -> dict[str, list[float]]:
    """The keys of a section that are a low and a high value."""
    pairs = [one.name for one in dataclasses.fields(section) if one.metadata["length"] == (2,)]
    return {f"{name}.{pair}": getattr(section, pair) for pair in pairs}


def _check_diffusion(diffusion: DiffusionConfig) -> None:
    """What no generator can be."""
    try:
        re.compile(diffusion.pool.patient_pattern or "")
    except re.error as error:
        raise ConfigError(
            f"diffusion.pool.patient_pattern={diffusion.pool.patient_pattern} is refused: {error}; it takes a regular expression"
        ) from error
    if not diffusion.denoiser.channels or diffusion.denoiser.attention_levels > len(diffusion.denoiser.channels):
        raise ConfigError(
            f"diffusion.denoiser.channels={diffusion.denoiser.channels} is refused; it takes one or more levels, at least "
            f"attention_levels={diffusion.denoiser.attention_levels}"
        )
    for name, section in (("pretrain", diffusion.pretrain), ("finetune", diffusion.finetune)):
        if section.batch % diffusion.denoiser.stack:
            raise ConfigError(
                f"diffusion.{name}.batch={section.batch} is refused with diffusion.denoiser.stack={diffusion.denoiser.stack}; it "
                "counts slices, and takes a multiple of the stack"
            )
    heads = max(1, diffusion.denoiser.text_width // 32)
    if diffusion.denoiser.text_width % heads:
        raise ConfigError(
            f"diffusion.denoiser.text_width={diffusion.denoiser.text_width} is refused; its attention has {heads} heads (one for "
            "each 32), of which it must be a multiple"
        )
    if diffusion.family == "scratch" and diffusion.weights.base is not None:
        raise ConfigError(
            "diffusion.weights.base is set, but diffusion.family=scratch; add diffusion=sd15 or diffusion=sd21"
        )
    if diffusion.family == "stable_diffusion" and diffusion.codec.name != "vae":
        raise ConfigError(
            f"diffusion.codec.name={diffusion.codec.name} is refused with family=stable_diffusion; its codec is vae of factor 8"
        )
    if diffusion.schedule.zero_terminal_snr and diffusion.schedule.prediction == "epsilon":
        raise ConfigError(
            "diffusion.schedule.zero_terminal_snr=true is refused with epsilon; it needs prediction=v_prediction"
        )


def _check_sampling(settings: SynthesizeConfig, timesteps: int) -> None:
    """What no sampler can do."""
    if settings.steps > timesteps:
        raise ConfigError(
            f"synthesize.steps={settings.steps} is refused; allowed: at most diffusion.schedule.timesteps={timesteps}"
        )
    if settings.sampler == "ddim" and settings.step_power != 1.0:
        raise ConfigError(
            f"synthesize.step_power={settings.step_power} is refused with sampler=ddim, whose steps are even; "
            "allowed: 1, or another sampler (dpmsolver++, unipc)"
        )
    if settings.guess_mode and settings.control_guidance_scale != 1.0:
        raise ConfigError(
            f"synthesize.control_guidance_scale={settings.control_guidance_scale} is refused with guess_mode=true, "
            "whose negative half has no control; allowed: 1"
        )
    if settings.sampler != "ddim" and settings.eta:
        raise ConfigError(
            f"synthesize.eta={settings.eta} is refused with sampler={settings.sampler}; it is for "
            "sampler=ddim (sde-dpmsolver++ adds noise of its own)"
        )


def _check_merge(merge: MergeConfig) -> None:
    if merge.alpha_range is not None and merge.alpha_range[0] > merge.alpha_range[1]:
        raise ConfigError(f"merge.alpha_range={merge.alpha_range} is refused; the first must not be above the second")
    if merge.at == "prediction" and (merge.feather or merge.feather_mm):
        raise ConfigError(
            "merge.feather and merge.feather_mm are refused with at=prediction, whose borders are hard; allowed: 0"
        )
    if merge.mask_foreground_labels and not merge.mask_foreground:
        raise ConfigError(
            f"merge.mask_foreground_labels={merge.mask_foreground_labels} needs merge.mask_foreground=true"
        )


def _check_segmenter(config: Config) -> None:
    """A class of MONAI where one is to be named, and whole volumes or patches."""
    network = config.network
    target = network._target_
    if (network.name == "monai") != (target is not None):
        raise ConfigError(
            f"network._target_={'null' if target is None else target} is refused with network.name={network.name}; it goes with "
            "name=monai: network=monai network._target_=monai.networks.nets.CLASS"
        )
    if target is not None and not re.fullmatch(r"monai\.networks\.nets\.[A-Za-z]\w*", target):
        raise ConfigError(
            f"network._target_={target} is refused; allowed: monai.networks.nets.CLASS (nothing else is imported)"
        )
    for name, section in (("train", config.train), ("gate.training", config.gate.training)):
        if section.whole and section.patch is not None:
            raise ConfigError(f"{name}.patch={section.patch} is refused with {name}.whole=true; allowed: null")


def _check_anatomy(config: Config) -> None:
    """Shares that sum to 1, and an arm of warps only where there are any."""
    anatomy = config.synthesize.anatomy
    shares = {name: getattr(anatomy, name) for name in ("same", "warped", "registered", "between")}
    if abs(sum(shares.values()) - 1) > 1e-6:
        listed = " + ".join(f"{name} {share:g}" for name, share in shares.items())
        raise ConfigError(f"synthesize.anatomy: {listed} sum to {sum(shares.values()):g}; they must sum to 1")
    for name in config.arms:
        arm = config.arm[name]
        if arm.merge == "warped" and of_set(config, arm.synthetic_set).synthesize.anatomy.same == 1:
            raise ConfigError(
                f"arms: {name} merges with warped anatomy, and synthesize.anatomy.same=1 leaves none; give it a set that has "
                f"some, arm.{name}.synthetic_set=anatomy, or another share, synthesize.anatomy.same=0 synthesize.anatomy.warped=1"
            )


def _check_slabs(config: Config) -> None:
    """An overlap needs slabs that are longer, and a slab that nothing defines has none."""
    slab, overlap = config.synthesize.slab, config.synthesize.slab_overlap
    if overlap % 2 or (slab is not None and overlap >= slab):
        raise ConfigError(
            f"synthesize.slab_overlap={overlap} is refused with synthesize.slab={slab}; it takes an even number below slab"
        )
    if overlap and slab is None and config.diffusion.denoiser.stack == 1:
        raise ConfigError(
            f"synthesize.slab_overlap={overlap} is refused without synthesize.slab; give one of more than {overlap} slices"
        )


def _check_second_plane(config: Config) -> None:
    """A second plane needs whole volumes and a generator that has learned it."""
    second, every = config.diffusion.second_axis, config.synthesize.second_plane_every
    if second is not None and second == config.diffusion.slice_axis:
        raise ConfigError(
            f"diffusion.second_axis={second} is refused with diffusion.slice_axis={second}; it takes another axis"
        )
    if every and second is None:
        raise ConfigError(
            f"synthesize.second_plane_every={every} needs a generator that was trained on a second plane too: "
            "diffusion.second_axis=AXIS, also in pretrain and finetune"
        )
    if every and config.synthesize.slab_blend != "step":
        raise ConfigError(
            f"synthesize.second_plane_every={every} is refused with slab_blend={config.synthesize.slab_blend}; it needs whole "
            "volumes: synthesize.slab_blend=step"
        )


def _check_refiner(config: Config) -> None:
    """Noise that it learns, and patches that its levels can halve."""
    refiner, asked = config.refiner, config.synthesize.refine
    divisor = 2 ** (len(refiner.channels) - 1)
    if refiner.patch % divisor or refiner.patch < 2 * divisor:
        raise ConfigError(
            f"refiner.patch={refiner.patch} is refused with refiner.channels={refiner.channels}; it takes a multiple of "
            f"{divisor}, at least {2 * divisor}"
        )
    if asked and not refiner.sigma[0] <= asked <= refiner.sigma[1]:
        raise ConfigError(
            f"synthesize.refine={asked} is refused; allowed: null, 0, and what the refiner learns, refiner.sigma={refiner.sigma}"
        )


def _check_mixture(texts: Sequence[str], weights: Sequence[float]) -> None:
    """Prompts and their weights: one each, no prompt twice, something in sum, and no unknown placeholder."""
    if not texts or len(texts) != len(weights):
        raise ConfigError(
            f"synthesize.text_weights has {len(weights)} values for {len(texts)} prompts in synthesize.text; it takes one each"
        )
    if len(set(texts)) != len(texts) or not sum(weights):
        raise ConfigError(
            f"synthesize.text={list(texts)} is refused; it takes each prompt once, with weights that don't sum to 0"
        )
    unknown = [word for text in texts for word in re.findall(r"\{[^}]*\}", text) if word not in ("{prompt}", "{look}")]
    if unknown:
        raise ConfigError(f"synthesize.text: {unknown[0]} is unknown; allowed: {{prompt}}, {{look}}")


def _check_patient_pattern(pattern: str) -> None:
    if pattern.lower().endswith((".csv", ".tsv")):
        if not Path(pattern).expanduser().is_file():
            raise ConfigError(f"data.patients={pattern}: no such file")
        return
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ConfigError(f"data.patients={pattern!r} is no regular expression ({error})") from error
    if groups < 1:
        raise ConfigError(
            f"data.patients={pattern!r} is refused; allowed: case, consecutive_numbers, a CSV file with columns id, "
            "patient, or a regular expression with a group, e.g. '(patient\\d+)_'"
        )
