"""The summary of a study, one Markdown page from its settings, tables and figures: all of it computed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from deltageom.geometry_tables import count_modules
from deltageom.markdown import cell, escape, markdown, readable
from deltageom.methods import interface as methods
from deltageom.run_tables import LORA
from deltageom.summary_geometry import geometry
from deltageom.summary_scores import accuracy, accuracy_caption, decoding, overlap
from deltageom.tables import against

Tables = Mapping[str, pd.DataFrame]

ENDING = ["steps_done", "stopped", "delta_norm", "matched_norm", "scale", "kl_to_base"]


def summary(study: Mapping[str, Any], tables: Tables, figures: Sequence[str]) -> str:
    """Markdown. `study` is the resolved study, `tables` those of `tables.build`, `figures` the names of the
    drawn ones, embedded as figures/<name>.png."""
    captions = _captions(study, tables)
    sections = [
        _compared(study, tables),
        _training(tables),
        ("Accuracy", accuracy(study, tables)),
        ("Weight updates", geometry(study, tables)),
        _connectivity(study, tables),
        _cka(study, tables),
    ]
    page = [f"# Study {escape(study['study'])}"]
    for (title, text), names in zip(sections, FIGURES_OF_SECTION, strict=True):
        shown = [_figure(name, captions[name]) for name in names if name in figures]
        page += [f"## {title}", text, *shown]
    return "\n\n".join(page) + "\n"


FIGURES_OF_SECTION = (
    (),
    ("training_curves",),
    ("accuracy",),
    ("cosine_heatmap", "cosine_by_layer", "orthogonal_fraction_by_layer", "principal_angles"),
    ("connectivity_paths",),
    ("cka_by_layer",),
)


def _compared(study: Mapping[str, Any], tables: Tables) -> tuple[str, str]:
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
        f"Runs: {len(training)}; the reference is {escape(study['measures']['reference'])}.",
        *_trained(training),
        "Evaluation: strict grader, math-verify as second opinion; how each benchmark is answered: under Accuracy.",
    ]
    settings = [str(c) for c in training if c not in ("run", "method", "options", *ENDING)]
    differ = [c for c in settings if _with(training, c).nunique(dropna=False) > 1]
    same = [c for c in settings if c not in (*differ, *LORA, "seed") and training[c].notna().any()]
    runs = training.assign(loss=training["method"].map(full_name))[["run", "method", "loss", "options", *differ]]
    shared = ", ".join(f"{c.replace('_', ' ')} {cell(training[c].iloc[0])}" for c in same)
    text = [_bullets(facts), markdown(readable(runs)), _bullets([f"The same in every run: {shared}."])]
    return "What was compared", "\n\n".join(text)


def _trained(training: pd.DataFrame) -> list[str]:
    """What is trained, from which seeds."""
    whole, lora = training[training["adapter"] == "none"], training[training["adapter"] == "lora"]
    seeds = f"Data order from seed {_values(training['seed'])}{_shared(training['seed'])}."
    facts = []
    if len(lora):
        start = f"initial A from seed {_values(lora['init_seed'])}{_shared(lora['init_seed'])}"
        scaling = " (scaled by alpha / sqrt(rank))" if lora["rslora"].all() else ""
        facts.append(
            f"LoRA: rank {_values(lora['rank'])}, alpha {_values(lora['alpha'])}{scaling}, dropout "
            f"{_values(lora['dropout'])}; {start}."
        )
    if len(whole):
        facts.append(f"Without an adapter, every weight trained: {_values(whole['run'])}.")
    return [*facts, seeds]


def _with(training: pd.DataFrame, column: str) -> pd.Series:
    """The column's values in the runs that can have one: a setting of LoRA only where there is LoRA."""
    return training.loc[training["adapter"] == "lora", column] if column in LORA else training[column]


def _training(tables: Tables) -> tuple[str, str]:
    training = tables["training"]
    text = [
        "How each training ended, and how long its delta is: the Frobenius norm of the whole delta as written. "
        "`stopped` says by what: the last step, report_step, or the norm that it was to reach (matched norm).",
        markdown(readable(training[["run", *ENDING]])),
    ]
    if (training["adapter"] == "none").any():
        text.append("A run without an adapter has no delta norm here: it is not followed where every weight trains.")
    return "Training", "\n\n".join(text)


def _connectivity(study: Mapping[str, Any], tables: Tables) -> tuple[str, str]:
    reference, pairs = study["measures"]["reference"], tables["barriers"]
    n, benchmark = _values(pairs["n"]), escape(study["measures"]["connectivity"]["benchmark"])
    names = {"loss a": f"loss of {reference}", "loss b": "loss of run", "worst alpha": "share of the run"}
    names |= {"mean of ends": "above mean of ends", "chord": "above chord"}
    shown = _against(study, tables, "barriers")
    shown["worst_alpha"] = 1 - shown["worst_alpha"]
    text = [
        f"Loss (nats a token) of the gold boxed answer on the first {n} problems of {benchmark}, along the "
        f"straight path from {escape(reference)}'s update to each run's. Barriers: the highest loss above "
        "the mean of the ends, and above the chord between them, with the share of the run's update there.",
        markdown(readable(shown).rename(columns=names)),
    ]
    if pairs["chord"].notna().any():
        worst = pairs.sort_values("chord", ascending=False, kind="stable").iloc[0]
        text.append(
            f"Highest barrier above the chord, of all {len(pairs)} pairs: {cell(worst['chord'])}, between "
            f"{escape(worst['a'])} and {escape(worst['b'])}."
        )
    return "Linear mode connectivity", "\n\n".join(text)


def _cka(study: Mapping[str, Any], tables: Tables) -> tuple[str, str]:
    frame, settings = _against(study, tables, "cka"), study["measures"]["cka"]
    rows = []
    for run, layers in frame.groupby("run", sort=False):
        debiased, biased = (
            layers[layers["estimator"] == estimator].set_index("layer")["similarity"].astype(float)
            for estimator in ("debiased", "biased")
        )
        low = debiased.idxmin() if debiased.notna().any() else None
        last = layers["layer"].max()
        rows.append(
            {"run": run, "last layer, debiased": debiased.get(last), "last layer, biased": biased.get(last)}
            | {"lowest, debiased": debiased.min(), "at layer": low}
        )
    columns = ["run", "last layer, debiased", "last layer, biased", "lowest, debiased", "at layer"]
    text = (
        f"Linear CKA with {escape(study['measures']['reference'])} of the hidden states on the first "
        f"{_values(frame['n'])} prompts of {escape(settings['benchmark'])} (pooling: {settings['pooling']}; "
        "from the output of layer 0 on). With fewer prompts than dimensions the biased estimator is inflated."
    )
    return "Hidden states", text + "\n\n" + markdown(pd.DataFrame(rows, columns=columns))


def _captions(study: Mapping[str, Any], tables: Tables) -> dict[str, str]:
    reference, training = escape(study["measures"]["reference"]), tables["training"]
    seeds = f"Seeds: data order {_values(training['seed'])}"
    starts = training["init_seed"].dropna()
    seeds += f", initial A {_values(starts)}." if len(starts) else "."
    modules, measures = count_modules(tables), study["measures"]
    k = measures["geometry"]["top_k"][-1]
    connectivity, cka = measures["connectivity"], measures["cka"]
    angles = f"smallest (filled) and largest (hollow) of the k = {k} angles between the top left (output side) "
    angles += f"and right (input side) singular subspaces, over {modules} modules"
    texts = {
        "training_curves": _of_curves(study, tables),
        "accuracy": accuracy_caption(study, tables),
        "cosine_heatmap": f"Cosine of every two updates, global: all {modules} modules stacked, not a mean.",
        "cosine_by_layer": f"Cosine of each update with {reference}'s, the modules of a layer stacked.",
        "orthogonal_fraction_by_layer": f"Part of each update left by its projection on {reference}'s, the "
        "modules of a layer stacked (one coefficient a layer).",
        "principal_angles": f"Principal angles with {reference}: {angles}; median, quartiles and range.",
        "connectivity_paths": f"Loss of the gold boxed answer from {reference} to each run, n = "
        f"{_values(tables['connectivity']['n'])} problems of {escape(connectivity['benchmark'])}, "
        f"{connectivity['points']} points; dashed: the chord.",
        "cka_by_layer": f"Linear CKA with {reference}, n = {_values(tables['cka']['n'])} prompts of "
        f"{escape(cka['benchmark'])}, pooling {cka['pooling']}; solid: debiased, dashed: biased.",
    }
    return {name: f"{text} {seeds}" for name, text in texts.items()}


def _of_curves(study: Mapping[str, Any], tables: Tables) -> str:
    """The caption of the training curves: what each of the drawn metrics is."""
    reference, drawn = study["reference"], set(tables["training_curves"]["metric"])
    scaled = tables["training"]["match_norm"].str.endswith(", scale").eq(True).any()
    before = "; of a run with match_norm how: scale the curves are before scaling, the table after" if scaled else ""
    texts = {
        "loss": "Losses of different methods are different quantities: their values do not compare, nor do grad_norms.",
        "delta_norm": f"delta_norm: Frobenius norm of the whole delta{before}.",
        "kl_to_base": "kl_to_base: k3 estimate of KL(base || run), nats a token, on the base's own samples for the "
        f"first {reference['prompts']} prompts of {escape(reference['benchmark'] or '')}.",
        "weight_share_correct": "weight_share_correct: share of |d loss / d log-prob| on correct rows (likelihood "
        "and pairwise methods).",
    }
    return " ".join(text for metric, text in texts.items() if metric in drawn)


def _figure(name: str, caption: str) -> str:
    return f"![{name.replace('_', ' ')}](figures/{name}.png)\n\n{caption}"


def full_name(method: str) -> str:
    """The first sentence of the method's file."""
    if method not in methods.names():
        return method
    return " ".join((methods.load(method).__doc__ or method).split()).split(". ")[0].rstrip(".")


def _against(study: Mapping[str, Any], tables: Tables, name: str) -> pd.DataFrame:
    return against(tables[name], study["measures"]["reference"], list(tables["training"]["run"]))


def _values(values: Iterable[Any]) -> str:
    """The different values, in their order: `42`, or `42, 123`; a dash for none."""
    return ", ".join(dict.fromkeys(cell(value) for value in values)) or "–"


def _shared(seeds: pd.Series) -> str:
    return " in every run" if seeds.nunique() == 1 else ", not the same in every run"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
