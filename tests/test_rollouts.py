"""Rollouts and evaluation with a real engine: what is written, and that it is what was sampled."""

from pathlib import Path

import pytest

from deltageom import evaluation, models, rollouts
from deltageom.jobs import EvaluationSettings, RolloutSettings
from deltageom.records import Problem, read_jsonl
from deltageom.schema import Base, Evaluation, Prompt, Rollouts

PROBLEMS = [
    Problem("a", "Tom has 3 apples and buys 4.", "7", "First 3+4=7. So \\boxed{7}"),
    Problem("b", "Ana has 12 pens.", "12", None),
]


@pytest.fixture(scope="module")
def table(
    tiny_model: Path, base_settings: Base, prompt: Prompt, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, object]]:
    import pyarrow.parquet as pq

    wanted = Rollouts(
        generator="base",
        engine="transformers",
        samples=3,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_tokens=12,
        batch_size=4,
        seed=1,
    )
    settings = RolloutSettings(rollouts=wanted, prompt=prompt, base=base_settings, device="cpu")
    output = tmp_path_factory.mktemp("rollouts") / "rollouts.parquet"
    counts = rollouts.sample(settings, str(tiny_model), str(tiny_model), PROBLEMS, output)
    assert counts["rollouts"] == 6
    assert counts["references"] == 1
    rows: list[dict[str, object]] = pq.read_table(output).to_pylist()
    return rows


def test_one_row_a_sample_then_the_references(table: list[dict[str, object]]) -> None:
    assert [(row["problem_id"], row["sample"], row["source"]) for row in table] == [
        *[("a", i, "rollout") for i in range(3)],
        *[("b", i, "rollout") for i in range(3)],
        ("a", -1, "reference"),
    ]


def test_a_row_is_what_was_sampled(table: list[dict[str, object]], tiny_model: Path, base_settings: Base) -> None:
    tokenizer = models.load_tokenizer(str(tiny_model), base_settings)
    for row in table[:-1]:
        assert row["text"] == tokenizer.decode(row["token_ids"], skip_special_tokens=True)
        assert row["length"] == len(row["token_ids"])  # type: ignore[arg-type]
        assert row["log_prob"] == pytest.approx(sum(row["token_log_probs"]), abs=1e-4)  # type: ignore[call-overload]


def test_reference_is_the_solution_closed_and_graded(
    table: list[dict[str, object]], tiny_model: Path, base_settings: Base
) -> None:
    tokenizer = models.load_tokenizer(str(tiny_model), base_settings)
    reference = table[-1]
    assert reference["text"] == PROBLEMS[0].solution
    assert reference["token_ids"][-1] == tokenizer.eos_token_id  # type: ignore[index]
    assert (reference["reward"], reference["extracted"], reference["log_prob"]) == (1.0, "7", None)


def test_evaluation_writes_one_record_an_item(
    tiny_model: Path, base_settings: Base, prompt: Prompt, tmp_path: Path
) -> None:
    settings = EvaluationSettings(
        evaluation=Evaluation(engine="transformers", max_tokens=8, batch_size=2),
        prompt=prompt,
        base=base_settings,
        device="cpu",
    )
    accuracy = evaluation.evaluate(settings, str(tiny_model), None, {"x": PROBLEMS, "y": PROBLEMS[:1]}, tmp_path)
    assert set(accuracy) == {"x", "y"}
    records = read_jsonl(tmp_path / "x.jsonl")
    assert [(r["problem_id"], r["gold"]) for r in records] == [("a", "7"), ("b", "12")]
    assert set(records[0]) == {
        "problem_id",
        "completion",
        "extracted",
        "gold",
        "correct",
        "reason",
        "finish_reason",
        "length",
    }
    assert accuracy["x"] == sum(r["correct"] for r in records) / 2
