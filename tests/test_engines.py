"""The transformers engine against a plain forward pass of the same model."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from deltageom import engines, models
from deltageom.errors import UserError
from deltageom.schema import Base, Prompt
from tests import tiny_checkpoints

QUESTIONS = ["Tom has 3 apples.", "A much longer question, with 12 pens and 7 boxes in it?", "Ana buys 5."]


@pytest.fixture(scope="module")
def prompts(tiny_model: Path, base_settings: Base, prompt: Prompt) -> list[list[int]]:
    tokenizer = models.load_tokenizer(str(tiny_model), base_settings)
    return [models.prompt_ids(tokenizer, prompt, question) for question in QUESTIONS]


def engine(model: Path, base: Base, adapter: Path | None = None, batch_size: int = 8) -> engines.Engine:
    return engines.load("transformers", str(model), base, "cpu", adapter, batch_size)


def policy_log_probs(model: Path, prompt: list[int], completion: list[int], temperature: float) -> torch.Tensor:
    """Log-probs of the completion's tokens by one unpadded forward pass, in float64."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    with torch.no_grad():
        logits = network(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_the_policys_own(
    tiny_model: Path, base_settings: Base, prompts: list[list[int]], temperature: float
) -> None:
    sampling = engines.Sampling(3, temperature, 1.0, 0, 12, seed=1)
    for prompt, made in zip(prompts, engine(tiny_model, base_settings).generate(prompts, sampling), strict=True):
        for completion in made:
            expected = policy_log_probs(tiny_model, prompt, completion.token_ids, temperature)
            chosen = expected.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
            torch.testing.assert_close(
                torch.tensor(completion.token_log_probs, dtype=torch.float64), chosen, atol=1e-4, rtol=0
            )


def test_top_p_log_probs_are_renormalised_over_the_nucleus(
    tiny_model: Path, base_settings: Base, prompts: list[list[int]]
) -> None:
    (made,) = engine(tiny_model, base_settings).generate(prompts[:1], engines.Sampling(4, 1.0, 0.5, 0, 8, seed=1))
    for completion in made:
        expected = policy_log_probs(tiny_model, prompts[0], completion.token_ids, 1.0)
        for row, token, log_prob in zip(expected, completion.token_ids, completion.token_log_probs, strict=True):
            probs = row.exp().sort(descending=True)
            before = probs.values.cumsum(0) - probs.values
            nucleus = probs.indices[before < 0.5]
            assert token in nucleus
            assert log_prob == pytest.approx(float(row[token] - row[nucleus].exp().sum().log()), abs=1e-4)


def test_greedy_is_argmax_and_needs_no_seed(tiny_model: Path, base_settings: Base, prompts: list[list[int]]) -> None:
    for batch_size in (1, 8):
        made = engine(tiny_model, base_settings, batch_size=batch_size).generate(prompts, engines.greedy(10))
        for prompt, (completion,) in zip(prompts, made, strict=True):
            best = policy_log_probs(tiny_model, prompt, completion.token_ids, 1.0).argmax(-1)
            assert completion.token_ids == best.tolist()


def test_end_of_sequence_closes_a_completion(tiny_model: Path, base_settings: Base, prompts: list[list[int]]) -> None:
    eos = AutoTokenizer.from_pretrained(tiny_model).eos_token_id
    made = engine(tiny_model, base_settings).generate(prompts[:1], engines.Sampling(200, 2.0, 1.0, 0, 30, seed=0))
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
        engine(tiny_model, base_settings).generate(prompts, engines.Sampling(2, 1.0, 1.0, 0, 8, seed=seed))
        for seed in (5, 5, 6)
    )
    assert one == two
    assert one != other
    assert one[0][0] != one[0][1]


def test_adapter_changes_the_policy(
    tiny_model: Path, base_settings: Base, prompts: list[list[int]], tiny_adapters: dict[str, Path]
) -> None:
    plain = engine(tiny_model, base_settings).generate(prompts, engines.greedy(8))
    adapted = engine(tiny_model, base_settings, tiny_adapters["first"]).generate(prompts, engines.greedy(8))
    assert plain != adapted


def test_a_checkpoint_generates_as_the_model_that_it_is(
    tiny_model: Path, base_settings: Base, prompts: list[list[int]], tmp_path: Path
) -> None:
    folder = tiny_checkpoints.perturbed(tiny_model, tmp_path / "run", seed=1)
    made = engine(tiny_model, base_settings, folder).generate(prompts, engines.greedy(8))
    assert made != engine(tiny_model, base_settings).generate(prompts, engines.greedy(8))
    for prompt, (completion,) in zip(prompts, made, strict=True):
        best = policy_log_probs(folder, prompt, completion.token_ids, 1.0).argmax(-1)
        assert completion.token_ids == best.tolist()


def test_clear_errors(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="engine 'nothing' is not part of this version"):
        engines.load("nothing", str(tiny_model), base_settings, "cpu", None, 1)
    with pytest.raises(UserError, match=r"no model folder: it has no config\.json"):
        engine(tmp_path, base_settings)
    with pytest.raises(UserError, match="context of 512: lower max_tokens"):
        engine(tiny_model, base_settings).generate([[1, 2]], engines.greedy(600))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no CUDA GPU is visible"):
            engines.load("transformers", str(tiny_model), base_settings, "cuda", None, 1)
