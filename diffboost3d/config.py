"""Composing the configuration from `configs/` and command-line overrides with Hydra, and writing it down."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffboost3d.composition import composed
from diffboost3d.errors import ConfigError
from diffboost3d.schema import ArmConfig, Config
from diffboost3d.schema.keys import leaves
from diffboost3d.validation import allowed_values, validate

ANY_KEYS = (  # dictionaries of any names
    "network.arguments.",
    "train.loss_arguments.",
    "gate.training.loss_arguments.",
    "synthesize.sets.",
    "compare.variants.",
    "compare.launcher_options.",
)


def configs_folder() -> Path:
    """The `configs/` folder: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(f"the configs folder is missing beside {package}; install diffboost3d again")


def compose(overrides: Sequence[str] = ()) -> Config:
    """The typed, validated configuration.

    Args:
        overrides: Hydra overrides: `key=value`, `group=choice`, `+arm@arm.mine=none`; `plan=FILE` puts the values of a file
            written by `diffboost3d plan` after the preset and before all other overrides.

    Raises:
        ConfigError: one line naming the key or value refused and what is allowed.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    chosen = _with_plan(overrides)
    plans = any(override.startswith("plan=") for override in chosen)
    try:
        raw = composed(configs_folder(), [_quoted(override) for override in chosen], keeps=not plans)
    except Exception as error:  # Hydra raises many types; each is a refused override
        raise ConfigError(_hydra_message(error, overrides)) from error
    try:
        merged = OmegaConf.merge(_typed_defaults(), raw)
        config: Config = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(_typed_message(error, overrides)) from error
    validate(config)
    return config


@lru_cache
def _typed_defaults() -> Any:
    """The schema as OmegaConf has it; never changed, `merge` copies it."""
    from omegaconf import OmegaConf

    return OmegaConf.structured(Config)


def _with_plan(overrides: Sequence[str]) -> list[str]:
    """The overrides with `plan=FILE` as a choice that Hydra knows: its content is stored as an option of the group `plan`."""
    given = [override.partition("=")[2] for override in overrides if override.lstrip("+").startswith("plan=")]
    others = [override for override in overrides if not override.lstrip("+").startswith("plan=")]
    if not given or given[-1] in ("", "null", "none"):
        return others
    from hydra.core.config_store import ConfigStore

    path = given[-1].strip("'\"")
    node = {**read_plan(Path(path).expanduser()), "plan": path}
    ConfigStore.instance().store(group="plan", name=PLAN_CHOICE, node=node, package="_global_")
    return [f"plan={PLAN_CHOICE}", *others]


PLAN_CHOICE = "given_file"


def read_plan(path: Path) -> dict[str, Any]:
    """The values of a file that `diffboost3d plan` wrote, or of one written like it: the configuration's keys, nested.

    Raises:
        ConfigError: no such file, no YAML, or a key that the configuration lacks.
    """
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, YAMLError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ConfigError(f"plan={path} can't be read ({reason}); `diffboost3d plan` writes such a file") from error
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"plan={path} holds no keys; it takes YAML such as `train: {{batch: 2}}`")
    known = {name for name, _ in leaves(Config())}
    for name in _names(content, known):
        if name not in known:
            raise ConfigError(f"plan={path}: {_unknown_key(name)}")
    return {str(name): value for name, value in content.items()}


def _names(content: dict[Any, Any], known: set[str], prefix: str = "") -> Iterator[str]:
    """Dotted names of the keys of a nested dictionary; what is below a known key is its value."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and name not in known:
            yield from _names(value, known, f"{name}.")
        else:
            yield name


def _quoted(override: str) -> str:
    """Put Hydra's quotes around plain text, so that `prompt=Hippocampus, MRI` and paths of any letters need none."""
    name, separator, value = override.partition("=")
    if name.lstrip("+") not in _text_keys() or value in ("", "null") or value[0] in "'\"":
        return override
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"{name}{separator}'{escaped}'"


def _text_keys() -> set[str]:
    """Keys of free text: strings without a list of choices."""
    return {
        path
        for path, one in leaves(Config())
        if str(one.type) in ("str", "str | None")
        and one.metadata.get("choices") is None
        and path not in ("preset", "plan")
    }


def _hydra_message(error: Exception, overrides: Sequence[str]) -> str:
    """One line of what Hydra said in several, with the nearest key where a key is unknown."""
    text = str(error)
    if match := re.search(r"Could not override '([^']+)'", text):
        inner = re.search(r"full_key: (\S+)", str(error.__cause__))
        return _unknown_key(inner.group(1) if inner else match.group(1))
    if match := re.search(r"Ambiguous value for argument '([^=]+)=(.*)'", text):
        return f"{match.group(1)}={match.group(2)} is refused; a list is written {match.group(1)}=[{match.group(2)}]"
    if match := re.search(r"Could not find '([^']+)'\s*\n\s*\nAvailable options in '[^']*':\n((?:\s+\S+\n?)+)", text):
        group, _, choice = match.group(1).rpartition("/")
        return f"{group}={choice} is unknown; allowed: {', '.join(match.group(2).split())}"
    if match := re.search(r"Could not override '?([\w/@.]+)'?\.\s*No match in the defaults list", text):
        return _unknown_key(match.group(1))
    if unread := _unread(text, overrides):
        return f"{unread} can't be read; {_other_letters(unread)}"
    first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    return f"{first.rstrip('.')} (in: {' '.join(overrides)})"


def _unread(text: str, overrides: Sequence[str]) -> str | None:
    """The override whose letters, or whose quotes around a label's name, Hydra's grammar has no place for."""
    at = re.search(r"no viable alternative at input '(.+)'", text)
    for one in overrides:
        of_labels = one.lstrip("+").startswith("data.labels={")
        if "LexerNoViableAlt" in text and one in text and (of_labels or not one.isascii()):
            return one
        if at and of_labels and at[1] in one:
            return one
    return None


def _other_letters(override: str) -> str:
    """How names are given that Hydra's grammar has no place for."""
    if override.lstrip("+").startswith("data.labels"):
        return (
            "names here have letters A to Z, digits and blanks, without quotes; others go into dataset.json in the data folder, "
            '"labels": {"background": 0, "NAME": 1}, or into a file, plan=FILE.yaml'
        )
    return "put values of other letters in quotes ('...'), and names of keys into a file, plan=FILE.yaml"


def _unknown_key(name: str) -> str:
    allowed = [path for path, _ in leaves(Config())]
    if name.startswith(ANY_KEYS):
        return f"{name} is not set yet; +{name}=VALUE adds it"
    if name.split(".")[0] == "arm":
        keys = ", ".join(one.name for one in dataclasses.fields(ArmConfig))
        return f"unknown key {name!r}; an arm takes {keys}; +arm.NAME={{merge: real}} adds one, arms=[NAME] chooses it"
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.6)
    last = name.rpartition(".")[2]
    near = near or [path for path in allowed if path.rpartition(".")[2] == last][:1]
    parent = name.rpartition(".")[0]
    while parent and not any(path.startswith(f"{parent}.") for path in allowed):
        parent = parent.rpartition(".")[0]
    below = [path.removeprefix(f"{parent}.") for path in allowed if not parent or path.startswith(f"{parent}.")]
    here = sorted({path.split(".")[0] for path in below})
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unknown key {name!r}; {hint}allowed{f' in {parent}' if parent else ''}: {', '.join(here)}"


def _typed_message(error: Exception, overrides: Sequence[str]) -> str:
    full_key = getattr(error, "full_key", None) or " ".join(overrides)
    first = str(getattr(error, "msg", None) or error).splitlines()[0].rstrip(".")
    if re.search(r"Key '.*' not in", first):
        return _unknown_key(str(full_key))
    if "not a ListConfig" in first:
        return f"{full_key} takes a list, with brackets: {full_key}=[...]"
    if found := re.match(
        r"Value '(.*)' (?:of type '\w+' could not be converted to (Float|Integer)|is not a valid bool)", first
    ):
        return _wrong_kind(str(full_key), *found.groups())
    return f"{full_key}: {first}"


def _wrong_kind(key: str, value: str, kind: str | None) -> str:
    """A word where a number or a yes or no stands, with what is allowed."""
    known = {name: one.metadata for name, one in leaves(Config())}
    bounds = allowed_values(known.get(re.sub(r"\[\d+\]$", "", key), {}))
    words = {"Float": "a number", "Integer": "a whole number", None: "true or false"}[kind]
    return f"{key}={value} is refused; allowed: {words}{', ' + bounds if bounds else ''}"


def with_values(config: Config, values: dict[str, Any]) -> Config:
    """The configuration with other values, by dotted key, validated. Raises ConfigError as `compose` does."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    changed = OmegaConf.structured(config)
    try:
        for name, value in values.items():
            OmegaConf.update(changed, name, value, merge=isinstance(value, dict))
        made: Config = OmegaConf.to_object(changed)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(_typed_message(error, list(values))) from error
    validate(made)
    return made


def to_plain(section: Any) -> Any:
    """A section as plain JSON-able dictionaries and lists."""
    return dataclasses.asdict(section) if dataclasses.is_dataclass(section) else section  # type: ignore[arg-type]


def from_yaml(text: str) -> Config:
    """The configuration that `to_yaml` wrote, validated."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        read = OmegaConf.merge(_typed_defaults(), OmegaConf.create(text))
        config: Config = OmegaConf.to_object(read)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(_typed_message(error, ())) from error
    validate(config)
    return config


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(to_plain(config)))


def digest(*parts: Any) -> str:
    """SHA-256 (16 hex digits) of sections and plain values: equal content, equal digest."""
    text = json.dumps([to_plain(part) for part in parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
