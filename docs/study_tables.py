"""The tables of docs/toy.md and docs/findings.md, from finished studies of the toy.

    .venv/bin/python docs/study_tables.py results

Means over the replicates with 95 % t intervals over them, of accuracies with those over replicates and problems. The
paired differences that the prose quotes are in results/STUDY/tables/replicate_differences.csv. A study that is not
there is named and left out.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from deltageom.report import paper

RUNS = ["rift_linear", "dft", "rift", "rft", "sft_seed7", "offline_grpo", "dpo"]
MODELS = ["base", "sft", "sft_seed7", "rft", "dft", "rift", "rift_linear", "offline_grpo", "dpo"]
TEACHERS = ["toy-teacher", "toy-teacher-2", "toy", "toy-teacher-3"]
RATES = ["toy-slow", "toy", "toy-fast"]
MATCHED = ["dpo", "dpo_lr", "dpo_steps", "dpo_norm_stop", "dpo_norm_scale"]
ONLINE = ["online_grpo", "online_dapo", "online_large", "distilled", "replay_grpo", "replay_rft", "replay_sft"]
DERIVED = ["grpo_along", "grpo_orthogonal", "grpo_as_sft", "sft_as_grpo", "grpo_along_as_sft"]
DERIVED += ["dpo", "dpo_as_sft", "sft_without_dpo"]


class Study:
    """The tables over the replicates of one study, looked up by run, pair and measure."""

    def __init__(self, folder: Path) -> None:
        self.tables = folder / "tables"
        self.numbers = pd.read_csv(self.tables / "replicates.csv")

    def rows(self, measure: str, a: str, b: str | None = None, **keys: Any) -> pd.DataFrame:
        found = self.numbers[self.numbers["measure"] == measure]
        if b is None:
            found = found[(found["a"] == a) & found["b"].isna()]
        else:
            found = found[((found["a"] == a) & (found["b"] == b)) | ((found["a"] == b) & (found["b"] == a))]
        for key, value in keys.items():
            found = found[found[key] == value]
        return found

    def of(self, measure: str, a: str, b: str | None = None, digits: int = 2, **keys: Any) -> str:
        """Mean with its interval; of an accuracy the one over problems and replicates."""
        found = self.rows(measure, a, b, **keys)
        if len(found) != 1:
            return "" if found.empty else f"{len(found)} rows"
        row = found.iloc[0]
        low, high = ("problems_low", "problems_high") if measure == "accuracy" else ("low", "high")
        return f"{row['mean']:.{digits}f} [{row[low]:.{digits}f}, {row[high]:.{digits}f}]"

    def mean(self, measure: str, a: str, b: str | None = None, digits: int = 2, **keys: Any) -> str:
        found = self.rows(measure, a, b, **keys)
        return f"{found['mean'].iloc[0]:.{digits}f}" if len(found) else ""

    def spread(self, measure: str, a: str) -> str:
        row = self.rows(measure, a).iloc[0]
        return f"{row['smallest']:.0f} to {row['largest']:.0f}"

    def cosine(self, a: str, b: str = "sft", digits: int = 2) -> str:
        return self.of("cosine", a, b, digits, source="geometry_global")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    first = f"| {' | '.join(head)} |\n|{'---|' * len(head)}"
    return "\n".join([first, *(f"| {' | '.join(cells)} |" for cells in rows)])


ANGLES = {"left_smallest": "left smallest", "left_largest": "left largest", "right_smallest": "right smallest"}


def likeness(toy: Study) -> str:
    published = paper.beside(pd.read_csv(toy.tables / "training.csv"), "sft", "cosine")
    geometry = pd.read_csv(toy.tables / "geometry_global.csv").query("measure == 'right_smallest_median' and k == 4")
    rows = []
    for run in RUNS:
        row = toy.rows("cosine", run, "sft", source="geometry_global").iloc[0]
        a, b = sorted([run, "sft"])
        chance = geometry[(geometry["a"] == a) & (geometry["b"] == b)]["chance_own_mean"].iloc[0]
        rows.append(
            [
                run,
                toy.cosine(run, digits=3),
                f"{row['smallest']:.3f} to {row['largest']:.3f}",
                f"{published[run]:g}" if run in published else "",
                toy.of("orthogonal_fraction_stacked", run, "sft"),
                *(toy.of(f"{angle}_median", run, "sft", 1, k=4) for angle in ANGLES),
                f"{chance:.1f}",
            ]
        )
    return table(
        ["run", "cosine with sft", "range", "paper", "orthogonal fraction", *ANGLES.values(), "its chance"], rows
    )


def accuracies(toy: Study) -> str:
    names = ["easy", "hard", "hard_sampled"]
    rows = [
        [
            model,
            *(toy.of("accuracy", model, digits=3, benchmark=name) for name in names),
            toy.of("delta_norm", model),
            toy.of("kl_exact", model, digits=4),
        ]
        for model in MODELS
    ]
    return table(["model", *names, "norm of dW", "KL(base, run), nats per token"], rows)


def square(toy: Study) -> str:
    def cell(a: str, b: str) -> str:
        if a == b:
            return "1"
        row = toy.rows("cosine", a, b, source="geometry_global").iloc[0]
        return f"{row['mean']:.2f} ± {row['sd']:.2f}"

    barriers = toy.numbers.query("source == 'barriers' and measure == 'chord'")["mean"]
    cka = toy.numbers.query("source == 'cka' and measure == 'debiased'")["mean"]
    said = f"barriers above the chord: at most {barriers.max():.3f} ({len(barriers)} pairs); debiased CKA: at least "
    matrix = table(["", *MODELS[1:]], [[a, *(cell(a, b) for b in MODELS[1:])] for a in MODELS[1:]])
    return f"{matrix}\n\n{said}{cka.min():.3f} ({len(cka)} pairs and layers)"


def teachers(*studies: Study) -> str:
    counts = {"right rollouts, of 1,024": "correct", "mixed problems, of 256": "mixed_problems"}
    rows = [[said, *(study.spread(measure, "sft") for study in studies)] for said, measure in counts.items()]
    rows += [[run, *(study.cosine(run) for study in studies)] for run in RUNS]
    return table(["", *TEACHERS], rows)


def rates(*studies: Study) -> str:
    norms = ["norm of SFT's update", *(study.mean("delta_norm", "sft") for study in studies)]
    right = [study.mean("accuracy", "sft", digits=3, benchmark="easy") for study in studies]
    rows = [norms, ["accuracy of SFT on easy", *right]]
    rows += [[run, *(study.cosine(run) for study in studies)] for run in RUNS]
    return table(["", *RATES], rows)


def over_steps(study: Study) -> str:
    steps = [2, 4, 8, 16, 32, 64]
    of_pairs = {"source": "trajectory_pairs"}
    rows = [[run, *(study.of("cosine", run, "sft", step=step, **of_pairs) for step in steps)] for run in RUNS]
    ends = [[run, *(study.of("cosine_to_end", run, step=step) for step in steps)] for run in ("sft", "dpo")]
    ends += [["norm of sft", *(study.of("norm", "sft", step=step, source="trajectory") for step in steps)]]
    return table(["run", *map(str, steps)], rows) + "\n\nwith the own end:\n\n" + table(["run", *map(str, steps)], ends)


def before(study: Study) -> str:
    kinds = {"gradient": "gradients", "sign": "AdamW's first steps", "delta": "trained updates"}
    rows = [[run, *(study.of(kind, run, "sft", source="gradients_pairs") for kind in kinds)] for run in RUNS]
    own = [[run, study.of("gradient_delta", run)] for run in ("sft", *RUNS)]
    return table(["run", *kinds.values()], rows) + "\n\ngradient and own update:\n\n" + table(["run", "cosine"], own)


def attribution(study: Study) -> str:
    kinds = ["q_proj", "o_proj", "v_proj", "k_proj"]
    rows = [
        [
            run,
            *(study.of("alone", run, layer=layer) for layer in range(4)),
            *(study.of(f"alone_self_attn.{kind}", run) for kind in kinds),
        ]
        for run in ["sft", "rift", "rft", "dft", "offline_grpo"]
    ]
    shares = [[run, *(study.of("norm_share", run, layer=layer) for layer in range(4))] for run in ("sft", *RUNS)]
    layers = [f"layer {layer}" for layer in range(4)]
    depths = [[run, study.of("difference", run, digits=3)] for run in ("sft", *RUNS)]
    kl = [[run, study.of("forward_kl", run, digits=3)] for run in ("sft", *RUNS)]
    barriers = study.numbers.query("source == 'held_out_barriers' and measure == 'chord'")["mean"]
    return "\n\n".join(
        [
            table(["run", *layers, *kinds], rows),
            table(["share of the squared norm", *layers], shares),
            table(["prediction depth less the base's", "layers"], depths),
            table(["KL(base, run) on held-out problems", "nats per token"], kl),
            f"held-out barriers above the chord: at most {barriers.max():.4f} ({len(barriers)} pairs)",
        ]
    )


def parts(study: Study) -> str:
    rows = [
        [run, study.mean("delta_norm", run), study.of("accuracy", run, digits=3, benchmark="easy")]
        for run in ["base", "sft", "offline_grpo", *DERIVED]
    ]
    return table(["run", "norm", "accuracy on easy"], rows)


def matched(study: Study) -> str:
    rows = [
        [
            run,
            study.of("norm", run, source="geometry_global"),
            study.cosine(run),
            study.of("accuracy", run, digits=3, benchmark="easy"),
        ]
        for run in MATCHED
    ]
    return table(["run", "norm", "cosine with sft", "accuracy on easy"], rows)


def online(study: Study) -> str:
    rows = [
        [
            run,
            study.of("norm", run, source="geometry_global"),
            study.cosine(run),
            study.of("kl_exact", run, digits=3),
            study.of("accuracy", run, digits=3, benchmark="easy"),
            study.of("accuracy", run, digits=3, benchmark="hard"),
        ]
        for run in ["sft", "rft", "offline_grpo", *ONLINE]
    ]
    near = [[run, study.cosine(run, "online_grpo")] for run in ["offline_grpo", *ONLINE[1:], "online_grpo_seed7"]]
    head = ["run", "norm", "cosine with sft", "KL", "accuracy on easy", "on hard"]
    return table(head, rows) + "\n\n" + table(["run", "cosine with online_grpo"], near)


SECTIONS: list[tuple[str, Callable[..., str], list[str]]] = [
    ("toy.md: which losses make SFT's update", likeness, ["toy"]),
    ("toy.md: accuracy", accuracies, ["toy"]),
    ("toy.md: cosine of every two updates", square, ["toy"]),
    ("findings.md: teachers", teachers, TEACHERS),
    ("findings.md: learning rates", rates, RATES),
    ("findings.md: while they train", over_steps, ["toy-time"]),
    ("findings.md: before the first step", before, ["toy-before"]),
    ("findings.md: what the parts do", parts, ["toy-deep"]),
    ("findings.md: where they act, barriers", attribution, ["toy-before"]),
    ("findings.md: DPO matched", matched, ["toy-matched"]),
    ("findings.md: on-policy data", online, ["toy-online"]),
]


def main(results: Path) -> None:
    for title, draw, names in SECTIONS:
        print(f"\n## {title} ({', '.join(names)})\n")
        missing = [name for name in names if not (results / name / "tables" / "replicates.csv").is_file()]
        print(f"not there: {', '.join(missing)}" if missing else draw(*(Study(results / name) for name in names)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
