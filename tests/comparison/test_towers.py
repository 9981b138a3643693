"""Towers with layers of one number, heads and experts, through the whole of compare: tables against dense algebra."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from tests.comparison.comparing import CONFIG, WEIGHTS, Compare, by_key, cells, command, read
from tests.comparison.test_runs import write_adapter

pytestmark = pytest.mark.filterwarnings("ignore")
TEXT = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


def trained(model: PreTrainedModel, folder: Path, name: str, seed: int, **config: object) -> Path:
    """The adapter in folder/NAME, the merged model in folder/NAME-merged; `model` is left merged."""
    torch.manual_seed(seed)
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, **config))
    adapted.save_pretrained(folder / name)
    adapted.merge_and_unload().save_pretrained(folder / f"{name}-merged")
    return folder / name


def test_towers_are_apart_in_the_layers_and_against_the_base(compare: Compare, tmp_path: Path) -> None:
    vision = {
        name: value for name, value in TEXT.items() if "key" not in name and name not in ("vocab_size", "head_dim")
    }
    config = Gemma3Config(text_config=TEXT, vision_config=vision | {"image_size": 28, "patch_size": 14})
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "base")
    for seed, name in enumerate(("a", "b")):
        model = Gemma3ForConditionalGeneration.from_pretrained(tmp_path / "base")
        trained(model, tmp_path, name, seed, target_modules=["q_proj"])
    runs = [tmp_path / name for name in ("a", "b", "a-merged")]
    against = ("--base", tmp_path / "base", "--against-base", "--spectra", tmp_path / "spectra", "--top-k", 2)
    done = compare(*runs, *against, "--output", tmp_path / "out")
    assert (done.code, done.err) == (0, "")
    assert "3 runs, 4 modules in 4 layers" in done.out
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    queries = {name: tensor for name, tensor in tensors.items() if name.endswith("q_proj.weight")}
    assert len(queries) == 4
    rows = read(tmp_path / "out", "per_layer")
    towers = {row["tower"]: "vision_tower" in row["tower"] for row in rows}
    assert towers == {"": False, "vision_tower.encoder": True}
    merged = load_file(tmp_path / "a-merged" / "model.safetensors")
    for row in rows:
        if row["measure"] == "norm" and row["a"] != "b":
            (name,) = [
                name
                for name in queries
                if ("vision_tower" in name) == towers[row["tower"]] and f"layers.{row['layer']}." in name
            ]
            assert float(row["value"]) == pytest.approx(np.linalg.norm(merged[name] - queries[name]), rel=1e-5)
            assert row["n_modules"] == "1"
    single = {(row["module"], row["a"], row["measure"]): row for row in read(tmp_path / "out", "per_module")}
    for module in ("layers.0.self_attn.q_proj", "vision_tower.encoder.layers.0.self_attn.q_proj"):
        (name,) = [name for name in queries if ("vision" in name) == ("vision" in module) and "layers.0." in name]
        delta = merged[name].astype(float) - queries[name]
        v = np.linalg.svd(queries[name].astype(float))[2][:2]
        expected = np.linalg.norm(delta @ v.T) ** 2 / np.linalg.norm(delta) ** 2
        assert float(single[module, "a", "input_energy"]["value"]) == pytest.approx(expected, abs=1e-5)


def test_an_encoder_and_a_decoder_are_two_towers(compare: Compare, tmp_path: Path) -> None:
    modules = [
        f"{side}.layers.{layer}.self_attn.q_proj" for side, layer in (("encoder", 0), ("decoder", 0), ("decoder", 1))
    ]
    runs = [write_adapter(tmp_path / name, modules) for name in "ab"]
    done = compare(*runs, "--by-layer", "--output", tmp_path / "out")
    assert (done.code, "2 runs, 3 modules in 3 layers" in done.out) == (0, True)
    assert all(cells(done.out, row) for row in ("decoder 0", "decoder 1", "encoder 0"))
    rows = [row for row in read(tmp_path / "out", "per_layer") if row["measure"] == "cosine"]
    assert [(row["tower"], row["layer"]) for row in rows] == [("decoder", "0"), ("decoder", "1"), ("encoder", "0")]
    assert "tower" not in read(tmp_path / "out", "per_module")[0]


@pytest.mark.parametrize("tie", [True, False])
def test_a_head_is_compared_with_the_merged_models_and_held_against_the_base(
    compare: Compare, tmp_path: Path, tie: bool
) -> None:
    Qwen3ForCausalLM(Qwen3Config(**TEXT, tie_word_embeddings=tie)).save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    run = trained(model, tmp_path, "run", 0, target_modules=["q_proj", "lm_head"])
    against = ("--against-base", "--spectra", tmp_path / "spectra", "--top-k", 2)
    done = compare(run, tmp_path / "run-merged", "--base", tmp_path / "base", *against, "--output", tmp_path / "out")
    assert (done.code, done.err) == (0, "")
    assert "lm_head.base_layer.weight is the base's weight" in " ".join(done.out.split())
    rows = by_key(read(tmp_path / "out", "per_module"), "module")
    assert {key[0] for key in rows} == {"lm_head", *(f"layers.{layer}.self_attn.q_proj" for layer in (0, 1))}
    assert float(rows["lm_head", "run", "run-merged", "cosine", ""]["value"]) == pytest.approx(1, abs=1e-6)
    for module in ("lm_head", "layers.1.self_attn.q_proj"):
        pair = [float(rows[module, name, "", "input_energy", "2"]["value"]) for name in ("run", "run-merged")]
        assert pair[0] == pytest.approx(pair[1], abs=1e-5)


def test_experts_and_what_is_not_compared(tmp_path: Path) -> None:
    """An adapter of all experts and its merged model, in both layouts: the same update; all else is counted."""
    experts = {"moe_intermediate_size": 12, "num_experts": 3, "num_experts_per_tok": 2}
    Qwen3MoeForCausalLM(Qwen3MoeConfig(**TEXT, **experts)).save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"]
    run = trained(model, tmp_path, "run", 0, target_modules=["q_proj"], target_parameters=parameters)
    AutoModelForCausalLM.from_pretrained(tmp_path / "run-merged").save_pretrained(
        tmp_path / "fused", save_original_format=False
    )
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    done = command(
        run, tmp_path / "run-merged", tmp_path / "fused", "--base", tmp_path / "base", "--output", tmp_path / "o"
    )
    assert (done.code, done.err) == (0, "")
    assert "3 runs, 16 modules in 2 layers" in done.out  # per layer 3 experts' 2 parameters, the router and q_proj
    rows = by_key(read(tmp_path / "o", "global"))
    for pair in (("fused", "run"), ("run", "run-merged"), ("fused", "run-merged")):
        assert float(rows["", *pair, "cosine", ""]["value"]) == pytest.approx(1, abs=1e-6)
    compared = sum(
        tensor.size for name, tensor in tensors.items() if ".experts." in name or "q_proj" in name or ".gate.w" in name
    )
    whole = sum(tensor.size for tensor in tensors.values())
    for name, left in (("run", 0), ("run-merged", whole - compared), ("fused", whole - compared)):
        assert float(rows["", name, "", "weights_not_compared", ""]["value"]) == left
        assert float(rows["", name, "", "share_not_compared", ""]["value"]) == pytest.approx(left / whole)
    assert f"{whole - compared:.3g} ({(whole - compared) / whole:.2%})" in done.out

    done = command(tmp_path / "run-merged", tmp_path / "fused", "--base", tmp_path / "base", "--output", tmp_path / "p")
    rows = by_key(read(tmp_path / "p", "global"))
    norms = sum(tensor.size for tensor in tensors.values() if tensor.ndim == 1)
    assert float(rows["", "fused", "", "weights_not_compared", ""]["value"]) == norms  # and nothing else


def test_adapters_of_each_expert_and_of_all_together_meet_in_the_halves(compare: Compare, tmp_path: Path) -> None:
    """One update in both forms: PEFT's for the experts of earlier versions of transformers, each a module, and its own
    conversion of that, in which gate_up_proj has both ranks."""
    rng, at = np.random.default_rng(0), "base_model.model.model.layers.0.mlp.experts"
    shapes = {"gate_proj": (12, 16), "up_proj": (12, 16), "down_proj": (16, 12)}
    a = {name: rng.normal(size=(3, 2, shape[1])) for name, shape in shapes.items()}
    b = {name: rng.normal(size=(3, shape[0], 2)) for name, shape in shapes.items()}
    each = {
        f"{at}.{i}.{name}.lora_{factor}.weight": factors[name][i]
        for i in range(3)
        for name in shapes
        for factor, factors in (("A", a), ("B", b))
    }
    zeros = np.zeros((3, 12, 2))
    both = np.concatenate([np.concatenate([b["gate_proj"], zeros], 2), np.concatenate([zeros, b["up_proj"]], 2)], 1)
    fused = {
        f"{at}.base_layer.lora_A.weight": np.concatenate([a["gate_proj"], a["up_proj"]], 1).reshape(12, 16),
        f"{at}.base_layer.lora_B.weight": both.transpose(1, 2, 0).reshape(24, 12),
        f"{at}.lora_A.weight": a["down_proj"].reshape(6, 12),
        f"{at}.lora_B.weight": b["down_proj"].transpose(1, 2, 0).reshape(16, 6),
    }
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    more = {"target_parameters": ["gate_up_proj", "down_proj"], "rank_pattern": {r".*\.gate_up_proj": 4}}
    more["alpha_pattern"] = {r".*\.gate_up_proj": 8}
    for name, tensors, extra in (("each", each, {}), ("fused", fused, more)):
        (tmp_path / name).mkdir()
        save_file({key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}, tmp_path / name / WEIGHTS)
        (tmp_path / name / CONFIG).write_text(json.dumps(config | extra))
    done = compare(tmp_path / "each", tmp_path / "fused", "--output", tmp_path / "out")
    assert (done.code, "2 runs, 9 modules in 1 layers" in done.out) == (0, True)
    for row in read(tmp_path / "out", "per_module"):
        if row["measure"] == "cosine":
            assert float(row["value"]) == pytest.approx(1, abs=1e-12), row["module"]
    rows = by_key(read(tmp_path / "out", "global"))
    assert float(rows["", "each", "", "norm", ""]["value"]) == pytest.approx(
        float(rows["", "fused", "", "norm", ""]["value"])
    )
    assert [float(rows["", name, "", "weights_not_compared", ""]["value"]) for name in ("each", "fused")] == [0, 0]
