"""The differences that the prose of docs/toy.md, docs/findings.md and docs/geometry.md quotes, from finished studies.

    .venv/bin/python docs/study_differences.py results

A line is what of which run less what of which run: the mean over replicates of the paired difference, its 95 % t
interval, and * where the interval does not hold 0. A study that is not there is left out.
"""

import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from study_tables import ATTRIBUTED, MATCHED, RATES, RUNS, TEACHERS, Study, chosen

from deltageom.api import compare
from deltageom.evaluation.over_replicates import spread

Values = NDArray[np.float64]
Lines = Iterator[tuple[str, Values]]
UPDATES = {"source": "geometry_global"}
ACCURACIES = {  # on easy: x less y
    "toy": "sft base, offline_grpo base, dpo base",
    "toy-slow": "sft base",
    "toy-fast": "sft sft_seed7",
    "toy-deep": "offline_grpo grpo_along, grpo_orthogonal base, offline_grpo grpo_orthogonal, "
    "sft_as_grpo offline_grpo, grpo_as_sft offline_grpo, sft grpo_as_sft, dpo_as_sft base, sft_without_dpo sft",
    "toy-matched": "sft dpo, sft dpo_lr, sft dpo_steps, sft dpo_norm_stop, sft dpo_norm_scale, base dpo_norm_stop, "
    "dpo_norm_scale base",
    "toy-online": "replay_sft base, replay_rft base, online_large online_grpo, sft online_large, "
    "distilled offline_grpo",
}


def cosines(study: Study) -> Lines:
    """Of updates with sft's."""
    of = {run: study.values("cosine", run, "sft", **UPDATES) for run in RUNS}
    yield from ((f"cosine with sft: {x} less {y}", of[x] - of[y]) for x, y in combinations(RUNS, 2))


def accuracies(study: Study) -> Lines:
    for x, y in map(str.split, ACCURACIES[study.name].split(", ")):
        yield f"accuracy on easy: {x} less {y}", score(study, x) - score(study, y)
    models = study.draws[0].query("source == 'accuracy' and benchmark == 'hard'")["a"]
    for model in models[models != "base"]:
        yield f"accuracy on hard: {model} less base", score(study, model, "hard") - score(study, "base", "hard")


def score(study: Study, model: str, benchmark: str = "easy") -> Values:
    return study.values("accuracy", model, benchmark=benchmark)


def over_steps(study: Study) -> Lines:
    for run in RUNS:
        of = {s: study.values("cosine", run, "sft", step=s, source="trajectory_pairs") for s in (2, 4, 8, 16, 32, 64)}
        yield from ((f"cosine with sft, {run}: step 64 less step {s}", of[64] - of[s]) for s in list(of)[:-1])


def before(study: Study) -> Lines:
    kinds = ("gradient", "sign", "delta")
    of = {(kind, run): study.values(kind, run, "sft", source="gradients_pairs") for kind in kinds for run in RUNS}
    for x, y in combinations(RUNS, 2):
        yield f"gradient's cosine with sft's: {x} less {y}", of["gradient", x] - of["gradient", y]
    for run in RUNS:
        yield f"cosine with sft's, {run}: gradient less AdamW's first step", of["gradient", run] - of["sign", run]
        yield f"cosine with sft's, {run}: update less gradient", of["delta", run] - of["gradient", run]


def attribution(study: Study) -> Lines:
    """Paired, where the intervals of the table only overlap."""
    for x, y in combinations(ATTRIBUTED, 2):
        for layer in range(4):
            of = [study.values("alone", run, layer=layer) for run in (x, y)]
            yield f"layer {layer} alone: {x} less {y}", of[0] - of[1]
        for kind in ("q_proj", "o_proj", "v_proj", "k_proj"):
            of = [study.values(f"alone_self_attn.{kind}", run) for run in (x, y)]
            yield f"{kind} alone: {x} less {y}", of[0] - of[1]


def online(study: Study) -> Lines:
    cosine = {run: study.values("cosine", run, "sft", **UPDATES) for run in ("online_large", "online_grpo")}
    yield "cosine with sft: online_large less online_grpo", cosine["online_large"] - cosine["online_grpo"]
    for x, y in (("distilled", "offline_grpo"), ("sft", "online_large")):
        yield f"KL: {x} less {y}", study.values("kl_exact", x) - study.values("kl_exact", y)


def matched(study: Study) -> Lines:
    """Cosines among themselves, which are no differences."""
    for x, y in combinations(MATCHED, 2):
        yield f"cosine of {x} and {y}", study.values("cosine", x, y, **UPDATES)


def right_sides(study: Study) -> Lines:
    """Of the smallest right angle with sft, and what random B with the runs' own A gives in the same replicate."""
    for run in RUNS:
        rows = [chosen(d, "right_smallest_median", run, "sft", {"k": 4}) for d in study.each("geometry_global")]
        less = [row["value"].item() - row["chance_own_mean"].item() for row in rows]
        yield f"right smallest angle with sft, {run}: less its chance", np.array(less)


def between_rates(slow: Study, toy: Study) -> Lines:
    for run in RUNS:
        of = [study.values("cosine", run, "sft", **UPDATES) for study in (slow, toy)]
        yield f"cosine with sft, {run}: in toy-slow less in toy", of[0] - of[1]
    of = []
    for folders in zip(slow.folders, toy.folders, strict=True):
        runs = {study: folder / "runs" / "sft" for study, folder in zip(("slow", "toy"), folders, strict=True)}
        of.append(compare(runs, top_k=[4]).query("measure == 'cosine'")["value"].item())
    yield "cosine of sft in toy-slow and sft in toy", np.array(of)


SECTIONS: tuple[tuple[Callable[..., Lines], list[str]], ...] = (
    *((cosines, [name]) for name in dict.fromkeys([*TEACHERS, *RATES])),
    *((accuracies, [name]) for name in ACCURACIES),
    (right_sides, ["toy"]),
    (between_rates, ["toy-slow", "toy"]),
    (over_steps, ["toy-time"]),
    (before, ["toy-before"]),
    (attribution, ["toy-before"]),
    (matched, ["toy-matched"]),
    (online, ["toy-online"]),
)


def main(results: Path) -> None:
    there = {path.parts[-3]: Study(path.parents[1]) for path in results.glob("toy*/tables/replicates.csv")}
    for lines, names in SECTIONS:
        print(f"\n## {lines.__name__} ({', '.join(names)})\n")
        for said, values in lines(*(there[name] for name in names)) if there.keys() >= set(names) else ():
            found = spread(values)
            star = " *" if found.low > 0 or found.high < 0 else ""
            print(f"- {said}: {found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]{star}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
