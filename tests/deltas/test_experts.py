"""Experts one by one: fused and per-expert files, adapters of parameters, sides that are exchanged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from deltageom.deltas.adapter import Adapter
from deltageom.deltas.linear_weights import LinearWeights
from deltageom.deltas.open import open_run
from deltageom.errors import UserError
from deltageom.geometry.base_weights import BaseWeights

SIZES: dict[str, Any] = {
    "vocab_size": 24,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
AT = "layers.1.mlp.experts"


def qwen() -> PreTrainedModel:
    config = Qwen3MoeConfig(
        **SIZES, intermediate_size=20, moe_intermediate_size=12, num_experts=3, num_experts_per_tok=2
    )
    return Qwen3MoeForCausalLM(config)


def gpt_oss() -> PreTrainedModel:
    return GptOssForCausalLM(GptOssConfig(**SIZES, intermediate_size=12, num_local_experts=3, num_experts_per_tok=2))


def llama4() -> PreTrainedModel:
    config = Llama4TextConfig(
        **SIZES, intermediate_size=12, intermediate_size_mlp=20, num_local_experts=3, interleave_moe_layer_step=1
    )
    return Llama4ForCausalLM(config)


MODELS = {"qwen": (qwen, False, "mlp"), "gpt_oss": (gpt_oss, True, "mlp"), "llama4": (llama4, True, "feed_forward")}


def weights_of(model: PreTrainedModel, at: str, turned: bool) -> dict[str, np.ndarray]:
    """Each expert's matrices as (d_out, d_in)."""
    found = {}
    for layer in range(2):
        experts = model.get_submodule(f"model.layers.{layer}.{at}.experts")
        for name in ("gate_up_proj", "down_proj"):
            for i, weight in enumerate(getattr(experts, name).detach().double().numpy()):
                found[f"layers.{layer}.{at}.experts.{i}.{name}"] = weight.T if turned else weight
    return found


def moved(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("config", [True, False])
def test_a_checkpoints_experts_are_modules_of_their_own(name: str, config: bool, tmp_path: Path) -> None:
    """In the layout that transformers holds them in, whichever side comes first; the weights alone tell which does."""
    make, turned, at = MODELS[name]
    start, end = moved(make(), 1), moved(make(), 2)
    for model, folder in ((start, "base"), (end, "run")):
        model.save_pretrained(tmp_path / folder, save_original_format=False)
        if not config:
            (tmp_path / folder / "config.json").write_text("{}")
    delta = open_run(tmp_path / "run", tmp_path / "base")
    before, after = (weights_of(model, at, turned) for model in (start, end))
    experts = [module for module in delta.modules if ".experts." in module]
    assert len(experts) == len(after) == 12
    for module in experts:
        assert np.array_equal(delta.read(module).weight, after[module] - before[module])
        assert delta.shape(module) == after[module].shape
        assert np.array_equal(BaseWeights(tmp_path / "base", tmp_path, 2).module(module).weight, before[module])


@pytest.mark.filterwarnings("ignore")
def test_layouts_of_one_model_give_one_delta(tmp_path: Path) -> None:
    start, end = moved(qwen(), 1), moved(qwen(), 2)
    for model, folder in ((start, "base"), (end, "run")):
        model.save_pretrained(tmp_path / folder)
        model.save_pretrained(tmp_path / f"{folder}-fused", save_original_format=False)
    assert f"model.{AT}.gate_up_proj" in load_file(tmp_path / "run-fused" / "model.safetensors")
    assert f"model.{AT}.0.gate_proj.weight" in load_file(tmp_path / "run" / "model.safetensors")
    one = open_run(tmp_path / "run", tmp_path / "base")
    for run, base in (("run-fused", "base"), ("run", "base-fused"), ("run-fused", "base-fused")):
        other = open_run(tmp_path / run, tmp_path / base)
        assert (f"{AT}.0.gate_up_proj" in other.modules) == (run[3:] == base[4:])
        assert [note for note in other.notes if "lacks" in note] == []
        for module in one.modules:
            assert other.has(module)
            assert np.array_equal(other.read(module).dense(), one.read(module).dense())
        whole = f"{AT}.2.gate_up_proj"
        assert np.array_equal(one.read(whole).dense(), other.read(whole).dense())
        assert one.n_weights == other.n_weights


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("parameters", [["gate_up_proj"], ["down_proj"], ["gate_up_proj", "down_proj"]])
@pytest.mark.parametrize("attention", [True, False])
def test_an_adapter_of_experts_is_what_merging_does(
    name: str, parameters: list[str], attention: bool, tmp_path: Path
) -> None:
    """For Llama 4 PEFT exchanges the sides. Where neither attention nor the other parameter tells, the base does."""
    make, turned, at = MODELS[name]
    base = moved(make(), 1)
    base.save_pretrained(tmp_path / "base", save_original_format=False)
    config = LoraConfig(
        r=2,
        lora_alpha=6,
        target_modules=["q_proj", "o_proj"] if attention else [],
        target_parameters=[f"experts.{name}" for name in parameters],
        alpha_pattern={"down_proj": 3},
        init_lora_weights=False,
    )
    before = weights_of(base, at, turned)
    adapted = get_peft_model(base, config)
    adapted.save_pretrained(tmp_path / "run")
    after = weights_of(adapted.double().merge_and_unload(), at, turned)
    with_base = Adapter(tmp_path / "run", tmp_path / "base")
    experts = [module for module in with_base.modules if ".experts." in module]
    assert len(experts) == 6 * len(parameters)
    for module in experts:
        np.testing.assert_allclose(with_base.read(module).dense(), after[module] - before[module], atol=1e-6)
    if attention or len(parameters) == 2:
        alone = Adapter(tmp_path / "run")
        assert all(np.array_equal(alone.read(module).b, with_base.read(module).b) for module in experts)
    else:
        with pytest.raises(UserError, match=r"which side of \S+experts\.\S+_proj is its input.* --against-base"):
            Adapter(tmp_path / "run")


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_of_each_expert_and_one_of_all_meet_in_the_halves(tmp_path: Path) -> None:
    """As PEFT wrote them for the experts of earlier versions of transformers, each a module."""
    rng = np.random.default_rng(0)
    (tmp_path / "each").mkdir()
    tensors = {}
    for i in range(3):
        for name, shape in (("gate_proj", (12, 16)), ("up_proj", (12, 16)), ("down_proj", (16, 12))):
            at = f"base_model.model.model.{AT}.{i}.{name}"
            tensors[f"{at}.lora_A.weight"] = rng.normal(size=(2, shape[1])).astype("f4")
            tensors[f"{at}.lora_B.weight"] = rng.normal(size=(shape[0], 2)).astype("f4")
    save_file(tensors, tmp_path / "each" / "adapter_model.safetensors")
    (tmp_path / "each" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    delta = Adapter(tmp_path / "each")
    assert delta.modules[:3] == [f"{AT}.0.{name}" for name in ("down_proj", "gate_proj", "up_proj")]
    assert not delta.has(f"{AT}.0.gate_up_proj")


def refused(folder: Path, tensors: dict[str, tuple[int, int]], parameters: list[str]) -> str:
    named = {f"base_model.model.model.{name}.weight": np.ones(shape, "f4") for name, shape in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        Adapter(folder)
    return str(error.value)


def test_what_target_parameters_does_not_explain_is_refused(tmp_path: Path) -> None:
    one = {f"{AT}.lora_A": (6, 16), f"{AT}.lora_B": (24, 6)}
    two = one | {f"{AT}.base_layer.lora_A": (6, 12), f"{AT}.base_layer.lora_B": (16, 6)}
    assert "2 parameters of layers.1.mlp.experts are adapted, and target_parameters ['experts.gate_up_proj'] does" in (
        refused(tmp_path, two, ["experts.gate_up_proj"])
    )
    assert "1 parameters of layers.1.mlp.experts are adapted" in refused(
        tmp_path, one, ["experts.gate_up_proj", "experts.down_proj"]
    )
    assert "does not say which is which" in refused(tmp_path, two, ["experts.first", "experts.second"])
    assert "target_parameters names router.weight, of which there are no factors" in refused(
        tmp_path, one, ["experts.gate_up_proj", "router.weight"]
    )
    odd = {f"{AT}.lora_A": (5, 16), f"{AT}.lora_B": (24, 5)}
    assert "lora_A.weight has rank 5, but adapter_config.json says 2" in refused(tmp_path, odd, ["gate_up_proj"])
    assert "which side of layers.1.mlp.experts.weight is its input" in refused(tmp_path, one, ["experts.weight"])


@pytest.mark.filterwarnings("ignore")
def test_an_experts_rows_that_take_turns_have_no_halves(tmp_path: Path) -> None:
    """gpt-oss's: the first half of the rows is not the gate."""
    gpt_oss().save_pretrained(tmp_path)
    weights = LinearWeights(tmp_path)
    assert weights.has(f"{AT}.0.gate_up_proj")
    assert not weights.has(f"{AT}.0.gate_proj")
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.model_type == "gpt_oss"
