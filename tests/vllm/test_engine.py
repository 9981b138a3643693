"""vLLM against transformers on the same model: tokens and log-probs of the base, of adapters and of a checkpoint."""

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare

from deltageom.errors import UserError
from deltageom.generation.engine import Completion, Engine, Request, Sampling, Setup, load_engine
from deltageom.generation.generate import complete, requests
from deltageom.generation.shards import Shards
from deltageom.models.load import load_model, load_tokenizer
from deltageom.models.prompts import prompt_ids
from deltageom.problems.problem import Problem
from deltageom.study.running import Vllm
from deltageom.study.schema import Base, Prompt
from tests.deltas import tiny_checkpoints

GREEDY = Sampling(0.0, 1.0, 0, 12)
PROBLEMS = [
    Problem(f"p{i}", text, "1", None)
    for i, text in enumerate(
        ["Tom has 3 apples.", "A much longer question, with 12 pens and 7 boxes in it?", "Ana buys 5.", "How many?"]
    )
]


def setup(model: Path, base: Base, adapter: Path | None = None, batch_size: int = 4) -> Setup:
    vllm = Vllm(dtype=None, max_model_length=None, eager=True)
    return Setup(str(model), base, "cpu", adapter, batch_size, 128, vllm)


@pytest.fixture(scope="module")
def wanted(tiny_model: Path, base_settings: Base, prompt: Prompt) -> list[Request]:
    tokenizer = load_tokenizer(str(tiny_model), base_settings)
    prompts = [prompt_ids(tokenizer, prompt, problem.question) for problem in PROBLEMS]
    return requests(PROBLEMS, prompts, 5, seed=3)


@pytest.fixture(scope="module")
def of_base(tiny_model: Path, base_settings: Base) -> Engine:
    return load_engine("vllm", setup(tiny_model, base_settings))


@pytest.fixture(scope="module", params=["base", "first", "second", "checkpoint"])
def both(
    request: pytest.FixtureRequest,
    tiny_model: Path,
    base_settings: Base,
    tiny_adapters: dict[str, Path],
    of_base: Engine,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Engine, Engine]:
    """vLLM and transformers with the base, an adapter or a whole checkpoint."""
    adapter = tiny_adapters.get(request.param)
    if request.param == "checkpoint":
        adapter = tiny_checkpoints.perturbed(tiny_model, tmp_path_factory.mktemp("whole") / "run", seed=1)
    told = setup(tiny_model, base_settings, adapter)
    return of_base if adapter is None else load_engine("vllm", told), load_engine("transformers", told)


def same_log_probs(one: list[Completion], other: list[Completion]) -> None:
    for a, b in zip(one, other, strict=True):
        assert list(a.token_log_probs) == pytest.approx(list(b.token_log_probs), abs=1e-4)


def test_greedy_tokens_and_log_probs_are_those_of_transformers(
    both: tuple[Engine, Engine], wanted: list[Request]
) -> None:
    one, other = (complete(engine, wanted, GREEDY) for engine in both)
    assert [c.token_ids for c in one] == [c.token_ids for c in other]
    assert [c.finish_reason for c in one] == [c.finish_reason for c in other]
    same_log_probs(one, other)


POLICIES = pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [(1.0, 1.0, 0), (0.6, 1.0, 0), (1.0, 0.5, 0), (0.8, 1.0, 7)]
)


@POLICIES
def test_both_engines_draw_the_same_tokens(
    both: tuple[Engine, Engine], wanted: list[Request], temperature: float, top_p: float, top_k: int
) -> None:
    policy = Sampling(temperature, top_p, top_k, 24)
    one, other = (complete(engine, wanted, policy) for engine in both)
    assert [c.token_ids for c in one] == [c.token_ids for c in other]
    assert len({tuple(c.token_ids) for c in one}) > len(PROBLEMS)
    same_log_probs(one, other)


def test_without_log_probs_the_tokens_are_the_same(of_base: Engine, wanted: list[Request]) -> None:
    one, other = (complete(of_base, wanted, Sampling(1.0, 1.0, 0, 8, log_probs=asked)) for asked in (True, False))
    assert [c.token_ids for c in one] == [c.token_ids for c in other]
    assert {c.token_log_probs for c in other} == {None}


@POLICIES
def test_sampled_log_probs_are_the_policys_own(
    both: tuple[Engine, Engine],
    wanted: list[Request],
    temperature: float,
    top_p: float,
    top_k: int,
) -> None:
    """Of what vLLM drew, by one unpadded forward pass of transformers, renormalised over what the policy leaves."""
    engine, reference = both
    network = reference.model  # type: ignore[attr-defined]
    for request, made in zip(wanted, complete(engine, wanted, Sampling(temperature, top_p, top_k, 8)), strict=True):
        tokens = list(made.token_ids)
        with torch.no_grad():
            logits = (
                network(torch.tensor([[*request.prompt, *tokens]])).logits[0, len(request.prompt) - 1 : -1].double()
            )
        for row, token, log_prob in zip(logits / temperature, tokens, made.token_log_probs, strict=True):
            probs, order = row.softmax(-1).sort(descending=True)
            kept = order[probs.cumsum(0) - probs < top_p][: top_k or None]
            assert token in kept
            assert log_prob == pytest.approx(float(row[token] - row[kept].logsumexp(0)), abs=1e-4)


def test_samples_differ_and_seeds_repeat(of_base: Engine, wanted: list[Request]) -> None:
    policy = Sampling(1.0, 1.0, 0, 8)
    one, two = (complete(of_base, wanted, policy) for _ in range(2))
    assert one == two
    assert len({tuple(c.token_ids) for c in one[:5]}) == 5
    other = [Request(request.prompt, request.seed + 1) for request in wanted]
    assert complete(of_base, other, policy) != one


def test_a_completion_is_its_own_seeds_whatever_stands_beside_it(
    of_base: Engine, wanted: list[Request], tmp_path: Path
) -> None:
    policy = Sampling(1.0, 0.9, 0, 8)
    whole = complete(of_base, wanted, policy)
    turned = complete(of_base, wanted[::-1], policy)[::-1]
    few = complete(of_base, wanted[3:5], policy)
    sharded = complete(of_base, wanted, policy, Shards(tmp_path, {}, 3, 1))
    assert [c.token_ids for c in turned] == [c.token_ids for c in whole]
    assert [c.token_ids for c in few] == [c.token_ids for c in whole[3:5]]
    assert [c.token_ids for c in sharded] == [c.token_ids for c in whole]
    same_log_probs(turned, whole)


def test_tokens_are_drawn_as_often_as_the_policy_says(
    of_base: Engine, wanted: list[Request], tiny_model: Path, base_settings: Base
) -> None:
    n = 2000
    made = complete(of_base, [Request(wanted[0].prompt, seed) for seed in range(n)], Sampling(0.5, 1.0, 8, 1))
    network = load_model(str(tiny_model), base_settings, "cpu")
    with torch.no_grad():
        logits = network(torch.tensor([list(wanted[0].prompt)])).logits[0, -1] / 0.5
    kept = logits.topk(8)
    expected = n * kept.values.softmax(-1).double()
    counted = Counter(completion.token_ids[0] for completion in made)
    assert set(counted) <= set(kept.indices.tolist())
    often = expected >= 5
    observed = [counted[int(token)] for token in kept.indices[often]]
    wanted_counts = expected[often] / expected[often].sum() * sum(observed)
    assert chisquare(observed, wanted_counts).pvalue > 1e-3


def test_the_end_of_sequence_closes_a_completion(of_base: Engine, wanted: list[Request], tiny_model: Path) -> None:
    eos = json.loads((tiny_model / "generation_config.json").read_text())["eos_token_id"]
    asked = [Request(wanted[0].prompt, seed) for seed in range(200)]
    made = complete(of_base, asked, Sampling(2.0, 1.0, 0, 30))
    assert {completion.finish_reason for completion in made} == {"stop", "length"}
    for completion in made:
        assert (completion.token_ids[-1] == eos) == (completion.finish_reason == "stop")
        assert eos not in completion.token_ids[:-1]
        assert completion.finish_reason == "stop" or len(completion.token_ids) == 30


# From here on each test has an engine of its own: the end of one takes vLLM's process groups from those before it.


def test_seeds_hold_where_prompts_are_more_than_one_step_reads(tiny_model: Path, base_settings: Base) -> None:
    """48 prompts of 100 tokens at once: vLLM would read some in parts."""
    engine = load_engine("vllm", setup(tiny_model, base_settings, batch_size=48))
    asked = [Request([10 + seed, *range(20, 119)], seed) for seed in range(48)]
    together = complete(engine, asked, Sampling(1.0, 1.0, 0, 6))
    alone = complete(engine, asked[40:41], Sampling(1.0, 1.0, 0, 6))
    assert together[40].token_ids == alone[0].token_ids


def test_an_adapter_of_a_rank_over_vllms_default_of_16(
    tiny_model: Path, base_settings: Base, wanted: list[Request], tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(
        r=24, lora_alpha=24, use_rslora=True, init_lora_weights=False, target_modules=["q_proj"], task_type="CAUSAL_LM"
    )
    get_peft_model(load_model(str(tiny_model), base_settings, "cpu"), config).save_pretrained(tmp_path)
    told = setup(tiny_model, base_settings, tmp_path)
    one, other = (complete(load_engine(name, told), wanted[::5], GREEDY) for name in ("vllm", "transformers"))
    assert [c.token_ids for c in one] == [c.token_ids for c in other]
    same_log_probs(one, other)


def test_clear_errors_before_the_engine_starts(
    tiny_model: Path, base_settings: Base, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    large = tmp_path / "large"
    shutil.copytree(tiny_adapters["first"], large)
    config = json.loads((large / "adapter_config.json").read_text())
    (large / "adapter_config.json").write_text(json.dumps(config | {"r": 600}))
    with pytest.raises(UserError, match=r"rank 600 is over vLLM's limit of 512: set evaluation\.engine: transformers"):
        load_engine("vllm", setup(tiny_model, base_settings, large))
    with pytest.raises(UserError, match=r"no model folder: it has no config\.json"):
        load_engine("vllm", setup(tmp_path, base_settings))
    with pytest.raises(UserError, match="device is cuda, but vLLM finds no CUDA GPU"):
        load_engine("vllm", dataclasses.replace(setup(tiny_model, base_settings), device="cuda"))
    told = setup(tiny_model, base_settings)
    for length, says in (
        (64, "is 64, but the longest prompt and its max_tokens take 128"),
        (10**5, "vLLM cannot load"),
    ):
        limited = dataclasses.replace(told, vllm=told.vllm.model_copy(update={"max_model_length": length}))
        with pytest.raises(UserError, match=says):
            load_engine("vllm", limited)


def test_an_adapter_that_vllm_cannot_apply_is_one_clear_error(
    tiny_model: Path, base_settings: Base, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "dora"
    shutil.copytree(tiny_adapters["first"], folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(UserError, match="vLLM cannot load"):
        load_engine("vllm", setup(tiny_model, base_settings, folder))
