"""Prompts of a pool's files, made of the folders they lie in: modality/anatomy/finding/..."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffboost3d.errors import DataError

Abbreviations = Mapping[str, Mapping[str, str]]

LEVELS = ("modality", "anatomy", "finding")


def read_abbreviations(path: Path) -> Abbreviations:
    """What folder names stand for, by level: {"modality": {"MR": "MRI"}, "anatomy": {...}, "finding": {...}}.

    Raises:
        DataError: no such file, or it isn't of that form.
    """
    from omegaconf import OmegaConf

    try:
        table: Any = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # YAML and OmegaConf raise many types; each is a file that can't be read
        raise DataError(f"{path}: can't be read ({str(error).partition(chr(10))[0]})") from error
    if not isinstance(table, dict) or not set(table) <= set(LEVELS):
        raise DataError(f"{path}: should hold the sections {', '.join(LEVELS)} and no others")
    return {level: _meanings(path, level, names or {}) for level, names in table.items()}


def _meanings(path: Path, level: str, names: Any) -> dict[str, str]:
    """One section, with its folder names in lower case."""
    if not isinstance(names, dict):
        raise DataError(f"{path}: {level} should hold lines of the form NAME: MEANING")
    for short, meaning in names.items():
        if not isinstance(short, str) or not isinstance(meaning, str):
            raise DataError(f"{path}: {level}.{short} should be words, in quotes where YAML takes them otherwise")
    return {short.lower(): meaning for short, meaning in names.items()}


def modality_of(path: str, abbreviations: Abbreviations) -> str:
    """The modality of a pool's file, in words: "MRI" of "MR/brain/x.png"."""
    return _words(path.partition("/")[0], abbreviations.get("modality", {}))


def prompt_of(path: str, abbreviations: Abbreviations) -> str:
    """The prompt of a pool's file, in the order of the tasks' own ("Hippocampus, MRI"): anatomy, findings, modality.

    >>> prompt_of("MR/brain/pituitary_tumor/x.png", {"modality": {"MR": "MRI"}})
    'brain, pituitary tumor, MRI'
    """
    _, *below = path.split("/")[:-1]
    words = [
        _words(name, abbreviations.get("anatomy" if level == 0 else "finding", {})) for level, name in enumerate(below)
    ]
    return ", ".join(filter(None, [*words, modality_of(path, abbreviations)]))


def _words(name: str, meanings: Mapping[str, str]) -> str:
    """A folder name in words."""
    plain = " ".join(name.replace("_", " ").split())
    return meanings.get(name) or meanings.get(name.lower(), plain)
