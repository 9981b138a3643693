"""Which files a command's behaviour depends on, and what of them counts."""

import ast
from fnmatch import fnmatch
from pathlib import Path

import pytest

from deltageom.jobs import code
from deltageom.jobs.code import PACKAGE, digests, import_closure

TEXT = '''"""A module."""

from __future__ import annotations

import os
import sys
from pathlib import Path, PurePath

Tree = dict[str, int]  # an alias


@property
def f(x: int, *, y: str = "a") -> str:
    """A function."""
    from os import sep

    return f"{x:>{y}}" "b"


class A:
    """A class."""

    LIMIT = 3
    """Of an attribute."""

    def g(self) -> None:
        """Does nothing."""
'''

SAME = {
    "a comment": ("LIMIT = 3", "LIMIT = 3  # of them"),
    "a module's docstring": ('"""A module."""\n', ""),
    "a function's docstring": ("A function.", "Another's words."),
    "a class's docstring": ('"""A class."""\n', ""),
    "an attribute's docstring": ("Of an attribute.", "What it is."),
    "pass for a docstring": ('"""Does nothing."""', "pass"),
    "the order of imports": ("import os\nimport sys\n", "import sys\nimport os\n"),
    "imports on one line": ("import os\nimport sys\n", "import os, sys\n"),
    "an import written twice": ("import os\n", "import os\nimport os\n"),
    "the order of names": ("Path, PurePath", "PurePath, Path"),
    "one statement a name": ("import Path, PurePath", "import PurePath\nfrom pathlib import Path"),
    "layout and quotes": ('y: str = "a"', "y: str='a',"),
    "parts of a string": ('" "b"', 'b"'),
}
OTHER = {
    "a constant": ("LIMIT = 3", "LIMIT = 4"),
    "a constant of another type": ("LIMIT = 3", "LIMIT = 3.0"),
    "a constant that is now True": ("LIMIT = 3", "LIMIT = True"),
    "a constant that is now None": ("LIMIT = 3", "LIMIT = None"),
    "a string in use": ('y: str = "a"', 'y: str = "b"'),
    "a decorator": ("@property\n", ""),
    "an alias of a type": ("dict[str, int]", "dict[str, str]"),
    "an annotation": ("x: int", "x: float"),
    "a statement": ("    LIMIT = 3\n", "    LIMIT = 3\n    MORE = 4\n"),
    "a name": ("LIMIT", "BOUND"),
    "an imported name": ("Path, PurePath", "Path, PosixPath"),
    "an import under another name": ("import os\n", "import os as o\n"),
    "an import that moves over a statement": (
        "import os\nimport sys\n",
        "import os\nos.getcwd()\nimport sys\n",
    ),
    "where a statement belongs": ("    LIMIT = 3\n", "    pass\n\nLIMIT = 3\n\nclass B:\n"),
    "a returned docstring": ('    """A function."""\n', '    return """A function."""\n'),
}


def meaning(text: str) -> str:
    return code.meaning(ast.parse(text))


def edited(edit: tuple[str, str]) -> str:
    old, new = edit
    assert TEXT.count(old) >= 1
    return TEXT.replace(old, new, 1)


@pytest.mark.parametrize("name", SAME)
def test_words_and_layout_count_for_nothing(name: str) -> None:
    assert meaning(edited(SAME[name])) == meaning(TEXT)


@pytest.mark.parametrize("name", OTHER)
def test_what_a_program_does_counts(name: str) -> None:
    assert meaning(edited(OTHER[name])) != meaning(TEXT)


def test_imports_do_not_move_over_other_statements() -> None:
    first, second = "import os\nf()\nimport sys\n", "import sys\nf()\nimport os\n"
    assert meaning(first) != meaning(second)


def test_every_version_of_python_finds_this_digest() -> None:
    """Of formats too, which Python 3.12 parses in its own way."""
    assert meaning(TEXT) == "851a1ac80731"


def test_what_was_found_is_kept_for_this_text_only(tmp_path: Path) -> None:
    """Beside the file, and found again by the next process."""
    path = tmp_path / "a.py"
    path.write_text("import deltageom.errors\nA = 1\n")
    find = code._source.__wrapped__
    first = find(path)
    kept = tmp_path / "__pycache__" / "a.meaning.json"
    assert find(path) == first
    assert first.imports == ["", "errors"]
    stamp = kept.stat().st_mtime_ns
    find(path)
    assert kept.stat().st_mtime_ns == stamp
    path.write_text("A = 2\n")
    second = find(path)
    assert second.digest != first.digest
    assert second.imports == []
    kept.write_text("damaged")
    assert find(path) == second


def closure(*modules: str) -> set[str]:
    return {str(path.relative_to(PACKAGE)) for module in modules for path in import_closure(module)}


def test_digests_are_by_path_from_the_package_on() -> None:
    found = digests("cli.jobs.train", "methods.dpo")
    assert list(found) == sorted(found)
    assert set(found) == {f"deltageom/{name}" for name in closure("cli.jobs.train", "methods.dpo")}
    assert found["deltageom/methods/dpo.py"] == meaning((PACKAGE / "methods/dpo.py").read_text(encoding="utf-8"))


def test_closure_holds_what_is_imported_inside_functions_and_no_more() -> None:
    assert {
        "cli/jobs/geometry.py",
        "geometry/record.py",
        "geometry/module_numbers.py",
        "deltas/adapter.py",
    } <= closure("cli.jobs.geometry")
    assert not {"training/train.py", "methods/shared/log_probs.py", "report/figures.py", "cli/main.py"} & closure(
        "cli.jobs.geometry"
    )


def test_a_method_is_in_the_closure_of_its_own_runs_only() -> None:
    methods = {name for name in closure("cli.jobs.train") if name.startswith("methods/")}
    shared = {"methods/shared/__init__.py", "methods/shared/selection.py"}
    assert methods == {"methods/__init__.py", "methods/interface.py", *shared}
    assert "methods/dpo.py" in closure("cli.jobs.train", "methods.dpo")
    assert "methods/dft.py" not in closure("cli.jobs.train", "methods.dpo")


# What no rollout, no training and no answer may depend on, by a pattern each: a change there would cost days of a GPU.
# To be extended as soon as another import goes.
EVERYWHERE = (
    *("api.py", "comparison/*", "display/*", "planning/*", "report/*", "toy/*"),
    *("grading/*", "measures/*", "geometry/[!_f]*", "deltas/hub.py", "deltas/open.py"),
    *("jobs/checksums.py", "jobs/pack.py", "jobs/study_provenance.py", "jobs/watch.py"),
    *("study/grid.py", "study/load.py", "study/measured.py", "study/resolved.py"),
)
NEVER = {
    "rollouts": (*EVERYWHERE, "evaluation/*", "geometry/*", "methods/*", "training/*"),
    "train": (*EVERYWHERE, "evaluation/*", "generation/*", "problems/*", "rollouts/*"),
    "evaluate": (*EVERYWHERE, "geometry/*", "methods/*", "rollouts/*", "training/*"),
}


@pytest.mark.parametrize("command", NEVER)
def test_dear_jobs_depend_on_nothing_that_comes_after_them(command: str) -> None:
    files = closure(f"cli.jobs.{command}")
    assert [name for name in sorted(files) for pattern in NEVER[command] if fnmatch(name, pattern)] == []
    package = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")}
    unused = [pattern for pattern in NEVER[command] if not any(fnmatch(name, pattern) for name in package)]
    assert unused == [], "these files have moved: the list must follow"


def test_training_code_is_no_input_of_what_follows_from_adapters() -> None:
    for command in ("evaluate", "measure", "tables", "figures"):
        assert "training/train.py" not in closure(f"cli.jobs.{command}"), command
    for measure in ("connectivity", "cka"):
        assert "training/train.py" not in closure(f"measures.{measure}"), measure


def test_no_such_module() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"cli\.nothing"):
        import_closure("cli.nothing")


def test_no_relative_imports_which_the_walk_would_miss() -> None:
    for path in Path(PACKAGE).rglob("*.py"):
        assert "\nfrom ." not in path.read_text(), path
