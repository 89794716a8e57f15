"""Colours of labels, and the files by which viewers take them over: ITK-SNAP's label descriptions, 3D Slicer's colour tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# Okabe and Ito's palette for any colour vision, less black and the yellow that vanishes on white
PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0), (204, 121, 167), (0, 114, 178))
Colour = tuple[int, int, int]


def label_colours(labels: Mapping[str, int], wanted: Mapping[str, Sequence[int]] | None = None) -> dict[str, Colour]:
    """Red, green and blue (0 to 255) of each label but the background.

    Args:
        labels: name -> value. wanted: name -> colour; labels it doesn't name take those of `PALETTE` in turn.
    """
    names = [name for name, value in labels.items() if value != 0]
    colours = {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(names)}
    for name, (red, green, blue) in (wanted or {}).items():
        if name in colours:
            colours[name] = (int(red), int(green), int(blue))
    return colours


def itk_snap_text(labels: Mapping[str, int], colours: Mapping[str, Colour]) -> str:
    """Label descriptions as ITK-SNAP imports them: value, red, green, blue, opacity, visible, visible in 3D, "name"."""
    lines = ["# ITK-SNAP Label Description File", '0 0 0 0 0 0 0 "Clear Label"']
    for name, (red, green, blue) in colours.items():
        quoted = name.replace('"', "'")
        lines.append(f'{labels[name]} {red} {green} {blue} 1 1 1 "{quoted}"')
    return "\n".join(lines) + "\n"


def slicer_text(labels: Mapping[str, int], colours: Mapping[str, Colour]) -> str:
    """A colour table as 3D Slicer loads it: value, name without spaces, red, green, blue, opacity."""
    lines = ["# Color table of labels", "0 Background 0 0 0 0"]
    for name, (red, green, blue) in colours.items():
        lines.append(f"{labels[name]} {'_'.join(name.split())} {red} {green} {blue} 255")
    return "\n".join(lines) + "\n"
