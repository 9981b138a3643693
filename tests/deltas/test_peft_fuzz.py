"""Configurations of PEFT at random: each delta is what merging does to the base, or is refused by name."""

import copy
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from deltageom.deltas.adapter import Adapter
from deltageom.errors import UserError

SEEDS = 200
Arrays = dict[str, NDArray[np.float64]]
SIZES: dict[str, Any] = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEAR = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
TARGETS: dict[str, list[Any]] = {
    "gpt2": [["c_attn"], ["c_attn", "c_proj", "c_fc"], ["attn.c_proj", "lm_head"], r".*h\.1\..*c_fc"],
    "moe": [ATTENTION, ["q_proj", "lm_head"], LINEAR, "all-linear", ["q_proj", "mlp.gate"], [*LINEAR, "mlp.gate"]],
}
DENSE = [["q_proj"], ATTENTION, LINEAR, "all-linear", ["q_proj", "lm_head"], r".*layers\.1\..*(q|down)_proj"]
PATTERNS = [
    "q_proj",
    "down_proj",
    r"layers\.1\..*",
    "layers.0.self_attn.q_proj",
    "c_fc",
    r".*c_proj",
    "proj",
    "lm_head",
]
# What is not scale * B @ A of the base's own matrices, and what the refusal then names.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"use_dora": True}, "use_dora"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
    ({"init_lora_weights": "pissa_niter_2"}, "init_lora_weights 'pissa_niter_2'"),
    ({"init_lora_weights": "olora"}, "init_lora_weights 'olora'"),
    ({"lora_bias": True}, r"lora_B.bias is no LoRA factor"),
    ({"modules_to_save": ["embed_tokens", "wte"]}, "is no LoRA factor"),
    ({"trainable_token_indices": {"embed_tokens": [1, 2]}}, "is no LoRA factor"),
    ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
    ({"bias": "all"}, ".bias is no LoRA factor"),
    ({"bias": "lora_only"}, ".bias is no LoRA factor"),
]


@pytest.fixture(scope="module")
def models() -> dict[str, PreTrainedModel]:
    torch.manual_seed(0)
    return {
        "qwen3": Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=False)),
        "tied": Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=True)),
        "qwen2": Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=False)),  # its attention has biases
        "moe": Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **EXPERTS, tie_word_embeddings=False)),
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=24, n_embd=16, n_layer=2, n_head=2, n_positions=8)),
    }


def drawn(seed: int) -> tuple[str, dict[str, Any], str | None]:
    """A model, a configuration, and what a refusal must say if there is to be one."""
    rng = random.Random(seed)
    model = rng.choice(["qwen3", "tied", "qwen2", "moe", "gpt2"])
    options: dict[str, Any] = {
        "task_type": "CAUSAL_LM",
        "r": rng.choice([2, 4, 6]),
        "lora_alpha": rng.choice([1, 3, 8, 16]),
        "use_rslora": rng.random() < 0.4,
        "target_modules": rng.choice(TARGETS.get(model, DENSE)),
        "init_lora_weights": rng.choice([True, False, "gaussian", "orthogonal", "mica"]),
    }
    options["fan_in_fan_out"] = model == "gpt2"
    for key, values in (("rank_pattern", [2, 4, 8]), ("alpha_pattern", [1, 5, 9])):
        if rng.random() < 0.4:
            options[key] = {name: rng.choice(values) for name in rng.sample(PATTERNS, 2)}
    if rng.random() < 0.2 and not isinstance(options["target_modules"], str):
        options["layers_to_transform"] = [rng.choice([0, 1])]
    if model == "moe":
        options["init_lora_weights"] = rng.choice([True, False])  # those that PEFT has for parameters
        if rng.random() < 0.5:
            parameters = rng.choice([["mlp.experts.gate_up_proj"], ["experts.down_proj", "experts.gate_up_proj"]])
            options |= {"target_parameters": [*parameters, "mlp.gate.weight"], "target_modules": ["q_proj", "o_proj"]}
    if rng.random() < 0.25:
        extra, says = rng.choice(REFUSED)
        without_bias = "bias" in extra and extra["bias"] == "all" and model in ("qwen3", "tied", "moe")
        untargeted = extra.get("bias") == "lora_only" and model != "gpt2" and model != "qwen2"
        token = "trainable_token_indices" in extra and model == "gpt2"
        deep = "layer_replication" in extra and model == "gpt2"
        if not (without_bias or untargeted or token or deep or model == "moe"):
            if "lora_bias" in extra:
                options["init_lora_weights"] = True  # PEFT has it with no other
            return model, options | extra, says
    return model, options, None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_delta_is_what_merging_does_or_is_refused_by_name(
    models: dict[str, PreTrainedModel], tmp_path: Path, seed: int
) -> None:
    model, options, refused = drawn(seed)
    base = copy.deepcopy(models[model])
    before = {name: weight.double().numpy() for name, weight in base.state_dict().items()}
    torch.manual_seed(seed)
    adapted = get_peft_model(base, LoraConfig(**options)).double()
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn_like(weight)
    adapted.save_pretrained(tmp_path)
    if refused is not None:
        if refused == ".bias is no LoRA factor" and not any(".bias" in name for name in saved(tmp_path)):
            refused = None  # none of the targets has a bias
        else:
            with pytest.raises(UserError, match=r"\S") as error:
                Adapter(tmp_path)
            assert refused in str(error.value)
            return
    if ambiguous := overlapping(adapted):
        with pytest.raises(UserError, match=r"match \S+ with other values") as error:
            Adapter(tmp_path)
        assert ambiguous in str(error.value)
        return
    delta = Adapter(tmp_path)
    expected = differences(before, adapted.merge_and_unload().state_dict())
    if model == "tied" and "lm_head" in expected:
        del expected["embed_tokens"]  # the same weight: what is merged into one is in the other
    if model == "gpt2" and "lm_head" in expected:
        del expected["wte"]
    assert delta.modules == sorted(expected, key=delta.modules.index)
    for module, difference in expected.items():
        np.testing.assert_allclose(delta.read(module).dense(), difference, rtol=0, atol=1e-6)
        assert delta.shape(module) == difference.shape
        if module.endswith(".gate_up_proj"):
            halves = [delta.read(module.replace("gate_up", half)).dense() for half in ("gate", "up")]
            np.testing.assert_allclose(np.concatenate(halves), difference, rtol=0, atol=1e-6)


def overlapping(adapted: PeftModel) -> str | None:
    """A key of which several patterns match one target, with other values: PEFT takes the first, but saves them sorted,
    and would load such an adapter with another rank or scale itself."""
    config = adapted.peft_config["default"]
    layers = [(name, layer) for name, layer in adapted.base_model.model.named_modules() if isinstance(layer, LoraLayer)]
    names = [
        re.sub(r"\.base_layer", "", name) + (f".{layer.parameter_name}" if isinstance(layer, ParamWrapper) else "")
        for name, layer in layers
    ]
    for key in ("rank_pattern", "alpha_pattern"):
        for name in names:
            values = [value for at, value in getattr(config, key).items() if re.fullmatch(rf"(.*\.)?({at})", name)]
            if len(set(values)) > 1:
                return key
    return None


def saved(folder: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "numpy") as file:
        return list(file.keys())


def differences(before: Arrays, merged: dict[str, torch.Tensor]) -> Arrays:
    """Of each matrix that has moved, an expert's apart, as (d_out, d_in), by the names that deltageom gives."""
    assert before.keys() == merged.keys()
    found: Arrays = {}
    for name, weight in merged.items():
        moved = weight.numpy() - before[name]
        if not moved.any():
            continue
        module = name.removeprefix("model.").removeprefix("transformer.").removesuffix(".weight")
        if moved.ndim == 3:
            at, _, part = module.rpartition(".")
            found |= {f"{at}.{i}.{part}": moved[i] for i in range(len(moved))}
        else:
            found[module] = moved.T if ".c_" in name else moved
    return found


def test_the_draws_are_of_all_kinds() -> None:
    """A fuzz that draws only easy cases would show nothing."""
    draws = [drawn(seed) for seed in range(SEEDS)]
    assert {model for model, *_ in draws} == {"qwen3", "tied", "qwen2", "moe", "gpt2"}
    assert {says for *_, says in draws} == {None, *(says for _, says in REFUSED)}
    for key in ("rank_pattern", "alpha_pattern", "layers_to_transform", "target_parameters", "use_rslora"):
        assert sum(bool(options.get(key)) for _, options, _ in draws) >= 10, key
    inits = {options["init_lora_weights"] for _, options, _ in draws}
    assert inits >= {True, False, "gaussian", "orthogonal", "mica", "pissa", "olora"}
