"""Where a training of the generator starts: from Stable Diffusion, from another generator of ours, or from random weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffboost3d.cases.records import Manifest
from diffboost3d.cases.workspace import Workspace
from diffboost3d.diffusion.codecs import ChannelsCodec, Codec, PackingCodec, for_channels, parts_of
from diffboost3d.diffusion.networks import (
    ConditionalDenoiser,
    DenoiserPlan,
    adapt_control_channels,
    build_denoiser,
    widen_channels,
)
from diffboost3d.diffusion.schedule import make_scheduler
from diffboost3d.diffusion.stable_diffusion import load_stable_diffusion, weight_files
from diffboost3d.diffusion.text import ClipTokenizer
from diffboost3d.diffusion.weights import FOLDER, load_generator
from diffboost3d.errors import ConfigError
from diffboost3d.imaging.edges import control_channels
from diffboost3d.schema import Config
from diffboost3d.seeds import seed_of
from diffboost3d.stages.codecs import codec_digest, first_codec
from diffboost3d.stages.inputs import files_digest

Generator = tuple[ConditionalDenoiser, Any, Codec]


def first_generator(config: Config, workspace: Workspace, manifest: Manifest, fold: int | None) -> Generator:
    """The generator before any training here: one that `diffusion.start_from` names, else Stable Diffusion or an untrained one.

    Args:
        fold: whose images are learned first; None: the pool's, which have one channel.

    Raises:
        ConfigError: no generator there, or one of another family, codec, schedule or size. WorkspaceError: no codec yet.
    """
    channels = 1 if fold is None else manifest.channel_count
    if config.diffusion.start_from is None:
        codec = None if is_family(config) else for_channels(first_codec(config, workspace, fold), channels)
        with _keyed(config):
            if codec is None:
                return _mixing(config, with_channels(config, _stable_diffusion(config, manifest), channels))
            return _mixing(config, untrained_generator(config, manifest, codec))
    folder = _start_folder(config.diffusion.start_from)
    denoiser, scheduler, codec = load_generator(folder)
    if isinstance(denoiser.tokenizer, ClipTokenizer) != is_family(config):
        raise ConfigError(
            f"diffusion.start_from={folder} is {'no ' if is_family(config) else ''}Stable Diffusion; "
            f"diffusion.family={config.diffusion.family} does not go with it"
        )
    _check_schedule(config, scheduler, folder)
    wanted = config.diffusion.codec
    packs = isinstance(parts_of(codec)[0], PackingCodec)
    if codec.name != wanted.name or (packs and codec.factor != wanted.factor):
        raise ConfigError(
            f"diffusion.start_from={folder} has the codec {codec.name} of factor {codec.factor}; ask for the same "
            f"(diffusion.codec.name, diffusion.codec.factor), not {wanted.name} of {wanted.factor}"
        )
    share = mixed_share(config, channels)
    if isinstance(codec, ChannelsCodec) and codec.image_channels == channels and codec.share != share:
        raise ConfigError(
            f"diffusion.start_from={folder} was trained with decorrelate={codec.share:g}; ask for it: "
            f"diffusion.codec.decorrelate={codec.share:g}, not {share:g}"
        )
    _check_sizes(config, denoiser, folder)
    adapt_control_channels(denoiser.controlnet, _control_channels(config, manifest))
    return _mixing(config, with_channels(config, (denoiser, scheduler, codec), channels))


def with_channels(config: Config, made: Generator, count: int) -> Generator:
    """A generator as one of `count` image channels: one of a single channel is widened; see `networks.widen_channels`.

    Raises:
        ConfigError: it is of several channels, but not of so many, or its base would stay locked, so that its channels could not
            become different.
    """
    denoiser, scheduler, codec = made
    if codec.image_channels == count:
        return made
    if codec.image_channels > 1:
        raise ConfigError(
            f"diffusion.start_from is a generator of {codec.image_channels} image channels; this training has {count}; allowed: "
            "one of as many, or of 1"
        )
    if config.diffusion.pretrain.trained != "all":
        raise ConfigError(
            f"diffusion.pretrain.trained={config.diffusion.pretrain.trained} is refused: a generator of one image channel is "
            f"widened to {count}, and must learn them; allowed: all"
        )
    widen_channels(denoiser, count)
    return denoiser, scheduler, for_channels(codec, count)


def mixed_share(config: Config, channels: int) -> float:
    """How far a generator mixes its image channels; see `ChannelsCodec.adapt`."""
    codec = config.diffusion.codec
    mixes = channels > 1 and codec.normalise and codec.name != "vae" and not is_family(config)
    return codec.decorrelate if mixes else 0.0


def _check_sizes(config: Config, denoiser: ConditionalDenoiser, folder: Path) -> None:
    """Refuse to begin with a network other than the one described; Stable Diffusion is as its weights are."""
    wanted, has = config.diffusion.denoiser, denoiser.unet.config
    if denoiser.mixer is not None and wanted.stack == 1:
        raise ConfigError(
            f"diffusion.start_from={folder} has layers along the slices; ask for them: diffusion.denoiser.stack=2 or more"
        )
    if is_family(config):
        return
    sizes = {
        "channels": (wanted.channels, list(has.block_out_channels)),
        "layers_per_level": (wanted.layers_per_level, has.layers_per_block),
        "text_width": (wanted.text_width, has.cross_attention_dim),
        "text_length": (wanted.text_length, denoiser.tokenizer.length),
    }
    for key, (asked, found) in sizes.items():
        if asked != found:
            raise ConfigError(
                f"diffusion.start_from={folder} has {key}={found}; ask for it: diffusion.denoiser.{key}={found}, not {asked}"
            )


def first_digest(config: Config, workspace: Workspace, fold: int | None) -> str:
    """Digest of the weights that training starts from; empty where these are random numbers. Fold: see `first_generator`."""
    weights = config.diffusion.weights
    if config.diffusion.start_from is not None:
        model = _start_folder(config.diffusion.start_from) / FOLDER
        paths = sorted(path for path in model.rglob("*") if path.suffix in (".safetensors", ".json"))
    elif is_family(config):
        named = [
            _weights(config, "base"),
            *(_weights(config, key) for key in ("control", "tokenizer") if getattr(weights, key)),
        ]
        paths = [path for one in named for path in weight_files(one)]
    else:
        return codec_digest(config, workspace, fold)
    return files_digest(paths)


def _mixing(config: Config, made: Generator) -> Generator:
    """With layers along the slice axis where they are asked for."""
    if config.diffusion.denoiser.stack > 1:
        made[0].mix_along_slices()
    return made


def _start_folder(path: str) -> Path:
    folder = Path(path).expanduser()
    if not (folder / FOLDER / "diffboost3d.json").is_file():
        raise ConfigError(
            f"diffusion.start_from={path} holds no generator ({FOLDER}/diffboost3d.json); give a folder such as "
            "diffusion/pool or diffusion/fold0 of a workspace"
        )
    return folder


def _control_channels(config: Config, manifest: Manifest) -> int:
    denoiser = config.diffusion.denoiser
    return control_channels(manifest.label_count, denoiser.neighbours, denoiser.control)


def is_family(config: Config) -> bool:
    """Whether it is Stable Diffusion that is asked for."""
    return config.diffusion.family == "stable_diffusion"


@contextmanager
def _keyed(config: Config) -> Iterator[None]:
    """First random weights are keyed by the seed."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, "generator"))
        yield


def _stable_diffusion(config: Config, manifest: Manifest) -> Generator:
    """Stable Diffusion with a ControlNet, from the files that `diffusion.weights` names."""
    weights = config.diffusion.weights
    base = _weights(config, "base")
    denoiser, scheduler, codec = load_stable_diffusion(
        base,
        None if weights.control is None else _weights(config, "control"),
        _control_channels(config, manifest),
        None if weights.tokenizer is None else _weights(config, "tokenizer"),
        config.diffusion.schedule.prediction,
        2 * config.diffusion.denoiser.neighbours + 1,
    )
    _check_schedule(config, scheduler, base)
    return denoiser, scheduler, codec


def _weights(config: Config, key: str) -> Path:
    """The path that `diffusion.weights` has under a key."""
    given = getattr(config.diffusion.weights, key)
    if given is None:
        raise ConfigError(
            f"diffusion.family=stable_diffusion needs diffusion.weights.{key}: a diffusers folder or a checkpoint file on this "
            "machine; nothing is downloaded"
        )
    path = Path(given).expanduser()
    if not path.exists():
        raise ConfigError(f"diffusion.weights.{key}={given} is missing; give a folder or a file on this machine")
    return path


def _check_schedule(config: Config, scheduler: Any, source: Path) -> None:
    """Refuse a schedule other than the one that weights were trained with."""
    wanted, names = config.diffusion.schedule, {"timesteps": "num_train_timesteps", "betas": "beta_schedule"}
    names |= {"prediction": "prediction_type", "zero_terminal_snr": "rescale_betas_zero_snr"}
    for key, name in names.items():
        asked, has = getattr(wanted, key), scheduler.config[name]
        if asked != has:
            raise ConfigError(
                f"{source} was trained with {name}={has}; ask for it: diffusion.schedule.{key}={has}, not {asked}"
            )


def untrained_generator(config: Config, manifest: Manifest, codec: Codec) -> Generator:
    """A generator of random weights as `diffusion` describes it, without layers along the slices."""
    denoiser = config.diffusion.denoiser
    plan = DenoiserPlan(
        channels=tuple(denoiser.channels),
        layers_per_level=denoiser.layers_per_level,
        attention_levels=denoiser.attention_levels,
        head_channels=denoiser.head_channels,
        text_width=denoiser.text_width,
        text_layers=denoiser.text_layers,
        text_length=denoiser.text_length,
        latent_channels=codec.channels,
        factor=codec.factor,
        control_channels=_control_channels(config, manifest),
    )
    schedule = config.diffusion.schedule
    try:
        scheduler = make_scheduler(schedule.timesteps, schedule.betas, schedule.prediction, schedule.zero_terminal_snr)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return build_denoiser(plan), scheduler, codec
