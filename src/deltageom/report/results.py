"""Every table and figure of a study: the section of the report that it belongs to, and its caption.

The Snakefile reads this file for its targets and for `snakemake --report`, the summary for its captions. A caption is
the same in every study but for {reference}, the run that the others are compared with; the summary adds the study's
own facts. A measure has its captions in its own file.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from deltageom.measures.interface import Measure

ACCURACY, DATA, TRAINING, UPDATES = "Accuracy", "Training data", "Training", "Weight updates"


@dataclass(frozen=True)
class Result:
    section: str
    caption: str


_COSINES = "Cosine of every two weight updates, with all modules stacked into one vector: 1 is the same direction, "
_COSINES += "0 is unrelated."

_TABLES = {
    "accuracy": Result(
        ACCURACY,
        "Accuracy of the base and of every run on each benchmark by the strict grader: the mean over problems, with "
        "95 % intervals. The table also says how many answers were cut off, how many have no final answer, and what "
        "math-verify says.",
    ),
    "comparisons": Result(
        ACCURACY,
        "Every pair of models on every benchmark: the difference in accuracy with its interval, the paired test "
        "(exact McNemar for one answer per problem, a sign-flip permutation for several), Holm's correction over the "
        "declared family, and the smallest difference that so many problems can show.",
    ),
    "cosine_matrix": Result(UPDATES, _COSINES),
    "decontamination": Result(
        DATA,
        "Training problems that share a run of consecutive words with a problem of a benchmark. They are counted per "
        "benchmark, and dropped if the study says so.",
    ),
    "disagreements": Result(
        ACCURACY,
        "Every completion on which the graders differ, or on which math-verify has no verdict. A model wrote these "
        "answers.",
    ),
    "geometry_global": Result(
        UPDATES,
        "Every measure of every run and pair over all modules, beside chance, seeds and a bootstrap interval if they "
        "are defined.",
    ),
    "geometry_layer": Result(UPDATES, "Every measure of every run and pair, the modules of a layer taken together."),
    "geometry_module": Result(UPDATES, "Every measure of every run and pair in every module."),
    "graders": Result(
        ACCURACY,
        "Completions on which the strict grader and math-verify agree or differ, and why math-verify has no verdict "
        "on the others.",
    ),
    "pass_at_k": Result(
        ACCURACY, "Unbiased pass@k of the benchmarks that are sampled several times per problem, with 95 % intervals."
    ),
    "training": Result(
        TRAINING, "The settings of each run, what it selected from the shared rollouts, and how its training ended."
    ),
    "training_curves": Result(
        TRAINING,
        "Metrics of every run over its optimiser steps. Losses of different methods are different quantities: neither "
        "their values nor their gradient norms can be compared.",
    ),
}

_FIGURES = {
    "accuracy": Result(
        ACCURACY,
        "Accuracy of the base and of every run by the strict grader: the mean over n problems, with 95 % intervals.",
    ),
    "cosine_by_layer": Result(
        UPDATES, "Cosine of each update with that of {reference}, the modules of a layer stacked into one vector."
    ),
    "cosine_heatmap": Result(UPDATES, _COSINES),
    "orthogonal_fraction_by_layer": Result(
        UPDATES,
        "Part of each update that its projection on the update of {reference} leaves, the modules of a layer stacked "
        "into one vector.",
    ),
    "principal_angles": Result(
        UPDATES,
        "Smallest and largest principal angle between the leading singular subspaces of each update and of that of "
        "{reference}: median, quartiles and range over modules, on the left (output) and the right (input) side, "
        "beside what chance gives. Runs that start from the same A have close right sides without any training: "
        "compare them with chance only.",
    ),
    "training_curves": _TABLES["training_curves"],
}

DERIVED = {
    "derived": Result(
        "Derived runs",
        "Each derived run beside every run that it was made from: its recipe, both norms, and the cosine of the two "
        "weight updates. The differences of their accuracies, with interval and paired test, are in ``comparisons``.",
    ),
}

REPLICATES = {
    "replicates": Result(
        "Replicates",
        "Every number of the accuracies, the geometry, the measures and the trainings over the replicates: mean, "
        "standard deviation, range, and from three replicates on a 95 % t interval.",
    ),
    "replicate_differences": Result(
        "Replicates",
        "Whether one run is closer to the run in ``measures.compare_with`` than another: the differences paired over "
        "replicates, with a t interval and an exact sign-flip test.",
    ),
}

REPLICATE_FIGURES = {
    "replicates": Result(
        "Replicates",
        "Each run's cosine with the run in ``measures.compare_with`` and each model's accuracy over the replicates: "
        "mean, range and 95 % t interval.",
    ),
}

PAGES = {
    "summary": Result(
        "Summary", "The study on one screen: its answer with intervals and the paper's values, accuracies, and updates."
    ),
    "details": Result(
        "Summary", "Every table and figure of the study on one page, with captions that say n, seeds and variant."
    ),
    "provenance": Result(
        "Provenance",
        "Every job of the study: command, settings, code digest, versions, machine, seconds and peak memory; what "
        "was not the same in all jobs (``mixed``); and the SHA-256 of every result.",
    ),
}


def tables(chosen: Mapping[str, Measure]) -> dict[str, Result]:
    """By name, with those of the measures."""
    own = {name: Result(one.title, caption) for one in chosen.values() for name, caption in one.tables.items()}
    return _TABLES | own


def figures(reference: str, chosen: Mapping[str, Measure]) -> dict[str, Result]:
    """By name, with those of the measures."""
    found = {name: Result(one.section, one.caption.replace("{reference}", reference)) for name, one in _FIGURES.items()}
    own = {name: Result(one.title, drawing.caption) for one in chosen.values() for name, drawing in one.figures.items()}
    return found | own
