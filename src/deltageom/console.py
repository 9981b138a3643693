"""What `deltageom compare` prints: the global numbers with chance beside them."""

from math import isnan

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deltageom.geometry.aggregate import Columns
from deltageom.measures.geometry import Row
from deltageom.sources import Sources

SHOWN_RUNS = 12  # a wider matrix does not fit on a screen
SHOWN_PAIRS = 28
WIDTH = 120  # where the output goes to no terminal


class Numbers:
    """The table `global`, looked up by runs, measure and k."""

    def __init__(self, columns: Columns) -> None:
        self._rows = {
            (a, b, measure, None if isnan(k) else int(k)): i
            for i, (a, b, measure, k) in enumerate(
                zip(columns["a"], columns["b"], columns["measure"], columns["k"], strict=True)
            )
        }
        self._values = {name: column for name, column in columns.items() if isinstance(column, np.ndarray)}
        self.pairs = list(dict.fromkeys((a, b) for a, b, _, _ in self._rows if b is not None))
        self._largest_k: dict[tuple[str, str | None], int] = {}
        for a, b, _, k in self._rows:
            if k is not None:
                self._largest_k[a, b] = max(k, self._largest_k.get((a, b), 0))

    def largest_k(self, a: str, b: str | None) -> int | None:
        """Of the measures of a run, or of a pair, that have one."""
        return self._largest_k.get((a, b))

    def get(self, a: str, b: str | None, measure: str, column: str = "value", k: int | None = None) -> float:
        i = self._rows.get((a, b, measure, k))
        return float("nan") if i is None else float(self._values[column][i])


def show(sources: Sources, found: list[Row], columns: Columns) -> None:
    """Norms, cosines and angles of the runs as tables, on the terminal or wherever the output goes."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    numbers, runs = Numbers(columns), list(sources.deltas)
    layers = {module["layer"] for module in found if module["layer"] is not None}
    console.print(f"{len(runs)} runs, {len(found)} modules in {len(layers)} layers")
    for note in sources.notes:
        console.print(f"note: {escape(note)}")
    console.print("\nWeight updates", _of_runs(runs, numbers), sep="\n")
    console.print("Norm of all modules stacked; ranks: means over modules.\n")
    if not isnan(numbers.get(runs[0], None, "unchanged_bf16")):
        console.print("Against the base's weights W", _against_base(runs, numbers), sep="\n")
        console.print(
            "Energy of the update in the leading output and input directions of W, in brackets chance; drift of the "
            "leading singular values, mean over modules; intruders among the leading left singular vectors of W + dW, "
            "summed over modules; share of weights that bfloat16 leaves unchanged.\n"
        )
    if len(runs) <= SHOWN_RUNS:
        console.print("Cosine, all modules stacked", _matrix(runs, numbers), sep="\n")
        console.print()
    console.print("Pairs", _of_pairs(numbers), sep="\n")
    ks = ", ".join(dict.fromkeys(str(numbers.largest_k(*pair)) for pair in numbers.pairs))
    console.print(
        "z: the cosine's distance from chance, in standard deviations, where B is random and each run keeps its A. "
        f"Angles: smallest and largest of the k = {ks}, in degrees, medians over modules; in brackets what chance "
        "gives: on the left (output) side random subspaces, on the right (input) side random B with the runs' own A. "
        "A checkpoint has no A: its pairs are held against random deltas."
    )
    if len(numbers.pairs) > SHOWN_PAIRS:
        console.print(f"The first {SHOWN_PAIRS} of {len(numbers.pairs)} pairs; all are in global.csv (--output).")


def _of_runs(runs: list[str], numbers: Numbers) -> Table:
    table = Table()
    table.add_column("run")
    measures = {
        "norm": "norm",
        "stable rank": "stable_rank_mean",
        "effective rank (sigma)": "effective_rank_sigma_mean",
        "(sigma^2)": "effective_rank_sigma2_mean",
    }
    for name in measures:
        table.add_column(name, justify="right")
    for run in runs:
        table.add_row(escape(run), *(_text(numbers.get(run, None, measure)) for measure in measures.values()))
    return table


def _against_base(runs: list[str], numbers: Numbers) -> Table:
    table = Table()
    table.add_column("run")
    for name in ("k", "output energy", "input energy", "drift", "intruders", "unchanged"):
        table.add_column(name, justify="right")
    for run in runs:
        k = numbers.largest_k(run, None)
        energies = [
            f"{_text(numbers.get(run, None, measure, k=k), '.2e')} "
            f"({_text(numbers.get(run, None, measure, 'chance_fresh_mean', k), '.2e')})"
            for measure in ("output_energy", "input_energy")
        ]
        counts = [numbers.get(run, None, measure, k=k) for measure in ("spectral_drift_mean", "intruders_sum")]
        unchanged = numbers.get(run, None, "unchanged_bf16")
        table.add_row(escape(run), str(k), *energies, *map(_text, counts), _text(unchanged))
    return table


def _matrix(runs: list[str], numbers: Numbers) -> Table:
    table = Table()
    table.add_column("")
    for run in runs:
        table.add_column(escape(run), justify="right")
    cosines = {pair: numbers.get(*pair, "cosine") for pair in numbers.pairs}
    cosines |= {(run, run): 1.0 if numbers.get(run, None, "norm") > 0 else float("nan") for run in runs}
    for a in runs:
        of_a = [cosines.get((a, b), cosines.get((b, a), float("nan"))) for b in runs]
        table.add_row(escape(a), *(_text(value, ".3f") for value in of_a))
    return table


def _of_pairs(numbers: Numbers) -> Table:
    table = Table()
    table.add_column("pair")
    for name in ("cosine", "z", "orthogonal", "left smallest", "left largest", "right smallest", "right largest"):
        table.add_column(name, justify="right")
    for a, b in numbers.pairs[:SHOWN_PAIRS]:
        own = not isnan(numbers.get(a, b, "cosine", "chance_own_sd"))
        angles = [_angle(numbers, a, b, f"{angle}_median", own) for angle in ANGLES]
        z = numbers.get(a, b, "cosine", f"chance_{'own' if own else 'fresh'}_z")
        table.add_row(
            f"{escape(a)}, {escape(b)}",
            _text(numbers.get(a, b, "cosine"), ".4f"),
            _text(z, ".1f"),
            _text(numbers.get(a, b, "orthogonal_fraction_stacked"), ".3f"),
            *angles,
        )
    return table


ANGLES = ("left_smallest", "left_largest", "right_smallest", "right_largest")


def _angle(numbers: Numbers, a: str, b: str, measure: str, own: bool) -> str:
    k = numbers.largest_k(a, b)
    chance = numbers.get(a, b, measure, f"chance_{'own' if own else 'fresh'}_mean", k)
    return f"{_text(numbers.get(a, b, measure, k=k), '.1f')} ({_text(chance, '.1f')})"


def _text(value: float, form: str = ".4g") -> str:
    return "–" if isnan(value) else f"{value:{form}}"
