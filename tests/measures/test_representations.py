"""Hidden states against the base's and each other's: laws, naive float64 formulas, coverage, tables, words, figure."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from deltageom.display import drawing
from deltageom.errors import UserError
from deltageom.files import write_csv
from deltageom.measures import representations as measure
from deltageom.measures.shared import hidden_states
from deltageom.measures.shared import representations as shared
from deltageom.measures.shared.linear_cka import linear_cka_debiased
from deltageom.measures.shared.settings import HiddenSettings, RepresentationSettings
from deltageom.problems.problem import Problem
from deltageom.report.replicates import replicates_table
from deltageom.study.measured import Cka, Representations
from deltageom.study.schema import Base, Prompt
from tests.report.drawn_studies import STATISTICS, replicated

Array = NDArray[np.float64]
SETTINGS = RepresentationSettings(representations=Representations(resamples=200, seed=1))
STUDY = {"measures": {"compare_with": "rft", "cka": {"benchmark": "easy", "pooling": "last"}}}
RUNS = ["sft", "dpo", "rft", "zero"]  # the study's order; `zero` is the base
SHAPE = (2, 12, 30)  # layers, prompts, width: fewer prompts than dimensions
SHAPES = pytest.mark.parametrize(("n", "p"), [(40, 6), (12, 12), (9, 50)])


def drawn(seed: int, n: int, p: int) -> tuple[Array, Array]:
    """x and y (n, p), y in part a turn of x, with columns of unlike means and sizes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) * np.linspace(0.2, 2, p) + 3
    return x, x @ rng.normal(size=(p, p)) / math.sqrt(p) + rng.normal(size=(n, p))


def rotation(p: int, seed: int = 5) -> Array:
    return np.asarray(np.linalg.qr(np.random.default_rng(seed).normal(size=(p, p)))[0])


def found_cka(x: Array, y: Array) -> float:
    value = shared.of_run(x, y, shared.parts_of(len(x), 100, 0))["cka"]
    assert isinstance(value, float)
    return value


def found_procrustes(x: Array, y: Array) -> float:
    value = shared.procrustes(x, y)
    assert value is not None
    return value


@pytest.mark.parametrize("distance", [found_cka, found_procrustes])
@SHAPES
def test_blind_to_rotation_scale_and_place_but_not_to_stretching(
    distance: Callable[[Array, Array], float], n: int, p: int
) -> None:
    x, y = drawn(0, n, p)
    value = distance(x, y)
    assert distance(x @ rotation(p) * 7.0, y) == pytest.approx(value, abs=1e-9)
    assert distance(x, -0.3 * y @ rotation(p)) == pytest.approx(value, abs=1e-9)
    assert distance(x + np.arange(p), y) == pytest.approx(value, abs=1e-9)
    assert distance(y, x) == pytest.approx(value, abs=1e-9)
    assert abs(distance(x * np.where(np.arange(p), 1, 30), y) - value) > 1e-6


@SHAPES
def test_procrustes_is_that_of_the_best_rotation(n: int, p: int) -> None:
    """A naive SVD of the whole p x p product, and the distance that its rotation leaves."""
    x, y = drawn(1, n, p)
    x, y = (z - z.mean(0) for z in (x, y))
    x, y = (z / np.sqrt((z**2).sum()) for z in (x, y))
    u, singular, v = np.linalg.svd(x.T @ y)
    expected = (x**2).sum() + (y**2).sum() - 2 * singular.sum()
    assert shared.procrustes(x, y) == pytest.approx(expected, abs=1e-12)
    assert shared.procrustes(x, y) == pytest.approx(((x @ u @ v - y) ** 2).sum(), abs=1e-12)
    assert 0.01 < expected < 2


@SHAPES
def test_what_is_equal_up_to_a_turn_has_distance_zero(n: int, p: int) -> None:
    x, _ = drawn(2, n, p)
    assert shared.procrustes(x, x) == pytest.approx(0, abs=1e-12)
    assert shared.procrustes(x, x @ rotation(p) * 3) == pytest.approx(0, abs=1e-12)
    one, other = np.zeros((6, 4)), np.zeros((6, 4))
    one[:2, 0], other[2:4, 0] = (1, -1), (1, -1)  # no prompt on which both say something
    assert shared.procrustes(one, other) == pytest.approx(2)


def test_shifts_of_the_same_run_point_the_same_way_and_of_its_mirror_the_other() -> None:
    base, run = drawn(3, 10, 6)
    same = shared.of_pair(base, run, run)
    assert same["shift_cosine"] == pytest.approx(1)
    assert same["shift_cosine_se"] == pytest.approx(0, abs=1e-12)
    assert (same["procrustes"], same["unmoved"]) == (pytest.approx(0, abs=1e-12), 0)
    assert shared.of_pair(base, run, base + 5 * (run - base))["shift_cosine"] == pytest.approx(1)
    assert shared.of_pair(base, run, base - 2 * (run - base))["shift_cosine"] == pytest.approx(-1)
    turn = rotation(6)  # of all three together
    other = drawn(4, 10, 6)[1]
    turned = shared.of_pair(base @ turn, run @ turn, other @ turn)
    assert turned["shift_cosine"] == pytest.approx(shared.of_pair(base, run, other)["shift_cosine"], abs=1e-12)


def test_shifts_are_those_of_a_loop() -> None:
    base, one = drawn(5, 9, 4)
    other = drawn(6, 9, 4)[1]
    other[3] = base[3]
    cosines = []
    for start, a, b in zip(base, one, other, strict=True):
        inner = sum((x - s) * (y - s) for s, x, y in zip(start, a, b, strict=True))
        sizes = [math.sqrt(sum((x - s) ** 2 for s, x in zip(start, end, strict=True))) for end in (a, b)]
        if min(sizes) > 0:
            cosines.append(inner / sizes[0] / sizes[1])
    found = shared.of_pair(base, one, other)
    mean = sum(cosines) / 8
    error = math.sqrt(sum((c - mean) ** 2 for c in cosines) / 7 / 8)
    assert (found["shift_cosine"], found["shift_cosine_se"]) == (pytest.approx(mean), pytest.approx(error))
    assert found["unmoved"] == 1
    spread = sum(sum((row - base.mean(0)) ** 2) for row in base)
    moved = sum(sum((a - s) ** 2) for s, a in zip(base, one, strict=True))
    assert shared.relative_shift(base, one) == pytest.approx(math.sqrt(moved / spread))


@SHAPES
def test_cka_of_a_part_is_that_of_its_prompts_alone(n: int, p: int) -> None:
    x, y = drawn(7, n, p)
    parts = np.vstack([shared.parts_of(n, 20, 3), np.ones((1, n), bool)])
    expected = [linear_cka_debiased(x[part], y[part]) for part in parts]
    assert shared.cka_of_parts(x, y, parts) == pytest.approx(expected, abs=1e-9)


def test_parts_leave_out_a_random_quarter_and_are_the_same_for_a_seed() -> None:
    parts = shared.parts_of(12, 300, 4)
    assert (parts.sum(1) == 9).all()
    assert np.abs(parts.mean(0) - 9 / 12).max() < 0.1
    assert np.array_equal(parts, shared.parts_of(12, 300, 4))
    assert not np.array_equal(parts, shared.parts_of(12, 300, 5))
    assert (shared.parts_of(5, 300, 4).sum(1) == 4).all()
    assert shared.parts_of(4, 300, 4).shape == (0, 4)


def of_a_law(rng: np.random.Generator, n: int, p: int, noise: float) -> tuple[Array, Array]:
    """States of n prompts, some farther out than others, and the same turned and noisy."""
    x = rng.standard_normal((n, p)) * np.linspace(0.1, 2, p) * np.exp(0.3 * rng.standard_normal((n, 1)))
    return x, x @ rotation(p) + noise * rng.standard_normal((n, p))


def bootstrap_ends(x: Array, y: Array, rng: np.random.Generator) -> tuple[float, float]:
    """What is not done: the middle 95 % over prompts drawn with replacement."""
    n = len(x)
    chosen = (rng.integers(n, size=n) for _ in range(100))
    low, high = np.quantile([linear_cka_debiased(x[part], y[part]) for part in chosen], [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize(("n", "p", "noise"), [(60, 8, 0.1), (40, 64, 0.3), (40, 64, 3.0)])
def test_intervals_hold_the_truth_where_the_bootstrap_misses_it(n: int, p: int, noise: float) -> None:
    rng, draws = np.random.default_rng(8), 150
    truth = np.mean([linear_cka_debiased(*of_a_law(rng, 4000, p, noise)) for _ in range(3)])
    held = {"parts": 0, "bootstrap": 0}
    for seed in range(draws):
        x, y = of_a_law(rng, n, p, noise)
        parts = shared.parts_of(n, 200, seed)
        ends = {
            "parts": shared.interval(linear_cka_debiased(x, y), shared.cka_of_parts(x, y, parts), parts),
            "bootstrap": bootstrap_ends(x, y, rng),
        }
        for name, of in ends.items():
            assert of is not None
            held[name] += int(of[0] <= truth <= of[1])
    assert held["parts"] / draws >= 0.92
    assert p == 8 or held["bootstrap"] / draws < 0.1  # prompts that are drawn twice raise it


def test_an_interval_is_that_of_the_jackknife() -> None:
    """With all n parts that leave one out, the delete-one jackknife of a mean is the mean's own standard error."""
    values = np.random.default_rng(12).uniform(0, 0.5, size=9)
    leave_one = ~np.eye(9, dtype=bool)
    means = np.array([values[part].mean() for part in leave_one])
    low, high = shared.interval(float(values.mean()), means, leave_one) or (0.0, 0.0)
    assert (low + high) / 2 == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(2.306004 * values.std(ddof=1) / 3, rel=1e-6)  # t of 8 degrees of freedom
    assert shared.interval(1.0, np.ones(9), leave_one) == (1, 1)
    assert (shared.interval(0.99, means, leave_one) or (0, 0))[1] == 1
    assert shared.interval(0.5, np.array([0.5, math.nan]), leave_one[:2]) is None
    assert shared.interval(0.5, np.array([]), leave_one[:0]) is None


# files, tables, words, figure


@pytest.fixture
def states() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(9)
    base = rng.normal(size=SHAPE)
    found = {run: base + size * rng.normal(size=SHAPE) for run, size in (("sft", 0.1), ("dpo", 0.5), ("rft", 1.0))}
    return {name: of.astype(np.float32) for name, of in (found | {"base": base, "zero": base}).items()}


def write_states(folder: Path, states: dict[str, NDArray[np.float32]]) -> None:
    for name, hidden in states.items():
        save_file({"hidden": hidden}, folder / f"{name}.safetensors")


def built(folder: Path, runs: list[str]) -> dict[str, pd.DataFrame]:
    """As the jobs and the rule `tables` make them."""
    names = sorted(runs)
    for run in names:
        inputs = {"base": folder / "base.safetensors", "a": folder / f"{run}.safetensors"}
        others = {name: folder / f"{name}.safetensors" for name in names if name > run}
        write_csv(folder / "representations" / f"{run}.csv", measure.rows(SETTINGS, inputs, others))
    return measure.build(folder, runs)


@pytest.fixture
def tables(states: dict[str, NDArray[np.float32]], tmp_path: Path) -> dict[str, pd.DataFrame]:
    write_states(tmp_path, states)
    training = pd.DataFrame({"run": RUNS, "method": ["sft", "dpo", "rft", "sft"]})
    return {**built(tmp_path, RUNS), "training": training}


def test_tables_have_every_run_and_pair_by_layer(
    states: dict[str, NDArray[np.float32]], tables: dict[str, pd.DataFrame]
) -> None:
    own, pairs = tables["representations"], tables["representations_pairs"]
    assert list(own["run"].unique()) == RUNS
    assert (len(own), len(pairs)) == (4 * 2, 6 * 2)
    assert set(own["n"]) == set(pairs["n"]) == {SHAPE[1]}
    for row in own.itertuples():
        base, run = states["base"][row.layer], states[row.run][row.layer]
        assert row.cka == pytest.approx(linear_cka_debiased(base, run))
        assert row.procrustes == pytest.approx(shared.procrustes(base, run), abs=1e-12)
        assert row.cka_low <= row.cka_high
    for row in pairs.itertuples():
        expected = shared.of_pair(*(states[name][row.layer] for name in ("base", row.a, row.b)))
        assert row.procrustes == pytest.approx(expected["procrustes"], abs=1e-12)
        known = pytest.approx(expected["shift_cosine"] if "zero" not in (row.a, row.b) else math.nan, nan_ok=True)
        assert row.shift_cosine == known
    by_size = own[own["layer"] == 1].set_index("run")
    assert list(by_size["shift"].sort_values().index) == ["zero", "sft", "dpo", "rft"]


def test_a_run_that_is_the_base_has_cka_1_no_shift_and_no_cosine(tables: dict[str, pd.DataFrame]) -> None:
    own, pairs = tables["representations"], tables["representations_pairs"]
    still = own[own["run"] == "zero"]
    for column in ("cka", "cka_low", "cka_high"):
        assert still[column].tolist() == pytest.approx([1, 1])
    assert still["shift"].tolist() == [0, 0]
    assert still["procrustes"].tolist() == pytest.approx([0, 0], abs=1e-12)
    with_it = pairs[pairs["b"] == "zero"]
    assert with_it["shift_cosine"].isna().all()
    assert with_it["shift_cosine_se"].isna().all()
    assert set(with_it["unmoved"]) == {SHAPE[1]}
    assert set(pairs[pairs["b"] != "zero"]["unmoved"]) == {0}


def test_words_and_figure_say_what_the_tables_say(tables: dict[str, pd.DataFrame]) -> None:
    said = measure.text(STUDY, tables)
    last = tables["representations"].query("run == 'dpo' and layer == 1").iloc[0]
    assert f"{last['cka']:.4g}" in said
    assert "at the last layer, 1;" in said
    assert f"Left out are {3 * 2 * SHAPE[1]} cosines" in said
    assert "Right, with rft" in measure.details(STUDY, tables)
    figure = drawing.styled(measure.by_layer)(tables, "rft")
    left, right = figure.axes
    own, pairs = tables["representations"], tables["representations_pairs"]
    assert left.get_lines()[0].get_ydata().tolist() == own[own["run"] == "sft"]["cka"].tolist()
    assert (
        right.get_lines()[0].get_ydata().tolist() == pairs.query("a == 'rft' and b == 'sft'")["shift_cosine"].tolist()
    )
    bars = [segment[:, 1].tolist() for segment in left.collections[0].get_segments()]
    assert bars == own[own["run"] == "sft"][["cka_low", "cka_high"]].to_numpy().tolist()
    figure.canvas.draw()


def test_replicates_take_each_number_once_by_layer(tables: dict[str, pd.DataFrame]) -> None:
    draw = {**replicated(2)[0][0], **tables}
    found = replicates_table([draw, draw], None, STATISTICS)
    of_runs, of_pairs = (found[found["source"] == name] for name in ("representations", "representations_pairs"))
    assert sorted(of_runs["measure"].unique()) == ["cka", "procrustes"]
    assert list(of_pairs["measure"].unique()) == ["shift_cosine"]
    assert (len(of_runs), len(of_pairs)) == (2 * 4 * 2, 6 * 2)
    row = of_runs[(of_runs["a"] == "dpo") & (of_runs["layer"] == 1) & (of_runs["measure"] == "cka")].iloc[0]
    expected = tables["representations"].query("run == 'dpo' and layer == 1")["cka"].iloc[0]
    assert (row["n"], row["mean"]) == (2, pytest.approx(expected))


def test_a_single_run_is_held_against_the_base(states: dict[str, NDArray[np.float32]], tmp_path: Path) -> None:
    write_states(tmp_path, states)
    found = built(tmp_path, ["sft"])
    assert (len(found["representations"]), len(found["representations_pairs"])) == (2, 0)
    found["training"] = pd.DataFrame({"run": ["sft"], "method": ["sft"]})
    assert "shift of each run" not in measure.text(STUDY | {"measures": {**STUDY["measures"]}}, found)
    drawing.styled(measure.by_layer)(found, "sft").canvas.draw()
    assert measure.MEASURE.jobs(["sft"]) == ["representations/sft", "hidden_states/base", "hidden_states/sft"]
    assert measure.MEASURE.jobs(["a", "b"]) == ["representations/a", "representations/b", "hidden_states/base"]


def test_few_prompts_have_no_interval_and_constant_states_nothing() -> None:
    x, y = drawn(10, 4, 6)
    few = shared.of_run(x, y, shared.parts_of(4, 200, 0))
    assert (few["cka_low"], few["cka_high"]) == (None, None)
    assert few["cka"] == pytest.approx(linear_cka_debiased(x, y))
    constant = np.full((10, 4), 0.1)  # which has no exact mean in binary
    nothing = shared.of_run(constant, drawn(11, 10, 4)[0], shared.parts_of(10, 200, 0))
    assert nothing == dict.fromkeys(shared.OF_RUN)


def test_hidden_states_of_another_shape_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, prompts in (("base", 8), ("sft", 9)):
        save_file({"hidden": rng.normal(size=(2, prompts, 3)).astype(np.float32)}, tmp_path / f"{name}.safetensors")
    inputs = {"base": tmp_path / "base.safetensors", "a": tmp_path / "sft.safetensors"}
    with pytest.raises(UserError, match=r"sft.safetensors holds hidden states of shape \(2, 9, 3\)"):
        measure.rows(SETTINGS, inputs, {})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_of_zeros_leaves_every_hidden_state(
    dtype: str,
    tiny_model: Path,
    tiny_adapters: dict[str, Path],
    base_settings: Base,
    prompt: Prompt,
    tmp_path: Path,
) -> None:
    """Real models: the base, a LoRA run, and one whose B is 0."""
    torch.set_num_threads(1)
    zero = tmp_path / "adapter"
    zero.mkdir()
    (zero / "adapter_config.json").write_text((tiny_adapters["first"] / "adapter_config.json").read_text())
    weights = load_tensors(tiny_adapters["first"] / "adapter_model.safetensors")
    weights = {name: value * ("lora_B" not in name) for name, value in weights.items()}
    save_tensors(weights, zero / "adapter_model.safetensors")
    wanted = Cka(benchmark="easy", prompts=8, pooling="mean", batch_size=3)
    base = base_settings.model_copy(update={"dtype": dtype})
    settings = HiddenSettings(cka=wanted, prompt=prompt, base=base, device="cpu")
    problems = [Problem(f"p{i}", f"Tom has {i} apples{' and pens' * (i % 3)}.", "3", None) for i in range(8)]
    for name, adapter in (("base", None), ("sft", tiny_adapters["first"]), ("zero", zero)):
        hidden_states.write(settings, str(tiny_model), adapter, problems, tmp_path / f"{name}.safetensors")
    found = built(tmp_path, ["sft", "zero"])
    own = found["representations"].set_index(["run", "layer"])
    assert (own.loc["zero", "shift"] == 0).all()
    assert own.loc["zero", "cka"].tolist() == pytest.approx([1, 1])
    assert (own.loc["sft", "shift"] > 0).all()
    assert (found["representations_pairs"]["unmoved"] == 8).all()
    assert found["representations_pairs"]["shift_cosine"].isna().all()
