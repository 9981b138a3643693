"""What a study is said to cost: hand-computed cases, laws, and the jobs that the real Snakemake plans."""

import itertools
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from deltageom import plan, plan_console, plan_costs, plan_inputs, plan_measured
from deltageom.errors import UserError
from deltageom.methods import interface
from deltageom.plan_assumptions import GPUS, Assumptions
from deltageom.plan_stages import CORRECT_ONLY, Stages
from deltageom.plan_work import Machine, Stage, Work
from deltageom.study import load_study
from tests.conftest import ROOT, copy_project, snakemake
from tests.planning import QWEN3_4B, QWEN3_30B_A3B, close, study
from tests.test_cli import deltageom

NONE = math.nan
CPU, H100 = Machine("h100", 0, 2), Machine("h100", 1, 8)
# Beside the toy and the paper: every weight trained and no teacher; one run alone on some layers, finished rollouts
STUDIES = {
    "toy": "toy",
    "qwen3-4b": "qwen3-4b",
    "whole": {
        "extends": "toy",
        "rollouts": {"generator": "base"},
        "runs": {"whole": {"method": "sft", "adapter": "none", "learning_rate": 1e-4}, "dft": None},
        "measures": {"geometry": {"base_rank": None}},
    },
    "alone": {
        "extends": "toy",
        "rollouts": {"file": "rollouts.jsonl"},
        "training": {"kl_every": None, "lora": {"target_modules": r"layers\.(1|3)\..*q_proj"}},
        "runs": dict.fromkeys(("sft_seed7", "rft", "dft", "rift", "rift_linear", "offline_grpo", "dpo")),
        "benchmarks": {"hard": None, "hard_sampled": None},
    },
}


def made(
    config: dict[str, Any] | None = None,
    machine: Machine = CPU,
    assumed: Assumptions | None = None,
    **inputs: Any,
) -> plan.Plan:
    wanted, given = study(**(config or {})), assumed or Assumptions()
    return plan.make(wanted, plan_inputs.gather(wanted, given, **inputs), given, machine)


def stage(found: plan.Plan, rule: str) -> Stage:
    return next(stage for stage in found.stages if stage.rule == rule)


def qwen(machine: Machine = H100, **inputs: Any) -> plan.Plan:
    wanted = study("qwen3-4b")
    return plan.make(wanted, plan_inputs.gather(wanted, Assumptions(), **inputs), Assumptions(), machine)


def test_names_that_the_study_has_not() -> None:
    for given in ({"rows": {"aime": 3}}, {"mean_tokens": {"aime": 3}}):
        with pytest.raises(UserError, match=r"aime=.*the study's data sets are train, easy, hard, hard_sampled"):
            made(**given)


# --- the whole


@pytest.mark.parametrize("name", STUDIES)
def test_jobs_are_those_that_snakemake_plans(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = copy_project(tmp_path / "project")
    tree = STUDIES[name]
    if isinstance(tree, dict):
        (project / "studies" / f"{name}.yaml").write_text(yaml.safe_dump(tree))
        (project / "rollouts.jsonl").write_text("")
    done = snakemake(project, "--dry-run", "--config", f"study={name}")
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = Counter(re.findall(r"^(?:local)?rule (\w+):$", done.stdout + done.stderr, flags=re.MULTILINE))
    monkeypatch.chdir(project)
    wanted = load_study({"study": name})
    found = plan.make(wanted, plan_inputs.gather(wanted, Assumptions()), Assumptions(), H100)
    assert found.job_counts() == {rule: number for rule, number in jobs.items() if rule != "all"}


@pytest.mark.parametrize("method", interface.names())
def test_rows_are_those_that_the_method_selects(method: str) -> None:
    """Every outcome of three rollouts, each as likely as the others where a rollout is right half the time."""
    defaults = yaml.safe_load((ROOT / "config.yaml").read_text())["methods"][method]
    module = interface.load(method)
    outcomes = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
    problems = np.repeat([f"p{i}" for i in range(8)], 3)
    rows = interface.Rows(
        rewards=outcomes.ravel(),
        problems=problems,
        group_means=outcomes.mean(1).repeat(3),
        lengths=np.arange(24) + 1,
        token_ids=[np.array([n]) for n in range(24)],
        token_log_probs=[np.array([-1.0])] * 24,
        base_log_probs=-np.ones(24),
    )
    selected = module.select(rows, module.Options.model_validate(defaults))
    number = len(selected.chosen) if isinstance(selected, interface.Pairs) else len(selected.indices)
    wanted = study(
        rollouts={"samples": 3},
        runs={"one": {"method": method}},
        problems={"limit": 8},
    )
    assumed = Assumptions(correct_share=0.5)
    found = Stages(Work(wanted, plan_inputs.gather(wanted, assumed), assumed, CPU)).run_rows("one")
    if module.SOURCE == "reference":
        assert (found.rows, found.unit) == (8, "solutions")
        return
    assert found.rows == close(number)
    assert (method in CORRECT_ONLY) == (number == 12)


def test_the_reference_is_made_where_a_run_reads_it() -> None:
    others = {"runs": {"dpo": None}}
    assert "reference" in made(others).job_counts()  # for kl_every
    assert "reference" not in made(others | {"training": {"kl_every": None}}).job_counts()
    assert "reference" in made({"training": {"kl_every": None}}).job_counts()  # for dpo


def test_epochs_and_tokens_of_a_run() -> None:
    found = {one.run: one for one in made().runs}
    # 256 problems, 4 rollouts each of 28 + .35 * 80 tokens; 64 steps of 16 rows
    assert found["sft"].rows == 1024
    assert found["sft"].epochs == 1
    assert found["sft"].tokens == close(64 * 16 * (28 + 28))
    assert found["rft"].rows == close(0.7 * 1024)
    assert found["dpo"].tokens == close(2 * 64 * 16 * 56)  # a pair has its prompt twice
    assert found["dpo"].rows == close(256 * plan_costs.pairs_a_problem(4, 0.7, 4))


def test_training_by_hand() -> None:
    shape = plan_inputs.embedded_shape(study().embedded, stored=4)
    assert shape.parameters == 4 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 128 * 256) + 512 * 128
    config = {"training": {"kl_every": None}, "runs": {"kto": {"method": "kto"}}}
    found = made(config)
    runs = sorted(study(**config).runs)
    start = Assumptions().torch_start + 4 * shape.parameters / 1e9
    tokens = 64 * 16 * 56
    expected = {"sft": 4, "kto": 8, "dpo": 8}  # two more forwards; twice the tokens
    for run, passes in expected.items():
        seconds = stage(found, "train").jobs[runs.index(run)]
        assert seconds == close(start + passes * shape.parameters * tokens / 20e9), run


def test_time_and_disk_are_linear_in_what_there_is_more_of() -> None:
    still = Assumptions(torch_start=1e-300, light_start=1e-300, read_rate=1e300)
    base = {"training": {"kl_every": None}, "execution": {"checkpoint_every": None}}

    def ratios(config: dict[str, Any], rule: str) -> tuple[float, float]:
        one, two = (stage(made(given, assumed=still), rule) for given in (base, base | config))
        return two.seconds / one.seconds, two.disk / one.disk

    assert ratios({"rollouts": {"samples": 8}}, "rollouts") == pytest.approx((2, 2))
    assert ratios({"problems": {"limit": 512}}, "rollouts") == pytest.approx((2, 2))
    assert ratios({"problems": {"limit": 512}}, "reward") == pytest.approx((2, 2))
    assert ratios({"rollouts": {"samples": 8}}, "reference")[0] > 1.5  # the held-out samples are the rest
    longer = base["training"] | {"steps": 128}
    assert ratios({"training": longer}, "train")[0] == pytest.approx(2)
    assert ratios({"training": base["training"] | {"batch_size": 32}}, "train")[0] == pytest.approx(2)
    # a report_step ends the training
    assert ratios({"training": longer | {"report_step": 64}}, "train")[0] == pytest.approx(1)
    more = {f"more{n}": {"method": "sft", "seed": n} for n in range(7)}
    twice = {"runs": {**more, "more_dpo": {"method": "dpo"}}}
    assert ratios(twice, "train") == pytest.approx((2, 2))
    assert ratios(twice, "evaluate") == pytest.approx((17 / 9, 17 / 9))
    assert ratios(twice, "grade") == pytest.approx((17 / 9, 17 / 9))
    assert ratios(twice, "hidden_states") == pytest.approx((2, 2))
    pairs = (16 * 15 / 2) / (8 * 7 / 2)
    assert ratios(twice, "connectivity") == pytest.approx((pairs, pairs))
    assert ratios(twice, "cka") == pytest.approx((pairs, pairs))
    assert ratios({"measures": {"connectivity": {"points": 18}}}, "connectivity") == pytest.approx((2, 2))


def test_disk_of_runs() -> None:
    found = stage(made(), "train")
    shapes = [(128, 128), (64, 128), (64, 128), (128, 128)] * 4
    weights = sum(4 * 8 * (d_out + d_in) for d_out, d_in in shapes)
    assert found.scratch == 6 * weights  # two checkpoints of weights and two moments
    assert 8 * weights < found.disk < 8 * (weights + 20_000)
    assert stage(made({"execution": {"checkpoint_every": None}}), "train").scratch == 0
    assert stage(made({"execution": {"checkpoint_every": 65}}), "train").scratch == 0  # after the last step
    whole = made({"runs": {"all": {"method": "sft", "adapter": "none"}}})
    parameters = plan_inputs.embedded_shape(study().embedded, stored=4).parameters
    assert 4 * parameters < stage(whole, "train_whole").disk < 4 * parameters + 20_000
    assert stage(whole, "train_whole").scratch == 2 * 3 * 4 * parameters
    assert stage(whole, "hidden_states").disk == 9 * 4 * 4 * 100 * 128  # runs, bytes, layers, prompts, width


def test_options_say_what_is_assumed() -> None:
    slow = made(assumed=Assumptions(core_gflops=8))
    for rule in ("pretrain", "train", "evaluate", "connectivity"):
        assert stage(slow, rule).seconds > stage(made(), rule).seconds
    assert stage(made(mean_tokens={"": 10}), "rollouts").disk < stage(made(), "rollouts").disk
    assert stage(made(mean_tokens={"": 10}), "evaluate").disk < stage(made(), "evaluate").disk
    assert stage(made(mean_tokens={"train": 10}), "evaluate").disk == stage(made(), "evaluate").disk
    assert made(mean_tokens={"": 500}).runs[0].tokens == close(64 * 16 * (28 + 80) * 1)  # max_tokens is the most
    pairs = next(one for one in made(assumed=Assumptions(mixed_share=0.1)).runs if one.run == "dpo")
    assert pairs.rows < next(one for one in made().runs if one.run == "dpo").rows


def test_a_gpu_by_hand() -> None:
    """SFT of Qwen3-4B, checkpointed: 6 FLOPs a parameter and token at 35 % of 989 TFLOP/s; KL forwards on top."""
    found = qwen(parameters=4e9, mean_tokens={"": 1200}, rows={"train": 40_000})
    sft = next(one for one in found.runs if one.run == "sft")
    assert sft.tokens == close(1000 * 32 * (120 + 1200))
    seconds = stage(found, "train").jobs[[one.run for one in found.runs].index("sft")]
    held_out = 11 * 32 * (120 + 256)
    flops = 6 * 4e9 * sft.tokens + 2 * 4e9 * held_out
    assert seconds == close(5 + 8 + flops / (0.35 * 989e12))
    assert stage(found, "train").gpus == 1
    assert found.gpu_seconds()["train"] == stage(found, "train").seconds
    assert "train" not in found.core_seconds()


def test_gpus_side_by_side() -> None:
    one, four = qwen(), qwen(replace(H100, gpus=4))
    assert one.gpu_seconds() == four.gpu_seconds()
    assert one.walls()["train"] == close(stage(one, "train").seconds)
    assert four.walls()["train"] < one.walls()["train"] / 3
    few = qwen(Machine("h100", 4, 2))
    assert few.walls()["train"] > four.walls()["train"]  # two cores start two jobs


def test_more_gpus_than_there_are() -> None:
    wanted = study("qwen3-4b", execution={"tensor_parallel": 2})
    inputs = plan_inputs.gather(wanted, Assumptions())
    with pytest.raises(UserError, match=r"a job of rollouts takes 2 GPUs.*execution.tensor_parallel"):
        plan.make(wanted, inputs, Assumptions(), H100)
    found = plan.make(wanted, inputs, Assumptions(), replace(H100, gpus=2))
    assert {stage(found, rule).gpus for rule in ("rollouts", "evaluate")} == {2}
    assert {stage(found, rule).gpus for rule in ("train", "hidden_states", "reference")} == {1}


def test_a_model_that_does_not_fit() -> None:
    found = qwen(Machine("l40s", 1, 8))
    assert len(found.warnings) == 1
    assert "rollouts.generator: its weights are 60 GB" in found.warnings[0]
    assert math.isnan(stage(found, "rollouts").seconds)
    assert stage(found, "evaluate").seconds > 0
    assert not qwen().warnings


def test_vllm_runs_as_many_sequences_as_have_room() -> None:
    wanted = study("qwen3-4b")
    inputs = plan_inputs.gather(wanted, Assumptions(), mean_tokens={"": 1000})
    work = Work(wanted, inputs, Assumptions(), H100)
    shape = plan_inputs.from_config(QWEN3_30B_A3B, "")
    room = (80e9 * 0.9 - 2 * shape.parameters) / (2 * shape.cache * (120 + 500))
    assert work.fitting(work.rollouts, "vllm", shape) == close(room)
    assert work.fitting(work.rollouts, "transformers", shape) == 256
    assert work.fitting(work.rollouts, "vllm", plan_inputs.from_config(QWEN3_4B, "")) == 256


def test_unknown_is_unknown_and_never_nought() -> None:
    wanted = study("qwen3-4b", problems={"path": "a/b", "limit": None})
    inputs = plan_inputs.gather(wanted, Assumptions())
    found = plan.make(wanted, inputs, Assumptions(), H100)
    unknown = ("problems", "rollouts", "reward", "reference", "decontaminate")
    for rule in unknown:
        assert math.isnan(stage(found, rule).disk), rule
    for rule in ("rollouts", "reward", "reference"):
        assert math.isnan(stage(found, rule).seconds), rule
        assert math.isnan(found.walls()[rule])
    assert stage(found, "train").seconds > 0
    lines = "\n".join(plan_console.totals(found, inputs, {}))
    assert "unknown part (rollouts, reference)" in lines
    assert "0.0 s" not in lines
    modules = {"base": {"modules": ["attn.c_attn"]}, "training": {"lora": {"target_modules": ["attn.c_attn"]}}}
    other = study("qwen3-4b", **modules)
    found = plan.make(other, plan_inputs.gather(other, Assumptions()), Assumptions(), H100)
    for rule in ("train", "geometry", "base_spectrum"):
        assert math.isnan(stage(found, rule).seconds + stage(found, rule).disk), rule


# --- after a run


def benchmark(path: Path, *rows: tuple[float, float | str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    lines = [f"{s}\t0:00:01\t9\t9\t9\t9\t0\t0\t50\t{cpu}\n" for s, cpu in rows]
    path.write_text(head + "".join(lines))


def test_true_figures(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks"
    benchmark(folder / "train" / "sft.tsv", (10.0, 8.0))
    benchmark(folder / "train" / "all.tsv", (30.0, 25.0))
    benchmark(folder / "train" / "gone.tsv", (99.0, 99.0))  # of a run that the study no longer has
    benchmark(folder / "cka" / "a.tsv", (1.0, "-"), (3.0, "-"))  # repeated
    benchmark(folder / "pretrain.tsv", (100.0, 190.0))
    for name, size in (("runs/sft/a", 5), ("runs/sft/b/c", 7), ("runs/all/a", 11), ("base/model", 13)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    found = plan_measured.read(tmp_path, made({"runs": {"all": {"method": "sft", "adapter": "none"}}}).stages)
    assert found["train"] == plan_measured.Measured(1, 10.0, 8.0, 12)
    assert found["train_whole"] == plan_measured.Measured(1, 30.0, 25.0, 11)
    assert (found["cka"].jobs, found["cka"].seconds) == (1, 2.0)
    assert math.isnan(found["cka"].cpu_seconds)
    assert math.isnan(found["cka"].disk)
    assert (found["pretrain"].seconds, found["pretrain"].disk) == (100.0, 13)
    assert "evaluate" not in found


def test_broken_benchmark_files_are_unknown(tmp_path: Path) -> None:
    for text in ("", "s\tcpu_time\n", "s\tcpu_time\nNA\tNA\n"):
        path = tmp_path / "benchmarks" / "pretrain.tsv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        assert math.isnan(plan_measured.read(tmp_path, made().stages)["pretrain"].seconds)


def test_sizes_follow_no_links(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "b").write_bytes(b"x" * 10)
    (folder / "link").symlink_to(tmp_path / "a")
    assert 10 < plan_measured.size([folder]) < 200
    assert plan_measured.size([tmp_path / "none"]) == 0


# --- the command


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (99, "99 s"), (100, "1.7 min"), (6000, "1.7 h"), (2 * 86400, "2.0 d")],
)
def test_durations(seconds: float, text: str) -> None:
    assert plan_console.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(1, "0.0 kB"), (999_400, "999 kB"), (1e6, "1.0 MB"), (68e9, "68 GB"), (2e12, "2.0 TB")]
)
def test_sizes(count: float, text: str) -> None:
    assert plan_console.size(count) == text
    assert plan_console.duration(NONE) == plan_console.size(NONE) == "unknown"


def test_command_prints_the_plan_and_what_was_measured(tmp_path: Path) -> None:
    done = deltageom("plan", "toy", "--results", tmp_path, "--cores", "2")
    assert done.returncode == 0, done.stderr
    assert "70 jobs, 8 runs" in done.stdout
    assert "true time" not in done.stdout
    for option in ("--utilisation 0.35", "--core-gflops 20 GFLOP/s", "--grade-seconds"):
        assert option in done.stdout
    estimate = stage(made(), "pretrain").seconds
    benchmark(tmp_path / "benchmarks" / "pretrain.tsv", (2 * estimate, 1.0))
    benchmark(tmp_path / "benchmarks" / "train" / "sft.tsv", (10.0, 1.0))
    shown = deltageom("plan", "toy", "--results", tmp_path, "--cores", "2").stdout
    row = next(line.split("│") for line in shown.splitlines() if line.startswith("│ pretrain"))
    assert [cell.strip() for cell in row[7:10]] == ["1", plan_console.duration(2 * estimate), "2"]
    row = next(line.split("│") for line in shown.splitlines() if line.startswith("│ train "))
    assert [cell.strip() for cell in row[7:10]] == ["1", "10 s", ""]  # one of eight: no ratio


def test_command_says_unknown(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    (project / "studies" / "other.yaml").write_text("extends: qwen3-4b\nrollouts: {generator: some/model}\n")
    shown = deltageom("plan", "other", cwd=project).stdout
    assert "the size of some/model is not known" in shown
    assert "--generator-parameters" in shown
    row = next(line for line in shown.splitlines() if line.startswith("│ rollouts"))
    assert row.count("unknown") == 2
    given = deltageom("plan", "other", "--generator-parameters", "8e9", "--gpu", "2xA100", cwd=project).stdout
    row = next(line for line in given.splitlines() if line.startswith("│ rollouts"))
    assert "unknown" not in row
    assert "2xa100" in given


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--gpu", "2xh99"), "'h99' is none of the GPUs that are known"),
        (("--gpu", "0xh100"), "'0' is no positive number"),
        (("--utilisation", "1.5"), "no share above 0 and up to 1"),
        (("--core-gflops", "-1"), "no positive number"),
        (("--problems", "aime=x"), "'x' is no positive number"),
        (("--problems", "aime=3"), "the study's data sets are train, easy"),
    ],
)
def test_wrong_arguments(arguments: tuple[str, ...], says: str) -> None:
    done = deltageom("plan", "toy", *arguments)
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_local_file_that_is_missing_is_named(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    done = deltageom("plan", "real-data", cwd=project)
    assert done.returncode == 1
    assert "gsm8k_test.jsonl: no such file" in done.stderr


def test_gpus_that_are_known_have_sensible_numbers() -> None:
    for name, card in GPUS.items():
        assert card.bfloat16 > card.float32 > 10, name
        assert 0.1 < card.bandwidth < 10, name
        assert 16 <= card.memory <= 300, name
