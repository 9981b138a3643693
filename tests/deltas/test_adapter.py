import gc
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from deltageom.deltas.adapter import Adapter
from deltageom.deltas.names import layer_of
from deltageom.deltas.open import open_run
from deltageom.errors import UserError

QUERY = "layers.2.self_attn.q_proj"
PREFIX = "base_model.model.model."


def peft_model(**options):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=11,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=8,
    )
    options = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]} | options
    model = get_peft_model(Qwen3ForCausalLM(config), LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    peft_model().save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(saved, tmp_path):
    """A copy of the adapter to damage."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    return tmp_path


def change_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.filterwarnings("ignore:The following alpha_pattern keys did not match")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"layers.2.self_attn.q_proj": 20, "v_proj": 3}, "rank_pattern": {"q_proj": 2}},
        {"alpha_pattern": {r"layers\.1.*": 9}},  # matches layers.1 and layers.10
        {"alpha_pattern": {"proj": 9, "layers.2.self_attn": 7}},  # matches nothing: neither a whole name nor its end
    ],
)
def test_the_delta_is_pefts_own(options, tmp_path):
    model = peft_model(**options)
    model.save_pretrained(tmp_path)
    modules = model.base_model.model.model.get_submodule
    for name in (
        "layers.1.self_attn.q_proj",
        QUERY,
        "layers.2.self_attn.v_proj",
        "layers.10.self_attn.v_proj",
    ):
        factors = open_run(tmp_path).read(name)
        expected = modules(name).get_delta_weight("default").detach().numpy()
        assert factors.b.dtype == factors.a.dtype == np.float64
        np.testing.assert_allclose(factors.scale * factors.b @ factors.a, expected, rtol=1e-5, atol=1e-6)


def test_modules_come_in_natural_order(saved):
    names = open_run(saved).modules
    assert len(names) == 22
    assert names[:3] == [
        "layers.0.self_attn.q_proj",
        "layers.0.self_attn.v_proj",
        "layers.1.self_attn.q_proj",
    ]
    assert names[-2:] == ["layers.10.self_attn.q_proj", "layers.10.self_attn.v_proj"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_float_type_is_read_exactly(adapter, dtype):
    def convert(tensors):
        for name in tensors:
            tensors[name] = tensors[name].to(dtype)
        tensors[f"{PREFIX}{QUERY}.lora_A.weight"][0, :3] = torch.tensor([-0.0, 1e-7, -65504.0]).to(dtype)

    change_tensors(adapter, convert)
    stored = load_file(adapter / "adapter_model.safetensors")
    factors = open_run(adapter).read(QUERY)
    assert np.array_equal(factors.a, stored[f"{PREFIX}{QUERY}.lora_A.weight"].double().numpy())
    assert np.array_equal(factors.b, stored[f"{PREFIX}{QUERY}.lora_B.weight"].double().numpy())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_tensor_of_several_blocks_is_read_exactly_and_whole(adapter, dtype):
    torch.manual_seed(0)
    name = f"{PREFIX}{QUERY}.lora_A.weight"
    large = torch.randn(4, 99_999).to(dtype)
    change_tensors(adapter, lambda tensors: tensors.update({name: large}))
    assert np.array_equal(open_run(adapter).read(QUERY).a, large.double().numpy())
    large[-1, -1] = float("nan")
    change_tensors(adapter, lambda tensors: tensors.update({name: large}))
    with pytest.raises(UserError, match="holds NaN"):
        open_run(adapter).read(QUERY)


def test_integers_are_refused(adapter):
    name = f"{PREFIX}{QUERY}.lora_A.weight"
    change_tensors(adapter, lambda tensors: tensors.update({name: tensors[name].to(torch.int32)}))
    with pytest.raises(UserError, match=r"layers\.2\.self_attn\.q_proj\.lora_A\.weight is I32"):
        open_run(adapter).read(QUERY)


def test_a_missing_module_is_named_with_those_that_are_there(saved):
    with pytest.raises(UserError, match=r"'layers\.2\.mlp'; there are layers\.0\.self_attn\.q_proj, .*22 in all"):
        open_run(saved).read("layers.2.mlp")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
def test_values_that_are_not_finite_name_the_tensor(adapter, value, factor):
    def spoil(tensors):
        tensors[f"{PREFIX}{QUERY}.{factor}.weight"][1, 1] = value

    change_tensors(adapter, spoil)
    with pytest.raises(UserError, match=rf"layers\.2\.self_attn\.q_proj\.{factor}\.weight holds NaN or inf"):
        open_run(adapter).read(QUERY)
    open_run(adapter).read("layers.3.self_attn.q_proj")  # only what is asked for is read


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_truncated_file_is_named(adapter, keep):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: truncated"):
        open_run(adapter)


@pytest.mark.parametrize("content", [b"\x02" + bytes(7) + b"[]", b"\x08" + bytes(7) + b'{"a": 1}', b"x" * 64])
def test_a_file_of_another_kind_is_named(adapter, content):
    (adapter / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="not a safetensors file"):
        open_run(adapter)


def test_a_folder_that_is_no_adapter(adapter):
    with pytest.raises(UserError, match="no such folder"):
        open_run(adapter / "nowhere")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"it has no adapter_model\.safetensors: it has adapter_config\.json"):
        open_run(adapter)
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        open_run(adapter)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"neither adapter_config\.json and .*; it is empty"):
        open_run(adapter)
    with pytest.raises(UserError, match=r"no adapter_config\.json"):
        Adapter(adapter)
    (adapter / "notes.txt").touch()
    (adapter / "checkpoint-100").mkdir()
    with pytest.raises(UserError, match=r"it has checkpoint-100, notes\.txt"):
        open_run(adapter)


@pytest.mark.parametrize("config", ["adapter_config.json", "config.json"])
@pytest.mark.parametrize("weights", ["adapter_model.bin", "pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_pickled_weights_are_named_with_the_way_out(adapter, config, weights):
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_config.json").rename(adapter / config)
    (adapter / weights).touch()
    with pytest.raises(UserError, match=rf"it has {weights}, but safetensors only .*safe_serialization=True"):
        open_run(adapter)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"use_dora": True}, r"adapter_config\.json: use_dora"),
        (
            {"target_parameters": ["mlp.experts.gate_up_proj"]},
            r"target_parameters names mlp\.experts\.gate_up_proj, of",
        ),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens is set"),
        ({"arrow_config": {"top_k": 2}}, "arrow_config is set"),
        ({"init_lora_weights": "LoftQ"}, "'LoftQ' changes the base's weights"),
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"r": None}, "r must be"),
        ({"lora_alpha": 0}, "lora_alpha must be"),
        ({"r": 8}, "has rank 4, but adapter_config.json says 8"),
    ],
)
def test_configurations_whose_update_is_not_scale_b_a_are_refused(adapter, change, what):
    change_config(adapter, **change)
    with pytest.raises(UserError, match=what):
        open_run(adapter).read(QUERY)


def test_factors_that_do_not_fit(adapter):
    name_a, name_b = f"{PREFIX}{QUERY}.lora_A.weight", f"{PREFIX}{QUERY}.lora_B.weight"
    change_tensors(adapter, lambda tensors: tensors.update({name_a: torch.zeros(3, 16)}))
    with pytest.raises(UserError, match=r"lora_B\.weight \(24, 4\) times .*lora_A\.weight \(3, 16\)"):
        open_run(adapter).read(QUERY)
    change_tensors(adapter, lambda tensors: tensors.pop(name_b))
    with pytest.raises(UserError, match=r"layers\.2\.self_attn\.q_proj has only lora_A"):
        open_run(adapter).read(QUERY)


def test_weights_beside_the_factors_are_refused(adapter):
    change_tensors(adapter, lambda tensors: tensors.update({"base_model.model.lm_head.weight": torch.ones(2, 2)}))
    with pytest.raises(UserError, match=r"lm_head\.weight is no LoRA factor"):
        open_run(adapter)


@pytest.mark.filterwarnings("ignore:Unsupported layer type")
@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"use_dora": True}, "use_dora is set"),
        ({"modules_to_save": ["lm_head"]}, r"lm_head\.weight is no LoRA factor"),
        ({"lora_bias": True}, r"lora_B\.bias is no LoRA factor"),
        ({"trainable_token_indices": [3]}, r"embed_tokens\S* is no LoRA factor"),
        ({"target_modules": ["embed_tokens"]}, r"embed_tokens\S* is no LoRA factor"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' changes"),
        ({"init_lora_weights": "olora"}, "init_lora_weights 'olora' changes"),
    ],
)
def test_what_peft_saves_of_other_adapters_is_refused(tmp_path, options, what):
    peft_model(**options).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=what):
        open_run(tmp_path)


def test_dora_is_seen_by_its_tensors_too(tmp_path):
    peft_model(use_dora=True).save_pretrained(tmp_path)
    change_config(tmp_path, use_dora=False)
    with pytest.raises(
        UserError, match=r"adapter_model\.safetensors: \S*lora_magnitude_vector\S* is no LoRA factor.*DoRA"
    ):
        open_run(tmp_path)


def test_an_adapter_without_tensors_and_one_with_a_module_twice(adapter):
    change_tensors(
        adapter, lambda tensors: tensors.update({f"base_model.model.{QUERY}.lora_A.weight": torch.ones(4, 16)})
    )
    with pytest.raises(UserError, match=rf"{QUERY}\.lora_A\.weight would both be of one module"):
        open_run(adapter)
    change_tensors(adapter, dict.clear)
    with pytest.raises(UserError, match="it has no tensors"):
        open_run(adapter)


def test_what_a_run_says_of_itself(saved, adapter):
    run = open_run(saved)
    assert (run.kind, run.folder, run.base_name, run.notes) == ("adapter", saved, None, [])
    change_config(adapter, base_model_name_or_path="Qwen/Qwen3-4B")
    assert open_run(adapter).base_name == "Qwen/Qwen3-4B"


def test_a_language_model_within_another_has_the_names_of_one_alone(adapter):
    def rename(tensors):
        for name in list(tensors):
            tensors[name.replace(PREFIX, f"{PREFIX}language_model.")] = tensors.pop(name)

    names = open_run(adapter).modules
    change_tensors(adapter, rename)
    assert open_run(adapter).modules == names


def test_large_values_are_no_infinite_ones(adapter):
    name = f"{PREFIX}{QUERY}.lora_A.weight"
    large = torch.full((4, 16), 1.7e308, dtype=torch.float64)  # their sum is none of float64
    change_tensors(adapter, lambda tensors: tensors.update({name: large}))
    assert (open_run(adapter).read(QUERY).a == 1.7e308).all()


@pytest.mark.parametrize("values", [[float("inf"), float("-inf")], [float("nan"), 1.0]])
def test_infinite_values_of_both_signs_do_not_cancel(adapter, values):
    name = f"{PREFIX}{QUERY}.lora_A.weight"
    change_tensors(adapter, lambda tensors: tensors.update({name: torch.tensor(values).repeat(4, 8)}))
    with pytest.raises(UserError, match="holds NaN or infinite"):
        open_run(adapter).read(QUERY)


def test_headers_are_read_once_and_the_tensors_from_the_file_that_was_opened(adapter):
    run = open_run(adapter)
    expected = open_run(adapter).read(QUERY).b
    for path in list(adapter.iterdir()):
        path.unlink()
    assert np.array_equal(run.read(QUERY).b, expected)


def test_a_file_cut_after_it_was_opened_is_named(adapter):
    run, path = open_run(adapter), adapter / "adapter_model.safetensors"
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 8)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    header.pop("__metadata__")
    last = max(header, key=lambda name: header[name]["data_offsets"])
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: truncated"):
        run.read(last.removeprefix(PREFIX).rsplit(".", 2)[0])


def test_a_header_whose_offsets_do_not_fit_the_shape_is_named(adapter):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"shape":[4,16]', b'"shape":[4,99]'))
    with pytest.raises(UserError, match="not a safetensors file"):
        open_run(adapter).read(QUERY)


def test_a_file_is_closed_with_its_run(saved):
    def descriptors():
        return sum(os.path.realpath(link).endswith(".safetensors") for link in Path("/proc/self/fd").iterdir())

    before = descriptors()
    run = open_run(saved)
    assert descriptors() == before + 1
    del run
    gc.collect()
    assert descriptors() == before


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """An adapter of 200 modules, each tensor of one value of its own."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 8}))
    tensors = {
        f"{PREFIX}layers.{layer}.mlp.{name}.lora_{factor}.weight": torch.full(shape, sign * (10.0 * layer + place))
        for layer in range(50)
        for place, name in enumerate(["a", "b", "c", "d"])
        for factor, shape, sign in (("A", (8, 500), 1), ("B", (600, 8), -1))
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_forked_processes_read_the_same_open_run(many):
    global inherited
    inherited = open_run(many)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.map(values_of, inherited.modules * 3, chunksize=1)
    one = [({10.0 * layer + place}, {-10.0 * layer - place}) for layer in range(50) for place, _ in enumerate("abcd")]
    assert found == one * 3


def values_of(module):
    factors = inherited.read(module)
    return set(np.unique(factors.a)), set(np.unique(factors.b))


@pytest.mark.parametrize(
    ("module", "layer"),
    [
        ("layers.17.self_attn.q_proj", 17),
        ("transformer.h.3.attn.c_attn", 3),
        ("blocks.0.mlp.experts.7.up", 0),
        ("lm_head", None),
        ("w2.proj", None),
    ],
)
def test_a_modules_layer_is_its_first_number(module, layer):
    assert layer_of(module) == layer


def test_geometry_starts_without_anything_heavy():
    code = "import deltageom.geometry.module_numbers, deltageom.comparison.runs, sys; print(sorted(sys.modules))"
    source = str(Path(__file__).parents[2] / "src")
    loaded = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": source}, capture_output=True, text=True, check=True
    ).stdout
    assert "'numpy'" in loaded
    for heavy in (
        "torch",
        "huggingface_hub",
        "safetensors",
        "pandas",
        "scipy",
        "statsmodels",
        "transformers",
        "peft",
        "pyarrow",
    ):
        assert f"'{heavy}'" not in loaded
