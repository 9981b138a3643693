"""The tables of docs/toy.md and docs/findings.md, from finished studies of the toy.

    .venv/bin/python docs/study_tables.py results

Means over the replicates with 95 % t intervals over them, of accuracies with those over replicates and problems. A
study that is not there is named and left out. study_differences.py prints the paired differences.
"""

import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from deltageom.report import paper
from deltageom.report.replicates import long_table

RUNS = ["rift_linear", "dft", "rift", "rft", "sft_seed7", "offline_grpo", "dpo"]
NOISE_FIRST = ["sft_seed7", "rift_linear", "rft", "rift", "dft", "offline_grpo", "dpo"]
MODELS = ["base", "sft", "sft_seed7", "rft", "dft", "rift", "rift_linear", "offline_grpo", "dpo"]
ATTRIBUTED = ["sft", "rift", "rft", "dft", "offline_grpo"]
TEACHERS = ["toy-teacher", "toy-teacher-2", "toy", "toy-teacher-3"]
RATES = {"toy-slow": "2e-4", "toy": "2e-3", "toy-fast": "2e-2"}
MATCHED = ["dpo", "dpo_lr", "dpo_steps", "dpo_norm_stop", "dpo_norm_scale"]
STEPS = [2, 4, 8, 16, 32, 64]
ANGLES = {"left_smallest": "left smallest", "left_largest": "left largest", "right_smallest": "right smallest"}
SAMPLES = dict.fromkeys(["sft", "rft", "offline_grpo"], "the teacher")
SAMPLES |= dict.fromkeys(["online_grpo", "online_dapo", "online_large", "distilled"], "itself")
SAMPLES |= dict.fromkeys(["replay_grpo", "replay_rft", "replay_sft"], "online_grpo")
PARTS = {
    "base": "",
    "sft": "",
    "offline_grpo": "",
    "grpo_along": "its projection on SFT's update",
    "grpo_orthogonal": "what the projection leaves",
    "grpo_as_sft": "Offline GRPO, as long as SFT",
    "sft_as_grpo": "SFT, as long as Offline GRPO",
    "grpo_along_as_sft": "projected on SFT module by module, as long as SFT",
    "dpo": "",
    "dpo_as_sft": "DPO, as long as SFT",
    "sft_without_dpo": "SFT without its projection on DPO",
}


class Study:
    """The numbers of one study: over its replicates, and of each, looked up by run or pair and measure."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.folders = [folder, *sorted((folder / "replicates").iterdir())]
        self.numbers = pd.read_csv(folder / "tables" / "replicates.csv")

    def each(self, table: str) -> list[pd.DataFrame]:
        return [pd.read_csv(folder / "tables" / f"{table}.csv") for folder in self.folders]

    @cached_property
    def draws(self) -> list[pd.DataFrame]:
        names = [path.stem for path in (self.folders[-1] / "tables").glob("*.csv")]
        return [
            long_table(dict(zip(names, of_one, strict=True))) for of_one in zip(*map(self.each, names), strict=True)
        ]

    def row(self, measure: str, a: str, b: str | None = None, **keys: Any) -> "pd.Series[Any] | None":
        found = chosen(self.numbers, measure, a, b, keys)
        if len(found) > 1:
            raise ValueError(f"{self.name}: {len(found)} rows of {measure} {a} {b} {keys}")
        return None if found.empty else found.iloc[0]

    def of(self, measure: str, a: str, b: str | None = None, digits: int = 2, **keys: Any) -> str:
        """Mean with its interval; of an accuracy the one over problems and replicates."""
        row = self.row(measure, a, b, **keys)
        ends = ("problems_low", "problems_high") if measure == "accuracy" else ("low", "high")
        return "" if row is None else shown(row["mean"], row[ends[0]], row[ends[1]], digits)

    def mean(self, measure: str, a: str, digits: int = 2, **keys: Any) -> str:
        row = self.row(measure, a, **keys)
        return "" if row is None else f"{row['mean']:.{digits}f}"

    def cosine(self, a: str, b: str = "sft", digits: int = 2) -> str:
        return self.of("cosine", a, b, digits, source="geometry_global")

    def values(self, measure: str, a: str, b: str | None = None, **keys: Any) -> NDArray[np.float64]:
        """One number per replicate."""
        return np.array([chosen(draw, measure, a, b, keys)["value"].item() for draw in self.draws])


def chosen(numbers: pd.DataFrame, measure: str, a: str, b: str | None, keys: dict[str, Any]) -> pd.DataFrame:
    found = numbers[numbers["measure"] == measure]
    one, other = found["a"], found["b"]
    found = found[(one == a) & other.isna() if b is None else (one == a) & (other == b) | (one == b) & (other == a)]
    for key, value in keys.items():
        found = found[found[key] == value]
    return found


def shown(mean: float, low: float, high: float, digits: int) -> str:
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def span(values: ArrayLike, digits: int = 0) -> str:
    low, high = f"{np.min(values):.{digits}f}", f"{np.max(values):.{digits}f}"
    return low if low == high else f"{low} to {high}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["|" + "".join(f" {cell} |" if cell else " |" for cell in cells) for cells in [head, *rows]]
    return "\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]])


def likeness(toy: Study) -> str:
    published = paper.beside(toy.each("training")[0], "sft", "cosine")
    geometry = toy.each("geometry_global")[0]
    rows = []
    for run in RUNS:
        own = chosen(geometry, "right_smallest_median", run, "sft", {"k": 4})["chance_own_mean"].item()
        cells = [toy.cosine(run, digits=3), span(toy.values("cosine", run, "sft", source="geometry_global"), 3)]
        cells += [f"{published[run]:g}" if run in published else "", toy.of("orthogonal_fraction_stacked", run, "sft")]
        rows.append([run, *cells, *(toy.of(f"{angle}_median", run, "sft", 1, k=4) for angle in ANGLES), f"{own:.1f}"])
    head = ["run", "cosine with sft", "range", "paper", "orthogonal fraction", *ANGLES.values(), "its chance"]
    return table(head, rows)


def accuracies(toy: Study) -> str:
    names = ["easy", "hard", "hard_sampled"]
    rows = []
    for model in MODELS:
        scores = [toy.of("accuracy", model, digits=3, benchmark=name) for name in names]
        rows.append([model, *scores, toy.of("delta_norm", model), toy.of("kl_exact", model, digits=4)])
    return table(["model", *names, "norm of dW", "KL(base, run), nats per token"], rows)


def square(toy: Study) -> str:
    def cell(a: str, b: str) -> str:
        row = toy.row("cosine", a, b, source="geometry_global") if a != b else None
        return "1" if row is None else f"{row['mean']:.2f} ± {row['sd']:.2f}"

    barriers = toy.numbers.query("source == 'barriers' and measure == 'chord'")["mean"]
    cka = toy.numbers.query("source == 'cka' and measure == 'debiased'")["mean"]
    said = f"Barriers above the chord: at most {barriers.max():.3f} ({len(barriers)} pairs). "
    matrix = table(["", *MODELS[1:]], [[a, *(cell(a, b) for b in MODELS[1:])] for a in MODELS[1:]])
    return f"{matrix}\n\n{said}Debiased CKA: at least {cka.min():.3f} ({len(cka)} pairs and layers)."


def teachers(*studies: Study) -> str:
    right = [span(100 * study.values("correct", "sft") / 1024) + " %" for study in studies]
    mixed = [span(study.values("mixed_problems", "sft")) for study in studies]
    rows = [["right rollouts, of 1,024", *right], ["mixed problems, of 256", *mixed]]
    rows += [[run, *(study.cosine(run) for study in studies)] for run in NOISE_FIRST]
    return table(["", *(f"`{study.name}`" for study in studies)], rows)


def rates(*studies: Study) -> str:
    base = studies[0].mean("accuracy", "base", 3, benchmark="easy").lstrip("0")
    right = [study.mean("accuracy", "sft", 3, benchmark="easy") for study in studies]
    rows = [["norm of SFT's update", *(study.mean("delta_norm", "sft") for study in studies)]]
    rows += [[f"accuracy of SFT on easy (base {base})", *right]]
    rows += [[run, *(study.cosine(run) for study in studies)] for run in NOISE_FIRST]
    return table(["", *(f"`{study.name}`, {RATES[study.name]}" for study in studies)], rows)


def over_steps(study: Study) -> str:
    head = ["run", f"step {STEPS[0]}", *map(str, STEPS[1:])]
    rows = [[r, *(study.of("cosine", r, "sft", step=step, source="trajectory_pairs") for step in STEPS)] for r in RUNS]
    own = [
        [f"{r} with its end", *(study.of("cosine_to_end", r, step=step) for step in STEPS[:-1]), ""] for r in MODELS[1:]
    ]
    own += [["norm of sft", *(study.of("norm", "sft", step=step, source="trajectory") for step in STEPS)]]
    return table(head, rows) + "\n\n" + table(head, own)


def before(study: Study) -> str:
    kinds = {"gradient": "gradients", "sign": "AdamW's first steps", "delta": "trained updates"}
    rows = [[run, *(study.of(kind, run, "sft", source="gradients_pairs") for kind in kinds)] for run in RUNS]
    own = [[run, study.of("gradient_delta", run)] for run in MODELS[1:]]
    return table(["run", *kinds.values()], rows) + "\n\n" + table(["run", "gradient and own update"], own)


def attribution(study: Study) -> str:
    kinds, layers = ["q_proj", "o_proj", "v_proj", "k_proj"], range(4)
    rows, others = [], []
    for run in ATTRIBUTED:
        by_kind = [study.of(f"alone_self_attn.{kind}", run) for kind in kinds]
        rows.append([run, *(study.of("alone", run, layer=layer) for layer in layers), *by_kind])
    for run in MODELS[1:]:
        shares = [study.of("norm_share", run, layer=layer) for layer in layers]
        others.append([run, *shares, study.of("difference", run, digits=3), study.of("forward_kl", run, digits=3)])
    names = [f"layer {layer}" for layer in layers]
    barriers = max(found["chord_high"].max() for found in study.each("held_out_barriers"))
    more = ["share of the squared norm", *names, "depth less the base's", "KL(base, run)"]
    end = f"Held-out barriers above the chord, upper ends: at most {barriers:.4f}."
    return "\n\n".join([table(["run", *names, *kinds], rows), table(more, others), end])


def parts(study: Study) -> str:
    rows = [
        [run, what, study.mean("delta_norm", run), study.of("accuracy", run, digits=3, benchmark="easy")]
        for run, what in PARTS.items()
    ]
    return table(["run", "what it is", "norm", "accuracy on easy"], rows)


def matched(study: Study) -> str:
    rows = []
    for run in MATCHED:
        trained = pd.concat([found[found["run"] == run] for found in study.each("training")])
        rate = f"{trained['learning_rate'].iloc[0]:.0e}".replace("e-0", "e-")
        rate += f", scaled by {span(list(trained['scale']))}" if trained["scale"].max() > 1 else ""
        cells = [study.of("norm", run, source="geometry_global"), study.cosine(run)]
        cells.append(study.of("accuracy", run, digits=3, benchmark="easy"))
        rows.append([run, rate, span(trained["steps_done"]), *cells])
    return table(["run", "learning rate", "steps", "norm", "cosine with sft", "accuracy on easy"], rows)


def online(study: Study) -> str:
    rows = []
    for run, source in SAMPLES.items():
        cells = [
            study.of("norm", run, source="geometry_global"),
            study.cosine(run),
            study.of("kl_exact", run, digits=3),
        ]
        rows.append([run, source, *cells, study.of("accuracy", run, digits=3, benchmark="easy")])
    drawn = [run for run, source in SAMPLES.items() if source != "the teacher"]
    near = [[run, study.cosine(run, "online_grpo")] for run in ["offline_grpo", *drawn[1:], "online_grpo_seed7"]]
    head = ["run", "samples of", "norm", "cosine with sft", "KL", "accuracy on easy"]
    return table(head, rows) + "\n\n" + table(["run", "cosine with online_grpo"], near)


SECTIONS: dict[str, tuple[Callable[..., str], list[str]]] = {
    "toy.md: which losses make SFT's update": (likeness, ["toy"]),
    "toy.md: accuracy": (accuracies, ["toy"]),
    "toy.md: cosine of every two updates": (square, ["toy"]),
    "findings.md: how often the teacher is right": (teachers, TEACHERS),
    "findings.md: learning rates": (rates, list(RATES)),
    "findings.md: while they train": (over_steps, ["toy-time"]),
    "findings.md: before the first step": (before, ["toy-before"]),
    "findings.md: what the parts do": (parts, ["toy-deep"]),
    "findings.md: where the updates act, barriers": (attribution, ["toy-before"]),
    "findings.md: DPO matched to SFT": (matched, ["toy-matched"]),
    "findings.md: on-policy data": (online, ["toy-online"]),
}


def main(results: Path) -> None:
    there = {path.parts[-3]: Study(path.parents[1]) for path in results.glob("toy*/tables/replicates.csv")}
    for title, (draw, names) in SECTIONS.items():
        missing = [name for name in names if name not in there]
        text = f"not there: {', '.join(missing)}" if missing else draw(*(there[name] for name in names))
        print(f"\n## {title} ({', '.join(names)})\n\n{text}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
