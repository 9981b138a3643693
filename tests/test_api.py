"""The Python interface: the same numbers as the commands, from what `pip install .` brings."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest

import deltageom
import deltageom.api
from tests.comparison.comparing import Compare
from tests.conftest import ROOT

HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "snakemake", "pydantic", "yaml", "seaborn")


def test_compare_gives_what_the_command_writes(
    compare: Compare, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    arguments = [f"{name}={path}" for name, path in tiny_adapters.items()]
    assert compare(*arguments, "--top-k", "2", "--output", str(tmp_path)).code == 0
    for level, file in {"global": "global", "module": "per_module", "layer": "per_layer"}.items():
        found = deltageom.compare(tiny_adapters, top_k=[2], level=level)
        written = pd.read_csv(tmp_path / f"{file}.csv")
        assert list(found.columns) == list(written.columns)
        assert found["measure"].tolist() == written["measure"].tolist()
        pd.testing.assert_series_equal(found["value"], written["value"], rtol=1e-12)


@pytest.mark.parametrize("runs", [{}, {"one": "a"}, [], ["a"]])
def test_compare_needs_two(runs: object) -> None:
    with pytest.raises(deltageom.UserError, match="two or more"):
        deltageom.compare(runs)


def test_what_is_named_is_there_and_nothing_else() -> None:
    assert deltageom.grade(r"so \\boxed{18}", "18").correct
    assert deltageom.statistics.wilson(1, 2)[0] == pytest.approx(0.0945, abs=1e-4)
    assert deltageom.method("dft").__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = deltageom.nothing


def test_a_command_starts_without_numpy() -> None:
    """Which counts, when it is imported, the threads that it may use: `compare` sets one a process."""
    code = """
import sys
from deltageom.cli import compare, main
compare.run = lambda _: print("numpy" in sys.modules)
main.main(["compare", "a", "b"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert sorted(deltageom.API) == sorted(deltageom.api.__all__)


def test_compare_needs_only_what_pip_install_brings(tiny_adapters: dict[str, Path], tmp_path: Path) -> None:
    """With the packages hidden that only the extra `study` brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not set(project["dependencies"]) & set(HEAVY)
    code = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
from deltageom.cli.main import main
main(sys.argv[1:])
"""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)

    runs = [str(path) for path in tiny_adapters.values()]
    done = run("compare", *runs, "--top-k", "2", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "global.csv").is_file()
    refused = run("study", "toy")
    assert refused.returncode == 1
    assert "deltageom study: error: this command needs the package " in refused.stderr
    assert "pip install 'deltageom[study]'" in refused.stderr
