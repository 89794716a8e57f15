"""One self-contained HTML page: text, tables and figures inline, nothing loaded from elsewhere, no scripts."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from diffboost3d.report.tables import Table


@dataclass(frozen=True)
class PageFigure:
    """A PNG or SVG image, the words that stand in for it (`alt`, required) and a caption below it ("" for none)."""

    image: bytes
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A titled part of the page. In `text` a blank line parts paragraphs, and lines that start with "- " are a list."""

    title: str
    text: str = ""
    figures: tuple[PageFigure, ...] = ()
    table: Table | None = None


def build_page(title: str, subtitle: str, sections: Sequence[Section], provenance: Mapping[str, Any]) -> str:
    """Return the page as a string of HTML, to be written as UTF-8.

    All text is escaped. The contents list is left out for fewer than two sections and the provenance when it is empty.
    Raises ValueError for an image that is neither PNG nor SVG, or one without alternative text.
    """
    anchors = _anchors([section.title for section in sections])
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<link rel="icon" href="data:,">',  # keeps browsers from asking a server for one
        f"<title>{escape(title)}</title>",
        f"<style>\n{_style()}</style>",
        "</head>",
        "<body>",
        "<header>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="subtitle">{escape(subtitle)}</p>' if subtitle else "",
        "</header>",
        _contents(sections, anchors) if len(sections) > 1 else "",
        "<main>",
        *(_section(section, anchor) for section, anchor in zip(sections, anchors, strict=True)),
        _provenance(provenance) if provenance else "",
        "</main>",
        "</body>",
        "</html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _style() -> str:
    return files("diffboost3d.report").joinpath("page.css").read_text(encoding="utf-8")


def _anchors(titles: Sequence[str]) -> list[str]:
    """Make a unique fragment for each title."""
    return [
        f"{i}-{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')}".rstrip("-") for i, title in enumerate(titles, 1)
    ]


def _contents(sections: Sequence[Section], anchors: Sequence[str]) -> str:
    items = "".join(
        f'<li><a href="#{anchor}">{escape(section.title)}</a></li>'
        for section, anchor in zip(sections, anchors, strict=True)
    )
    return f'<nav aria-label="Contents"><ol>{items}</ol></nav>'


def _section(section: Section, anchor: str) -> str:
    parts = [f'<section id="{anchor}">', f"<h2>{escape(section.title)}</h2>", _prose(section.text)]
    if section.table is not None:
        parts.append(_table(section.table, section.title))
    parts += [_figure(figure) for figure in section.figures]
    return "\n".join(part for part in [*parts, "</section>"] if part)


def _prose(text: str) -> str:
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        words: list[str] = []
        items: list[str] = []
        for line in block.splitlines():
            if line.startswith("- "):
                items.append(f"<li>{escape(line[2:])}</li>")
            else:
                words.append(escape(line))
        if any(words):
            blocks.append(f"<p>{' '.join(words)}</p>")
        if items:
            blocks.append(f"<ul>{''.join(items)}</ul>")
    return "\n".join(blocks)


def _table(table: Table, name: str) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}>{escape(cell)}</{tag}>"
            if i < table.text_columns
            else f'<{tag} class="number">{escape(cell)}</{tag}>'
            for i, cell in enumerate(row)
        )

    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    # focusable, so that the keyboard can scroll it
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}: table"><table>\n'
        f"<thead><tr>{cells('th', table.columns)}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _figure(figure: PageFigure) -> str:
    if not figure.alt.strip():
        raise ValueError("a figure needs alternative text for readers who can't see it")
    data = base64.b64encode(figure.image).decode("ascii")
    caption = f"<figcaption>{escape(figure.caption)}</figcaption>" if figure.caption else ""
    image = f'<img src="data:{_media_type(figure.image)};base64,{data}" alt="{escape(figure.alt)}">'
    return f"<figure>{image}{caption}</figure>"


def _media_type(image: bytes) -> str:
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if b"<svg" in image[:1000]:
        return "image/svg+xml"
    raise ValueError(f"a figure must be PNG or SVG, this one starts with {image[:8]!r}")


def _provenance(provenance: Mapping[str, Any]) -> str:
    entries = "\n".join(
        f"<dt>{escape(str(key))}</dt><dd>{_provenance_value(value)}</dd>" for key, value in provenance.items()
    )
    return f"<details><summary>Provenance</summary>\n<dl>\n{entries}\n</dl>\n</details>"


def _provenance_value(value: Any) -> str:
    if isinstance(value, Mapping | list | tuple):
        return f"<pre>{escape(json.dumps(value, indent=2, default=str, ensure_ascii=False))}</pre>"
    return escape(str(value))
