"""Results as a study leaves them, made up: a small study by the code that writes the tables, a large one at random."""

import json
from collections.abc import Mapping
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deltageom.deltas.delta import Factors
from deltageom.display.columns import typed
from deltageom.display.table_files import read_tables, write_table
from deltageom.files import write_json, write_jsonl
from deltageom.geometry.aggregate.table import COLUMNS
from deltageom.geometry.record import record
from deltageom.jobs import study_provenance
from deltageom.measures.cka import cka
from deltageom.measures.shared.losses.path_tables import barriers, losses
from deltageom.report.page import source
from deltageom.report.page.measures import MEASURES
from deltageom.report.page.source import Source
from deltageom.report.replicates import differences_table, replicates_table
from deltageom.report.tables.build import build_tables
from deltageom.study.load import load_study
from deltageom.study.resolved import Study
from tests.conftest import ROOT
from tests.evaluation.graded import NO_OVERLAP, STATISTICS, answers

RUNS = ("sft", "dft", "dpo")
LAYERS, KINDS = 3, ("self_attn.q_proj", "self_attn.v_proj")
SOLVED = {"base": "110000000000", "sft": "111111111100", "dft": "111111111000", "dpo": "110000000010"}

HOSTILE = (
    "<script>document.title = 'taken'</script></script><img src=x onerror=alert(1)>]]><!-- \u2028 `${1}` & \\u003c"
)
INVISIBLE = "a\x00b\x07c\u202eright to left\u2066\u200f \ud800 end"


def study(runs: tuple[str, ...] = RUNS) -> Study:
    """The toy study with these of its runs and two of its benchmarks."""
    found = load_study({}, ROOT)
    kept = {name: found.runs[name] for name in runs}
    benchmarks = {name: found.benchmarks[name] for name in ("easy", "hard_sampled")}
    return found.model_copy(update={"study": "made-up", "runs": kept, "benchmarks": benchmarks})


def records(runs: tuple[str, ...] = RUNS) -> list[dict[str, Any]]:
    """Of every module; dpo never moved in layer 0."""
    rng, found = np.random.default_rng(0), []
    for layer in range(LAYERS):
        for kind in KINDS:
            start, a = rng.normal(size=(10, 4)), rng.normal(size=(4, 12))
            apart = {"sft": 0.0, "dft": 0.4 + layer, "dpo": 3.0}
            name = f"layers.{layer}.{kind}"
            deltas = {}
            for run in runs:
                b = start + apart[run] * rng.normal(size=(10, 4))
                deltas[run] = Factors(b=0 * b if run == "dpo" and layer == 0 else b, a=a, scale=1.0)
            found.append(record(name, deltas, [1, 3]))
    return found


def graded(runs: tuple[str, ...] = RUNS, **responses: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Records of every model; `responses`: what a run says to problem p2, which dpo and the base do not solve."""
    found = {}
    for model in ("base", *runs):
        found[model, "easy"] = answers(SOLVED[model])
        found[model, "hard_sampled"] = answers("111000", "110100")
        for (_, benchmark), rows in [item for item in found.items() if item[0][0] == model]:
            for row in rows:
                row["question"] = f"How much is {row['problem_id']} on {benchmark}?"
                row["response"] = f"{model} thinks: \\boxed{{{row['extracted']}}}"
    for run, text in responses.items():
        found[run, "easy"][2]["response"] = text
    found["sft", "easy"][0] |= {"math_verify": False, "extracted": HOSTILE}  # in the table `disagreements`, too
    found["sft", "easy"][1] |= {"math_verify": None, "math_verify_failure": "timeout"}
    return found


def tables(
    runs: tuple[str, ...], of: Mapping[tuple[str, str], list[dict[str, Any]]], modules: list[dict[str, Any]]
) -> dict[str, pd.DataFrame]:
    pairs = list(combinations(sorted(runs), 2))
    points = [(alpha, 1 + alpha * (1 - alpha)) for alpha in (0.0, 0.25, 0.5, 0.75, 1.0)]
    path = pd.DataFrame(points, columns=["alpha", "nll"]).assign(problem_id="p", tokens=1, uniform=6.0)
    points = losses(dict.fromkeys(pairs, path))
    similar = pd.DataFrame([(layer, 0.9 - layer / 10, 0.95) for layer in range(LAYERS)])
    similar.columns = pd.Index(["layer", "debiased", "biased"])
    long = similar.melt("layer", var_name="estimator", value_name="similarity").assign(n=20)
    ends = {"steps_done": 4, "stopped": "steps", "delta_norm": 2.5, "kl_to_base": 0.25, "problems": 9, "selected": 9}
    steps = pd.DataFrame([(step, metric, 1 / step) for step in (1, 2, 3, 4) for metric in ("loss", "grad_norm")])
    steps.columns = pd.Index(["step", "metric", "value"])
    steps.loc[3, "value"] = np.nan
    settings = {name: run.model_dump(mode="json") for name, run in study(runs).runs.items()}
    return build_tables(
        settings,
        dict.fromkeys(runs, ends),
        dict.fromkeys(runs, steps),
        of,
        modules,
        {
            "connectivity": points,
            "barriers": barriers(points, dict.fromkeys(pairs, path)),
            "cka": cka(dict.fromkeys(pairs, long)),
        },
        NO_OVERLAP,
        STATISTICS,
        "sft",
    )


def write_snapshots(folder: Path, steps: tuple[int, ...] = (2, 8)) -> Path:
    """The study with the trajectory of its pairs; dft is 0 after the first step."""
    write(folder)
    rng, rows = np.random.default_rng(5), []
    for (a, b), layer, step in product(combinations(sorted(RUNS), 2), (None, *range(LAYERS)), steps):
        zero = step == steps[0] and "dft" in (a, b)
        norms = [0.0 if step == steps[0] and run == "dft" else rng.random() for run in (a, b)]
        rows.append((a, b, layer, step, np.nan if zero else rng.uniform(-1, 1), *norms))
    columns = ["a", "b", "layer", "step", "cosine", "norm_a", "norm_b"]
    write_table(typed(pd.DataFrame(rows, columns=columns)), folder / "tables", "trajectory_pairs")
    return folder


def provenance(of: Study) -> dict[str, Any]:
    """As rule provenance merges it, of jobs that took a second each."""
    machine = {"device": "cpu", "cpu": "one", "platform": "Linux", "python": "3.11", "kernels": "AVX2", "threads": 1}
    job = {"settings": {}, "code_sha256": "0", "versions": {"numpy": "2"}, "machine": machine, "started": "then"}
    job |= {"wall_seconds": 1.0, "peak_memory_mib": 100.0, "study": of.study}
    names = [*(f"grade/{model}" for model in ("base", *of.runs)), *(f"geometry/{layer}" for layer in range(LAYERS))]
    jobs = {name: job | {"command": name.partition("/")[0]} for name in names}
    return study_provenance.merge(of, jobs, {"summary.md": "0"}, None)


def write(folder: Path, runs: tuple[str, ...] = RUNS, **responses: str) -> Path:
    """A finished study's folder."""
    of, modules = graded(runs, **responses), records(runs)
    for name, frame in tables(runs, of, modules).items():
        write_table(frame, folder / "tables", name)
    for (model, benchmark), rows in of.items():
        write_jsonl(folder / "graded" / model / f"{benchmark}.jsonl", rows)
    for module in modules:
        write_json(folder / "geometry" / f"{module['module']}.json", json.loads(json.dumps(module)))
    write_json(folder / "provenance.json", provenance(study(runs)))
    return folder


def write_replicated(folder: Path, count: int = 3) -> Path:
    """A study of several replicates: each with the norms and inner products of the first, and cosines that vary."""
    write(folder)
    path = folder / "provenance.json"
    found = json.loads(path.read_text())
    found["settings"]["replicates"]["count"] = count
    write_json(path, found)
    first, draws = read_tables(folder / "tables"), []
    for number in range(1, count + 1):
        table = first["geometry_global"]
        moved = table["value"].where(table["measure"] != "cosine", table["value"] * (1 - number / 100))
        draws.append(first | {"geometry_global": table.assign(value=moved)})
        if number > 1:
            write_table(draws[-1]["geometry_global"], folder / "replicates" / str(number) / "tables", "geometry_global")
    write_table(replicates_table(draws, None, STATISTICS), folder / "tables", "replicates")
    write_table(differences_table(draws, "sft"), folder / "tables", "replicate_differences")
    return folder


def large(folder: Path, runs: int = 28, layers: int = 36) -> Source:
    """A study of 28 runs x 144 modules: random numbers and letters, of which nothing can be compressed but the keys.

    Its graded answers are files in `folder`.
    """
    found: dict[str, pd.DataFrame] = {}
    rng = np.random.default_rng(0)
    names = [f"run{number:02d}" for number in range(runs)]
    kinds = [f"self_attn.{kind}_proj" for kind in "qkvo"]
    modules = [f"layers.{layer}.{kind}" for layer in range(layers) for kind in kinds]
    ofs = {"module": [one.of_module for one in MEASURES], "layer": [one.of_all for one in MEASURES]}
    pairs = list(combinations(names, 2))
    for level, places in (("module", modules), ("layer", list(range(layers))), ("global", [None])):
        measures = [*ofs["module" if level == "module" else "layer"], "inner", "left_overlap", "right_overlap"]
        keys = pd.MultiIndex.from_product([places, range(len(pairs)), measures]).to_frame(index=False)
        keys.columns = pd.Index(["place", "pair", "measure"])
        frame = pd.DataFrame(index=keys.index, columns=list(COLUMNS[level]), dtype=float)
        frame["a"] = [pairs[at][0] for at in keys["pair"]]
        frame["b"] = [pairs[at][1] for at in keys["pair"]]
        frame["measure"], frame["value"] = keys["measure"], rng.random(len(keys))
        frame["k"] = np.where(keys["measure"].str.contains("left|right"), 10.0, np.nan)
        frame["reason"] = None
        for column in ("low", "high", *(c for c in frame if c.startswith("chance"))):
            if column in frame:
                frame[column] = rng.random(len(keys))
        if level == "module":
            frame["module"] = keys["place"]
            frame["layer"] = keys["place"].str.split(".").str[1].astype(float)
        elif level == "layer":
            frame["layer"] = keys["place"].astype(float)
        norms = pd.DataFrame({"a": names, "measure": "norm", "value": 1.0})
        found[f"geometry_{level}"] = pd.concat([norms, frame], ignore_index=True)[list(frame)]
    steps = pd.MultiIndex.from_product([names, range(1, 1501), ["loss", "grad_norm", "delta_norm", "tokens"]])
    curves = steps.to_frame(index=False).set_axis(["run", "step", "metric"], axis=1)
    found["training_curves"] = curves.assign(value=rng.random(len(curves)))
    found["training"] = pd.DataFrame({"run": names, "method": "sft"})
    of_runs = [{"run": run, "singular_values": rng.random(32).tolist()} for run in names]
    spectra = source.spectra([{"module": module, "layer": 0, "runs": of_runs} for module in modules])
    paths, letters = {}, np.array(list("abcdefghijklmnopqrstuvwxyz0123456789 \n"))
    for model in ("base", *names):
        said = answers("".join(rng.choice(["0", "1"], 200)))
        for row in said:
            row |= {"question": "q" * 300, "response": "".join(rng.choice(letters, 6000))}
        paths[model, "gsm8k"] = folder / "graded" / model / "gsm8k.jsonl"
        write_jsonl(paths[model, "gsm8k"], said)
    return Source("large", found, spectra=spectra, graded=paths)
