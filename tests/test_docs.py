"""The README and the pages: what they name is there, what they call runs, and prose fits 100 columns."""

import argparse
import importlib.util
import re
from pathlib import Path

import pytest

from deltageom.cli import main
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = {  # of a reader's own
    "studies/mine.yaml",
    "methods/half_sft.py",
    "measures/where.py",
    "workflow/rules/where.smk",
    "workflow/rules/NAME.smk",
}
EVERY = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def prose(page: Path) -> list[str]:
    """Lines that are no code, no table and no picture."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return [line for line in text.splitlines() if not line.startswith(("|", "!["))]


def anchors(page: Path) -> set[str]:
    """A heading's anchor, as GitHub makes it: lower case, no punctuation, a hyphen for each space."""
    headings = [line.lstrip("#").strip() for line in prose(page) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@EVERY
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for path, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        target = page.parent / path if path else page
        if "://" not in path and (not target.exists() or (anchor and anchor not in anchors(target))):
            broken.append(f"{path}#{anchor}")
    assert broken == []


@EVERY
def test_prose_fits_100_columns(page: Path) -> None:
    assert [line for line in prose(page) if len(line) > 100 and " " in line.strip()] == []


def code(page: Path) -> list[str]:
    """Lines of code: of blocks, with their continuations, and within backticks, with their line breaks."""
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)
    inline = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [line for block in blocks for line in block.splitlines()] + [" ".join(piece.split()) for piece in inline]


# of today: the changelog names yesterday's
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_commands_and_their_options_are_there(page: Path) -> None:
    parser = main._parser(main._commands())
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    unknown = []
    for line in code(page):
        call = re.match(r"(?:\$ )?(?:\.venv(?:-\w+)?/bin/)?deltageom (?!-)([\w-]+)(.*)", line.partition("  #")[0])
        if call and call[1] not in commands:
            unknown.append(line)
        elif call:
            options = re.findall(r"(?<=[\s\[])--[\w-]+", call[2])
            unknown += [f"{call[1]} {o}" for o in options if o not in commands[call[1]]._option_string_actions]
    assert unknown == []


@EVERY
def test_sources_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(r"`(?:src/deltageom/)?([a-z]\w*/[\w./-]*(?:\.py|\.smk|\.yaml|\.txt|/))`", page.read_text())
    below = (ROOT, ROOT / "src" / "deltageom", ROOT / "workflow")
    missing = [name for name in named if not any((folder / name).exists() for folder in below)]
    assert [name for name in missing if name not in EXAMPLES and not name.startswith("results/")] == []


@EVERY
def test_python_modules_and_scripts_are_there(page: Path) -> None:
    shown = "\n".join(code(page))
    assert [name for name in re.findall(r"python -m ([a-z][\w.]*)", shown) if not importlib.util.find_spec(name)] == []
    assert [name for name in re.findall(r"python ([a-z]\w*/\w+\.py)", shown) if not (ROOT / name).is_file()] == []


@EVERY
def test_studies_and_make_targets_are_there(page: Path) -> None:
    lines = code(page)
    studies = {name for line in lines for name in re.findall(r"\bstudy=([\w-]+)", line)} - {"mine", "NAME"}
    targets = {target for line in lines for target in re.findall(r"^make ([a-z][\w-]*)", line)}
    makefile = (ROOT / "Makefile").read_text()
    assert [name for name in sorted(studies) if not (ROOT / "studies" / f"{name}.yaml").is_file()] == []
    assert [name for name in sorted(targets) if not re.search(rf"^{name}:", makefile, flags=re.MULTILINE)] == []


def test_readme_names_every_study_but_the_default() -> None:
    text = (ROOT / "README.md").read_text()
    assert [path.stem for path in (ROOT / "studies").glob("*.yaml") if f"`{path.stem}`" not in text] == ["toy"]


def test_every_folder_of_the_tree_is_there() -> None:
    tree = (ROOT / "README.md").read_text().partition("## What is where")[2].partition("```\n")[2].partition("```")[0]
    below = ROOT
    named = []
    for line in tree.splitlines():
        where = re.split(r"\s{2,}", line.strip())[0]
        if where == "src/deltageom/":
            below = ROOT / where
        base = below if line.startswith("  ") else ROOT
        named += [base / name.rstrip(",;") for name in where.split()]
    assert len(named) > 25
    assert [path for path in named if not path.exists()] == []
    shown = {path.name for path in named if path.parent == ROOT / "src" / "deltageom"}
    package = {path.name for path in (ROOT / "src" / "deltageom").iterdir() if (path / "__init__.py").is_file()}
    assert shown == package
