"""Tables of the runs themselves: how each was trained, what it answers."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import pandas as pd

from deltageom import statistics
from deltageom.errors import UserError
from deltageom.frames import TEXT, Record, frame, typed

# what of a run's training settings can change its delta
SETTINGS = ["adapter", "learning_rate", "schedule", "warmup", "steps", "report_step", "batch_size", "reduction"]
SETTINGS += ["weight_decay", "max_grad_norm", "max_length", "match_norm", "seed"]
LORA = ["rank", "alpha", "rslora", "dropout", "init_seed"]


def training(runs: Mapping[str, Record], selections: Mapping[str, Record]) -> pd.DataFrame:
    """One row a run: method, options and settings from the study; what its selection.json says of the run.

    The settings of LoRA are missing for a run without an adapter.
    """
    rows: list[dict[str, Any]] = []
    for name, run in runs.items():
        settings = run["training"]
        lora = settings["lora"] if settings["adapter"] == "lora" else dict.fromkeys(LORA)
        found = selections.get(name, {}).items()
        rows.append(
            {key: value for key, value in found if key in TEXT or value is None or type(value) in (int, float)}
            | {"run": name, "method": run["method"], "options": _options(run["options"])}
            | {key: settings[key] for key in SETTINGS}
            | {key: lora[key] for key in LORA}
            | {"match_norm": _match(settings["match_norm"])}
        )
    known = ["run", "method", "options", *SETTINGS, *LORA]
    found_of_runs = list(dict.fromkeys(key for row in rows for key in row if key not in known))
    whole = [key for key in found_of_runs if all(type(row.get(key, 0)) is int for row in rows)]
    return typed(pd.DataFrame(rows, columns=[*known, *found_of_runs]), whole)


def training_curves(metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a (run, step, metric). `metrics` holds runs/<run>/metrics.parquet by run: step, metric, value."""
    columns = ["run", "step", "metric", "value"]
    curves = [table.assign(run=run)[columns] for run, table in metrics.items()]
    return typed(pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=columns))


def accuracy(evaluations: Mapping[tuple[str, str], Sequence[Record]]) -> pd.DataFrame:
    """One row a (model, benchmark): accuracy with its 95 % Wilson interval, and what went wrong.

    `truncated` counts completions that met the token limit, `unboxed` those without a final answer;
    `mean_length` in tokens. `evaluations` holds evaluation/<model>/<benchmark>.jsonl by (model, benchmark).
    """
    rows = []
    for (model, benchmark), items in evaluations.items():
        n, correct = len(items), sum(bool(item["correct"]) for item in items)
        low, high = statistics.wilson(correct, n)
        rows.append(
            {"model": model, "benchmark": benchmark, "n": n, "correct": correct, "accuracy": correct / n}
            | {"low": low, "high": high}
            | {"truncated": sum(item["finish_reason"] == "length" for item in items)}
            | {"unboxed": sum(item["extracted"] is None for item in items)}
            | {"mean_length": sum(item["length"] for item in items) / n}
        )
    columns = ["model", "benchmark", "n", "correct", "accuracy", "low", "high"]
    return frame(rows, [*columns, "truncated", "unboxed", "mean_length"])


def mcnemar(evaluations: Mapping[tuple[str, str], Sequence[Record]]) -> pd.DataFrame:
    """One row a (benchmark, pair of models): problems that only one of them solves; the exact McNemar test.

    `p_holm` is adjusted over one benchmark's pairs. Raises UserError if models answered different problems.
    """
    rows = []
    for benchmark in dict.fromkeys(benchmark for _, benchmark in evaluations):
        solved = {m: _solved(items, m, benchmark) for (m, at), items in evaluations.items() if at == benchmark}
        family = [_compare(benchmark, a, b, solved[a], solved[b]) for a, b in combinations(solved, 2)]
        adjusted: Sequence[float] = statistics.holm([row["p"] for row in family]).tolist()
        rows += [row | {"p_holm": p} for row, p in zip(family, adjusted, strict=True)]
    return frame(rows, ["benchmark", "a", "b", "n", "only_a", "only_b", "p", "p_holm"])


def _options(options: Record) -> str | None:
    return ", ".join(f"{key}={value}" for key, value in options.items()) or None


def _match(match: Record | None) -> str | None:
    return f"{match['run']}, {match['how']}" if match else None


def _solved(items: Sequence[Record], model: str, benchmark: str) -> dict[str, bool]:
    solved = {item["problem_id"]: bool(item["correct"]) for item in items}
    if len(solved) < len(items):
        raise UserError(f"evaluation/{model}/{benchmark}.jsonl has a problem_id twice: evaluate it again")
    return solved


def _compare(benchmark: str, a: str, b: str, one: dict[str, bool], other: dict[str, bool]) -> dict[str, Any]:
    if one.keys() != other.keys():
        raise UserError(f"{a} and {b} answered different problems of benchmark {benchmark}: evaluate both again")
    test = statistics.mcnemar([one[key] for key in one], [other[key] for key in one])
    row = {"benchmark": benchmark, "a": a, "b": b, "n": len(one)}
    return row | {"only_a": test.only_a, "only_b": test.only_b, "p": test.p}
