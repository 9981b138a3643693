"""The details say what the tables say, embeds each figure and escapes every name."""

import math
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deltageom.deltas.delta import Factors
from deltageom.display.table_files import read_table, write_table
from deltageom.evaluation import statistics
from deltageom.geometry.module_numbers import measure_module
from deltageom.measures.cka import cka
from deltageom.measures.shared.losses.path_tables import barriers, losses
from deltageom.methods import interface
from deltageom.methods.interface import full_name
from deltageom.report import figures
from deltageom.report.details import details
from deltageom.report.tables.build import build_tables
from deltageom.report.tables.geometry import of_pairs, of_runs
from deltageom.report.tables.training import LORA
from deltageom.study.load import load_study
from tests.evaluation.graded import NO_OVERLAP, STATISTICS, answers

RUNS = ["sft", "dft", "dpo"]


@pytest.fixture(scope="module")
def study():
    """The toy study, as the command line hands it over, with three of its runs."""
    resolved = load_study({}, Path(__file__).parents[2]).model_dump(mode="json")
    return resolved | {"runs": {name: resolved["runs"][name] for name in RUNS}}


@pytest.fixture(scope="module")
def built(study):
    """base, sft and dft solve as much on `easy`, dpo nothing; nobody differs on the tiny `hard`; with samples, dpo is
    a little worse. dpo never moved in layer 0."""
    rng = np.random.default_rng(0)
    solved = {"base": "1" * 12, "sft": "1" * 12, "dft": "1" * 11 + "0", "dpo": "0" * 12}
    graded = {(m, "easy"): answers(s) for m, s in solved.items()}
    graded |= {(m, "hard"): answers("10") for m in solved}
    graded |= {(m, "hard_sampled"): answers("111000", "110100", "000000", "100000") for m in solved}
    graded["dpo", "hard_sampled"] = answers("111000", "100000", "000000", "000000")
    graded["sft", "easy"][0] |= {"math_verify": False}
    graded["dft", "easy"][1] |= {"math_verify": None, "math_verify_failure": "timeout"}
    overlaps = {"benchmark": "easy", "problems": 12, "overlapping_problems": 2}
    overlaps |= {"overlapping_training_problems": 5, "identical": 1}
    modules = []
    for layer in range(2):
        b, eye = rng.normal(size=(6, 4)), np.eye(4)
        deltas = {"sft": b, "dft": b + rng.normal(size=(6, 4)), "dpo": (0 if layer == 0 else -1) * b}
        factors = {run: Factors(b=delta, a=eye, scale=1.0) for run, delta in deltas.items()}
        name = f"layers.{layer}.q"
        modules.append({"module": name, "layer": layer, "shape": (6, 4)} | measure_module(name, factors, [1, 2]))
    pairs = list(combinations(sorted(RUNS), 2))
    height = {("dft", "dpo"): 3.0, ("dft", "sft"): 0.5, ("dpo", "sft"): math.nan}
    paths = {
        pair: pd.DataFrame(
            {
                "alpha": [0.0, 0.25, 1.0],
                "problem_id": "p",
                "nll": [1.0, 1 + height[pair], 1.0],
                "tokens": 1,
                "uniform": 6.0,
            }
        )
        for pair in pairs
    }
    similar = pd.DataFrame(
        [(0, math.nan, math.nan), (1, 0.5, 0.7), (2, 0.8, 0.9)], columns=["layer", "debiased", "biased"]
    ).melt("layer", var_name="estimator", value_name="similarity")
    ends = {
        "steps_done": 64,
        "stopped": "steps",
        "delta_norm": 2.5,
        "matched_norm": None,
        "scale": 1.0,
        "kl_to_base": 0.25,
    }
    selections = {run: ends | {"problems": 512, "selected": 400} for run in RUNS}
    metrics = pd.DataFrame({"step": 1, "metric": ["loss", "delta_norm", "kl_to_base", "weight_share_correct"]})
    points = losses(paths)
    measured = {"connectivity": points, "barriers": barriers(points, paths)}
    measured["cka"] = cka(dict.fromkeys(pairs, similar.assign(n=100)))
    return build_tables(
        study["runs"],
        selections,
        dict.fromkeys(RUNS, metrics.assign(value=0.5)),
        graded,
        modules,
        measured,
        NO_OVERLAP | {"training_problems": 512, "kept": 512, "benchmarks": [overlaps]},
        STATISTICS,
        "sft",
    )


def rows_of(page, heading):
    """Cells of the first table with this column, by the first cell."""
    tables_ = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    split = [[[c.strip() for c in line.strip("|").split(" |")] for line in t] for t in tables_]
    head, _, *rows = next(t for t in split if heading in t[0])
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def test_page_says_what_was_compared(study, built):
    page = details(study, built, list(figures.every_figure(built)))
    assert page.startswith("# Study toy: the details\n")
    most = study["rollouts"]["max_tokens"]
    drawn = f"4 samples a problem at temperature {study['rollouts']['temperature']:g}, seed 42, at most {most} tokens"
    assert f"- Rollouts of 512 problems from teacher, {drawn}; one set, shared by all runs on rollouts." in page
    assert (
        "- Decontamination (13 consecutive words): of 512 training problems overlap 5 with easy (1 identical; 2 of its "
        "12 problems); counted, none dropped." in page
    )
    assert "the reference is sft" in page
    assert "initial A from seed 42 in every run" in page
    rows = rows_of(page, "loss")
    assert list(rows) == RUNS
    assert rows["dpo"]["loss"].startswith("DPO and its kin, by TRL's loss types")
    for option in ("beta=0.1", "max_pairs=4", "pair_seed=42"):
        assert option in rows["dpo"]["options"].split(", ")


def same_in_every_run(page):
    return next(line for line in page.splitlines() if line.startswith("- The same in every run: "))


def test_settings_that_differ_are_in_the_table_and_shared_ones_in_a_line(study, built):
    page = details(study, built, [])
    rows, shared = rows_of(page, "loss"), same_in_every_run(page)
    # of the toy's runs, dpo alone has another learning rate
    assert list(rows["dpo"]) == ["run", "method", "loss", "options", "learning rate"]
    assert [row["learning rate"] for row in rows.values()] == ["0.002", "0.002", "0.0002"]
    for fact in ("adapter lora", "schedule cosine", "steps 64", "batch size 16", "reduction token", "selected 400"):
        assert f"{fact}," in shared.replace(".", ",")
    assert "learning rate" not in shared
    assert "report step" not in shared  # no run has one
    assert "steps done" not in shared  # how it ended is another table
    training = built["training"].assign(rank=[8, 8, 4], seed=[1, 2, 3], report_step=pd.array([None, 32, None], "Int64"))
    other = details(study, built | {"training": training}, [])
    rows = rows_of(other, "loss")
    assert [(row["rank"], row["seed"], row["report step"]) for row in rows.values()] == [
        ("8", "1", "–"),
        ("8", "2", "32"),
        ("4", "3", "–"),
    ]
    assert "Data order from seed 1, 2, 3, not the same in every run." in other
    assert "rank 8, 4, alpha 16, dropout 0; initial A from seed 42 in every run." in other


def without_adapter(built, *runs):
    whole = built["training"]["run"].isin(runs)
    training = built["training"].copy()
    training.loc[whole, [*LORA, "delta_norm"]] = None
    training.loc[whole, "adapter"] = "none"
    return built | {"training": training}


def test_runs_without_an_adapter_read_well(study, built, tmp_path):
    mixed = without_adapter(built, "dft")
    write_table(mixed["training"], tmp_path, "training")
    for training in (mixed["training"], read_table(tmp_path, "training")):
        page = details(study, mixed | {"training": training}, ["training_curves"])
        assert "- LoRA: rank 8, alpha 16, dropout 0; initial A from seed 42 in every run." in page
        assert "- Without an adapter, every weight trained: dft." in page
        rows = rows_of(page, "loss")
        assert list(rows["dft"]) == ["run", "method", "loss", "options", "adapter", "learning rate"]
        assert [row["adapter"] for row in rows.values()] == ["lora", "none", "lora"]
        assert rows_of(page, "steps done")["dft"]["delta norm"] == "–"
        assert "A run without an adapter has no delta norm" in page
        assert "initial A 42." in page
    page = details(study, without_adapter(built, *RUNS), ["training_curves"])
    assert "LoRA" not in page
    assert "initial A from" not in page
    assert "- Without an adapter, every weight trained: sft, dft, dpo." in page
    assert "adapter none, " in same_in_every_run(page)
    assert "Seeds: data order 42." in page


def test_training_says_how_each_run_ended_and_what_its_curves_are(study, built):
    page = details(study, built, ["training_curves"])
    assert page.index("## What was compared") < page.index("## Training") < page.index("## Accuracy")
    assert list(rows_of(page, "steps done")["dpo"].items()) == [
        ("run", "dpo"), ("steps done", "64"), ("stopped", "steps"), ("delta norm", "2.5"), ("matched norm", "–"),
        ("scale", "1"), ("kl to base", "0.25"),
    ]  # fmt: skip
    assert "without an adapter" not in page
    (caption,) = re.findall(r"\]\(figures/training_curves\.png\)\n\n(.+)\n", page)
    prompts, benchmark = study["reference"]["prompts"], study["reference"]["benchmark"]
    assert "neither their values nor their gradient norms can be compared" in caption
    assert "delta_norm: Frobenius norm of the whole delta." in caption
    assert "k3 estimate of KL(base || run), nats per token" in caption
    assert f"the base's own samples for the first {prompts} prompts of {benchmark}." in caption
    assert "share of |d loss / d log-prob| on correct rows" in caption


def test_page_says_who_grades_and_whose_system_message_it_is(study, built):
    def page(**changed: object) -> str:
        return details(study | changed, built, [])

    said = page()
    assert "Grading: scores and rewards by the strict grader, math-verify as second opinion." in said
    assert "The scores are those of the strict grader." in said
    assert "no system message of the study's, so the chat template's own default stands if it has one" in said
    said = page(grading={"primary": "math_verify", "rewards": None}, prompt={"template": "{question}", "system": ""})
    assert "Grading: scores and rewards by math-verify, the strict grader as second opinion." in said
    assert "at most 96 tokens; math-verify. Accuracy" in said
    assert "no verdict of math-verify on 1 (1 timeout), which count as wrong." in said
    assert "Prompt: an empty system message." in said
    said = page(
        grading={"primary": "strict", "rewards": "math_verify"}, prompt={"template": "", "system": "Be *brief*"}
    )
    assert "Grading: scores by the strict grader, rewards by math-verify; both graders' verdicts are recorded." in said
    assert r"system message Be \*brief\*" in said


def test_caption_says_what_is_drawn_alone_and_when_a_curve_is_before_scaling(study, built):
    def caption(**changed):
        return details(
            study | {"reference": study["reference"] | {"benchmark": None}}, built | changed, ["training_curves"]
        )

    curves = built["training_curves"]
    without = caption(training_curves=curves[curves["metric"] != "kl_to_base"])
    assert "kl_to_base" not in without
    assert "delta_norm:" in without
    for how, said in (("scale", True), ("stop", False)):
        training = built["training"].assign(match_norm=pd.array([None, None, f"sft, {how}"], dtype="str"))
        shown = caption(training=training, training_curves=curves[curves["metric"] != "kl_to_base"])
        assert ("the curves are before scaling, the table after" in shown) == said


def test_a_term_without_weight_is_said_to_have_none(study, built):
    shares = {"sft": (0.7, 0.7), "dft": (0.99999, 0.7), "dpo": (0.99999, 1.0)}
    rows = [
        (run, step, metric, value)
        for run, values in shares.items()
        for metric, value in zip(("weight_share_correct", "token_share_correct"), values, strict=True)
        for step in (1, 2)
    ]
    curves = pd.DataFrame(rows, columns=["run", "step", "metric", "value"])
    page = details(study, built | {"training_curves": curves}, [])
    assert "dft: wrong rows have 30.0% of the tokens and 1e-05 of the weight in the loss" in page
    assert page.count("Their term vanishes") == 1


def test_other_seeds_are_said_to_differ(study, built):
    training = built["training"].assign(init_seed=[42, 42, 7])
    page = details(study, built | {"training": training}, [])
    assert "initial A from seed 42, 7, not the same in every run" in page


def changed(study, section, **keys):
    return study | {section: study[section] | keys}


def test_rollouts_may_come_from_a_file_and_be_greedy(study, built):
    page = details(changed(study, "rollouts", file="data/<rollouts>.jsonl"), built, [])
    assert "- Rollouts imported from data/&lt;rollouts&gt;.jsonl, of 512 problems; one set" in page
    assert "from teacher" not in page
    page = details(changed(study, "rollouts", temperature=0.0, samples=1), built, [])
    assert "- Rollouts of 512 problems from teacher, greedy, at most" in page


def test_dropped_problems_are_said_to_be(study, built):
    table = built["decontamination"].assign(overlap="drop", dropped=5)
    page = details(study, built | {"decontamination": table}, [])
    assert "12 problems); 5 dropped before training." in page
    assert "Decontamination" not in details(study, built | {"decontamination": table[:0]}, [])


def part(page, heading):
    """The text below a heading, up to the next one."""
    return page.split(f"{heading}\n\n")[1].split("\n\n#")[0]


def test_each_benchmark_says_how_it_is_answered_and_what_it_can_find(study, built):
    page = details(study, built, [])
    pairs = built["comparisons"].set_index("benchmark")["minimum_detectable"]
    easy, hard, sampled = (part(page, f"### {name}") for name in ("easy", "hard", "hard_sampled"))
    assert easy.startswith(
        "Greedy, at most 96 tokens; strict grader. Accuracy: mean over n = 12 problems, 95 % interval: Wilson "
        "(Clopper-Pearson's: tables/accuracy.csv). n = 12: "
    )
    least, most = (f"{value:.4g}" for value in (pairs["easy"].min(), pairs["easy"].max()))
    assert f"n = 12: a difference below {least} (of the pair that needs least; up to {most} of others) cannot" in easy
    assert "n = 2: no difference between two models can be found with 80 % power." in hard
    assert sampled.startswith("8 samples a problem at temperature 1, seed 42, at most 96 tokens; strict grader.")
    assert "95 % interval: bootstrap over problems (BCa). n = 6: a difference below" in sampled
    values = pairs["hard_sampled"].dropna()
    assert f"{values.min():.4g} cannot be found with 80 % power." in sampled
    assert "Clopper-Pearson" not in sampled


def test_sampling_is_said_in_full(study, built):
    harder = study["benchmarks"]["hard_sampled"] | {"top_p": 0.95, "top_k": 20, "thinking": False, "samples": 1}
    page = details(changed(study, "benchmarks", hard_sampled=harder), built, ["accuracy"])
    how = "1 sample a problem at temperature 1, top-p 0.95, top-k 20, seed 42, at most 96 tokens, thinking off"
    assert page.count(how) == 2  # in the section and under the figure


def test_what_could_mislead_stands_beside_each_accuracy(study, built):
    row = rows_of(part(details(study, built, []), "### easy"), "accuracy")["dft"]
    table = built["accuracy"].set_index(["model", "benchmark"]).loc["dft", "easy"]
    assert row == {
        "model": "dft", "correct": "11", "accuracy": "0.9167", "low": f"{table['low']:.4g}",
        "high": f"{table['high']:.4g}", "answered rate": "1", "truncated rate": "0", "no verdict rate": "0.08333",
        "math verify accuracy": f"{10 / 11:.4g}", "mean length": "10",
    }  # fmt: skip


def test_pass_at_k_is_a_column_a_k_in_the_order_of_the_models(study, built):
    page = details(study, built, [])
    rows = rows_of(part(page, "### hard_sampled"), "pass@4")
    assert list(rows) == ["base", *RUNS]
    assert list(rows["dpo"]) == ["model", "pass@1", "pass@2", "pass@4"]
    assert [rows[model]["pass@4"] for model in ("base", "dpo")] == [f"{4 / 6:.4g}", "0.5"]
    assert "pass@" not in part(page, "### easy")


def test_declared_family_is_all_shown_with_holm_and_others_are_exploration(study, built):
    page = details(study, built, [])
    family = part(page, "### Declared comparisons")
    table = built["comparisons"]
    found = int((table["p_holm"] < 0.05).sum())
    assert found == 1
    assert "The declared family is each run with the base, 9 comparisons over all benchmarks." in family
    assert "1 of 9 pairs of models differ (p < 0.05 after Holm's correction over the family):" in family
    lines = [line for line in family.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 9
    worst = next(line for line in lines if line.split("|")[1:4] == [" easy         ", " dpo ", " base "])
    row = table[(table["benchmark"] == "easy") & (table["a"] == "dpo") & (table["b"] == "base")].iloc[0]
    cells = [text.strip() for text in worst.strip("|").split("|")]
    low, high = statistics.tango(0, 12, 12)
    assert cells[3:] == [
        "-1", f"{low:.4g}", f"{high:.4g}", "0", "12", f"{2 / 2**12:.4g}", f"{9 * 2 / 2**12:.4g}",
        f"{row['minimum_detectable']:.4g}",
    ]  # fmt: skip
    exploration = part(page, "### Exploration")
    assert "easy: 2 of 3 pairs of models differ (q < 0.05, Benjamini-Hochberg over these pairs):" in exploration
    assert "hard: None of 3 pairs of models differ (q < 0.05, Benjamini-Hochberg over these pairs)." in exploration
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in exploration.splitlines() if "| dpo" in line]
    assert [(row[1], row[6]) for row in rows] == [("sft", "12"), ("dft", "11")]  # b, only b; the surest first


@pytest.mark.parametrize(
    ("family", "said"), [("all", "every pair of models, 18"), ("compare_with", "each other run with sft, 6")]
)
def test_the_family_is_the_studys(study, built, family, said):
    table = built["comparisons"].copy()
    inside = (table["b"] == "sft") | (family == "all")
    table = table.assign(family=inside, p_holm=0.5, q_bh=0.5)
    page = details(changed(study, "statistics", family=family), built | {"comparisons": table}, [])
    assert f"The declared family is {said} comparisons over all benchmarks. None of" in page
    assert ("### Exploration" in page) == (family != "all")


def test_the_graders_are_counted_against_each_other(study, built):
    assert (
        "Of 152 completions the graders disagree on 1 (1 correct for the strict one alone, 0 for math-verify alone); "
        "no verdict of math-verify on 1 (1 timeout)." in details(study, built, [])
    )


def test_geometry_is_the_global_tables(study, built):
    page = details(study, built, [])
    cosine = of_pairs(built["geometry_global"]).set_index(["a", "b"])["cosine"]["dft", "sft"]
    assert rows_of(page, "orthogonal fraction stacked")["dft"]["cosine"] == f"{cosine:.4g}"
    assert rows_of(page, "dpo")["sft"]["dft"] == f"{cosine:.4g}"
    norms = of_runs(built["geometry_global"]).set_index("run")["norm"]
    assert {r: row["norm"] for r, row in rows_of(page, "stable rank").items()} == {
        run: f"{norms[run]:.4g}" for run in RUNS
    }
    assert rows_of(page, "orthogonal fraction stacked")["dpo"]["n defined"] == "1"
    assert "all 2 modules stacked into one vector, not a mean over modules" in page


def test_every_cosine_and_angle_stands_beside_chance(study, built):
    page = details(study, built, [])
    table = built["geometry_global"]
    cosines = table[table["measure"] == "cosine"].set_index(["a", "b"]).loc[("dft", "sft")]
    row = rows_of(page, "chance sd, own A")["dft"]
    assert row["cosine"] == f"{cosines['value']:.4g}"
    assert row["chance sd, own A"] == f"{cosines['chance_own_sd']:.4g}"
    assert row["z, both random"] == f"{cosines['chance_fresh_z']:.4g}"
    assert (row["seed pairs"], row["their mean"]) == ("0", "–")
    row = rows_of(page, "chance, left smallest")["dft"]
    for side, chance in (("left", "fresh"), ("right", "own")):
        angles = table[(table["measure"] == f"{side}_largest_median") & (table["k"] == 2)].set_index(["a", "b"])
        angle = angles.loc[("dft", "sft")]
        assert row[f"{side} largest"] == f"{angle['value']:.4g} \\[{angle['low']:.4g}, {angle['high']:.4g}\\]"
        assert row[f"chance, {side} largest"] == f"{angle[f'chance_{chance}_mean']:.4g}"


def test_updates_against_the_base_if_they_were_measured(study, built):
    assert "Against the base's weights" not in details(study, built, [])
    measures = {"output_energy": 0.25, "input_energy": 0.5, "spectral_drift_mean": 0.125, "intruders_sum": 3.0}
    rows = [
        {"a": run, "measure": measure, "k": k, "value": value * k}
        for run in RUNS
        for measure, value in measures.items()
        for k in (2, 4)
    ]
    rows += [{"a": run, "measure": "unchanged_bf16", "value": 0.75} for run in RUNS]
    table = pd.concat([built["geometry_global"], pd.DataFrame(rows)], ignore_index=True)
    page = details(study, built | {"geometry_global": table}, [])
    assert "Against the base's weights W, k = 4" in page
    assert list(rows_of(page, "output energy")["dft"].values()) == ["dft", "1", "2", "0.5", "12", "0.75"]


def test_barriers_and_undefined_ones(study, built):
    page = details(study, built, [])
    rows = rows_of(page, "above chord")
    assert rows["dft"]["above chord"] == "0.5"
    assert rows["dft"]["share of the run"] == "0.25"  # dft is a of its pair, alpha its share
    assert rows["dpo"]["above chord"] == "–"
    assert "of all 3 pairs: 3 (3 to 3), between dft and dpo." in page


def test_cka_of_the_last_layer_and_the_lowest(study, built):
    row = rows_of(details(study, built, []), "lowest, debiased")["dft"]
    assert list(row.values()) == ["dft", "0.8", "0.9", "0.5", "1"]


def test_each_given_figure_is_embedded_once_with_its_facts(study, built):
    names = list(figures.every_figure(built))
    page = details(study, built, names)
    assert sorted(re.findall(r"\]\(figures/(\w+)\.png\)", page)) == sorted(names)
    captions = dict(re.findall(r"\]\(figures/(\w+)\.png\)\n\n(.+)\n", page))
    assert all("data order 42, initial A 42" in caption for caption in captions.values())
    facts = {
        "accuracy": "intervals. easy n = 12 (greedy, at most 96 tokens; 95 % interval: Wilson), hard n = 2 "
        "(greedy, at most 96 tokens; 95 % interval: Wilson), hard_sampled n = 6 (8 samples a problem at temperature 1, "
        "seed 42, at most 96 tokens; 95 % interval: bootstrap over problems (BCa)).",
        "cosine_heatmap": "0 is unrelated. 2 modules.",
        "principal_angles": "k = 4",
        "connectivity_paths": f"n = 1 problems of easy, {study['measures']['connectivity']['points']} points",
        "cka_by_layer": "n = 100 prompts of easy, pooling last; solid: debiased, dashed: biased",
    }
    for name, fact in facts.items():
        assert fact in captions[name]
    assert re.findall(r"figures/\w+", details(study, built, ["accuracy"])) == ["figures/accuracy"]


def test_names_are_text_not_markup(study, built):
    hostile = "<img src=x>|*b*"
    named = {name: table.replace({"dft": hostile}) for name, table in built.items()}
    named["cosine_matrix"] = named["cosine_matrix"].rename(columns={"dft": hostile})
    page = details(study | {"study": hostile, "base": study["base"] | {"model": hostile}}, named, [])
    assert "<img" not in page
    assert r"&lt;img src=x&gt;\|\*b\*" in page
    for block in (block for block in page.split("\n\n") if block.startswith("|")):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_long_list_of_differences_is_cut_to_the_most_significant(study, built):
    models = ["base", *RUNS, *(f"x{i}" for i in range(6))]
    pairs = [(b, a) for a, b in combinations(models, 2)]
    row = built["comparisons"].iloc[:1]
    many = pd.concat([row.assign(a=a, b=b) for a, b in pairs], ignore_index=True)
    values = np.linspace(0.04, 0.001, len(pairs))  # the last are the most significant
    for inside, column, other in ((True, "p_holm", "q_bh"), (False, "q_bh", "p_holm")):
        table = many.assign(family=inside, **{column: values, other: math.nan})
        page = details(study, built | {"comparisons": table}, [])
        assert "45 of 45 pairs of models differ" in page
        assert "; the first 28 by significance, all are in tables/comparisons.csv:" in page
        rows = next(b for b in page.split("\n\n") if b.startswith("|") and column.replace("_", " ") in b).splitlines()
        assert len(rows) == 2 + 28
        assert " x5 " in rows[2]
        assert " 0.001 " in rows[2]


def test_single_run_has_a_page(study, built):
    alone = {}
    for name, table in built.items():
        keep = ~table.isin(["dft", "dpo"]).any(axis="columns")
        alone[name] = table[keep].drop(columns=["dft", "dpo"], errors="ignore")
    page = details(study, alone, list(figures.every_figure(built)))
    assert "Runs: 1; the reference is sft" in page


def test_every_method_has_a_full_name():
    for method in interface.names():
        assert 10 < len(full_name(method)) < 150, method
        assert not full_name(method).endswith(("eq", "sec")), method
        assert full_name(method) != method
    assert full_name("no_such_method") == "no_such_method"
