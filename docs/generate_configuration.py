"""Write docs/reference/configuration.md from the schema and `configs/`, so that the page can't fall behind the code.

python docs/generate_configuration.py            write the page
python docs/generate_configuration.py --check    exit status 1 if the committed page differs
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffboost3d.config import compose, configs_folder, to_plain
from diffboost3d.schema import ArmConfig, Config

PAGE = Path(__file__).resolve().parent / "reference" / "configuration.md"

HEAD = """<!-- Written by docs/generate_configuration.py from diffboost3d/schema/ and configs/. Do not edit. -->

# Configuration

Every key can be set on the command line of every command: `diffboost3d run merge.alpha=0.5 train.steps=1000`. A wrong key,
type or value is refused in one line. Later ones win: `configs/`, then the preset, then the command line.
`diffboost3d run --cfg job` prints what comes out, and every run keeps it in `ws/config/`.

Defaults are those of `preset=standard`.
"""


def page() -> str:
    """The whole page as Markdown."""
    config = compose()
    parts = [HEAD, _groups(), _presets(), _arms(config)]
    parts += [_section(title, fields) for title, fields in _sections(config)]
    return "\n".join(parts)


def _groups() -> str:
    """The files that a word on the command line chooses."""
    rows = []
    for folder in sorted(
        path for path in configs_folder().iterdir() if path.is_dir() and path.name not in ("arm", "ablation")
    ):
        choices = sorted(path.stem for path in folder.glob("*.yaml"))
        if len(choices) > 1:
            rows.append((f"`{folder.name}`", ", ".join(f"`{folder.name}={choice}`" for choice in choices)))
    return "## Groups\n\nA group sets many keys at once.\n\n" + _table(("group", "choices"), rows)


def _presets() -> str:
    """What each preset sets apart from the standard one."""
    presets = ["standard", *sorted(path.stem for path in (configs_folder() / "preset").glob("*.yaml"))]
    values = {preset: dict(_flat(to_plain(compose([f"preset={preset}"])))) for preset in dict.fromkeys(presets)}
    keys = [
        key
        for key in values["standard"]
        if key != "preset" and any(other[key] != values["standard"][key] for other in values.values())
    ]
    rows = []
    for key in keys:
        standard = values["standard"][key]
        others = (preset for preset in values if preset != "standard")
        rows.append(
            (
                f"`{key}`",
                _value(standard),
                *("" if values[o][key] == standard else _value(values[o][key]) for o in others),
            )
        )
    return "## Presets\n\nKeys in which they differ; empty where as in `standard`.\n\n" + _table(("key", *values), rows)


def _arms(config: Config) -> str:
    rows = [
        (f"`{name}`", arm.merge, "yes" if arm.classical else "no", arm.synthetic_set, ", ".join(arm.augmentations))
        for name, arm in config.arm.items()
    ]
    meanings = [f"`{one.name}`: {one.metadata['meaning']}" for one in dataclasses.fields(ArmConfig)]
    intro = "## Arms\n\n" + " ".join(meanings) + " `+arm.mine={merge: real, classical: true}` adds one.\n\n"
    return intro + _table(("arm", "merge", "classical", "synthetic_set", "augmentations"), rows)


def _sections(config: Config) -> Iterator[tuple[str, list[tuple[str, Any, Any]]]]:
    """(dotted name, [(path, field, value)]) of the root and of every section, in the order of the schema."""
    yield from _sections_below(config, "")


def _sections_below(section: Any, prefix: str) -> Iterator[tuple[str, list[tuple[str, Any, Any]]]]:
    own, below = [], []
    for one in dataclasses.fields(section):
        value = getattr(section, one.name)
        if dataclasses.is_dataclass(value):
            below.append((value, f"{prefix}{one.name}."))
        elif one.name != "arm":
            own.append((f"{prefix}{one.name}", one, value))
    if own:
        yield prefix.rstrip("."), own
    for value, path in below:
        yield from _sections_below(value, path)


def _section(title: str, fields: list[tuple[str, Any, Any]]) -> str:
    rows = [
        (f"`{path}`", _value(value), _allowed(one), _escaped(one.metadata["meaning"])) for path, one, value in fields
    ]
    heading = f"## {title}" if title else "## At the top"
    return f"{heading}\n\n" + _table(("key", "default", "allowed", "meaning"), rows)


def _allowed(one: Any) -> str:
    """Type, choices, bounds and lengths of a field in words."""
    given = one.metadata
    kind = str(getattr(one.type, "__name__", one.type))
    words = [_escaped(kind.replace(" | None", " or null"))]
    if given.get("choices"):
        words = [", ".join(f"`{choice}`" for choice in given["choices"])]
    low, high = given.get("low"), given.get("high")
    if low is not None and high is not None:
        words.append(f"{low:g} to {high:g}")
    elif low is not None:
        words.append(f"at least {low:g}")
    elif high is not None:
        words.append(f"at most {high:g}")
    if given.get("length"):
        words.append(f"{' or '.join(map(str, given['length']))} values")
    return "; ".join(words)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, one in value.items():
        if isinstance(one, dict) and one and name not in ("arm", "arguments", "loss_arguments", "labels", "sets"):
            yield from _flat(one, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", one


def _value(value: Any) -> str:
    """As it would be written on the command line, without the quotes that words don't need there."""
    return f"`{json.dumps(value).replace(chr(34), '')}`"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> int:
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        print(
            "docs/reference/configuration.md is out of date: run python docs/generate_configuration.py", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
