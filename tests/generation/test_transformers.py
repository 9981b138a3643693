"""The transformers engine against a plain forward pass of the same model."""

import dataclasses
import importlib.util
from collections import Counter
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, AutoTokenizer

from deltageom.errors import UserError
from deltageom.generation import generate as generation
from deltageom.generation.engine import Completion, Engine, Request, Sampling, Setup, load_engine, sequences_at_once
from deltageom.models.load import load_tokenizer
from deltageom.models.prompts import prompt_ids
from deltageom.problems.problem import Problem
from deltageom.study.running import Vllm
from deltageom.study.schema import Base, Prompt
from tests.deltas import tiny_checkpoints

QUESTIONS = ["Tom has 3 apples.", "A much longer question, with 12 pens and 7 boxes in it?", "Ana buys 5."]


@pytest.fixture(scope="module")
def prompts(tiny_model: Path, base_settings: Base, prompt: Prompt) -> list[list[int]]:
    tokenizer = load_tokenizer(str(tiny_model), base_settings)
    return [prompt_ids(tokenizer, prompt, question) for question in QUESTIONS]


def setup(model: Path, base: Base, adapter: Path | None = None, batch_size: int = 8) -> Setup:
    vllm = Vllm(dtype=None, max_model_length=None, eager=True)
    return Setup(str(model), base, "cpu", adapter, batch_size, 512, vllm)


def engine(model: Path, base: Base, adapter: Path | None = None, batch_size: int = 8) -> Engine:
    return load_engine("transformers", setup(model, base, adapter, batch_size))


def generate(
    made_by: Engine, prompts: list[list[int]], sampling: Sampling, samples: int = 1, seed: int = 1
) -> list[list[Completion]]:
    """For each prompt its samples."""
    problems = [Problem(f"p{number}", "", "0", None) for number in range(len(prompts))]
    made = generation.complete(made_by, generation.requests(problems, prompts, samples, seed), sampling)
    return [made[start : start + samples] for start in range(0, len(made), samples)]


def flat(made: list[list[Completion]]) -> list[Completion]:
    return [completion for of_prompt in made for completion in of_prompt]


def greedy(max_tokens: int) -> Sampling:
    return Sampling(0.0, 1.0, 0, max_tokens)


def policy_log_probs(model: Path, prompt: list[int], completion: list[int], temperature: float) -> torch.Tensor:
    """Log-probs of the completion's tokens by one unpadded forward pass, in float64."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    with torch.no_grad():
        logits = network(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)


@pytest.mark.parametrize(
    ("batch_size", "batch_tokens", "wanted"),
    [(8, None, 8), (8, 160, 8), (8, 159, 7), (8, 40, 2), (8, 39, 1), (8, 3, 1), (1, 10**9, 1)],
)
def test_a_batch_holds_so_many_tokens(batch_size: int, batch_tokens: int | None, wanted: int) -> None:
    """The longest prompt has 12 tokens, and each may get 8: a sequence counts as 20, and one always goes."""
    requests = [Request(range(length), 0) for length in (3, 12, 5)]
    assert sequences_at_once(batch_size, batch_tokens, requests, greedy(8)) == wanted


def test_batches_are_cut_to_their_tokens(tiny_model: Path, base_settings: Base, prompts: list[list[int]]) -> None:
    asked = [Request(prompt, number) for number, prompt in enumerate(prompts * 2)]
    room = 2 * (max(map(len, prompts)) + 4)
    made = {}
    for limit in (None, room):
        engine = load_engine("transformers", dataclasses.replace(setup(tiny_model, base_settings), batch_tokens=limit))
        sizes: list[int] = []
        engine.model.register_forward_pre_hook(  # type: ignore[attr-defined]
            lambda _, __, named, sizes=sizes: sizes.append(len(named["input_ids"])), with_kwargs=True
        )
        made[limit] = [list(one.token_ids) for _, one in engine.generate(asked, greedy(4))]
        assert set(sizes) == ({6} if limit is None else {2})
    assert made[None] == made[room]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_the_policys_own(
    tiny_model: Path, base_settings: Base, prompts: list[list[int]], temperature: float
) -> None:
    sampling = Sampling(temperature, 1.0, 0, 12)
    for prompt, made in zip(prompts, generate(engine(tiny_model, base_settings), prompts, sampling, 3), strict=True):
        for completion in made:
            expected = policy_log_probs(tiny_model, prompt, list(completion.token_ids), temperature)
            chosen = expected.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
            torch.testing.assert_close(
                torch.tensor(completion.token_log_probs, dtype=torch.float64), chosen, atol=1e-4, rtol=0
            )


def test_top_p_log_probs_are_renormalised_over_the_nucleus(
    tiny_model: Path, base_settings: Base, prompts: list[list[int]]
) -> None:
    (made,) = generate(engine(tiny_model, base_settings), prompts[:1], Sampling(1.0, 0.5, 0, 8), 4)
    for completion in made:
        expected = policy_log_probs(tiny_model, prompts[0], list(completion.token_ids), 1.0)
        for row, token, log_prob in zip(expected, completion.token_ids, completion.token_log_probs, strict=True):
            probs = row.exp().sort(descending=True)
            before = probs.values.cumsum(0) - probs.values
            nucleus = probs.indices[before < 0.5]
            assert token in nucleus
            assert log_prob == pytest.approx(float(row[token] - row[nucleus].exp().sum().log()), abs=1e-4)


def test_greedy_is_argmax_and_needs_no_seed(tiny_model: Path, base_settings: Base, prompts: list[list[int]]) -> None:
    for batch_size in (1, 8):
        made = generate(engine(tiny_model, base_settings, batch_size=batch_size), prompts, greedy(10))
        for prompt, (completion,) in zip(prompts, made, strict=True):
            best = policy_log_probs(tiny_model, prompt, list(completion.token_ids), 1.0).argmax(-1)
            assert list(completion.token_ids) == best.tolist()


def test_end_of_sequence_closes_a_completion(tiny_model: Path, base_settings: Base, prompts: list[list[int]]) -> None:
    eos = AutoTokenizer.from_pretrained(tiny_model).eos_token_id
    made = generate(engine(tiny_model, base_settings), prompts[:1], Sampling(2.0, 1.0, 0, 30), 200)
    reasons = {completion.finish_reason for completion in made[0]}
    assert reasons == {"stop", "length"}
    for completion in made[0]:
        assert len(completion.token_ids) == len(completion.token_log_probs)
        assert (completion.token_ids[-1] == eos) == (completion.finish_reason == "stop")
        assert eos not in completion.token_ids[:-1]
        assert completion.finish_reason == "stop" or len(completion.token_ids) == 30


def test_equal_seeds_repeat_and_other_seeds_differ(
    tiny_model: Path, base_settings: Base, prompts: list[list[int]]
) -> None:
    one, two, other = (
        generate(engine(tiny_model, base_settings), prompts, Sampling(1.0, 1.0, 0, 8), 2, seed) for seed in (5, 5, 6)
    )
    assert one == two
    assert one != other
    assert one[0][0] != one[0][1]


def test_a_completion_is_its_own_seeds_whatever_stands_beside_it(
    tiny_model: Path, base_settings: Base, prompts: list[list[int]]
) -> None:
    """Alone, in a batch of others, and with fewer tokens allowed, of which it then has the first."""
    sampling = Sampling(1.0, 0.9, 0, 8)
    together = generate(engine(tiny_model, base_settings), prompts, sampling, 2)
    alone = generate(engine(tiny_model, base_settings, batch_size=1), prompts, sampling, 2)
    for made, other in zip(flat(together), flat(alone), strict=True):
        assert made.token_ids == other.token_ids
        assert list(made.token_log_probs) == pytest.approx(list(other.token_log_probs), abs=1e-5)
    shorter = generate(engine(tiny_model, base_settings), prompts, Sampling(1.0, 0.9, 0, 3), 2)
    assert [c.token_ids for c in flat(shorter)] == [c.token_ids[:3] for c in flat(together)]


def test_tokens_are_drawn_as_often_as_the_policy_says(
    tiny_model: Path, base_settings: Base, prompts: list[list[int]]
) -> None:
    """First tokens of 4000 completions, chi-squared over the tokens expected at least five times and all others."""
    n, policy = 4000, Sampling(0.5, 1.0, 12, 1)
    (made,) = generate(engine(tiny_model, base_settings, batch_size=n), prompts[:1], policy, n)
    logits = policy_log_probs(tiny_model, prompts[0], [0], 0.5)[0]
    kept = logits.topk(12).indices
    expected = n * logits[kept].softmax(-1)
    counted = Counter(completion.token_ids[0] for completion in made)
    assert set(counted) <= set(kept.tolist())
    often = expected >= 5
    observed = [counted[int(token)] for token in kept[often]]
    observed.append(n - sum(observed))
    wanted = [*expected[often].tolist(), n - float(expected[often].sum())]
    if wanted[-1] < 1e-6:
        observed, wanted = observed[:-1], wanted[:-1]
    assert chisquare(observed, wanted, sum_check=False).pvalue > 1e-3


def test_adapter_changes_the_policy(
    tiny_model: Path, base_settings: Base, prompts: list[list[int]], tiny_adapters: dict[str, Path]
) -> None:
    plain = generate(engine(tiny_model, base_settings), prompts, greedy(8))
    adapted = generate(engine(tiny_model, base_settings, tiny_adapters["first"]), prompts, greedy(8))
    assert plain != adapted


def test_a_checkpoint_generates_as_the_model_that_it_is(
    tiny_model: Path, base_settings: Base, prompts: list[list[int]], tmp_path: Path
) -> None:
    folder = tiny_checkpoints.perturbed(tiny_model, tmp_path / "run", seed=1)
    made = generate(engine(tiny_model, base_settings, folder), prompts, greedy(8))
    assert made != generate(engine(tiny_model, base_settings), prompts, greedy(8))
    for prompt, (completion,) in zip(prompts, made, strict=True):
        best = policy_log_probs(folder, prompt, list(completion.token_ids), 1.0).argmax(-1)
        assert list(completion.token_ids) == best.tolist()


def test_clear_errors(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="engine 'nothing' is not part of this version; set engine: transformers or v"):
        load_engine("nothing", setup(tiny_model, base_settings))
    with pytest.raises(UserError, match=r"no model folder: it has no config\.json"):
        engine(tmp_path, base_settings)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no CUDA GPU is visible"):
            load_engine("transformers", dataclasses.replace(setup(tiny_model, base_settings), device="cuda"))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_the_engine_says_how_to_get_it(tiny_model: Path, base_settings: Base) -> None:
    with pytest.raises(UserError, match=r"install envs/gpu\.txt on a GPU machine, run `make setup-vllm`"):
        load_engine("vllm", setup(tiny_model, base_settings))
