"""What `deltageom compare` prints: the global numbers with chance beside them."""

from math import isnan

import numpy as np
from rich.markup import escape
from rich.table import Table

from deltageom import terminal
from deltageom.comparison.records import NOT_COMPARED
from deltageom.comparison.runs import Sources
from deltageom.deltas.names import tower_of
from deltageom.geometry.aggregate.arrays import Modules
from deltageom.geometry.aggregate.table import Columns

SHOWN_RUNS = 12  # a wider matrix does not fit on a screen
SHOWN_PAIRS = 28
SAME_ANGLE = 1e-3  # degrees: rounding in arccos near 1 is below


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


def show(
    sources: Sources, modules: Modules, columns: Columns, compare_with: str | None, by_layer: Columns | None
) -> None:
    """Norms, cosines and angles of the runs as tables, on the terminal or wherever the output goes.

    `compare_with`: the run whose pairs are shown, or None for all pairs; `by_layer`: the table per layer, if its
    cosines are wanted.
    """
    console = terminal.console()
    numbers, runs = Numbers(columns), list(sources.deltas)
    pairs = [pair for pair in numbers.pairs if compare_with is None or compare_with in pair]
    places = zip(modules.names, modules.layers.tolist(), strict=True)
    layers = {(tower_of(module), layer) for module, layer in places if not isnan(layer)}
    console.print(f"{len(runs)} runs, {len(modules.names)} modules in {len(layers)} layers")
    for note in sources.notes:
        console.print(f"note: {escape(note)}")
    console.print("\nWeight updates", _of_runs(runs, numbers), sep="\n")
    console.print(
        "Norm of all modules stacked; ranks: means over modules; not compared: weights that were trained too.\n"
    )
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
    console.print("Pairs", _of_pairs(numbers, pairs[:SHOWN_PAIRS]), sep="\n")
    ks = ", ".join(dict.fromkeys(str(numbers.largest_k(*pair)) for pair in pairs))
    console.print(
        "z: the cosine's distance from chance, in standard deviations, where B is random and each run keeps its A. "
        f"Angles: smallest and largest of the k = {ks}, in degrees, medians over modules; in brackets what chance "
        "gives: on the left (output) side random subspaces, on the right (input) side random B with the runs' own A. "
        "A checkpoint has no A: its pairs are held against random deltas."
    )
    if any(_of_a_only(numbers, a, b, f"{angle}_median") for a, b in pairs for angle in ANGLES):
        console.print(
            "(A): k reaches the ranks, so these subspaces are the row spaces of the A's, whatever B is: the angle says "
            "nothing of the training. A smaller --top-k does."
        )
    if by_layer is not None:
        if len(pairs) > SHOWN_RUNS:
            console.print(f"By layer only the first {SHOWN_RUNS} pairs: choose others with --compare-with.")
        console.print(
            "\nCosine by layer, the modules of a layer stacked", _by_layer(by_layer, pairs[:SHOWN_RUNS]), sep="\n"
        )
    if len(pairs) > SHOWN_PAIRS:
        console.print(f"The first {SHOWN_PAIRS} of {len(pairs)} pairs; all are in global.csv (--output).")


def first_look(sources: Sources, modules: Modules, columns: Columns, compare_with: str | None) -> None:
    """On the error output: what the modules say that are measured so far."""
    console = terminal.console(stderr=True)
    numbers, runs = Numbers(columns), list(sources.deltas)
    with_one = [pair for pair in numbers.pairs if (compare_with or runs[0]) in pair]
    shown = _matrix(runs, numbers) if len(runs) <= SHOWN_RUNS else _of_pairs(numbers, with_one[:SHOWN_PAIRS])
    console.print(f"A first look: cosine of {len(modules.names)} of the {len(sources.modules)} modules, stacked", shown)


def _of_runs(runs: list[str], numbers: Numbers) -> Table:
    table = Table()
    table.add_column("run")
    measures = {
        "norm": "norm",
        "stable rank": "stable_rank_mean",
        "effective rank (sigma)": "effective_rank_sigma_mean",
        "(sigma^2)": "effective_rank_sigma2_mean",
    }
    for name in (*measures, "not compared"):
        table.add_column(name, justify="right")
    for run in runs:
        left, share = (numbers.get(run, None, measure) for measure in NOT_COMPARED)
        out = "0" if left == 0 else f"{left:.3g} ({share:.2%})"
        table.add_row(escape(run), *(_text(numbers.get(run, None, measure)) for measure in measures.values()), out)
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


def _of_pairs(numbers: Numbers, pairs: list[tuple[str, str]]) -> Table:
    table = Table()
    table.add_column("pair")
    for name in ("cosine", "z", "orthogonal", "left smallest", "left largest", "right smallest", "right largest"):
        table.add_column(name, justify="right")
    for a, b in pairs:
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
    if own and _of_a_only(numbers, a, b, measure):
        return f"{_text(numbers.get(a, b, measure, k=k), '.1f')} (A)"
    chance = numbers.get(a, b, measure, f"chance_{'own' if own else 'fresh'}_mean", k)
    return f"{_text(numbers.get(a, b, measure, k=k), '.1f')} ({_text(chance, '.1f')})"


def _of_a_only(numbers: Numbers, a: str, b: str, measure: str) -> bool:
    """Whether the angle is what every B gives: chance with the runs' own A does not vary and is the value."""
    k = numbers.largest_k(a, b)
    value, mean, sd = (numbers.get(a, b, measure, c, k) for c in ("value", "chance_own_mean", "chance_own_sd"))
    return sd < SAME_ANGLE and abs(value - mean) < SAME_ANGLE


def _by_layer(columns: Columns, pairs: list[tuple[str, str]]) -> Table:
    found = {
        (f"{tower or ''} {int(layer)}".strip(), a, b): value
        for tower, layer, a, b, measure, value in zip(
            *(columns[name] for name in ("tower", "layer", "a", "b", "measure", "value")), strict=True
        )
        if measure == "cosine"
    }
    table = Table()
    table.add_column("layer", justify="right")
    for a, b in pairs:
        table.add_column(f"{escape(a)}, {escape(b)}", justify="right")
    for layer in dict.fromkeys(layer for layer, _, _ in found):
        values = [_text(found.get((layer, a, b), float("nan")), ".3f") for a, b in pairs]
        table.add_row(layer, *values)
    return table


def _text(value: float, form: str = ".4g") -> str:
    return "–" if isnan(value) else f"{value:{form}}"
