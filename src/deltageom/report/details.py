"""Everything that a study found, one long Markdown page from its settings, tables and figures: all of it computed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from deltageom.display.markdown import cell, markdown, readable, values
from deltageom.measures import interface as measures
from deltageom.methods import interface as methods
from deltageom.report import results
from deltageom.report.summary_geometry import geometry
from deltageom.report.summary_replicates import replicates
from deltageom.report.summary_scores import accuracy, answered, decoding, graded_by, overlap
from deltageom.report.tables.geometry import count_modules
from deltageom.report.tables.training import LORA, trained
from deltageom.text import escape

Tables = Mapping[str, pd.DataFrame]

OF_GEOMETRY = ("cosine_heatmap", "cosine_by_layer", "orthogonal_fraction_by_layer", "principal_angles")
NO_WEIGHT, SOME_TOKENS = 0.999, 0.99  # mean shares of correct rows, in the loss's weight and in the tokens
ENDING = ["steps_done", "stopped", "delta_norm", "matched_norm", "scale"]
ENDING += ["kl_to_base", "kl_to_base_se", "kl_exact", "kl_exact_se"]


def details(study: Mapping[str, Any], tables: Tables, figures: Sequence[str]) -> str:
    """Markdown. `study` is the resolved study, `tables` those of `build_tables`, `figures` the names of the
    drawn ones, embedded as figures/<name>.png."""
    trainings = {**tables, "training": trained(tables["training"])}
    captions = _captions(study, trainings)
    over = [("Over the replicates", replicates(study, tables), ("replicates",))] if "replicates" in tables else []
    sections = [
        *over,
        ("What was compared", _compared(study, trainings), ()),
        ("Training", _training(trainings), ("training_curves",)),
        *([("Derived runs", _derived(tables), ())] if "derived" in tables else []),
        ("Accuracy", accuracy(study, tables), ("accuracy",)),
        ("Weight updates", geometry(study, tables), OF_GEOMETRY),
        *((one.title, one.text(study, tables), tuple(one.figures)) for one in _measures(study).values()),
    ]
    page = [f"# Study {escape(study['study'])}: the details"]
    for title, text, names in sections:
        shown = [_figure(name, captions[name]) for name in names if name in figures]
        page += [f"## {title}", text, *shown]
    return "\n\n".join(page) + "\n"


def _compared(study: Mapping[str, Any], tables: Tables) -> str:
    base, rollouts, training = study["base"], study["rollouts"], tables["training"]
    problems = f"{cell(training['problems'].max())} problems" if "problems" in training else "each problem"
    if rollouts["file"]:
        source = f"imported from {escape(rollouts['file'])}, of {problems}"
    else:
        source = f"of {problems} from {escape(rollouts['generator'])}, {decoding(rollouts)}"
    facts = [
        f"Base model: {escape(base['model'])} ({base['layers']} layers, {base['dtype']}).",
        f"Rollouts {source}; one set, shared by all runs on rollouts.",
        *overlap(tables["decontamination"]),
        f"Runs: {len(training)}; the reference is {escape(study['measures']['compare_with'])}.",
        *_trained(training),
        f"Prompt: {_system(study['prompt']['system'])}.",
        f"Grading: {graded_by(study['grading'])}. How each benchmark is answered: under Accuracy.",
    ]
    settings = [str(c) for c in training if c not in ("run", "method", "options", *ENDING)]
    differ = [c for c in settings if _with(training, c).nunique(dropna=False) > 1]
    same = [c for c in settings if c not in (*differ, *LORA, "seed") and training[c].notna().any()]
    runs = training.assign(loss=training["method"].map(methods.full_name))[
        ["run", "method", "loss", "options", *differ]
    ]
    shared = ", ".join(f"{c.replace('_', ' ')} {cell(training[c].iloc[0])}" for c in same)
    text = [_bullets(facts), markdown(readable(runs)), _bullets([f"The same in every run: {shared}."])]
    return "\n\n".join(text)


def _system(system: str | None) -> str:
    """The study's system message, or whose there may be in its place."""
    if system is None:
        return (
            "no system message of the study's, so the chat template's own default stands if it has one; what every "
            'prompt begins with is in rollouts/README.md (prompt.system: "" gives an empty message instead)'
        )
    return f"system message {escape(system)}" if system else "an empty system message"


def _trained(training: pd.DataFrame) -> list[str]:
    """What is trained, from which seeds."""
    whole, lora = training[training["adapter"] == "none"], training[training["adapter"] == "lora"]
    seeds = f"Data order from seed {values(training['seed'])}{_shared(training['seed'])}."
    facts = []
    if len(lora):
        start = f"initial A from seed {values(lora['init_seed'])}{_shared(lora['init_seed'])}"
        scaling = " (scaled by alpha / sqrt(rank))" if lora["rslora"].all() else ""
        facts.append(
            f"LoRA: rank {values(lora['rank'])}, alpha {values(lora['alpha'])}{scaling}, dropout "
            f"{values(lora['dropout'])}; {start}."
        )
    if len(whole):
        facts.append(f"Without an adapter, every weight trained: {values(whole['run'])}.")
    return [*facts, seeds]


def _with(training: pd.DataFrame, column: str) -> pd.Series:
    """The column's values in the runs that can have one: a setting of LoRA only where there is LoRA."""
    return training.loc[training["adapter"] == "lora", column] if column in LORA else training[column]


def _training(tables: Tables) -> str:
    training = tables["training"]
    text = [
        "How each training ended, and how long its delta is: the Frobenius norm of the whole delta as written. "
        "`stopped` says by what: the last step, report_step, or the norm that it was to reach (matched norm). KL(base, "
        "run) in nats per token on the base's own samples: kl to base is the k3 estimate, kl exact the sum over the "
        "vocabulary at the same tokens; se: standard errors over samples.",
        markdown(readable(training[["run", *(c for c in ENDING if c in training)]])),
    ]
    if (training["adapter"] == "none").any():
        text.append("A run without an adapter has no delta norm here: it is not followed where every weight trains.")
    return "\n\n".join([*text, *_without_weight(tables["training_curves"])])


def _derived(tables: Tables) -> str:
    """The table `derived`, and of `comparisons` the pairs of a derived run and one of its parents."""
    table, pairs = tables["derived"], tables["comparisons"]
    related = {frozenset(pair) for pair in zip(table["run"], table["parent"], strict=True)}
    of_parents = [frozenset(pair) in related for pair in zip(pairs["a"], pairs["b"], strict=True)]
    text = [
        "These runs were not trained: each is computed from the weight updates of others, its parents. The cosine is "
        "of its update with a parent's, all modules stacked.",
        markdown(readable(table)),
        "Accuracy of a less that of b for each derived run and parent, with the 95 % interval and the p-value of the "
        "paired test, not corrected; tables/comparisons.csv has the corrections.",
        markdown(readable(pairs.loc[of_parents, ["benchmark", "a", "b", "difference", "low", "high", "p"]])),
    ]
    return "\n\n".join(text)


def _without_weight(curves: pd.DataFrame) -> list[str]:
    """One line per run whose wrong rows are in its batches and do not move it."""
    means = curves.pivot_table(index="run", columns="metric", values="value", aggfunc="mean", sort=False)
    if not {"weight_share_correct", "token_share_correct"} <= set(means):
        return []
    idle = means[(means["weight_share_correct"] > NO_WEIGHT) & (means["token_share_correct"] < SOME_TOKENS)]
    return [
        f"{escape(str(run))}: wrong rows have {1 - row['token_share_correct']:.1%} of the tokens and "
        f"{1 - row['weight_share_correct']:.1g} of the weight in the loss (|d loss / d log-prob|). Their term "
        "vanishes, and the run trains as on its correct rows only."
        for run, row in idle.iterrows()
    ]


def _captions(study: Mapping[str, Any], tables: Tables) -> dict[str, str]:
    """Each figure's caption, then the study's own facts."""
    training = tables["training"]
    seeds = f"Seeds: data order {values(training['seed'])}"
    starts = training["init_seed"].dropna()
    seeds += f", initial A {values(starts)}." if len(starts) else "."
    modules = f"{count_modules(tables)} modules"
    own = {
        "training_curves": _of_curves(study, tables),
        "accuracy": answered(study, tables),
        "cosine_heatmap": f"{modules}.",
        "principal_angles": f"{modules}, k = {study['measures']['geometry']['top_k'][-1]}.",
        **{
            name: drawing.details(study, tables)
            for measure in _measures(study).values()
            for name, drawing in measure.figures.items()
        },
    }
    found = results.figures(escape(study["measures"]["compare_with"]), _measures(study)) | results.REPLICATE_FIGURES
    return {name: " ".join(filter(None, (one.caption, own.get(name), seeds))) for name, one in found.items()}


def _of_curves(study: Mapping[str, Any], tables: Tables) -> str:
    """What each of the drawn metrics is."""
    reference, drawn = study["reference"], set(tables["training_curves"]["metric"])
    scaled = tables["training"]["match_norm"].str.endswith(", scale").eq(True).any()
    before = "; of a run with match_norm how: scale the curves are before scaling, the table after" if scaled else ""
    texts = {
        "delta_norm": f"delta_norm: Frobenius norm of the whole delta{before}.",
        "kl_to_base": "kl_to_base: k3 estimate of KL(base || run), nats per token, on the base's own samples for the "
        f"first {reference['prompts']} prompts of {escape(reference['benchmark'] or '')}.",
        "reward": "reward: mean of the completions that a step of an online run draws.",
        "weight_share_correct": "weight_share_correct: share of |d loss / d log-prob| on correct rows (likelihood "
        "and pairwise methods).",
    }
    return " ".join(text for metric, text in texts.items() if metric in drawn)


def _figure(name: str, caption: str) -> str:
    return f"![{name.replace('_', ' ')}](figures/{name}.png)\n\n{caption}"


def _measures(study: Mapping[str, Any]) -> dict[str, measures.Measure]:
    return measures.chosen(study["measures"])


def _shared(seeds: pd.Series) -> str:
    return " in every run" if seeds.nunique() == 1 else ", not the same in every run"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
