"""Code as an input: the files that a command's behaviour depends on, found by walking imports."""

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent


@cache
def import_closure(module: str) -> tuple[Path, ...]:
    """Every file of this package that `module` ('cli.train') imports, itself included, sorted.

    Reads import statements wherever they stand, functions included; modules found by name at run time
    (methods, engines) are no import statements: their users list them beside the command.
    Raises ModuleNotFoundError if there is no such module.
    """
    found: set[Path] = set()
    queue = [_file(module.split("."))]
    if queue[0] is None:
        raise ModuleNotFoundError(f"deltageom.{module}")
    while queue:
        path = queue.pop()
        if path is None or path in found:
            continue
        found.add(path)
        queue.extend(_imports(path))
    return tuple(sorted(found))


@cache
def _imports(path: Path) -> tuple[Path | None, ...]:
    """Parsed once a process: the commands share most of their files, and every Snakemake start waits for this."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return tuple(file for node in nodes for file in _imported(node))


def _imported(node: ast.AST) -> list[Path | None]:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    else:
        return []
    own = [name.split(".")[1:] for name in names if name.split(".")[0] == "deltageom"]
    # a package's __init__ runs too when one of its modules is imported
    return [_file(parts[:depth]) for parts in own for depth in range(len(parts) + 1)]


def _file(parts: list[str]) -> Path | None:
    path = PACKAGE.joinpath(*parts)
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None
