"""The summary's part on what the models answer: accuracies, how sure they are, and which differences are believed."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from deltageom.display.markdown import cell, markdown, readable
from deltageom.evaluation.scores import BOOTSTRAP
from deltageom.grading.records import FAILURES
from deltageom.text import escape

Tables = Mapping[str, pd.DataFrame]

SIGNIFICANCE = 0.05
LISTED_PAIRS = 28  # as many as seven runs and the base make
FAMILIES = {
    "base": "each run with the base",
    "compare_with": "each other run with {reference}",
    "all": "every pair of models",
}
GRADERS = {"strict": "the strict grader", "math_verify": "math-verify"}
SCORES = ["model", "correct", "accuracy", "low", "high", "answered_rate", "truncated_rate", "no_verdict_rate"]
SCORES += ["math_verify_accuracy", "mean_length"]
PAIRS = ["benchmark", "a", "b", "difference", "low", "high", "only_a", "only_b", "p"]


def accuracy(study: Mapping[str, Any], tables: Tables) -> str:
    """Markdown: each benchmark with its protocol and what it can find; the comparisons; the two graders."""
    text = [
        "Rates are shares of completions: answered, with a final answer (a box, or what follows ####); truncated at "
        "the token limit; no verdict of math-verify. Math-verify's accuracy is among those with a verdict. Length in "
        "tokens."
    ]
    for benchmark, rows in tables["accuracy"].groupby("benchmark", sort=False):
        text += _benchmark(study, tables, str(benchmark), rows)
    return "\n\n".join([*text, *_family(study, tables), *_exploration(tables), _graders(study, tables["graders"])])


def decoding(settings: Mapping[str, Any]) -> str:
    """How completions are drawn: `greedy, at most 96 tokens`."""
    if settings["temperature"]:
        how = f"{settings['samples']} sample{'s' if settings['samples'] > 1 else ''} a problem at temperature "
        how += cell(float(settings["temperature"]))
        how += f", top-p {cell(settings['top_p'])}" if settings["top_p"] < 1 else ""
        how += f", top-k {settings['top_k']}" if settings["top_k"] else ""
        how += f", seed {settings['seed']}"
    else:
        how = "greedy"
    thinking = {None: "", True: ", thinking on", False: ", thinking off"}[settings["thinking"]]
    return f"{how}, at most {settings['max_tokens']} tokens{thinking}"


def graded_by(grading: Mapping[str, Any]) -> str:
    """Whose word the scores and the rewards are: `scores and rewards by the strict grader, ...`."""
    primary, rewards = grading["primary"], grading["rewards"] or grading["primary"]
    if primary == rewards:
        other = GRADERS["math_verify" if primary == "strict" else "strict"]
        return f"scores and rewards by {GRADERS[primary]}, {other} as second opinion"
    return f"scores by {GRADERS[primary]}, rewards by {GRADERS[rewards]}; both graders' verdicts are recorded"


def answered(study: Mapping[str, Any], tables: Tables) -> str:
    """How each benchmark is answered, and what its interval is."""
    how = {name: decoding(settings) for name, settings in study["benchmarks"].items()}
    shown = [
        f"{escape(row['benchmark'])} n = {row['n']} ({how[row['benchmark']]}; {_interval(row)})"
        for _, row in tables["accuracy"].drop_duplicates("benchmark").iterrows()
    ]
    return f"{', '.join(shown)}."


def overlap(table: pd.DataFrame) -> list[str]:
    """One line on training problems that a benchmark holds too; none without benchmarks."""
    if table.empty:
        return []
    first = table.iloc[0]
    found = [
        f"{row['overlapping_training_problems']} with {escape(row['benchmark'])} ({row['identical']} identical; "
        f"{row['overlapping_problems']} of its {row['problems']} problems)"
        for _, row in table.iterrows()
    ]
    end = f"{first['dropped']} dropped before training" if first["overlap"] == "drop" else "counted, none dropped"
    return [
        f"Decontamination ({first['words']} consecutive words): of {first['training_problems']} training problems "
        f"overlap {', '.join(found)}; {end}."
    ]


def _benchmark(study: Mapping[str, Any], tables: Tables, benchmark: str, rows: pd.DataFrame) -> list[str]:
    first = rows.iloc[0]
    pairs = tables["comparisons"][tables["comparisons"]["benchmark"] == benchmark]
    grader = GRADERS[study["grading"]["primary"]].removeprefix("the ")
    exact = " (Clopper-Pearson's: tables/accuracy.csv)" if rows["exact_low"].notna().any() else ""
    text = [
        f"### {escape(benchmark)}",
        f"{decoding(study['benchmarks'][benchmark]).capitalize()}; {grader}. Accuracy: mean over n = {first['n']} "
        f"problems, {_interval(first)}{exact}. {_detectable(int(first['n']), pairs)}",
        markdown(readable(rows[SCORES])),
    ]
    at_k = tables["pass_at_k"][tables["pass_at_k"]["benchmark"] == benchmark]
    if not at_k.empty:
        wide = at_k.pivot(index="model", columns="k", values="value").reindex(list(rows["model"]))
        wide.columns = [f"pass@{k}" for k in wide.columns]
        text += ["Unbiased pass@k (intervals: tables/pass_at_k.csv):", markdown(wide.reset_index())]
    return text


def _interval(row: "pd.Series[Any]") -> str:
    return f"95 % interval: {row['interval']}{' (BCa)' if row['interval'] == BOOTSTRAP else ''}"


def _detectable(n: int, pairs: pd.DataFrame) -> str:
    """What the benchmark's size allows to find, by the pair that needs least."""
    known = pairs["minimum_detectable"].dropna()
    if known.empty and pairs["only_a"].isna().all():  # sampled: the spread of the differences decides
        return f"n = {n}: no two models' scores tell what difference could be found."
    if known.empty:
        return f"n = {n}: no difference between two models can be found with 80 % power."
    least, most = cell(known.min()), cell(known.max())
    others = f" (of the pair that needs least; up to {most} of others)" if least != most else ""
    return f"n = {n}: a difference below {least}{others} cannot be found with 80 % power."


def _family(study: Mapping[str, Any], tables: Tables) -> list[str]:
    pairs = tables["comparisons"]
    family = pairs[pairs["family"].astype(bool)]
    declared = FAMILIES[study["statistics"]["family"]].format(reference=escape(study["measures"]["compare_with"]))
    found = family[family["p_holm"] < SIGNIFICANCE]
    shown = family if len(family) <= LISTED_PAIRS else found.sort_values("p_holm", kind="stable").head(LISTED_PAIRS)
    text = [
        "### Declared comparisons",
        "difference: accuracy of a minus that of b, with its 95 % interval: Tango's score interval, or with several "
        "answers per problem the paired bootstrap over problems (BCa). p, "
        "two-sided: exact McNemar where a problem has one answer (only a, only b: problems that one alone solves), "
        "else a sign-flip permutation test of the problems' mean differences. minimum detectable: the smallest true "
        "difference that the test finds with 80 % power at 5 %, before any correction.",
        f"The declared family is {declared}, {len(family)} comparisons over all benchmarks. "
        f"{_count(len(found), family)} (p < {SIGNIFICANCE} after Holm's correction over the family)"
        f"{_cut(shown, family)}",
    ]
    return [*text, *_pairs(shown, "p_holm")]


def _exploration(tables: Tables) -> list[str]:
    text = []
    pairs = tables["comparisons"]
    for benchmark, others in pairs[~pairs["family"].astype(bool)].groupby("benchmark", sort=False):
        found = others[others["q_bh"] < SIGNIFICANCE].sort_values("q_bh", kind="stable")
        shown = found.head(LISTED_PAIRS)
        text.append(
            f"{escape(str(benchmark))}: {_count(len(found), others)} (q < {SIGNIFICANCE}, Benjamini-Hochberg over "
            f"these pairs){_cut(shown, found)}"
        )
        text += _pairs(shown.drop(columns="benchmark"), "q_bh")
    heading = ["### Exploration", "Pairs outside the family: what a further study could test, no finding of this one."]
    return [*heading, *text] if text else []


def _count(found: int, pairs: pd.DataFrame) -> str:
    return f"{found or 'None'} of {len(pairs)} pairs of models differ"


def _cut(shown: pd.DataFrame, all_of_them: pd.DataFrame) -> str:
    if shown.empty:
        return "."
    if len(shown) < len(all_of_them):
        return f"; the first {len(shown)} by significance, all are in tables/comparisons.csv:"
    return ":"


def _pairs(shown: pd.DataFrame, corrected: str) -> list[str]:
    columns = [c for c in [*PAIRS, corrected, "minimum_detectable"] if c in shown]
    columns = [c for c in columns if c not in ("only_a", "only_b") or shown[c].notna().any()]
    return [markdown(readable(shown[columns]))] if len(shown) else []


def _graders(study: Mapping[str, Any], table: pd.DataFrame) -> str:
    total = table.drop(columns=["model", "benchmark"]).sum()
    strict, other = total["strict_alone"], total["math_verify_alone"]
    failed = {why: total[why] for why in FAILURES if total[why]}
    why = f" ({', '.join(f'{count} {why}' for why, count in failed.items())})" if failed else ""
    primary = study["grading"]["primary"]
    lost = ", which count as wrong" if primary == "math_verify" and failed else ""
    symbolic = total["symbolic_gold"] + total["unread_gold"]
    alone = f" The strict grader does not read the gold answers of {symbolic}." if symbolic else ""
    return (
        "### The two graders\n\n"
        f"The scores are those of {GRADERS[primary]}. Of {total['completions']} completions the graders disagree on "
        f"{strict + other} ({strict} correct for the strict one alone, {other} for math-verify alone); no verdict of "
        f"math-verify on {sum(failed.values())}{why}{lost}.{alone} "
        "Each is in tables/disagreements.csv, counts by model in tables/graders.csv."
    )
