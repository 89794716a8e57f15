"""Page: one file that stands alone, escapes what it is given, and is readable without seeing the images."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from diffboost3d.report.figures import Panel, montage
from diffboost3d.report.page import PageFigure, Section, build_page
from diffboost3d.report.tables import Table

PNG = montage([[Panel("t", np.eye(4))]])
VOID = {"meta", "link", "img", "br"}


class Outline(HTMLParser):
    """Collects tags with attributes and text, and checks that tags are closed in order."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def page(*sections, provenance=None):
    return build_page("Does it help?", "Made-up scores", sections, {} if provenance is None else provenance)


def test_the_page_loads_nothing_from_elsewhere_and_runs_no_script():
    text = page(Section("A", figures=(PageFigure(PNG, "a slice"),)), Section("B"), provenance={"commit": "abc"})
    outline = Outline(text)
    assert not outline.all("script")
    assert all(attrs["src"].startswith("data:image/png;base64,") for attrs in outline.all("img"))
    assert all(attrs["href"].startswith("data:") for attrs in outline.all("link"))
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text


def test_everything_given_is_escaped():
    nasty = '<script>alert("&")</script>'
    text = build_page(
        nasty,
        nasty,
        [
            Section(
                nasty, f"{nasty}\n- {nasty}", (PageFigure(PNG, nasty, nasty),), Table((nasty, "n"), ((nasty, nasty),))
            ),
            Section(nasty),
        ],
        {nasty: {nasty: nasty}, "list": [nasty], "plain": nasty},
    )
    outline = Outline(text)
    assert not outline.all("script")
    assert outline.all("img")[0]["alt"] == nasty
    assert sum(nasty in data for data in outline.text) >= 8


def test_contents_link_to_every_section_even_when_titles_repeat():
    outline = Outline(page(Section("Dice & co"), Section("Dice & co"), Section("Überblick")))
    targets = [attrs["href"].removeprefix("#") for attrs in outline.all("a")]
    assert targets == [attrs["id"] for attrs in outline.all("section")]
    assert len(set(targets)) == 3


def test_a_single_section_has_no_contents_and_no_provenance_none():
    outline = Outline(page(Section("Only")))
    assert not outline.all("nav")
    assert not outline.all("details")


def test_text_has_paragraphs_and_lists():
    text = page(Section("A", "First\nparagraph.\n\nSecond:\n- one\n- two"))
    assert "<p>First paragraph.</p>\n<p>Second:</p>\n<ul><li>one</li><li>two</li></ul>" in text


def test_numbers_are_aligned_right_and_words_left():
    text = page(Section("A", table=Table(("arm", "Dice"), (("none", "60.0"),))))
    assert '<th>arm</th><th class="number">Dice</th>' in text
    assert '<td>none</td><td class="number">60.0</td>' in text
    assert 'class="scroll" tabindex="0"' in text


def test_figures_have_alternative_text_and_captions():
    text = page(Section("A", figures=(PageFigure(PNG, "a slice", "Figure 1: a slice."),)))
    assert 'alt="a slice"' in text
    assert "<figcaption>Figure 1: a slice.</figcaption>" in text


def test_figures_without_alternative_text_or_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="alternative text"):
        page(Section("A", figures=(PageFigure(PNG, " "),)))
    with pytest.raises(ValueError, match="PNG or SVG"):
        page(Section("A", figures=(PageFigure(b"GIF89a", "a slice"),)))


def test_svg_figures_are_accepted():
    assert "data:image/svg+xml;base64," in page(Section("A", figures=(PageFigure(b"<svg></svg>", "a square"),)))


def test_the_provenance_folds_away_and_shows_nested_values_as_json():
    text = page(Section("A"), provenance={"seed": 3, "config": {"steps": 5, "path": None}})
    assert "<dt>seed</dt><dd>3</dd>" in text
    assert "&quot;steps&quot;: 5" in text
    assert Outline(text).all("details") == [{}]


def test_a_page_without_sections_is_still_a_page():
    assert Outline(page()).all("h1") == [{}]


def test_the_page_follows_the_colour_scheme_and_can_be_printed():
    text = page()
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
