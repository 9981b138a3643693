"""Connectivity and hidden states of real models against dense weights and unpadded forward passes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy.linalg import subspace_angles
from transformers import AutoModelForCausalLM, PreTrainedModel

from deltageom.deltas.open import open_run
from deltageom.errors import UserError
from deltageom.files import write_jsonl
from deltageom.geometry import record
from deltageom.measures.shared import hidden_states
from deltageom.measures.shared.losses import loss_paths, own_answers
from deltageom.measures.shared.losses.weighted_deltas import WeightedDeltas
from deltageom.measures.shared.settings import ConnectivitySettings, HiddenSettings
from deltageom.models.load import Model, load_run, load_tokenizer
from deltageom.models.prompts import prompt_ids, turn_end
from deltageom.problems.problem import Problem
from deltageom.study.measured import Cka, Connectivity
from deltageom.study.schema import Base, Prompt
from tests.deltas import tiny_checkpoints

PROBLEMS = [
    Problem("1", "Tom has 3 apples.", "3", None),
    Problem("2", "A much longer question, with 12 pens and 7 boxes in it?", "1234", None),
    Problem("3", "Ana buys 5.", "56", None),
]


def dense_model(folder: Path, weighted: list[tuple[float, Path]]) -> PreTrainedModel:
    """The base with W + sum of weight * scale B A written into its float64 weights, module by module."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    for weight, adapter in weighted:
        for module in open_run(adapter).modules:
            factors = open_run(adapter).read(module)
            delta = weight * factors.scale * factors.b @ factors.a
            model.get_submodule(f"model.{module}").weight.data += torch.from_numpy(delta)
    return model


def test_path_interpolates_the_deltas_without_cross_terms(
    tiny_model: Path, tiny_adapters: dict[str, Path], base_settings: Base, prompt: Prompt
) -> None:
    wanted = Connectivity(benchmark="easy", problems=3, points=3, batch_size=2)
    settings = ConnectivitySettings(connectivity=wanted, prompt=prompt, base=base_settings, device="cpu")
    a, b = tiny_adapters["first"], tiny_adapters["second"]
    rows = loss_paths.loss_along_paths(settings, str(tiny_model), a, {"b": b, "itself": a}, PROBLEMS)
    assert [row["alpha"] for row in rows] == 2 * ([0.0] * 3 + [0.5] * 3 + [1.0] * 3)
    tokenizer = load_tokenizer(str(tiny_model), base_settings)
    for row in rows:
        alpha = float(row["alpha"])
        model = dense_model(tiny_model, [(alpha, a), (1 - alpha, b if row["b"] == "b" else a)])
        problem = next(p for p in PROBLEMS if p.id == row["problem_id"])
        question = prompt_ids(tokenizer, prompt, problem.question)
        answer = tokenizer.encode(f"\\boxed{{{problem.answer}}}", add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.tensor([question + answer])).logits[0]
        log_probs = logits.log_softmax(-1)[len(question) - 1 : -1]
        expected = -log_probs.gather(1, torch.tensor(answer)[:, None]).sum()
        assert row["tokens"] == len(answer)
        assert row["nll"] == pytest.approx(float(expected), abs=1e-3)


@pytest.fixture(scope="module")
def whole_runs(
    tiny_model: Path, tiny_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Two checkpoints with every parameter moved, and the exact merge of the first adapter."""
    folder = tmp_path_factory.mktemp("whole")
    return {
        "one": tiny_checkpoints.perturbed(tiny_model, folder / "one", seed=1),
        "two": tiny_checkpoints.perturbed(tiny_model, folder / "two", seed=2),
        "merge": tiny_checkpoints.merged(tiny_model, tiny_adapters["first"], folder / "merge"),
    }


Losses = Callable[..., dict[tuple[str, float], list[float]]]


@pytest.fixture
def losses(tiny_model: Path, base_settings: Base, prompt: Prompt) -> Losses:
    """(b, alpha) to the loss of each problem, on the paths from run a."""

    def measure(a: Path, others: dict[str, Path], points: int = 3) -> dict[tuple[str, float], list[float]]:
        wanted = Connectivity(benchmark="easy", problems=3, points=points, batch_size=2)
        settings = ConnectivitySettings(connectivity=wanted, prompt=prompt, base=base_settings, device="cpu")
        found: dict[tuple[str, float], list[float]] = {}
        for row in loss_paths.loss_along_paths(settings, str(tiny_model), a, others, PROBLEMS):
            found.setdefault((str(row["b"]), float(row["alpha"])), []).append(float(row["nll"]))
        return found

    return measure


@pytest.fixture
def own_losses(tiny_model: Path, base_settings: Base, prompt: Prompt) -> Callable[[Model], list[float]]:
    """The losses of a model by itself."""
    tokenizer = load_tokenizer(str(tiny_model), base_settings)
    prompts = [prompt_ids(tokenizer, prompt, problem.question) for problem in PROBLEMS]
    answers = [tokenizer.encode(f"\\boxed{{{problem.answer}}}", add_special_tokens=False) for problem in PROBLEMS]
    return lambda model: list(loss_paths.answer_nll(model, prompts, answers, 2))


def test_ends_of_a_path_are_the_runs_own_losses_whatever_the_runs_are(
    tiny_model: Path,
    tiny_adapters: dict[str, Path],
    whole_runs: dict[str, Path],
    base_settings: Base,
    losses: Losses,
    own_losses: Callable[[Model], list[float]],
) -> None:
    runs = {**tiny_adapters, **whole_runs}
    own = {name: own_losses(load_run(str(tiny_model), base_settings, "cpu", folder)) for name, folder in runs.items()}
    # the order mixes kinds: what a path has moved or wrapped must not be left for the next one
    for a in ("second", "one"):
        others = ["two", "first", "one", "merge", "second"]
        found = losses(runs[a], {b: runs[b] for b in others})
        for b in others:
            assert found[b, 1.0] == pytest.approx(own[a], abs=1e-4), (a, b)
            assert found[b, 0.0] == pytest.approx(own[b], abs=1e-4), (a, b)


def test_the_exact_merge_of_an_adapter_takes_the_adapters_path(
    tiny_adapters: dict[str, Path], whole_runs: dict[str, Path], losses: Losses
) -> None:
    for other in (tiny_adapters["second"], whole_runs["one"]):
        by_adapter = losses(tiny_adapters["first"], {"b": other}, points=5)
        by_checkpoint = losses(whole_runs["merge"], {"b": other}, points=5)
        turned_round = losses(other, {"b": whole_runs["merge"]}, points=5)
        for (b, alpha), expected in by_adapter.items():
            assert by_checkpoint[b, alpha] == pytest.approx(expected, abs=1e-3)
            assert turned_round[b, 1 - alpha] == pytest.approx(expected, abs=1e-3)


def test_half_way_between_checkpoints_is_the_model_of_averaged_weights(
    whole_runs: dict[str, Path],
    losses: Losses,
    own_losses: Callable[[Model], list[float]],
) -> None:
    one, two = (AutoModelForCausalLM.from_pretrained(whole_runs[name], dtype=torch.float64) for name in ("one", "two"))
    with torch.no_grad():
        for here, there in zip(one.parameters(), two.parameters(), strict=True):
            here.copy_((here + there) / 2)
    found = losses(whole_runs["one"], {"b": whole_runs["two"]})
    assert found["b", 0.5] == pytest.approx(own_losses(one), abs=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_exact_at_both_ends_of_a_path(
    tiny_model: Path,
    tiny_adapters: dict[str, Path],
    whole_runs: dict[str, Path],
    base_settings: Base,
    dtype: str,
) -> None:
    base = base_settings.model_copy(update={"dtype": dtype})
    start, end = (
        dict(load_run(str(tiny_model), base, "cpu", folder).named_parameters()) for folder in (None, whole_runs["one"])
    )
    deltas = WeightedDeltas(str(tiny_model), base, "cpu")
    deltas.add("a", whole_runs["one"])
    deltas.add("b", tiny_adapters["first"])
    unit = torch.finfo(getattr(torch, dtype)).eps
    for weight in (0.3, 1.0, 0.0):
        deltas.weigh({"a": weight, "b": 1.0})
        for name, value in deltas.parameters.items():
            assert value.dtype == getattr(torch, dtype)
            if weight == 0.0:
                assert torch.equal(value, start[name]), name
            elif weight == 1.0:
                torch.testing.assert_close(value, end[name], rtol=unit, atol=unit)
            else:
                midway = start[name].double() + 0.3 * (end[name].double() - start[name].double())
                torch.testing.assert_close(value.double(), midway, rtol=unit, atol=1e-6)
    deltas.weigh({"a": 1.0, "b": 1.0})
    deltas.remove("a")
    deltas.weigh({"b": 1.0})
    for name, value in deltas.parameters.items():
        assert torch.equal(value, start[name]), name


def test_hidden_states_of_a_checkpoint_are_its_own(
    tiny_model: Path, whole_runs: dict[str, Path], base_settings: Base, prompt: Prompt, tmp_path: Path
) -> None:
    wanted = Cka(benchmark="easy", prompts=4, pooling="last", batch_size=2)
    settings = HiddenSettings(cka=wanted, prompt=prompt, base=base_settings, device="cpu")
    hidden_states.write(settings, str(tiny_model), whole_runs["one"], PROBLEMS, tmp_path / "hidden.safetensors")
    hidden = load_file(tmp_path / "hidden.safetensors")["hidden"]
    model = AutoModelForCausalLM.from_pretrained(whole_runs["one"], dtype=torch.float64)
    tokenizer = load_tokenizer(str(tiny_model), base_settings)
    for index, problem in enumerate(PROBLEMS):
        ids = torch.tensor([prompt_ids(tokenizer, prompt, problem.question)])
        with torch.no_grad():
            states = torch.stack(model(ids, output_hidden_states=True).hidden_states[1:])[:, 0, -1]
        np.testing.assert_allclose(hidden[:, index], states.numpy(), atol=1e-4)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_hidden_states_equal_an_unpadded_pass_of_the_dense_model(
    tiny_model: Path,
    tiny_adapters: dict[str, Path],
    base_settings: Base,
    prompt: Prompt,
    pooling: str,
    tmp_path: Path,
) -> None:
    wanted = Cka(benchmark="easy", prompts=4, pooling=pooling, batch_size=2)  # type: ignore[arg-type]
    settings = HiddenSettings(cka=wanted, prompt=prompt, base=base_settings, device="cpu")
    output = tmp_path / "hidden.safetensors"
    hidden_states.write(settings, str(tiny_model), tiny_adapters["first"], PROBLEMS, output)
    hidden = load_file(output)["hidden"]
    assert hidden.shape == (2, 3, 32)
    model = dense_model(tiny_model, [(1.0, tiny_adapters["first"])])
    tokenizer = load_tokenizer(str(tiny_model), base_settings)
    for index, problem in enumerate(PROBLEMS):
        ids = torch.tensor([prompt_ids(tokenizer, prompt, problem.question)])
        with torch.no_grad():
            states = torch.stack(model(ids, output_hidden_states=True).hidden_states[1:])[:, 0]
        expected = states[:, -1] if pooling == "last" else states.mean(1)
        np.testing.assert_allclose(hidden[:, index], expected.numpy(), atol=1e-4)


def test_hidden_states_of_the_bases_answers_are_the_mean_over_their_tokens(
    tiny_model: Path, tiny_adapters: dict[str, Path], base_settings: Base, prompt: Prompt, tmp_path: Path
) -> None:
    wanted = Cka(benchmark="easy", prompts=4, pooling="completion", batch_size=2)
    settings = HiddenSettings(cka=wanted, prompt=prompt, base=base_settings, device="cpu")
    output, run = tmp_path / "hidden.safetensors", tiny_adapters["first"]
    with pytest.raises(UserError, match=r"pooling completion: the base's answers are needed: give --answers"):
        hidden_states.write(settings, str(tiny_model), run, PROBLEMS, output)
    said = {"1": "She has 8 of them.", "2": "5", "3": "No idea at all, and more of it."}
    answers = [
        {"problem_id": problem.id, "prompt": problem.question, "response": said[problem.id]}
        | {"finish_reason": "length", "correct": False}
        for problem in PROBLEMS
    ]
    write_jsonl(tmp_path / "answers.jsonl", answers)
    hidden_states.write(settings, str(tiny_model), run, PROBLEMS, output, tmp_path / "answers.jsonl")
    hidden = load_file(output)["hidden"]
    model = dense_model(tiny_model, [(1.0, run)])
    tokenizer = load_tokenizer(str(tiny_model), base_settings)
    for index, problem in enumerate(PROBLEMS):
        asked = tokenizer.encode(problem.question, add_special_tokens=False)
        answer = tokenizer.encode(said[problem.id], add_special_tokens=False)
        with torch.no_grad():
            states = torch.stack(model(torch.tensor([asked + answer]), output_hidden_states=True).hidden_states[1:])
        expected = states[:, 0, len(asked) :].mean(1)
        np.testing.assert_allclose(hidden[:, index], expected.numpy(), atol=1e-4)


def updated(folder: Path, module: str, runs: dict[str, Path], top_k: int, base: Path | None = None) -> dict[str, Any]:
    """The record of a module that `geometry.record.update` leaves in its file."""
    path = folder / f"{module}.json"
    record.update(path, module, {name: open_run(run, base) for name, run in runs.items()}, [top_k], "code")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_geometry_files_hold_every_run_and_pair(tiny_adapters: dict[str, Path], tmp_path: Path) -> None:
    module = "layers.1.self_attn.o_proj"
    found = updated(tmp_path, module, tiny_adapters, 2)
    assert (found["module"], found["layer"]) == (module, 1)
    assert [row["run"] for row in found["runs"]] == ["first", "second"]
    (pair,) = found["pairs"]
    one, two = (
        factors.scale * factors.b @ factors.a
        for factors in (open_run(folder).read(module) for folder in tiny_adapters.values())
    )
    cosine = (one * two).sum() / np.linalg.norm(one) / np.linalg.norm(two)
    assert pair["cosine"] == pytest.approx(cosine, abs=1e-12)


@pytest.mark.parametrize("module", ["layers.1.self_attn.q_proj", "layers.0.self_attn.v_proj", "layers.1.mlp.down_proj"])
def test_geometry_of_checkpoints_and_adapters_equals_dense_algebra(
    tiny_model: Path, tiny_adapters: dict[str, Path], whole_runs: dict[str, Path], module: str, tmp_path: Path
) -> None:
    """A square module, a wide one and one more; d_out x d_in is 32 x 32, 16 x 32 and 32 x 48."""
    adapted = module in open_run(tiny_adapters["first"]).modules
    runs = {**(tiny_adapters if adapted else {}), "one": whole_runs["one"], "two": whole_runs["two"]}
    found = updated(tmp_path, module, runs, 2, tiny_model)
    start = load_file(tiny_model / "model.safetensors")[f"model.{module}.weight"].astype(np.float64)
    dense = {}
    for name, folder in runs.items():
        if name in tiny_adapters:
            factors = open_run(folder).read(module)
            dense[name] = factors.scale * factors.b @ factors.a
        else:
            dense[name] = load_file(folder / "model.safetensors")[f"model.{module}.weight"] - start
    svd = {name: np.linalg.svd(delta, full_matrices=False) for name, delta in dense.items()}
    ranks = {"first": 4, "second": 2, "one": min(start.shape), "two": min(start.shape)}
    for row in found["runs"]:
        sigma = svd[row["run"]][1]
        assert row["rank"] == ranks[row["run"]]
        assert row["norm"] == pytest.approx(np.linalg.norm(dense[row["run"]]), rel=1e-9)
        np.testing.assert_allclose(row["singular_values"], sigma[: row["rank"]], rtol=1e-9)
        share = sigma[: row["rank"]] / sigma[: row["rank"]].sum()
        assert row["effective_rank_sigma"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-9)
    assert len(found["pairs"]) == len(runs) * (len(runs) - 1) // 2
    for row in found["pairs"]:
        one, two = dense[row["a"]], dense[row["b"]]
        cosine = (one * two).sum() / np.linalg.norm(one) / np.linalg.norm(two)
        assert row["cosine"] == pytest.approx(cosine, abs=1e-9)
        assert row["orthogonal_fraction"] == pytest.approx(np.sqrt(1 - cosine**2), abs=1e-9)
        (u, _, vt), (u_, _, vt_) = svd[row["a"]], svd[row["b"]]
        left, right = subspace_angles(u[:, :2], u_[:, :2]), subspace_angles(vt[:2].T, vt_[:2].T)
        (angles,) = row["angles"]
        np.testing.assert_allclose(angles["left"], np.degrees(left)[::-1], atol=1e-9)
        np.testing.assert_allclose(angles["right"], np.degrees(right)[::-1], atol=1e-9)


def test_a_merged_adapter_has_the_adapters_geometry(
    tiny_model: Path, tiny_adapters: dict[str, Path], whole_runs: dict[str, Path], tmp_path: Path
) -> None:
    module = "layers.1.self_attn.o_proj"
    runs = {"adapter": tiny_adapters["first"], "merge": whole_runs["merge"]}
    (pair,) = updated(tmp_path, module, runs, 4, tiny_model)["pairs"]
    assert pair["cosine"] == pytest.approx(1, abs=1e-9)
    (angles,) = pair["angles"]
    assert angles["k"] == 4
    assert max(angles["left"] + angles["right"]) < 1e-3  # degrees: the merge was saved in float32


def test_an_untrained_checkpoint_has_no_delta(tiny_model: Path, tmp_path: Path) -> None:
    module = "layers.0.mlp.up_proj"
    found = updated(tmp_path, module, {"one": tiny_model, "two": tiny_model}, 2, tiny_model)
    assert [(row["norm"], row["rank"], row["reason"]) for row in found["runs"]] == [(0, 0, "zero delta")] * 2


def test_top_k_over_a_modules_shorter_side_is_an_error(
    tiny_model: Path, whole_runs: dict[str, Path], tmp_path: Path
) -> None:
    runs = {"one": whole_runs["one"], "two": whole_runs["two"]}
    updated(tmp_path, "layers.0.self_attn.v_proj", runs, 16, tiny_model)
    with pytest.raises(UserError, match=r"top_k 17 is more than the 16 singular directions of layers\.0\.self_attn\.v"):
        updated(tmp_path, "layers.0.self_attn.v_proj", runs, 17, tiny_model)


def test_a_problem_of_several_texts_has_their_losses_added(
    tiny_model: Path, tiny_adapters: dict[str, Path], base_settings: Base
) -> None:
    a, b = tiny_adapters["first"], tiny_adapters["second"]
    one, other = (own_answers.Text("1", [5, 6, 7], answer) for answer in ([8, 9], [10]))
    apart = own_answers.Text("2", [5], [11, 12, 13])
    walk = loss_paths.Walk(base_settings, "cpu", loss_paths.Grid(3), batch_size=2)

    def path(*texts: own_answers.Text) -> list[dict[str, Any]]:
        return loss_paths.along_paths(walk, str(tiny_model), a, {"b": b}, lambda _b: list(texts))

    together = path(one, apart, other)
    assert [(row["problem_id"], row["tokens"]) for row in together] == 3 * [("1", 3), ("2", 3)]
    added = [x["nll"] + y["nll"] for x, y in zip(path(one), path(other), strict=True)]
    assert [row["nll"] for row in together[::2]] == pytest.approx(added, rel=1e-5)
    assert path() == []


def test_a_path_goes_past_its_ends_and_is_finer_where_it_is_highest(
    tiny_model: Path, tiny_adapters: dict[str, Path], base_settings: Base
) -> None:
    a, b = tiny_adapters["first"], tiny_adapters["second"]
    text = own_answers.Text("1", [5, 6, 7], [8, 9])

    def path(**grid: Any) -> dict[float, float]:
        walk = loss_paths.Walk(base_settings, "cpu", loss_paths.Grid(5, **grid), batch_size=2)
        rows = loss_paths.along_paths(walk, str(tiny_model), a, {"b": b}, lambda _b: [text])
        return {float(row["alpha"]): float(row["nll"]) for row in rows}

    plain, wide, fine = path(), path(beyond=0.5), path(refine=2)
    assert list(wide) == [-0.5, -0.25, 0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]
    assert {alpha: wide[alpha] for alpha in plain} == plain
    for alpha in (-0.5, 1.5):
        model = dense_model(tiny_model, [(alpha, a), (1 - alpha, b)])
        with torch.no_grad():
            log_probs = model(torch.tensor([[5, 6, 7, 8, 9]])).logits[0].log_softmax(-1)
        assert wide[alpha] == pytest.approx(-float(log_probs[2, 8] + log_probs[3, 9]), abs=1e-4)
    added = sorted(set(fine) - set(plain))
    assert list(fine) == sorted(fine)
    assert {alpha: fine[alpha] for alpha in plain} == plain
    assert 2 <= len(added) <= 4
    assert {alpha % 0.0625 for alpha in added} == {0.0}  # steps of .25, halved once and again
    above = {alpha: loss - alpha * fine[1.0] - (1 - alpha) * fine[0.0] for alpha, loss in fine.items()}
    highest = max(above, key=lambda alpha: above[alpha])
    assert min(abs(alpha - highest) for alpha in fine if alpha != highest) <= 0.125


def test_correct_answers_are_taken_once_and_of_the_first_problems(
    tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(tiny_model), base_settings)
    end = turn_end(tokenizer)

    def record(problem: str, response: str, correct: bool, finish_reason: str = "stop") -> dict[str, Any]:
        return {"problem_id": problem, "prompt": f"{problem}?", "response": response} | {
            "correct": correct,
            "finish_reason": finish_reason,
        }

    of_a = [record("p", "wrong", False), record("q", "7", True), record("r", "late", True)]
    of_b = [record("p", "3 apples", True, "length"), record("q", "7", True), record("r", "late", True)]
    for name, records in (("a", of_a), ("b", of_b)):
        write_jsonl(tmp_path / f"{name}.jsonl", records)
    found = own_answers.correct(tokenizer, [tmp_path / "a.jsonl", tmp_path / "b.jsonl"], 2)
    assert [text.problem_id for text in found] == ["p", "q"]
    assert tokenizer.decode(found[0].answer) == "3 apples"  # cut off, so not closed
    assert found[1].answer == [*tokenizer.encode("7"), end]
    assert tokenizer.decode(found[1].prompt) == "q?"
    assert own_answers.correct(tokenizer, [tmp_path / "a.jsonl"], 1) == []
