"""The order of the package's folders: each imports only what stands before it, and its own files."""

import ast
from collections.abc import Iterator

from deltageom.jobs.code import PACKAGE

# From the ground up; the folders of one line do not import each other.
LAYERS = (
    ("errors",),
    ("fields", "files", "text", "terminal"),
    ("methods",),
    ("study",),
    ("hardware", "jobs", "deltas"),
    ("grading", "geometry"),
    ("problems", "models", "derived"),
    ("generation", "toy", "display"),
    ("rollouts", "training", "evaluation"),
    ("measures",),
    ("report", "comparison", "planning"),
    ("api",),
    ("cli",),
    ("__init__", "__main__"),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def arrows() -> Iterator[tuple[str, str, str]]:
    """(file, its folder, the folder that it imports), wherever an import stands; the package itself is no folder."""
    for path in sorted(PACKAGE.rglob("*.py")):
        own = path.relative_to(PACKAGE).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == "deltageom":
                names = [f"deltageom.{alias.name}" for alias in node.names]
            else:
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                head, *rest = name.split(".")
                if head == "deltageom" and rest and rest[0] in RANK:
                    yield "/".join(own), own[0], rest[0]


def test_every_folder_has_its_place() -> None:
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert found == set(RANK)


def test_arrows_point_to_the_ground() -> None:
    wrong = {f"{file} imports {to}" for file, own, to in arrows() if own != to and RANK[to] >= RANK[own]}
    assert wrong == set()


def test_files_and_folders_are_small() -> None:
    """About 300 lines and 12 files. In methods/ and cli/jobs/ there is one per method and per rule."""
    lengths = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {path: lines for path, lines in lengths.items() if lines > 340} == {}
    for folder in {path.parent for path in lengths} - {PACKAGE / "methods", PACKAGE / "cli" / "jobs"}:
        assert sum(path.parent == folder and path.name != "__init__.py" for path in lengths) <= 13, folder
