"""What README and docs show is run, composed or followed: commands, keys, links, and the generated page.

A fenced block below the comment `<!-- run -->` is run, in order of its page, in a folder that holds `my-data/` (MR-like
volumes) and `my-pictures/` (ultrasound-like pictures). Words that make the work small are put behind each command; nothing
else of it changes. Of all other blocks, the overrides of every `diffboost3d` line are composed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_folders import TINY

from diffboost3d import cli
from diffboost3d.cohort import write_cohort
from diffboost3d.config import compose

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "preprocessing" / "README.md",
    *sorted(DOCS.rglob("*.md")),
]
FENCE = re.compile(r"^(?:<!-- (?P<mark>\w+) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:)(?P<target>[^)\s]+)\)")

# three folds of nine cases; coarse voxels; two arms unless the command names others
SMALL = (*(word for word in TINY if not word.startswith("preset=")), "prepare.spacing_mm=[4,4,4]")
CASES = 9


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `mark` is the word of the comment above it."""

    page: Path
    mark: str | None
    kind: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Commands, comments left out and continued lines joined."""
        joined = self.text.replace("\\\n", " ")
        return [line.strip() for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(page, match["mark"], match["kind"], match["text"]) for match in FENCE.finditer(text)]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _command(line: str) -> list[str] | None:
    """The words after `diffboost3d` in a line that runs it, also by `torchrun -m diffboost3d`."""
    words = shlex.split(line, comments=True)
    if "diffboost3d" not in words:
        return None
    words = words[words.index("diffboost3d") + 1 :]
    return words if words and words[0] in cli.COMMANDS else None


def _shown_commands() -> Iterator[tuple[str, str]]:
    """(page, line) of every diffboost3d command in a block, and in the text between backticks."""
    for page in PAGES:
        for block in _blocks(page):
            if block.kind in ("bash", ""):
                yield from ((_name(page), line) for line in block.lines if _command(line))
        prose = FENCE.sub("", page.read_text(encoding="utf-8"))
        yield from ((_name(page), code) for code in re.findall(r"`(diffboost3d [^`]+)`", prose) if _is_whole(code))


def _is_whole(code: str) -> bool:
    return not re.search(r"\.\.\.|[A-Z]{3,}|<", code) and _command(code) is not None


RUN_PAGES = [page for page in PAGES if any(block.mark == "run" for block in _blocks(page))]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that the pages speak of."""
    root = tmp_path_factory.mktemp("data")
    _write_small_cohort("mr", root / "my-data", CASES)
    _write_small_cohort("ultrasound", root / "my-pictures", CASES)
    return root


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pages' blocks run; one for all pages, so that `ws` is made once and then goes on."""
    folder = tmp_path_factory.mktemp("reader")
    for source in data.iterdir():
        (folder / source.name).symlink_to(source)
    return folder


def _write_small_cohort(kind: str, folder: Path, cases: int, seed: int = 0) -> Path:
    return write_cohort(kind, folder, cases, seed, (32, 24) if kind == "ultrasound" else (24, 24, 16))


def _run_diffboost3d(words: list[str]) -> int:
    """The command as shown, made small: its own keys win, but for numbers of steps and sizes."""
    given = {word.split("=")[0] for word in words}
    keeps = given & {"arms", "data.folds"}
    small = [word for word in SMALL if word.split("=")[0] not in keeps]
    asks = "--help" in words or "--cfg" in words or not words or words[0] not in cli.COMMANDS
    return cli.main(words if asks else [*words, *small])


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN_PAGES, ids=_name)
def test_marked_blocks_run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("diffboost3d.stages.demo.CASES", CASES)
    monkeypatch.setattr("diffboost3d.stages.demo.write_cohort", _write_small_cohort)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for block in (block for block in _blocks(page) if block.mark == "run"):
        if block.kind == "python":
            exec(compile(block.text, _name(page), "exec"), {})
            continue
        for line in block.lines:
            words = shlex.split(line)
            if words[0] == "diffboost3d":
                assert _run_diffboost3d(words[1:]) == 0, line
            elif "write_cohort" in line:
                _check_cohort_line(words, folder)
            else:
                subprocess.run(line, shell=True, check=True)


def _check_cohort_line(words: list[str], folder: Path) -> None:
    """Run it in a folder of its own: the pages after it go on with the small `my-data`."""
    apart = folder / "cohort-line"
    apart.mkdir(exist_ok=True)
    subprocess.run([sys.executable, *words[1:]], cwd=apart, check=True)
    assert (apart / "my-data" / "dataset.json").is_file()


@pytest.mark.parametrize(("page", "line"), [pytest.param(*one, id=f"{one[0]}: {one[1]}") for one in _shown_commands()])
def test_shown_overrides_compose(page: str, line: str) -> None:
    words = _command(line)
    assert words is not None
    if words[0] == "inspect":
        words = ["inspect", *cli.inspect_words(words[1:])]
    written_before = "plan="  # a file that an earlier command of the page makes
    compose([word for word in words[1:] if not word.startswith(("--", written_before)) and word != "job"])


def test_commands_page_has_every_command() -> None:
    text = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8").replace("\\|", "|")
    for command, meaning in cli.COMMANDS.items():
        assert f"| `{command}` | {meaning} |" in text


def test_configuration_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate_configuration", DOCS / "generate_configuration.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert generator.PAGE.read_text(encoding="utf-8") == generator.page(), "run python docs/generate_configuration.py"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=_name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    for match in LINK.finditer(prose):
        target = match["target"].partition("#")[0]
        assert not target or (page.parent / target).exists(), f"{_name(page)} links to {match['target']}"


def test_workspace_page_names_the_files_of_a_run(folder: Path) -> None:
    """After the pages have run: every file at the top of the workspace stands in the table."""
    text = (DOCS / "reference" / "workspace.md").read_text(encoding="utf-8")
    for path in (folder / "ws").glob("*") if (folder / "ws").is_dir() else ():
        assert f"`{path.name}" in text, path.name


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        assert str(page.relative_to(DOCS)) in navigation
