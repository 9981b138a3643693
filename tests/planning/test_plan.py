"""Plans: what a study's file says, counted by hand; what its jobs took; no number without a source."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deltageom.errors import UserError
from deltageom.planning import disk, measured, work
from deltageom.planning.jobs import Job, job_names, jobs
from deltageom.planning.measured import Measured, Rates
from deltageom.planning.plan import Plan, totals
from deltageom.study.load import load_study
from deltageom.study.resolved import Study
from deltageom.study.running import Replicates
from tests.cli.test_main import deltageom
from tests.conftest import ROOT


def study(tmp_path: Path, text: str = "") -> Study:
    """The toy with these changes."""
    (tmp_path / "studies").mkdir(exist_ok=True)
    for name in ("config.yaml", "studies/toy.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "studies" / "mine.yaml").write_text("extends: toy\n" + text)
    return load_study({"study": "mine"}, tmp_path)


def test_jobs_are_named_after_their_records(tmp_path: Path) -> None:
    mine = study(tmp_path, "runs: {whole: {method: sft, adapter: none, learning_rate: 1.0e-4}}")
    found = jobs(mine)
    assert {job.rule for job in found if job.record.startswith("train/")} == {"train", "train_whole"}
    assert Job("train_whole", "train/whole") in found
    assert Job("cka", "cka/dpo") in found
    recorded = [job.record for job in found if job.rule not in ("provenance", "page")]
    assert sorted(recorded) == job_names(mine)


def test_problems_are_given_or_counted_or_limited_or_unknown(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"question": f"q{i}", "answer": str(i)}) + "\n" for i in range(5)))
    hub = "{source: hub, path: a/b, split: test, limit: null}"
    mine = study(
        tmp_path, f"benchmarks: {{mine: {{source: file, path: {path}, split: null, limit: 3}}, theirs: {hub}}}"
    )
    found = work.problem_counts(mine, {"hard": 7})
    assert found["train"] == mine.problems.limit
    assert (found["easy"], found["hard"], found["mine"], found["theirs"]) == (200, 7, 3, None)
    with pytest.raises(UserError, match=r"--problems gone=\.\.\.: the study's data sets are train, "):
        work.problem_counts(mine, {"gone": 1})


def test_generation_is_every_completion_of_every_model(tmp_path: Path) -> None:
    mine = study(tmp_path)
    asked = {one.what: one for one in work.generation(mine, work.problem_counts(mine, {}), None)}
    models = len(mine.runs) + 1
    rollouts = asked["rollouts"]
    assert rollouts.completions == mine.problems.limit * mine.rollouts.samples
    assert rollouts.tokens == rollouts.completions * mine.rollouts.max_tokens
    sampled = mine.benchmarks["hard_sampled"]
    assert asked[f"hard_sampled, {models} models"].completions == models * sampled.limit * sampled.samples
    known = work.generation(mine, work.problem_counts(mine, {}), 10)
    assert known[0].tokens == 10 * rollouts.completions
    assert work.generation(mine, dict.fromkeys(("train", *mine.benchmarks)), None)[0].tokens is None


def test_training_counts_rows_and_both_completions_of_a_pair(tmp_path: Path) -> None:
    mine = study(tmp_path, "runs: {short: {method: sft, report_step: 5}}")
    found = {run.run: run for run in work.training(mine, 10)}
    batch = mine.runs["sft"].training.batch_size
    assert found["sft"].rows == mine.runs["sft"].training.steps * batch
    assert found["short"].rows == 5 * batch
    assert (found["dpo"].unit, found["dpo"].tokens) == ("pairs", 2 * 10 * found["dpo"].rows)
    assert found["sft"].tokens == 10 * found["sft"].rows


def test_an_adapter_has_the_bytes_of_its_file(tmp_path: Path) -> None:
    """By hand: rank 8 on q, k, v, o of four layers, 64 wide, four heads of 16 and two for keys and values."""
    mine = study(tmp_path, "runs: {whole: {method: sft, adapter: none, learning_rate: 1.0e-4}}")
    toy, lora = mine.toy, mine.runs["sft"].training.lora
    queries, groups = toy.heads * toy.head_dim, toy.kv_heads * toy.head_dim
    outputs = {"q": queries, "k": groups, "v": groups, "o": toy.hidden}
    inputs = {"q": toy.hidden, "k": toy.hidden, "v": toy.hidden, "o": queries}
    names = [module.split(".")[-1][0] for module in lora.targets(mine.base)]
    assert disk.run_bytes(mine, "sft") == 4 * lora.rank * sum(outputs[name] + inputs[name] for name in names)
    sizes = disk.base_sizes(mine)
    assert sizes is not None
    assert disk.run_bytes(mine, "whole") == 4 * sizes.parameters()
    elsewhere = load_study({"study": "qwen3-4b"}, ROOT)
    assert disk.run_bytes(elsewhere, "sft", tmp_path) is None


def test_what_is_not_known_is_not_counted(tmp_path: Path) -> None:
    mine = study(tmp_path)
    found = disk.results(mine, [work.Sampling("rollouts", None, None)], work.training(mine, None))
    assert found["rollouts, twice: sampled and graded"] is None
    assert found["runs"] == sum(disk.run_bytes(mine, run) or 0 for run in mine.runs)


def finished(folder: Path) -> None:
    """Two trainings of 2 s and 4 s over 30 tokens each, and rollouts of 12 tokens in 3 s."""
    for job, seconds in {"train/a": "2.0", "train/b": "4.0", "rollouts": "3.0", "tables": "-"}.items():
        path = folder / "benchmarks" / f"{job}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\tcpu_time\n{seconds}\t0\t1\n")
        record = folder / "provenance" / f"{job}.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"peak_memory_mib": 100.0 * float(seconds)} if seconds != "-" else []))
    for run in "ab":
        (folder / "runs" / run).mkdir(parents=True)
        rows = pd.DataFrame({"step": [1, 2], "metric": ["tokens", "tokens"], "value": [10.0, 30.0]})
        rows.to_parquet(folder / "runs" / run / "metrics.parquet")
    (folder / "rollouts").mkdir()
    table = pa.table({"token_ids": pa.array([[1, 2, 3, 4], [5] * 8], pa.list_(pa.int32()))})
    pq.write_table(table, folder / "rollouts" / "completions.parquet")


def test_true_figures_are_those_of_the_files(tmp_path: Path) -> None:
    finished(tmp_path)
    of = [Job("train", "train/a"), Job("train", "train/b"), Job("tables", "tables"), Job("figures", "figures")]
    assert measured.by_rule([(job, tmp_path) for job in of]) == {"train": Measured(2, 6.0, 400.0)}
    assert measured.rates(tmp_path) == Rates(generated=4.0, trained=10.0)
    with pytest.raises(UserError, match="no such folder: --like names a study that has run here"):
        measured.rates(tmp_path / "gone")


def plan(study: Study, **changed: Any) -> Plan:
    given: dict[str, Any] = {
        "study": study,
        "jobs": jobs(study),
        "generation": work.generation(study, work.problem_counts(study, {}), None),
        "training": work.training(study, None),
        "rates": Rates(None, None),
        "rates_from": "the rates given",
        "disk": {},
        "downloads": {"a/b": None},
        "measured": {},
    }
    return Plan(**(given | changed))


def test_hours_are_tokens_over_a_measured_rate_and_nothing_without_one(tmp_path: Path) -> None:
    mine = study(tmp_path)
    mine = mine.model_copy(update={"replicates": Replicates(count=3, vary=["order"])})
    tokens = 3 * sum(run.tokens for run in work.training(mine, None))
    assert plan(mine).hours() == {"generation": None, "training": None}
    assert plan(mine, rates=Rates(None, 100.0)).hours() == {"generation": None, "training": tokens / 100 / 3600}
    lines = dict(totals(plan(mine)))
    assert lines["time of jobs, training"] == "unknown: give a rate that you have measured (--like, --rate)"
    assert lines["download"] == "a/b, unknown"


def test_the_clock_is_that_of_the_busiest_device(tmp_path: Path) -> None:
    """By hand, of one token per second: runs of 3, 2 and 2 hours take two devices 4."""
    runs = "runs: {rft: null, dft: null, rift: null, rift_linear: null, offline_grpo: null, sft_seed7: null}"
    mine = study(tmp_path, f"{runs}\nreplicates: {{count: 1}}\nrollouts: {{jobs: 3}}\nevaluation: {{jobs: 2}}")
    trained = [work.RunWork(name, "sft", "rows", 1, hours * 3600) for name, hours in (("a", 2), ("b", 3), ("c", 2))]
    sampled = [work.Sampling("rollouts", 1, 6 * 3600), work.Sampling("easy", 1, 12 * 3600)]
    assert len(mine.all_runs()) == 2
    given = {"training": trained, "generation": sampled, "rates": Rates(1.0, 1.0)}
    # three shares of the rollouts and six of the answers, of two hours each
    assert plan(mine, **given, devices=2).clock() == {"rollouts": 4.0, "training": 4.0, "answers": 6.0}
    assert plan(mine, **given, devices=8).clock() == {"rollouts": 2.0, "training": 3.0, "answers": 2.0}
    assert dict(totals(plan(mine, **given, devices=8)))["time on 8 jobs at once"] == (
        "at most 7.0 h (rollouts 2.0 h, training 3.0 h, answers 2.0 h)"
    )
    assert plan(mine, **given | {"rates": Rates(None, 1.0)}, devices=8).clock()["rollouts"] is None
    assert "time on" not in " ".join(dict(totals(plan(mine, **given))))


def test_a_run_that_samples_does_both_in_turn(tmp_path: Path) -> None:
    """By hand: 3 steps of 8 completions of 10 tokens, drawn anew every second step, so 240 trained and 160 drawn."""
    sizes = "batch_size: 8, micro_batch_size: 8"
    run = f"o: {{method: online_grpo, group: 4, {sizes}, max_tokens: 10, steps: 3, iterations: 2}}"
    replay = f"r: {{method: sft, rollouts_of: p, {sizes}, steps: 2}}"
    plain = f"p: {{method: online_grpo, group: 4, {sizes}, max_tokens: 10, steps: 2}}"
    mine = study(tmp_path, f"runs: {{{run}, {plain}, {replay}}}\nreplicates: {{count: 1}}")
    found = {one.run: one for one in work.training(mine, None)}
    assert (found["o"].unit, found["o"].rows, found["o"].tokens, found["o"].sampled) == ("completions", 24, 240, 160)
    assert (found["r"].unit, found["r"].tokens, found["r"].sampled) == ("rows", 160, 0)
    given = {"training": [found["o"]], "generation": [], "rates": Rates(2.0, 3.0)}
    assert plan(mine, **given).hours() == {"generation": 160 / 2 / 3600, "training": 240 / 3 / 3600}
    assert plan(mine, **given, devices=4).clock()["training"] == pytest.approx((160 / 2 + 240 / 3) / 3600)
    assert plan(mine, **given | {"rates": Rates(None, 3.0)}, devices=4).clock()["training"] is None


def test_shared_generations_are_jobs_of_their_own(tmp_path: Path) -> None:
    """Their records are in that of the job that merges, so provenance.json lists the same jobs."""
    alone, shared = study(tmp_path), study(tmp_path, "rollouts: {jobs: 3}\nevaluation: {jobs: 2}")
    more = {job for job in jobs(shared) if job not in jobs(alone)}
    assert len(more) == 3 + 2 * (len(shared.all_runs()) + 1)
    assert {Job("rollouts_part", "rollouts_part/3-of-3"), Job("evaluate_part", "evaluate_part/sft/1-of-2")} <= more
    assert job_names(shared) == job_names(alone)


def test_the_rate_of_a_shared_generation_counts_all_of_its_jobs(tmp_path: Path) -> None:
    finished(tmp_path)
    record = {"wall_seconds": 6.0, "peak_memory_mib": 1.0, "parts": [{"wall_seconds": 5.0}]}
    (tmp_path / "provenance" / "rollouts.json").write_text(json.dumps(record))
    assert measured.rates(tmp_path).generated == 2.0


def test_the_command_says_it_all() -> None:
    done = deltageom("plan", "toy", "--rate", "generation=1000", "--rate", "training=500", "--mean-tokens", "20")
    assert done.returncode == 0, done.stderr
    for said in ("8 runs", "hidden_states", "hard_sampled, 9 models", "time of jobs, generation"):
        assert said in done.stdout
    for wrong in (["--rate", "training=0"], ["--rate", "speed=1"], ["--problems", "x"], ["--mean-tokens", "0"]):
        assert deltageom("plan", "toy", *wrong).returncode == 2
    assert "unknown study 'to'" in deltageom("plan", "to").stderr
