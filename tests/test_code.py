"""Which files a command's behaviour depends on."""

from pathlib import Path

import pytest

from deltageom.code import PACKAGE, import_closure


def closure(*modules: str) -> set[str]:
    return {str(path.relative_to(PACKAGE)) for module in modules for path in import_closure(module)}


def test_closure_holds_what_is_imported_inside_functions_and_no_more() -> None:
    assert {"cli/geometry.py", "measures/geometry.py", "geometry/measures.py", "adapters.py"} <= closure("cli.geometry")
    assert not {"training.py", "losses.py", "figures.py", "cli/main.py"} & closure("cli.geometry")


def test_a_method_is_in_the_closure_of_its_own_runs_alone() -> None:
    methods = {name for name in closure("cli.train") if name.startswith("methods/")}
    assert methods == {"methods/__init__.py", "methods/interface.py"}
    assert "methods/dpo.py" in closure("cli.train", "methods.dpo")
    assert "methods/dft.py" not in closure("cli.train", "methods.dpo")


def test_training_code_is_no_input_of_what_follows_from_adapters() -> None:
    for command in ("cli.evaluate", "cli.connectivity", "cli.cka", "cli.tables", "cli.figures"):
        assert "training.py" not in closure(command), command


def test_no_such_module() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"cli\.nothing"):
        import_closure("cli.nothing")


def test_no_relative_imports_which_the_walk_would_miss() -> None:
    for path in Path(PACKAGE).rglob("*.py"):
        assert "\nfrom ." not in path.read_text(), path
