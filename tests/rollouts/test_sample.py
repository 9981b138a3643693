"""Rollouts, rewards and evaluation with a real engine: what is written, and that it is what was sampled."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from deltageom.errors import UserError
from deltageom.evaluation import answer as evaluation
from deltageom.files import read_jsonl
from deltageom.generation import engine
from deltageom.generation.generate import Job, complete, requests
from deltageom.grading import strict
from deltageom.models.load import load_tokenizer
from deltageom.models.prompts import completion_ids, prompt_ids
from deltageom.problems.problem import Problem
from deltageom.rollouts import reward, sample
from deltageom.study.running import Evaluation, Transformers, Vllm
from deltageom.study.schema import Base, Dataset, Decoding, Prompt, Rollouts
from deltageom.study.settings import EvaluationSettings, RewardSettings, RolloutSettings
from tests.training.tiny_runs import CONFIG

PROBLEMS = [
    Problem("a", "Tom has 3 apples and buys 4.", "7", "First 3+4=7. So \\boxed{7}"),
    Problem("b", "Ana has 12 pens.", "12", None),
]
TRANSFORMERS = Transformers(batch_tokens=131072)
VLLM = Vllm(dtype=None, max_model_length=None, eager=True)


def wanted(**keys: Any) -> Rollouts:
    small = {"samples": 3, "max_tokens": 12, "batch_size": 4, "seed": 1}
    return Rollouts.model_validate(CONFIG["rollouts"] | small | keys)


def decoding(**keys: Any) -> Decoding:
    return Decoding.model_validate(CONFIG["decoding"] | {"max_tokens": 8} | keys)


def told(base: Base, prompt: Prompt, **keys: Any) -> RolloutSettings:
    return RolloutSettings(
        rollouts=wanted(**keys), prompt=prompt, base=base, device="cpu", transformers=TRANSFORMERS, vllm=VLLM
    )


@pytest.fixture(scope="module")
def folder(tiny_model: Path, base_settings: Base, prompt: Prompt, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """completions.parquet, rollouts.parquet and its card."""
    folder = tmp_path_factory.mktemp("rollouts")
    job = Job(folder / "scratch", shard_size=1)
    completions = folder / "completions.parquet"
    counts = sample.sample(told(base_settings, prompt), str(tiny_model), str(tiny_model), PROBLEMS, completions, job)
    assert counts["rollouts"] == 6
    assert not job.scratch.exists()
    settings = RewardSettings(
        study="tried",
        problems=Dataset.model_validate(CONFIG["dataset"] | {"path": "problems.jsonl"}),
        rollouts=wanted(),
        prompt=prompt,
        base=base_settings,
        grader="strict",
    )
    counts = reward.reward(settings, str(tiny_model), completions, PROBLEMS, folder, workers=1)
    assert (counts["problems"], counts["rollouts"], counts["references"]) == (2, 6, 1)
    return folder


@pytest.fixture(scope="module")
def table(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "rollouts.parquet").to_pylist()
    return rows


def test_one_row_a_sample_then_the_references(table: list[dict[str, Any]]) -> None:
    assert [(row["problem_id"], row["sample"], row["source"]) for row in table] == [
        *[("a", i, "rollout") for i in range(3)],
        *[("b", i, "rollout") for i in range(3)],
        ("a", -1, "reference"),
    ]


def test_a_row_is_what_was_sampled_and_graded(
    table: list[dict[str, Any]], tiny_model: Path, base_settings: Base, prompt: Prompt
) -> None:
    tokenizer = load_tokenizer(str(tiny_model), base_settings)
    setup = engine.Setup(str(tiny_model), base_settings, "cpu", None, 4, 512, VLLM)
    prompts = [prompt_ids(tokenizer, prompt, problem.question) for problem in PROBLEMS]
    asked = requests(PROBLEMS, prompts, 3, 1)
    made = complete(engine.load_engine("transformers", setup), asked, engine.sampling_of(wanted(), log_probs=True))
    for row, request, completion in zip(table[:-1], asked, made, strict=True):
        assert row["prompt_token_ids"] == list(request.prompt)
        assert row["token_ids"] == list(completion.token_ids)
        assert row["text"] == tokenizer.decode(row["token_ids"], skip_special_tokens=True)
        assert row["length"] == len(row["token_ids"])
        assert row["log_prob"] == pytest.approx(sum(row["token_log_probs"]), abs=1e-6)
        grade = strict.grade(row["text"], {"a": "7", "b": "12"}[row["problem_id"]])
        assert (row["extracted"], row["reward"]) == (grade.extracted, float(grade.correct))


def test_rollouts_without_log_probs_are_the_same_completions(
    folder: Path, tiny_model: Path, base_settings: Base, prompt: Prompt, tmp_path: Path
) -> None:
    job, model = Job(tmp_path / "scratch"), str(tiny_model)
    sample.sample(told(base_settings, prompt, log_probs=False), model, model, PROBLEMS, tmp_path / "c.parquet", job)
    kept, left_out = (pq.read_table(path) for path in (folder / "completions.parquet", tmp_path / "c.parquet"))
    scores = ["log_prob", "token_log_probs"]
    assert kept.drop_columns(scores) == left_out.drop_columns(scores)
    assert [kept[name].null_count for name in scores] == [0, 0]
    assert [left_out[name].null_count for name in scores] == [6, 6]


def test_reference_is_the_solution_closed_and_graded(
    table: list[dict[str, Any]], tiny_model: Path, base_settings: Base
) -> None:
    tokenizer = load_tokenizer(str(tiny_model), base_settings)
    reference = table[-1]
    assert reference["text"] == PROBLEMS[0].solution
    assert reference["token_ids"][-1] == tokenizer.eos_token_id
    assert (reference["reward"], reference["extracted"], reference["log_prob"]) == (1.0, "7", None)
    assert (reference["math_verify"], reference["math_verify_failure"]) == (True, None)


def test_the_data_set_card_counts_and_the_folder_loads_with_datasets(folder: Path) -> None:
    from datasets import load_dataset

    loaded = load_dataset(str(folder), cache_dir=str(folder / "cache"))["train"]
    assert len(loaded) == 7
    assert "temperature" in (folder / "README.md").read_text()


def test_another_generators_text_is_encoded_in_the_bases_tokens(
    tiny_model: Path, base_settings: Base, prompt: Prompt, tmp_path: Path
) -> None:
    """The generator's tokenizer has one token more, so its ids mean nothing to the base."""
    from transformers import AutoTokenizer

    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(other)
    output = tmp_path / "completions.parquet"
    sample.sample(told(base_settings, prompt), str(tiny_model), str(other), PROBLEMS, output, Job(tmp_path / "scratch"))
    own = load_tokenizer(str(tiny_model), base_settings)
    for row in pq.read_table(output).to_pylist():
        assert row["token_log_probs"] is None
        assert row["log_prob"] < 0
        assert row["token_ids"] == completion_ids(
            own, row["text"], own.eos_token_id if row["finish_reason"] == "stop" else None
        )


def test_a_benchmark_is_answered_by_its_own_decoding(
    tiny_model: Path, base_settings: Base, prompt: Prompt, tmp_path: Path
) -> None:
    settings = EvaluationSettings(
        evaluation=Evaluation(engine="transformers", batch_size=2),
        decodings={"x": decoding(), "y": decoding(samples=3, temperature=1.0, max_tokens=5)},
        prompt=prompt,
        base=base_settings,
        device="cpu",
        transformers=TRANSFORMERS,
        vllm=VLLM,
    )
    benchmarks = {"x": PROBLEMS, "y": PROBLEMS[:1]}
    job = Job(tmp_path / "scratch")
    assert evaluation.evaluate(settings, str(tiny_model), None, benchmarks, tmp_path, job) == ([], ["x", "y"])
    assert not job.scratch.exists()
    records = read_jsonl(tmp_path / "x.jsonl")
    assert [(r["problem_id"], r["sample"], r["gold"]) for r in records] == [("a", 0, "7"), ("b", 0, "12")]
    assert list(records[0]) == [
        *("problem_id", "sample", "question", "prompt", "response", "gold", "finish_reason", "length", "log_prob"),
    ]
    assert PROBLEMS[0].question in records[0]["prompt"]
    sampled = read_jsonl(tmp_path / "y.jsonl")
    assert [(r["problem_id"], r["sample"]) for r in sampled] == [("a", 0), ("a", 1), ("a", 2)]
    assert len({r["response"] for r in sampled}) > 1
    assert max(r["length"] for r in sampled) == 5
    assert {r["log_prob"] for r in (*records, *sampled)} == {None}
    scored = settings.model_copy(update={"evaluation": Evaluation(engine="transformers", batch_size=2, log_probs=True)})
    assert evaluation.evaluate(scored, str(tiny_model), None, benchmarks, tmp_path, job) == ([], ["x", "y"])
    with_log_probs = read_jsonl(tmp_path / "y.jsonl")
    assert max(r.pop("log_prob") for r in with_log_probs) < 0
    assert with_log_probs == [{key: value for key, value in r.items() if key != "log_prob"} for r in sampled]


def test_a_new_benchmark_is_answered_alone(
    tiny_model: Path,
    base_settings: Base,
    prompt: Prompt,
    tiny_adapters: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And whatever changes what a record holds answers that benchmark again."""
    told = EvaluationSettings(
        evaluation=Evaluation(engine="transformers", batch_size=2),
        decodings={"x": decoding(), "y": decoding(samples=2, temperature=1.0)},
        prompt=prompt,
        base=base_settings,
        device="cpu",
        transformers=TRANSFORMERS,
        vllm=VLLM,
    )

    def evaluate(benchmarks: dict[str, list[Problem]], adapter: str | None = None, **changed: Any) -> list[str]:
        settings = told.model_copy(update=changed)
        folder, job = tiny_adapters[adapter] if adapter else None, Job(tmp_path / "scratch")
        _, answered = evaluation.evaluate(settings, str(tiny_model), folder, benchmarks, tmp_path / "out", job)
        return answered

    both = {"x": PROBLEMS, "y": PROBLEMS}
    assert evaluate({"x": PROBLEMS}) == ["x"]
    before = (tmp_path / "out" / "x.jsonl").read_bytes()
    assert evaluate(both) == ["y"]
    assert (tmp_path / "out" / "x.jsonl").read_bytes() == before
    with monkeypatch.context() as patch:
        patch.setattr("deltageom.generation.generate.load_engine", None)  # no engine is started for nothing
        assert evaluate(both) == []
    assert evaluate({**both, "x": [PROBLEMS[0], Problem("b", "Ana has 12 pens.", "13", None)]}) == ["x"]  # a gold
    assert evaluate(both, decodings=told.decodings | {"y": decoding(samples=2, temperature=0.9)}) == ["x", "y"]
    assert evaluate(both, "first") == ["x", "y"]
    assert evaluate(both, "second") == ["x", "y"]
    path = tmp_path / "out" / "y.jsonl"
    path.write_text(path.read_text().replace("Tom", "Tim"))
    assert evaluate(both, "second") == ["y"]
    assert "Tim" not in path.read_text()


def test_thinking_is_told_to_the_chat_template(tiny_model: Path, base_settings: Base, prompt: Prompt) -> None:
    tokenizer = load_tokenizer(str(tiny_model), base_settings)
    tokenizer.chat_template = "{{ enable_thinking is defined }}{{ enable_thinking }}{{ messages[0].content }}"
    shown = [tokenizer.decode(prompt_ids(tokenizer, prompt, "q", thinking)) for thinking in (None, True, False)]
    assert shown == ["Falseq", "TrueTrueq", "TrueFalseq"]


def test_an_evaluation_that_cannot_be_stops_before_the_model_is_loaded(
    tiny_model: Path, base_settings: Base, prompt: Prompt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deltageom.generation.generate.load_engine", None)
    settings = EvaluationSettings(
        evaluation=Evaluation(engine="transformers", batch_size=2),
        decodings={"x": decoding(), "long": decoding(max_tokens=510)},
        prompt=prompt,
        base=base_settings,
        device="cpu",
        transformers=TRANSFORMERS,
        vllm=VLLM,
    )
    with pytest.raises(UserError, match=r"benchmark 'long': the longest prompt has .* of 512: lower max_tokens"):
        evaluation.evaluate(
            settings, str(tiny_model), None, {"x": PROBLEMS, "long": PROBLEMS}, tmp_path, Job(tmp_path / "scratch")
        )
    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare, ignore=shutil.ignore_patterns("chat_template.jinja"))
    with pytest.raises(UserError, match="has no chat template"):
        evaluation.evaluate(settings, str(bare), None, {"x": PROBLEMS}, tmp_path, Job(tmp_path / "scratch"))
