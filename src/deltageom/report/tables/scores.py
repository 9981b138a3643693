"""Tables of what the models answer: accuracies, their comparisons, and what the two graders say of each other.

`graded` holds the records of graded/<model>/<benchmark>.jsonl by (model, benchmark), models in the study's order.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import pandas as pd

from deltageom.display.columns import Record, frame
from deltageom.errors import UserError
from deltageom.evaluation import scores, statistics
from deltageom.evaluation.scores import Comparison, Scores
from deltageom.grading.records import FAILURES, VERDICTS, case
from deltageom.study.running import Statistics
from deltageom.text import plain

Graded = Mapping[tuple[str, str], Sequence[Record]]

BASE = "base"
NEEDED = ("extracted", "strict", "reason", "math_verify", "math_verify_failure", "gold", "finish_reason", "length")
AGREED = ("both_correct", "both_wrong", "symbolic_gold")
SHOWN_ANSWER = 200  # characters of an answer in a table: a model may write any number of them


def accuracy(graded: Graded, settings: Statistics) -> pd.DataFrame:
    """One row per (model, benchmark): accuracy with its 95 % interval, and beside it what could make it misleading.

    n problems with `samples` completions each; correct: completions; accuracy: mean over problems. low, high: the
    `interval` Wilson, or with several samples BCa bootstrap over problems; exact_low, exact_high: Clopper-Pearson,
    of one sample alone. Rates are shares of all completions: answered_rate has a final answer (a box, or what
    follows ####), truncated_rate met the token limit, no_verdict_rate has no verdict of math-verify.
    math_verify_accuracy is among those with a verdict. mean_length in tokens.
    """
    rows = []
    for (model, benchmark), items in graded.items():
        found = scores.read(items, _name(model, benchmark))
        _cases(items, model, benchmark)  # all of them are graded in full
        accepted = [item["math_verify"] for item in items if item["math_verify"] is not None]
        which, low, high = scores.interval(found, settings.resamples, settings.seed)
        rows.append(
            {"model": model, "benchmark": benchmark, "n": found.n, "samples": found.samples}
            | {"correct": int(found.solved.sum()), "accuracy": found.accuracy}
            | {"interval": which, "low": low, "high": high}
            | _exact(found)
            | {"answered_rate": _rate([item["extracted"] is not None for item in items])}
            | {"truncated_rate": _rate([item["finish_reason"] == "length" for item in items])}
            | {"no_verdict_rate": (len(items) - len(accepted)) / len(items)}
            | {"math_verify_accuracy": _rate(accepted) if accepted else None}
            | {"mean_length": sum(item["length"] for item in items) / len(items)}
        )
    columns = ["model", "benchmark", "n", "samples", "correct", "accuracy", "interval", "low", "high", "exact_low"]
    columns += ["exact_high", "answered_rate", "truncated_rate", "no_verdict_rate", "math_verify_accuracy"]
    return frame(rows, [*columns, "mean_length"])


def pass_at_k(graded: Graded, settings: Statistics) -> pd.DataFrame:
    """One row per (model, benchmark with several samples, k = 1, 2, 4, ...): unbiased pass@k, mean over problems.

    low, high: 95 % BCa bootstrap over problems.
    """
    rows = []
    for (model, benchmark), items in graded.items():
        found = scores.read(items, _name(model, benchmark))
        if found.samples == 1:
            continue
        for k in (2**power for power in range(found.samples.bit_length())):
            values = statistics.pass_at_k(found.solved.sum(axis=1), found.samples, k)
            low, high = statistics.bootstrap(values, settings.resamples, settings.seed) or (None, None)
            row = {"model": model, "benchmark": benchmark, "k": k, "value": values.mean(), "low": low, "high": high}
            rows.append(row | {"n": found.n, "samples": found.samples})
    return frame(rows, ["model", "benchmark", "k", "value", "low", "high", "n", "samples"])


def comparisons(graded: Graded, settings: Statistics, reference: str) -> pd.DataFrame:
    """One row per (benchmark, pair of models): `scores.compare`, with the p-values corrected in two ways.

    b is the base, else the reference, else the earlier run of the study, so that difference = accuracy of a minus
    that of b reads as a gain. `family`: whether the pair is of the declared family (settings.family): base, each
    run with the base; compare_with, each other run with that one; all. p_holm: Holm over the family on all
    benchmarks together; q_bh: Benjamini-Hochberg over the benchmark's pairs outside the family. Each is missing
    where the other is not.
    """
    rows: list[dict[str, Any]] = []
    for benchmark in dict.fromkeys(benchmark for _, benchmark in graded):
        models = [model for model, at in graded if at == benchmark]
        models.sort(key=lambda model: (model != BASE, model != reference))  # stable: the others keep their order
        for b, a in combinations(models, 2):
            found = scores.compare(
                graded[a, benchmark],
                graded[b, benchmark],
                settings.resamples,
                settings.seed,
                (_name(a, benchmark), _name(b, benchmark)),
            )
            declared = _in_family(a, b, settings.family, reference)
            rows.append({"benchmark": benchmark, "a": a, "b": b, "family": declared} | _row(found))
    family = [row for row in rows if row["family"]]
    for row, p_holm in zip(family, statistics.holm([row["p"] for row in family]), strict=True):
        row["p_holm"] = float(p_holm)
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        others = [row for row in rows if row["benchmark"] == benchmark and not row["family"]]
        for row, q in zip(others, statistics.benjamini_hochberg([row["p"] for row in others]), strict=True):
            row["q_bh"] = float(q)
    columns = ["benchmark", "a", "b", "n", "samples", "test", "difference", "low", "high", "only_a", "only_b", "p"]
    return frame(rows, [*columns, "family", "p_holm", "q_bh", "minimum_detectable"])


def graders(graded: Graded) -> pd.DataFrame:
    """One row per (model, benchmark): completions by the verdicts of the strict grader and of math-verify.

    Those with both verdicts: both_correct, both_wrong, strict_alone, math_verify_alone (the one that says correct);
    symbolic_gold: math-verify alone reads the gold. Those without math-verify's, by why: timeout, memory, crash, error,
    unread_gold (neither reads the gold). The ten add up to `completions`.
    """
    rows = []
    for (model, benchmark), items in graded.items():
        cases = _cases(items, model, benchmark)
        counts = {name: cases.count(name) for name in (*VERDICTS, *FAILURES)}
        rows.append({"model": model, "benchmark": benchmark, "completions": len(items)} | counts)
    return frame(rows, ["model", "benchmark", "completions", *VERDICTS, *FAILURES])


def disagreements(graded: Graded) -> pd.DataFrame:
    """One row per completion on which the graders differ, or of which math-verify gives no verdict.

    strict: the strict grader's verdict, with its reason; math_verify: the other's, missing where `failure` says why.
    extracted (the answer, written by the model) and gold are on one line, at most SHOWN_ANSWER characters.
    """
    rows = []
    for (model, benchmark), items in graded.items():
        for item, said in zip(items, _cases(items, model, benchmark), strict=True):
            if said in AGREED:
                continue
            rows.append(
                {"model": model, "benchmark": benchmark, "problem_id": item["problem_id"]}
                | {"sample": item.get("sample", 0), "gold": plain(item["gold"], SHOWN_ANSWER)}
                | {"extracted": None if item["extracted"] is None else plain(item["extracted"], SHOWN_ANSWER)}
                | {"reason": item["reason"], "strict": item["strict"]}
                | {"math_verify": item["math_verify"], "failure": item["math_verify_failure"]}
            )
    columns = ["model", "benchmark", "problem_id", "sample", "gold", "extracted", "reason", "strict", "math_verify"]
    return frame(rows, [*columns, "failure"])


def decontamination(report: Record) -> pd.DataFrame:
    """One row per benchmark: how many of its problems share `words` consecutive words with training problems.

    `report` is decontamination/report.json. training_problems is their number before any was dropped; dropped, of
    all benchmarks together, is the same in every row.
    """
    shared = {key: report[key] for key in ("words", "overlap", "training_problems")}
    shared["dropped"] = report["training_problems"] - report["kept"]
    columns = ["benchmark", "problems", "overlapping_problems", "overlapping_training_problems", "identical"]
    return frame([row | shared for row in report["benchmarks"]], [*columns, *shared])


def _name(model: str, benchmark: str) -> str:
    return f"graded/{model}/{benchmark}.jsonl"


def _cases(items: Sequence[Record], model: str, benchmark: str) -> list[str]:
    """What both graders say of each record (`records.case`). Raises UserError for one that is not graded in full."""
    found = []
    for item in items:
        missing = [key for key in NEEDED if key not in item]
        if missing:
            raise UserError(f"{_name(model, benchmark)}: no {missing[0]!r} in a record: grade the answers again")
        said = case(dict(item))
        if said is None or said not in (*VERDICTS, *FAILURES):
            raise UserError(
                f"{_name(model, benchmark)}: math_verify is null and math_verify_failure "
                f"{item['math_verify_failure']!r}: grade the answers with math-verify"
            )
        found.append(said)
    return found


def _rate(marked: Sequence[bool]) -> float:
    return sum(marked) / len(marked)


def _exact(found: Scores) -> dict[str, float | None]:
    if found.samples > 1:
        return {"exact_low": None, "exact_high": None}
    low, high = statistics.clopper_pearson(int(found.solved.sum()), found.n)
    return {"exact_low": low, "exact_high": high}


def _in_family(a: str, b: str, family: str, reference: str) -> bool:
    if family == "all":
        return True
    return BASE in (a, b) if family == "base" else reference in (a, b) and BASE not in (a, b)


def _row(found: Comparison) -> dict[str, Any]:
    return {
        "n": found.n,
        "samples": found.samples,
        "test": found.test,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "only_a": None if found.only_a is None else len(found.only_a),
        "only_b": None if found.only_b is None else len(found.only_b),
        "p": found.p,
        "p_holm": None,
        "q_bh": None,
        "minimum_detectable": found.minimum_detectable,
    }
