"""What a study with online runs must say, and what its stages and jobs are told."""

import json
from pathlib import Path

import pytest

from deltageom.errors import UserError
from deltageom.planning.jobs import jobs
from deltageom.study.load import load_study
from deltageom.study.replicates import replicate
from deltageom.study.resolved import Study
from deltageom.study.sharing import stages

ROOT = Path(__file__).parents[3]
ONLINE = "o: {method: online_grpo, batch_size: 64}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "studies").mkdir()
    for name in ("config.yaml", "studies/toy.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    return tmp_path


def study(root: Path, runs: str, more: str = "") -> Study:
    (root / "studies" / "mine.yaml").write_text(f"extends: toy\nruns: {{{runs}}}\n{more}\n")
    return load_study({"study": "mine"}, root)


@pytest.mark.parametrize(
    ("runs", "more", "said"),
    [
        ("o: {method: online_grpo, group: 1}", "", "runs.o.group: input should be greater than or equal to 2"),
        ("o: {method: online_grpo, group: 5}", "", "batch_size 16 counts completions, and group 5 of one problem must"),
        ("o: {method: online_dapo, adapter: none}", "", "online_dapo trains an adapter: set adapter: lora"),
        ("o: {method: online_grpo, temperature: 0.0}", "", "runs.o.temperature: input should be greater than 0"),
        (f"{ONLINE}, p: {{method: online_dapo, rollouts_of: o}}", "", "draws its own samples: set rollouts_of: null"),
        (
            ONLINE,
            "online: {engine: vllm}",
            "online.engine vllm of run 'o' needs device: cuda: set engine",
        ),
        (
            "o: {method: on_policy_distillation}",
            "rollouts: {generator: base}",
            "would learn the base's own distribution, for rollouts.generator is base: name another model",
        ),
        (
            "o: {method: on_policy_distillation}",
            "rollouts: {file: mine.jsonl}\nreplicates: {count: 1}",
            "but rollouts.file holds finished rollouts: name a generator",
        ),
        ("r: {method: sft, rollouts_of: sft}", "", "runs.r.rollouts_of 'sft' is none of the online runs: none"),
        (
            f"{ONLINE}, r: {{method: dpo, rollouts_of: o, batch_size: 64}}",
            "",
            "dpo cannot be trained step by step on the samples of 'o'",
        ),
        (
            f"{ONLINE}, r: {{method: sft_solutions, rollouts_of: o, batch_size: 64}}",
            "",
            "sft_solutions cannot be",
        ),
        (f"{ONLINE}, r: {{method: sft, rollouts_of: o}}", "", "batch_size 16 is not the 64 of run 'o', whose steps it"),
        (
            f"{ONLINE}, r: {{method: sft, rollouts_of: o, batch_size: 64, steps: 65}}",
            "",
            "65 steps are more than the 64 that run 'o' samples for",
        ),
        (
            f"{ONLINE}, r: {{method: sft, rollouts_of: o, batch_size: 64}}",
            "online: {keep: 4095}",
            "reads 4096 completions of run 'o', which keeps 4095: raise online.keep",
        ),
        (
            "o: {method: online_grpo, batch_size: 64, iterations: 2}, r: {method: sft, rollouts_of: o, batch_size: 64}",
            "",
            "takes several steps per batch of samples: set iterations: 1",
        ),
    ],
)
def test_what_no_job_could_do_is_refused_with_the_run_and_the_fix(runs: str, more: str, said: str, root: Path) -> None:
    with pytest.raises(UserError) as caught:
        study(root, runs, more)
    assert said in str(caught.value)


def test_an_online_run_reads_problems_and_a_replay_reads_the_run(root: Path) -> None:
    replay = "r: {method: sft, rollouts_of: o, batch_size: 64}"
    found = study(root, f"{ONLINE}, d: {{method: on_policy_distillation}}, {replay}")
    made = stages(found)
    assert made["train/o"].needs == ("pretrain", "problems/train", "reference")
    assert made["train/d"].needs == ("pretrain", "problems/train", "teacher", "reference")
    assert made["train/r"].needs == ("pretrain", "train/o", "reference")
    assert made["train/sft"].needs == ("pretrain", "reward", "reference")
    told = json.loads(made["train/o"].told)
    assert (told["grader"], told["teacher"], told["online"]["seed"]) == ("strict", None, 42)
    assert json.loads(made["train/d"].told)["teacher"] == "teacher"
    assert "online" not in json.loads(made["train/r"].told)


def test_what_is_sampled_is_drawn_anew_with_the_rollouts(root: Path) -> None:
    found = study(root, ONLINE)
    assert replicate(found, 2).online.seed == 1042
    kept = study(root, ONLINE, "replicates: {vary: [order]}")
    assert replicate(kept, 2).online.seed == 42


def test_only_runs_on_rollouts_have_a_gradient_at_the_base(root: Path) -> None:
    found = study(root, ONLINE, "measures: {gradients: {batches: 2}}")
    assert "o" not in found.with_gradients()
    assert "base_gradient/o" not in stages(found)
    assert not any(job.record == "base_gradient/o" for job in jobs(found))


def test_snapshots_of_an_online_run_are_another_rules(root: Path) -> None:
    found = study(root, f"{ONLINE}, p: {{method: online_grpo, batch_size: 64, snapshots: [8]}}")
    rules = {job.record: job.rule for job in jobs(found)}
    assert (rules["train/o"], rules["train/p"]) == ("train_online", "train_online_with_snapshots")


def test_replays_stand_after_the_runs_on_rollouts(root: Path) -> None:
    found = study(root, f"{ONLINE}, a: {{method: sft, rollouts_of: o, batch_size: 64}}")
    assert next(iter(found.runs)) == "sft"
    assert list(found.runs)[-2:] == ["o", "a"]


def test_a_study_whose_online_runs_alone_use_vllm_needs_it(root: Path) -> None:
    alone = "device: cuda\nonline: {engine: vllm}"
    assert study(root, ONLINE, alone).uses_vllm()
    assert not study(root, "s: {method: sft}", alone).uses_vllm()
