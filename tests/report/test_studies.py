"""`deltageom studies`: settings that differ, shared numbers with their differences, the figure; and what cannot be."""

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind

from deltageom.errors import UserError
from deltageom.report import studies
from deltageom.report.studies_figure import studies_figure
from tests.conftest import BIN
from tests.report.drawn_studies import replicated, settings, write_study


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two studies of three replicates and one of a single draw, at other temperatures."""
    made = [(3, 0.0, 1.0, "hot"), (3, 0.05, 0.5, "cold"), (1, 0.0, 0.3, "once")]
    found = []
    for seed, (count, moved, temperature, name) in enumerate(made):
        draws, frames = replicated(count, moved, seed=10 * seed)
        frames = frames if count > 1 else draws[0]
        found.append(write_study(tmp_path / name, frames, settings(count, temperature), name))
    return found


def test_settings_that_differ_and_no_others(folders: list[Path]) -> None:
    found = studies.named([studies.read(folder) for folder in folders])
    table = studies.settings_table(found).set_index("key_name")
    assert table.loc["rollouts.temperature"].tolist() == ["1.0", "0.5", "0.3"]
    assert set(table.index) == {"rollouts.temperature", "replicates.count"}  # not the name, nor how jobs ran


def test_differences_have_welchs_interval(folders: list[Path]) -> None:
    found = studies.named([studies.read(folder) for folder in folders])
    table = studies.numbers_table(found)
    rows = table[(table["measure"] == "cosine") & (table["source"] == "geometry_global") & (table["b"] == "sft")]
    rows = rows[rows["a"] == "rft"].set_index("study_name")

    def cosines(count: int, moved: float, seed: int) -> list[float]:
        of = [one["geometry_global"] for one in replicated(count, moved, seed)[0]]
        return [one.query("measure == 'cosine' and a == 'rft' and b == 'sft'")["value"].iloc[0] for one in of]

    hot, cold = cosines(3, 0.0, 0), cosines(3, 0.05, 10)
    interval = ttest_ind(cold, hot, equal_var=False).confidence_interval()
    assert rows["difference"]["cold"] == pytest.approx(np.mean(cold) - np.mean(hot))
    assert (rows["difference_low"]["cold"], rows["difference_high"]["cold"]) == pytest.approx(tuple(interval))
    assert np.isnan(rows["difference"]["hot"])
    assert np.isnan(rows["difference_low"]["once"])  # one draw has no spread
    assert rows["difference"]["once"] == pytest.approx(cosines(1, 0.0, 20)[0] - np.mean(hot))


def test_the_figure_is_over_the_share_of_right_rollouts_where_that_differs(folders: list[Path]) -> None:
    found = studies.named([studies.read(folder) for folder in folders])
    ax = studies_figure(found, "sft").axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["hot", "cold", "once"]
    training = found["cold"].tables["training"].assign(correct=70)
    table = found["cold"].tables["replicates"]
    changed = table.assign(mean=table["mean"].where(table["measure"] != "correct", 70.0))
    cold = studies.Finished("cold", {}, found["cold"].tables | {"training": training, "replicates": changed}, table)
    pair = {"hot": found["hot"], "cold": cold}
    assert studies.right_share(cold) == pytest.approx(0.7)
    ax = studies_figure(pair, "sft").axes[0]
    assert ax.get_xlabel() == "share of right rollouts"
    places = np.array([line.get_xdata() for line in ax.get_lines()[1:]], dtype=float)  # moved apart a little
    assert places.mean(axis=0) == pytest.approx([0.7, 0.9])
    assert (np.ptp(places, axis=0) < 0.01).all()


def run(*arguments: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([BIN / "deltageom", "studies", *arguments], capture_output=True, text=True, check=False)


def test_the_command(folders: list[Path], tmp_path: Path) -> None:
    done = run(*folders, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "Cosine with sft" in done.stdout
    assert "Accuracy on easy" in done.stdout
    cells = re.findall(r"(-?[.\d]+) \[(-?[.\d]+), (-?[.\d]+)\]", done.stdout)
    assert len(cells) == 2 * (2 + 4)  # two runs against sft, four models, of two studies
    assert all(float(low) <= float(mean) <= float(high) for mean, low, high in cells)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        *(f"{name}.{kind}" for name in ("settings", "numbers") for kind in ("csv", "md")),
        "cosines.svg",
        "cosines.png",
    }
    numbers = pd.read_csv(tmp_path / "out" / "numbers.csv")
    assert set(numbers["study_name"]) == {"hot", "cold", "once"}


def test_mistakes_are_one_line(folders: list[Path], tmp_path: Path) -> None:
    for arguments, says in [
        (folders[:1], "give two or more folders of finished studies"),
        ([folders[0], folders[0]], "two of the studies are called hot"),
        ([folders[0], tmp_path / "none"], "no such folder: give the folder of a finished study, results/NAME"),
        ([folders[0], tmp_path], "provenance.json: is no provenance of a finished study of this version"),
        ([*folders, "--compare-with", "ppo"], "study hot has no run 'ppo'"),
    ]:
        done = run(*arguments)
        assert done.returncode == 1
        assert says in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_studies_without_a_common_run(folders: list[Path]) -> None:
    one, two = (studies.read(folder) for folder in folders[:2])
    other = studies.Finished("other", {}, {"training": pd.DataFrame({"run": ["x"]})}, two.numbers)
    with pytest.raises(UserError, match=r"the studies have no run in common \(hot: sft, rft, dpo; other: x\)"):
        studies.named([one, other])
