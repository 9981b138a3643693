"""A command's code by meaning: the files that it imports, each by a digest of what it does.

The digest is of a file's syntax tree without what changes nothing that a program does: comments,
docstrings and other bare strings, `pass`, layout, and the order in which neighbouring import
statements and their names stand. Everything else counts, annotations and decorators among it.
Python 3.11 to 3.13 make the same digests: these are of the tree's fields by name, where `ast.dump`
and `ast.unparse` differ between versions. Docstrings change what a program does only where it
reads its own: in the commands' help, and in the methods' names in a summary, whose rule is told.
"""

import ast
import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from deltageom.files import whole_file

PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True)
class Source:
    """What is kept of a file: its digest, 12 hex digits, and the modules of this package that it may import."""

    digest: str
    imports: list[str]


def digests(*modules: str) -> dict[str, str]:
    """The digest of each file that the `modules` ('cli.train', 'methods.dpo') import, themselves included.

    By path from the package's folder on ('deltageom/losses.py'), the same wherever the project lies; sorted.
    Raises ModuleNotFoundError if there is no such module.
    """
    paths = sorted({path for module in modules for path in import_closure(module)})
    return {path.relative_to(PACKAGE.parent).as_posix(): _source(path).digest for path in paths}


@cache
def import_closure(module: str) -> tuple[Path, ...]:
    """Every file of this package that `module` ('cli.jobs.train') imports, itself included, sorted.

    Reads import statements wherever they stand, functions included; modules found by name at run time
    (methods, engines) are no import statements: their users list them beside the command.
    Raises ModuleNotFoundError if there is no such module.
    """
    found: set[Path] = set()
    queue = [_file(module)]
    if queue[0] is None:
        raise ModuleNotFoundError(f"deltageom.{module}")
    while queue:
        path = queue.pop()
        if path is None or path in found:
            continue
        found.add(path)
        queue.extend(_file(name) for name in _source(path).imports)
    return tuple(sorted(found))


def meaning(tree: ast.Module) -> str:
    """The digest of a file's syntax tree, 12 hex digits."""
    # ascii(): which characters repr() shows depends on the version's Unicode
    return hashlib.sha256(ascii(_plain(tree)).encode()).hexdigest()[:12]


@cache
def _source(path: Path) -> Source:
    """Once a process, and once a change: parsing takes the most of a start, so what was found is kept beside the .pyc.

    It is kept under the digest of this file's and that file's bytes, so that it is never of another text.
    """
    text = path.read_bytes()
    key = hashlib.sha256(Path(__file__).read_bytes() + b"\0" + text).hexdigest()
    kept = path.parent / "__pycache__" / f"{path.stem}.meaning.json"
    with suppress(OSError, ValueError, TypeError):
        found, *fields = json.loads(kept.read_bytes())
        if found == key:
            return Source(*fields)
    tree = ast.parse(text)
    names = {name for node in ast.walk(tree) for name in _imported(node)}
    source = Source(meaning(tree), sorted(names))
    with suppress(OSError), whole_file(kept) as aside:  # a package may be read-only
        aside.write_text(json.dumps([key, *astuple(source)]))
    return source


def _plain(node: Any) -> Any:
    """A syntax tree as nested tuples: each node's type and those of its fields that say anything, by name."""
    if isinstance(node, list):
        return tuple(map(_plain, _statements(node) if node and isinstance(node[0], ast.stmt) else node))
    if not isinstance(node, ast.AST):
        return node
    fields = [(name, getattr(node, name, None)) for name in node._fields if name != "kind"]  # of a string: u"" is ""
    if isinstance(node, ast.JoinedStr):  # Python 3.12 ends some formats with an empty string
        fields = [("values", [part for part in node.values if not _is_text(part, "")])]
    said = [(name, _plain(value)) for name, value in fields if value is not None and value != []]
    return (type(node).__name__, *said)


def _statements(body: list[ast.stmt]) -> Iterable[ast.stmt]:
    """Without those that do nothing; of neighbouring imports, each name by a statement of its own, in order."""
    imports: dict[str, ast.stmt] = {}
    for statement in body:
        if isinstance(statement, ast.Pass) or (isinstance(statement, ast.Expr) and _is_text(statement.value)):
            continue
        if isinstance(statement, ast.Import | ast.ImportFrom):
            imports |= {ast.unparse(single): single for single in _singly(statement)}
            continue
        yield from (imports[text] for text in sorted(imports))
        imports = {}
        yield statement
    yield from (imports[text] for text in sorted(imports))


def _singly(statement: ast.Import | ast.ImportFrom) -> Iterable[ast.stmt]:
    if isinstance(statement, ast.Import):
        return [ast.Import([name]) for name in statement.names]
    return [ast.ImportFrom(statement.module, [name], statement.level) for name in statement.names]


def _is_text(node: ast.AST, text: str | None = None) -> bool:
    """Whether it is a string, this one if `text` is given."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and text in (None, node.value)


def _imported(node: ast.AST) -> list[str]:
    """The modules of this package that an import statement may run, '' for the package itself."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    else:
        return []
    own = [name.split(".")[1:] for name in names if name.split(".")[0] == "deltageom"]
    # a package's __init__ runs too when one of its modules is imported
    return [".".join(parts[:depth]) for parts in own for depth in range(len(parts) + 1)]


@cache
def _file(module: str) -> Path | None:
    """Of 'cli.train', None if there is none: what `from a import b` names need not be a module."""
    path = PACKAGE.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None
