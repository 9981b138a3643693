"""The arithmetic of a plan by hand-computed cases and laws, and the sizes that it starts from."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deltageom import plan_costs, plan_inputs
from deltageom.embedded import pretraining
from deltageom.plan_assumptions import GPUS, Assumptions
from deltageom.plan_costs import Device, Sampling
from tests.planning import QWEN3_4B, QWEN3_30B_A3B, close, study

NONE = math.nan


# --- formulas


def test_flops_of_a_token() -> None:
    assert plan_costs.forward_flops(4e9, 10) == 8e10
    lora = {"whole": False, "checkpointing": False}
    assert plan_costs.training_flops(1.0, 1.0, **lora) == 4  # forward, and backward to the activations
    assert plan_costs.training_flops(1.0, 1.0, whole=False, checkpointing=True) == 6
    assert plan_costs.training_flops(1.0, 1.0, whole=True, checkpointing=False) == 6  # 6 N, as 2001.08361 has it
    assert plan_costs.training_flops(1.0, 1.0, whole=True, checkpointing=True) == 8
    assert plan_costs.training_flops(1.0, 1.0, **lora, extra_forwards=2) == 8
    assert plan_costs.training_flops(3.0, 5.0, **lora) == 60


def test_tokens_of_vllm_are_those_wanted_and_of_transformers_those_of_the_longest() -> None:
    asked = Sampling(completions=1000, prompt=50, tokens=100, most=400, batch=256)
    assert plan_costs.generated(asked, "vllm") == (100_000, 400)  # 390 steps of full batches: the longest takes 400
    assert plan_costs.generated(replace(asked, completions=10_000), "vllm") == (1_000_000, 1_000_000 / 256)
    assert plan_costs.generated(asked, "transformers") == (400_000, 4 * 400)


def test_generation_takes_what_is_slower_of_computing_and_reading() -> None:
    asked = Sampling(completions=1000, prompt=50, tokens=100, most=400, batch=256)
    prompts = 2 * 3.0 * 1000 * 50 / 1e6
    cpu = Device(flops=1e6, bandwidth=math.inf)
    assert plan_costs.generation_seconds(asked, "vllm", 3.0, 12.0, 5.0, cpu) == close(prompts + 2 * 3.0 * 100_000 / 1e6)
    slow = Device(flops=1e6, bandwidth=1e3)
    # 400 steps read 12 bytes of weights, 100,000 tokens a context of 50 + 100 / 2 with 5 bytes each
    read = (400 * 12.0 + 100_000 * 100 * 5.0) / 1e3
    assert plan_costs.generation_seconds(asked, "vllm", 3.0, 12.0, 5.0, slow) == close(prompts + read)
    read = (1600 * 12.0 + 400_000 * 250 * 5.0) / 1e3
    assert plan_costs.generation_seconds(asked, "transformers", 3.0, 12.0, 5.0, slow) == close(prompts + read)


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
@pytest.mark.parametrize("unknown", ["completions", "prompt", "tokens", "most", "weights", "active"])
def test_of_what_is_unknown_comes_nothing_known(engine: str, unknown: str) -> None:
    asked = Sampling(completions=1000, prompt=50, tokens=100, most=400, batch=256)
    numbers = {"active": 3.0, "weights": 12.0, "cache": 5.0}
    if unknown in numbers:
        numbers[unknown] = NONE
    else:
        asked = replace(asked, **{unknown: NONE})
    if (engine, unknown) == ("transformers", "tokens"):  # which its batches do not depend on
        return
    for rates in (Device(1e6, 1e3), Device(1e3, 1e6)):
        assert math.isnan(plan_costs.generation_seconds(asked, engine, **numbers, on=rates))


def test_a_gpu_has_one_rate_for_each_width_and_engine() -> None:
    card, assumed = GPUS["h100"], Assumptions(utilisation=0.5, bandwidth_share=0.25, transformers_share=0.125)
    assert plan_costs.gpu(card, 2, "vllm", assumed) == Device(989e12 / 2, 3.35e12 / 4)
    assert plan_costs.gpu(card, 4, "transformers", assumed) == Device(67e12 / 2, 3.35e12 / 8)
    assert plan_costs.cores(3, Assumptions(core_gflops=2)) == Device(6e9, math.inf)


@pytest.mark.parametrize("samples", [2, 3, 4, 6])
@pytest.mark.parametrize("most", [None, 1, 3])
@pytest.mark.parametrize("correct", [0.2, 0.7])
def test_pairs_are_those_of_every_outcome(samples: int, most: int | None, correct: float) -> None:
    pairs = mixed = 0.0
    for outcome in itertools.product((0, 1), repeat=samples):
        right = sum(outcome)
        chance = correct**right * (1 - correct) ** (samples - right)
        found = sum(a > b for a, b in itertools.product(outcome, repeat=2))
        pairs += chance * (found if most is None else min(found, most))
        mixed += chance * (0 < right < samples)
    assert plan_costs.pairs_a_problem(samples, correct, most) == close(pairs)
    assert plan_costs.pairs_a_problem(samples, correct, most, mixed=0.25) == close(0.25 * pairs / mixed)
    if most == 1:
        assert plan_costs.pairs_a_problem(samples, correct, 1) == close(mixed)


def test_pairs_without_wrong_rollouts_are_none() -> None:
    assert plan_costs.pairs_a_problem(4, 1.0, None) == 0
    assert plan_costs.pairs_a_problem(4, 1.0, None, mixed=0.5) == 0
    assert plan_costs.pairs_a_problem(1, 0.5, None) == 0


def test_bytes_of_adapters_are_exact(tiny_adapters: dict[str, Path], tiny_model: Path) -> None:
    shape = plan_inputs.shape_of(str(tiny_model), None, 2, None, "--parameters")
    modules = [shape.modules[f"self_attn.{name}_proj"] for name in "qo"] * 2
    for name, rank in (("first", 4), ("second", 2)):
        content = (tiny_adapters[name] / "adapter_model.safetensors").read_bytes()
        header = 8 + int.from_bytes(content[:8], "little")
        assert plan_costs.adapter_bytes(modules, rank) == len(content) - header
    four = plan_inputs.from_config(QWEN3_4B, "")
    shapes = [four.modules[f"self_attn.{name}_proj"] for name in "qkvo"] * 36
    assert plan_costs.adapter_bytes(shapes, 32) * 6 == 540 * 2**20  # as docs/benchmarks.md found six of them


def test_bytes_of_spectra() -> None:
    # of (1000, 600), over 512: u (1000, 8), sigma (8,), v (600, 8); of (300, 100), at most 512: all 100
    assert plan_costs.spectra_bytes([(1000, 600)], 8, dense=512) == 8 * 8 * (1000 + 600 + 1)
    assert plan_costs.spectra_bytes([(300, 100)], 8, dense=512) == 8 * 100 * (300 + 100 + 1)
    assert plan_costs.spectra_bytes([(1000, 600)], 200, dense=512) == 8 * 600 * 1601  # 4 rank reaches it


def test_makespan() -> None:
    assert plan_costs.makespan([3, 3, 2, 2, 2], 2) == 7  # the longest first: 3 + 2 + 2 beside 3 + 2; the best is 6
    assert plan_costs.makespan([1, 1, 2], 2) == 2
    assert plan_costs.makespan([1, 5, 2], 1) == 8
    assert plan_costs.makespan([1, 5, 2], 9) == 5
    assert plan_costs.makespan([], 2) == 0
    assert math.isnan(plan_costs.makespan([1, NONE, 9], 2))
    rng = np.random.default_rng(0)
    for slots in range(1, 6):
        jobs = rng.exponential(size=12).tolist()
        least = max(max(jobs), sum(jobs) / slots)
        assert least - 1e-12 <= plan_costs.makespan(jobs, slots) <= least + (1 - 1 / slots) * max(jobs) + 1e-12


def test_a_sum_names_what_it_does_not_know() -> None:
    assert plan_costs.known_sum({"a": 1.0, "b": NONE, "c": 2.0}) == (3.0, ["b"])


# --- sizes


def test_parameters_are_those_of_the_matrices(tiny_model: Path) -> None:
    from safetensors import safe_open

    with safe_open(tiny_model / "model.safetensors", "numpy") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    found = plan_inputs.shape_of(str(tiny_model), None, 2, None, "--parameters")
    assert found.parameters == found.active == sum(math.prod(shape) for shape in shapes if len(shape) == 2)
    assert (found.hidden, found.layers, found.stored) == (32, 2, 4)
    assert found.cache == 2 * 2 * 16  # keys and values of two layers, one group of 16


def test_parameters_of_published_models() -> None:
    """Qwen3-4B has 4.0 billion, 3.6 of them no embeddings; Qwen3-30B-A3B 30.5, 3.3 of them active (2505.09388)."""
    four = plan_inputs.from_config(QWEN3_4B, "")
    assert four.parameters == pytest.approx(4.02e9, rel=0.005)
    assert four.parameters - 151936 * 2560 == pytest.approx(3.63e9, rel=0.005)
    assert four.modules["self_attn.q_proj"] == (4096, 2560)
    assert four.modules["mlp.down_proj"] == (2560, 9728)
    experts = plan_inputs.from_config(QWEN3_30B_A3B, "")
    assert experts.parameters == pytest.approx(30.5e9, rel=0.005)
    assert experts.active + 151936 * 2048 == pytest.approx(3.34e9, rel=0.01)
    assert "mlp.gate_proj" not in experts.modules


def test_the_embedded_model_is_the_one_that_is_trained() -> None:
    class Words:
        eos_token_id = pad_token_id = 1

        def __len__(self) -> int:
            return sizes.vocabulary

    own = {"hidden": 24, "layers": 3, "heads": 6, "kv_heads": 3, "head_dim": 8, "intermediate": 40, "vocabulary": 300}
    sizes = study(embedded=own, base={"layers": 3}).embedded
    config = pretraining.configuration(sizes, Words()).to_dict()
    expected = plan_inputs.from_config(config, "the embedded model")
    assert plan_inputs.embedded_shape(sizes, stored=4) == expected
    assert (expected.hidden, expected.layers, expected.cache, expected.stored) == (24, 3, 2 * 3 * 3 * 8, 4)
    assert expected.modules["mlp.down_proj"] == (24, 40)
    assert plan_inputs.embedded_shape(sizes, stored=2).stored == 2


@pytest.mark.parametrize(
    ("model", "parameters", "active"),
    [
        ("Qwen/Qwen3-4B-Instruct-2507", 4e9, 4e9),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", 30e9, 3e9),
        ("HuggingFaceTB/SmolLM2-135M", 135e6, 135e6),
        ("meta-llama/Llama-3.2-1B", 1e9, 1e9),
        ("a/v2.5B-x", NONE, NONE),
        ("a/4Bit", NONE, NONE),
    ],
)
def test_size_by_name(model: str, parameters: float, active: float) -> None:
    found = plan_inputs.shape_of(model, None, None, None, "--parameters")
    assert (found.parameters, found.active) == pytest.approx((parameters, active), nan_ok=True)
    assert ("its name" if parameters > 0 else "not known; no config.json of it here: give --parameters 4.0e9") in (
        found.origin
    )


def test_a_model_of_experts_is_as_wide_as_its_active_parameters() -> None:
    found = plan_inputs.shape_of("o/m-30B-A3B", None, 48, None, "--parameters")
    assert 12 * 48 * found.hidden**2 == close(3e9)
    alone = plan_inputs.shape_of("o/m-30B-A3B", None, None, None, "--parameters")
    assert alone.layers == 34  # 12 L (80 L)^2 = 3e9
    assert alone.cache == close(2 * 34 * alone.hidden / 4)


def test_size_by_layers_says_so_and_how_to_give_it() -> None:
    found = plan_inputs.shape_of("a/model", None, 36, None, "--parameters")
    assert found.parameters == 12 * 36 * (80 * 36) ** 2  # 3.6e9: Qwen3-4B without its embeddings
    assert "guessed from 36 layers" in found.origin
    assert "--parameters" in found.origin
    given = plan_inputs.shape_of("a/model", None, 36, 7e9, "--parameters")
    assert given.parameters == given.active == 7e9
    assert 12 * 36 * given.hidden**2 == close(7e9)
    assert sum(d_out * d_in for d_out, d_in in given.modules.values()) * 36 == close(7e9)


def test_parameters_given_beat_a_configuration(tiny_model: Path) -> None:
    given = plan_inputs.shape_of(str(tiny_model), None, 2, 5.0, "--parameters")
    assert (given.parameters, given.active, given.hidden) == (5.0, 5.0, 32)


@pytest.mark.parametrize("text", ["{", "[]", '{"n_embd": 4}', json.dumps(QWEN3_4B | {"n_routed_experts": 4})])
def test_a_configuration_of_another_kind_is_not_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    assert plan_inputs.read_config(str(tmp_path), None) is None


def test_configuration_from_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert plan_inputs.read_config("o/m", None) is None
    folder = tmp_path / "models--o--m"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text(json.dumps(QWEN3_4B))
    assert plan_inputs.shape_of("o/m", None, 36, None, "--parameters").parameters == pytest.approx(4.02e9, rel=0.005)
    assert not plan_inputs.is_cached("o/m", None)
    (snapshot / "model.safetensors").write_text("")
    assert plan_inputs.is_cached("o/m", None)


def test_problems_are_counted_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"question": "q", "answer": str(n)}) + "\n" for n in range(7)))
    file = study().problems.model_copy(update={"source": "file", "path": str(path), "limit": None})
    assert plan_inputs.count(file) == (7, f"counted in {path}")
    assert plan_inputs.count(file.model_copy(update={"limit": 5}))[0] == 5
    assert plan_inputs.count(study().problems)[0] == 256
    hub = file.model_copy(update={"source": "hub", "path": "openai/gsm8k", "split": "test"})
    assert plan_inputs.count(hub)[0] == 1319
    assert plan_inputs.count(hub.model_copy(update={"limit": 100}))[0] == 100
    assert plan_inputs.count(hub.model_copy(update={"limit": 5000}))[0] == 1319
    unknown = hub.model_copy(update={"path": "a/b"})
    assert math.isnan(plan_inputs.count(unknown)[0])
    assert plan_inputs.count(unknown.model_copy(update={"limit": 9}))[0] == 9
