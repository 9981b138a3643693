"""Paths from the base, and answers along paths: their ends are the models' own, between them are dense weights."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from deltageom.evaluation.answer import evaluate
from deltageom.files import read_jsonl, write_csv, write_jsonl
from deltageom.generation.generate import Job
from deltageom.grading import records, second_opinion, strict
from deltageom.grading.second_opinion import Opinion
from deltageom.measures import held_out_accuracy, held_out_from_base
from deltageom.measures.interface import Measure
from deltageom.measures.shared.losses import loss_paths, own_answers
from deltageom.measures.shared.settings import HeldOutAccuracySettings, HeldOutPathsSettings
from deltageom.models.load import load_run, load_tokenizer
from deltageom.problems.problem import Problem
from deltageom.study.measured import HeldOutAccuracy, HeldOutPath
from deltageom.study.running import Evaluation, Grader, Transformers, Vllm
from deltageom.study.schema import Base, Decoding, Prompt
from deltageom.study.settings import EvaluationSettings
from tests.measures.test_models import dense_model

ALPHAS = [-0.5, 0.0, 0.5, 1.0, 2.0]
GREEDY = Decoding(samples=1, temperature=0.0, top_p=1.0, top_k=0, max_tokens=12, thinking=None, seed=0)
TRANSFORMERS = Transformers(batch_tokens=10_000)


@pytest.fixture
def graded(tmp_path: Path) -> dict[str, Path]:
    """Answers of the run and of the base: two of them correct, to problems of which each end solves one."""
    record = {"prompt": "Tom has 3.", "response": " He has 4 of them", "finish_reason": "stop", "correct": True}
    other = record | {"response": " 7", "finish_reason": "length"}
    said = {
        "answers": [record | {"problem_id": "1"}, other | {"problem_id": "2", "correct": False}],
        "answers_of_base": [record | {"problem_id": "1", "correct": False}, other | {"problem_id": "2"}],
    }
    for name, rows in said.items():
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    return {name: tmp_path / f"{name}.jsonl" for name in said}


From = Callable[..., dict[float, dict[str, tuple[float, int]]]]


@pytest.fixture
def from_base(tiny_model: Path, base_settings: Base, prompt: Prompt, graded: dict[str, Path]) -> From:
    """alpha to problem to (nll, tokens) on the path from the base to a run."""

    def measure(run: Path, **grid: Any) -> dict[float, dict[str, tuple[float, int]]]:
        wanted = HeldOutPath(benchmark="easy", problems=2, batch_size=2, **{"points": 3, **grid})
        settings = HeldOutPathsSettings(held_out_paths=wanted, prompt=prompt, base=base_settings, device="cpu")
        found: dict[float, dict[str, tuple[float, int]]] = {}
        rows = held_out_from_base.rows(settings, {"base": tiny_model, "a": run, **graded}, {})
        assert {row["b"] for row in rows} == {"base"}
        for row in rows:
            found.setdefault(row["alpha"], {})[row["problem_id"]] = row["nll"], row["tokens"]
        return found

    return measure


def test_a_path_from_the_base_is_the_run_at_every_weight(
    tiny_model: Path, runs: dict[str, Path], base_settings: Base, graded: dict[str, Path], from_base: From
) -> None:
    """Adapter and checkpoint: the ends are the models' own losses, between and past them those of dense weights."""
    texts = own_answers.correct(load_tokenizer(str(tiny_model), base_settings), list(graded.values()), 2)
    assert [text.problem_id for text in texts] == ["1", "2"]

    def own(model: Any) -> dict[str, tuple[float, int]]:
        return loss_paths.losses_by_problem(model, texts, 2)

    start = own(load_run(str(tiny_model), base_settings, "cpu", None))
    for name, folder in runs.items():
        found = from_base(folder, beyond=0.5)
        assert list(found) == [-0.5, 0.0, 0.5, 1.0, 1.5]
        close(found[0.0], start)
        close(found[1.0], own(load_run(str(tiny_model), base_settings, "cpu", folder)))
        for alpha in (-0.5, 0.5, 1.5):
            close(found[alpha], own(weighted(tiny_model, name, folder, alpha)))
        assert found[0.5] != found[1.0]


def close(found: dict[str, tuple[float, int]], expected: dict[str, tuple[float, int]]) -> None:
    assert found.keys() == expected.keys()
    for problem, (nll, tokens) in expected.items():
        assert found[problem] == (pytest.approx(nll, abs=1e-3), tokens)


def weighted(base: Path, name: str, folder: Path, alpha: float) -> Any:
    """The base plus alpha times the run's update, in dense float64 weights."""
    if name != "whole":
        return dense_model(base, [(alpha, folder)])
    model, run = dense_model(base, []), dense_model(folder, [])
    with torch.no_grad():
        for here, there in zip(model.parameters(), run.parameters(), strict=True):
            here.add_(alpha * (there - here))
    return model


def test_a_path_from_the_base_is_refined_where_it_is_highest(runs: dict[str, Path], from_base: From) -> None:
    plain, fine = from_base(runs["first"], points=5), from_base(runs["first"], points=5, refine=2)
    assert {alpha: fine[alpha] for alpha in plain} == plain
    added = set(fine) - set(plain)
    assert 2 <= len(added) <= 4
    assert {alpha % 0.0625 for alpha in added} == {0.0}


def test_tables_and_words_of_a_path_from_the_base(tmp_path: Path, runs: dict[str, Path], from_base: From) -> None:
    found = from_base(runs["first"])
    rows = [
        {"b": "base", "alpha": alpha, "problem_id": problem, "nll": nll, "tokens": tokens, "uniform": 5.0}
        for alpha, losses in found.items()
        for problem, (nll, tokens) in losses.items()
    ]
    (tmp_path / "held_out_from_base").mkdir()
    write_csv(tmp_path / "held_out_from_base" / "first.csv", rows)
    write_csv(tmp_path / "held_out_from_base" / "mute.csv", [])
    tables = held_out_from_base.build(tmp_path, ["mute", "first"])
    points = tables["held_out_from_base"]
    assert points[["a", "b"]].drop_duplicates().to_numpy().tolist() == [["first", "base"]]
    mean = {
        alpha: sum(n for n, _ in losses.values()) / sum(t for _, t in losses.values())
        for alpha, losses in found.items()
    }
    assert dict(zip(points["alpha"], points["loss"], strict=True)) == pytest.approx(mean)
    (barrier,) = tables["held_out_base_barriers"].to_dict("records")
    assert (barrier["loss_b"], barrier["loss_a"]) == pytest.approx((mean[0.0], mean[1.0]))
    assert barrier["chord"] == pytest.approx(max(0, mean[0.5] - (mean[0.0] + mean[1.0]) / 2))


PROBLEMS = [Problem(f"p{i}", f"Tom has {i} apples and {i + 7} pens.", "1", None) for i in range(8)]


def even(text: str) -> bool:
    """Graders for a model that has learnt nothing: every letter that it writes counts."""
    return sum(map(ord, text)) % 2 == 0


def answers(
    model: Path, base: Base, prompt: Prompt, run: Path | None, problems: list[Problem], folder: Path
) -> list[dict[str, Any]]:
    """What the evaluation writes."""
    settings = EvaluationSettings(
        evaluation=Evaluation(engine="transformers", batch_size=4),
        decodings={"easy": GREEDY},
        prompt=prompt,
        base=base,
        device="cpu",
        transformers=TRANSFORMERS,
        vllm=Vllm(dtype=None, max_model_length=None, eager=True),
    )
    evaluate(settings, str(model), run, {"easy": problems}, folder, Job(folder / "shards"))
    return read_jsonl(folder / "easy.jsonl")


@pytest.mark.parametrize("grader", ["strict", "math_verify"])
def test_the_ends_answer_as_they_do_in_the_evaluation(
    tiny_model: Path,
    base_settings: Base,
    prompt: Prompt,
    runs: dict[str, Path],
    tmp_path: Path,
    grader: Grader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        strict, "grade", lambda text, _: strict.Grade(None, even(text) == (grader == "strict"), "wrong")
    )
    monkeypatch.setattr(second_opinion, "judge", lambda pairs: [Opinion(even(text), None) for text, _ in pairs])
    wanted = HeldOutAccuracy(benchmark="easy", problems=7, batch_size=3, alphas=ALPHAS, from_base=True)
    settings = HeldOutAccuracySettings(
        held_out_accuracy=wanted, max_tokens=GREEDY.max_tokens, thinking=None, grader=grader, prompt=prompt,
        base=base_settings, device="cpu", transformers=TRANSFORMERS,
    )  # fmt: skip
    write_jsonl(tmp_path / "problems.jsonl", map(asdict, PROBLEMS))
    inputs = {"base": tiny_model, "a": runs["first"], "problems": tmp_path / "problems.jsonl"}
    others = {name: folder for name, folder in runs.items() if name != "first"}
    measure: Measure = held_out_accuracy.MEASURE
    (tmp_path / "held_out_accuracy").mkdir()
    write_csv(tmp_path / "held_out_accuracy" / "first.csv", measure.rows(settings, inputs, others))
    alone = settings.model_copy(update={"held_out_accuracy": wanted.model_copy(update={"from_base": False})})
    write_csv(tmp_path / "held_out_accuracy" / "whole.csv", measure.rows(alone, inputs, {}))
    table = measure.build(tmp_path, ["whole", "first"])["held_out_accuracy"].set_index(["a", "b", "alpha"])
    assert len(table) == 3 * len(ALPHAS)
    assert (table["n"] == 7).all()
    assert ((table["low"] <= table["accuracy"]) & (table["accuracy"] <= table["high"])).all()

    own = {}
    for name, folder in {"base": None, **runs}.items():
        rows = answers(tiny_model, base_settings, prompt, folder, PROBLEMS, tmp_path / name)
        right = [row["correct"] for row in records.grade(rows, second_opinion.judge, grader)]
        own[name] = sum(right[:7]) / 7
    assert len(set(own.values())) > 1
    for b in ("base", *others):
        assert table.loc[("first", b, 1.0), "accuracy"] == own["first"]
        assert table.loc[("first", b, 0.0), "accuracy"] == own[b]
    for alpha in (-0.5, 0.5, 2.0):
        for b in ("base", "second"):
            dense = dense_model(tiny_model, [(alpha, runs["first"]), *([(1 - alpha, runs[b])] if b in runs else [])])
            between = tmp_path / f"{b} {alpha}"
            shutil.copytree(tiny_model, between)
            dense.float().save_pretrained(between)
            rows = answers(between, base_settings, prompt, None, PROBLEMS, tmp_path / "answered" / between.name)
            right = [row["correct"] for row in records.grade(rows, second_opinion.judge, grader)]
            assert table.loc[("first", b, alpha), "accuracy"] == sum(right[:7]) / 7


def test_words_on_accuracy_are_by_the_share_of_the_other() -> None:
    rows = [("rft", "sft", 0.0, 0.9), ("rft", "sft", 0.1, 0.2), ("sft", "whole", 0.0, 0.5), ("sft", "whole", 0.1, 0.6)]
    rows += [("sft", "base", 0.0, 0.3), ("sft", "base", 0.1, 0.4)]
    table = pd.DataFrame(
        [(a, b, alpha, 10, value, value - 0.1, value + 0.1) for a, b, alpha, value in rows],
        columns=["a", "b", "alpha", "n", "accuracy", "low", "high"],
    )
    order = pd.DataFrame({"run": ["sft", "whole", "rft"], "method": ["sft", "sft", "rft"]})
    study = {"measures": {"compare_with": "sft", "held_out_paths": {"benchmark": "easy"}}}
    said = held_out_accuracy.text(study, {"held_out_accuracy": table, "training": order})
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if line.startswith("|")]
    assert lines[0] == ["to", "0", "0.1", "0.9", "1"]
    assert lines[2:] == [
        ["whole", "–", "–", "0.6", "0.5"],
        ["rft", "0.9", "0.2", "–", "–"],
        ["base", "–", "–", "0.4", "0.3"],
    ]
    assert "Lowest accuracy of all 6 points: 0.2 (0.1 to 0.3), on the path of rft and sft at alpha 0.1." in said
