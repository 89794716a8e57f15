"""The codec that a generator begins with: an exact one, the one of `train-codec`, or one that the user names."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from diffboost3d.cases.workspace import Workspace
from diffboost3d.diffusion.autoencoder import AutoencoderCodec
from diffboost3d.diffusion.codecs import Codec, PackingCodec
from diffboost3d.errors import ConfigError
from diffboost3d.schema import Config
from diffboost3d.stages.inputs import files_digest

WEIGHTS = "vae"


def first_codec(config: Config, workspace: Workspace, fold: int | None) -> Codec:
    """The codec of an untrained generator; fold None: of the one for the pool.

    Raises:
        WorkspaceError: `train-codec` has not run. ConfigError: it ran with other sizes. DataError: no autoencoder at
            `diffusion.codec.weights`.
    """
    asked = config.diffusion.codec
    if asked.name != AutoencoderCodec.name:
        return PackingCodec(asked.name, asked.factor)
    if asked.weights is None:
        _trained_here(config, workspace, fold)
        return AutoencoderCodec.load(workspace.codec(fold) / WEIGHTS)
    return AutoencoderCodec.load(_named(asked.weights))


def codec_digest(config: Config, workspace: Workspace, fold: int | None) -> str:
    """What identifies the weights of `first_codec`; empty without any. Raises as it does."""
    asked = config.diffusion.codec
    if asked.name != AutoencoderCodec.name:
        return ""
    if asked.weights is None:
        return _trained_here(config, workspace, fold)
    return files_digest(AutoencoderCodec.files(_named(asked.weights)))


def _trained_here(config: Config, workspace: Workspace, fold: int | None) -> str:
    """The digest of the codec in the workspace."""
    folder = workspace.codec(fold)
    record = workspace.require(folder, "train-codec")
    asked = asdict(config.diffusion.codec.vae)
    if record["autoencoder"] != asked:
        key = next(key for key in asked if record["autoencoder"][key] != asked[key])
        raise ConfigError(
            f"the codec in {workspace.relative(folder)} was trained with diffusion.codec.vae.{key}="
            f"{record['autoencoder'][key]}, not {asked[key]}; give both commands the same overrides"
        )
    return str(record["digest"])


def _named(path: str) -> Path:
    """The folder itself, or its vae/, as in a result of `train-codec` or a pipeline of `diffusers`."""
    folder = Path(path).expanduser()
    return folder / WEIGHTS if (folder / WEIGHTS).is_dir() else folder
