"""One name per weight: transformers' layouts in files and in memory, wrappers, towers."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    SiglipVisionConfig,
)
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from deltageom.deltas.linear_weights import LinearWeights
from deltageom.deltas.names import canonical, divided, halves, tower_of, whole_of

TEXT: dict[str, Any] = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


@pytest.mark.parametrize(
    ("names", "one"),
    [
        (
            "model. model.language_model. language_model.model. model.language_model.model. text_model.model. "
            "model.text_model. module.model. model._orig_mod. _orig_mod.model. transformer.",
            "layers.0.mlp.up_proj",
        ),
        ("language_model. model.language_model. text_model. module. ", "lm_head"),
        ("model. ", "vision_tower.encoder.layers.0.fc1"),
        ("transformer. ", "h.3.attn.c_attn"),
        ("model. ", "visual.blocks.0.attn.qkv"),
        ("model. ", "encoder.layers.1.self_attn.q_proj"),
    ],
)
def test_what_stands_before_a_module_in_one_layout_or_another(names: str, one: str) -> None:
    assert {canonical(f"{prefix}{one}") for prefix in names.split(" ")} == {one}


@pytest.mark.parametrize(
    ("name", "one"),
    [
        ("model.layers.0._fsdp_wrapped_module.mlp._checkpoint_wrapped_module.up_proj", "layers.0.mlp.up_proj"),
        ("vision_tower.vision_model.encoder.layers.0.fc1", "vision_tower.encoder.layers.0.fc1"),
        ("model.layers.0.block_sparse_moe.experts.3.w1", "layers.0.mlp.experts.3.gate_proj"),
        ("model.layers.0.block_sparse_moe.experts.3.w2", "layers.0.mlp.experts.3.down_proj"),
        ("model.layers.0.block_sparse_moe.experts.3.w3", "layers.0.mlp.experts.3.up_proj"),
        ("model.layers.0.block_sparse_moe.input_linear", "layers.0.mlp.experts.gate_up_proj"),
        ("embed_out", "lm_head"),
        ("layers.0.modelling.q", "layers.0.modelling.q"),
        ("my_orig_mod.layers.0.w1", "my_orig_mod.layers.0.w1"),
    ],
)
def test_renamings(name: str, one: str) -> None:
    assert canonical(name) == canonical(one) == one


@pytest.mark.parametrize("model", ["llava", "llava_next", "qwen2_audio", "mllama", "emu3", "video_llava"])
def test_transformers_own_renamings_of_towers_are_no_new_names(model: str) -> None:
    """Before and after: a file's name and the name in memory."""
    towers = ["language_model.model.layers.0.q", "language_model.lm_head", "vision_tower.layers.0.q", "audio_tower.q"]
    towers += ["multi_modal_projector.linear_1", "text_model.model.layers.0.q", "text_model.lm_head", "vision_model.x"]
    moved = 0
    for name in towers:
        renamed = name
        for renaming in get_checkpoint_conversion_mapping(model):
            for source, target in zip(renaming.source_patterns, renaming.target_patterns, strict=True):
                renamed = re.sub(source, target, renamed)
        assert canonical(renamed) == canonical(name)
        moved += renamed != name
    assert moved >= 2


def models() -> dict[str, PreTrainedModel]:
    siglip, clip = SiglipVisionConfig(**VISION), CLIPVisionConfig(**VISION)
    visual = {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": 16, "intermediate_size": 20}
    return {
        "gemma3": Gemma3ForConditionalGeneration(Gemma3Config(text_config=TEXT, vision_config=siglip.to_dict())),
        "llava": LlavaForConditionalGeneration(
            LlavaConfig(text_config=LlamaConfig(**TEXT), vision_config=clip, image_token_index=3)
        ),
        "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(
                text_config=TEXT | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
                vision_config=visual,
            )
        ),
        "mixtral": MixtralForCausalLM(MixtralConfig(**TEXT, num_local_experts=3)),
        "bart": BartForConditionalGeneration(
            BartConfig(
                vocab_size=24,
                d_model=16,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=8,
                decoder_ffn_dim=8,
                max_position_embeddings=8,
            )
        ),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["gemma3", "llava", "qwen2_5_vl", "mixtral", "bart"])
def test_a_models_own_linear_layers_are_found_in_its_file(name: str, tmp_path: Path) -> None:
    """PEFT names a module as the model in memory has it; the file is as transformers saves it."""
    model = models()[name]
    model.save_pretrained(tmp_path)
    weights = LinearWeights(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "numpy") as file:
        keys = list(file.keys())
    assert len({canonical(key) for key in keys}) == len(keys)
    checked = 0
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert (weights.read(path) == module.weight.detach().double().numpy()).all(), path
            checked += 1
        fused = getattr(module, "gate_up_proj", None)
        if fused is not None and getattr(fused, "ndim", 0) == 3:
            for i, expert in enumerate(fused.detach().double().numpy()):
                assert (weights.read(f"{path}.{i}.gate_up_proj") == expert).all()
                checked += 1
    assert checked >= 6


@pytest.mark.parametrize(
    ("module", "tower"),
    [
        ("layers.17.self_attn.q_proj", ""),
        ("h.3.attn.c_attn", ""),
        ("lm_head", ""),
        ("encoder.layers.0.fc1", "encoder"),
        ("decoder.block.0.layer.1.q", "decoder"),
        ("vision_tower.encoder.layers.0.fc1", "vision_tower.encoder"),
        ("visual.blocks.3.attn.qkv", "visual"),
    ],
)
def test_towers(module: str, tower: str) -> None:
    assert tower_of(module) == tower


def test_an_experts_two_halves() -> None:
    whole = "layers.0.mlp.experts.3.gate_up_proj"
    parts = halves(whole)
    assert parts == ("layers.0.mlp.experts.3.gate_proj", "layers.0.mlp.experts.3.up_proj")
    assert [whole_of(part) for part in parts] == [(whole, 0), (whole, 1)]
    assert (halves("layers.0.mlp.gate_up_proj"), whole_of("layers.0.mlp.up_proj")) == (None, None)  # no expert's
    assert divided([whole, "x"]) == {whole, "x"}
    assert divided([whole, parts[1]]) == set(parts)
