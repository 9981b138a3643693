import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from deltageom import hub
from deltageom.adapters import is_checkpoint, module_names, read_factors
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
        factors = read_factors(tmp_path, name)
        expected = modules(name).get_delta_weight("default").detach().numpy()
        assert factors.b.dtype == factors.a.dtype == np.float64
        np.testing.assert_allclose(factors.scale * factors.b @ factors.a, expected, rtol=1e-5, atol=1e-6)


def test_modules_come_in_natural_order(saved):
    names = module_names(saved)
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
    factors = read_factors(adapter, QUERY)
    assert np.array_equal(factors.a, stored[f"{PREFIX}{QUERY}.lora_A.weight"].double().numpy())
    assert np.array_equal(factors.b, stored[f"{PREFIX}{QUERY}.lora_B.weight"].double().numpy())


def test_integers_are_refused(adapter):
    name = f"{PREFIX}{QUERY}.lora_A.weight"
    change_tensors(adapter, lambda tensors: tensors.update({name: tensors[name].to(torch.int32)}))
    with pytest.raises(UserError, match=r"layers\.2\.self_attn\.q_proj\.lora_A\.weight is I32"):
        read_factors(adapter, QUERY)


def test_a_missing_module_is_named_with_those_that_are_there(saved):
    with pytest.raises(UserError, match=r"'layers\.2\.mlp'; there are layers\.0\.self_attn\.q_proj, .*22 in all"):
        read_factors(saved, "layers.2.mlp")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
def test_values_that_are_not_finite_name_the_tensor(adapter, value, factor):
    def spoil(tensors):
        tensors[f"{PREFIX}{QUERY}.{factor}.weight"][1, 1] = value

    change_tensors(adapter, spoil)
    with pytest.raises(UserError, match=rf"layers\.2\.self_attn\.q_proj\.{factor}\.weight holds NaN or inf"):
        read_factors(adapter, QUERY)
    read_factors(adapter, "layers.3.self_attn.q_proj")  # only what is asked for is read


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_truncated_file_is_named(adapter, keep):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    for read in (module_names, lambda folder: read_factors(folder, QUERY)):
        with pytest.raises(UserError, match=r"adapter_model\.safetensors: truncated"):
            read(adapter)


@pytest.mark.parametrize("content", [b"\x02" + bytes(7) + b"[]", b"\x08" + bytes(7) + b'{"a": 1}', b"x" * 64])
def test_a_file_of_another_kind_is_named(adapter, content):
    (adapter / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="not a safetensors file"):
        module_names(adapter)


def test_a_folder_that_is_no_adapter(adapter):
    with pytest.raises(UserError, match="no such folder"):
        module_names(adapter / "nowhere")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: no such file"):
        module_names(adapter)
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        module_names(adapter)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"no adapter_config\.json"):
        module_names(adapter)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"use_dora": True}, "use_dora"),
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
        read_factors(adapter, QUERY)


def test_factors_that_do_not_fit(adapter):
    name_a, name_b = f"{PREFIX}{QUERY}.lora_A.weight", f"{PREFIX}{QUERY}.lora_B.weight"
    change_tensors(adapter, lambda tensors: tensors.update({name_a: torch.zeros(3, 16)}))
    with pytest.raises(UserError, match=r"lora_B\.weight \(24, 4\) times .*lora_A\.weight \(3, 16\)"):
        read_factors(adapter, QUERY)
    change_tensors(adapter, lambda tensors: tensors.pop(name_b))
    with pytest.raises(UserError, match=r"layers\.2\.self_attn\.q_proj has only lora_A"):
        read_factors(adapter, QUERY)


def test_weights_beside_the_factors_are_refused(adapter):
    change_tensors(adapter, lambda tensors: tensors.update({"base_model.model.lm_head.weight": torch.ones(2, 2)}))
    with pytest.raises(UserError, match=r"lm_head\.weight is no LoRA factor"):
        module_names(adapter)


def test_geometry_starts_without_anything_heavy():
    code = "import deltageom.geometry.aggregate, deltageom.geometry.measures, sys; print(sorted(sys.modules))"
    source = str(Path(__file__).parents[1] / "src")
    loaded = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": source}, capture_output=True, text=True, check=True
    ).stdout
    assert "'numpy'" in loaded
    for heavy in ("torch", "pandas", "scipy", "statsmodels", "transformers", "peft", "pyarrow"):
        assert f"'{heavy}'" not in loaded


def write_model(folder, tensors):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_shards(folder, **shards):
    """Each shard's tensors in a file of its own, and the index of them all."""
    folder.mkdir()
    for shard, tensors in shards.items():
        save_file(tensors, folder / f"{shard}.safetensors")
    names = {name: f"{shard}.safetensors" for shard, tensors in shards.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_a_checkpoints_delta_is_exact_with_an_identity_on_the_narrow_side(tmp_path, shape):
    torch.manual_seed(0)
    name = f"model.{QUERY}.weight"
    start, end = torch.randn(shape), torch.randn(shape)
    base, run = write_model(tmp_path / "base", {name: start}), write_model(tmp_path / "run", {name: end})
    factors = read_factors(run, QUERY, base)
    assert factors.b.shape[1] == factors.a.shape[0] == min(shape)
    assert factors.scale == 1
    assert factors.b.dtype == factors.a.dtype == np.float64
    assert np.array_equal(factors.b @ factors.a, (end.double() - start.double()).numpy())


def test_a_sharded_base_is_read_from_the_one_shard_that_has_the_tensor(tmp_path):
    name = f"model.{QUERY}.weight"
    shards = {"early": {"model.embed_tokens.weight": torch.ones(2, 2)}, "late": {name: torch.full((3, 3), 2.0)}}
    base = write_shards(tmp_path / "base", **shards)
    run = write_model(tmp_path / "run", {name: torch.full((3, 3), 5.0)})
    (base / "early.safetensors").unlink()  # read no more than needed
    assert np.array_equal(read_factors(run, QUERY, base).b, np.full((3, 3), 3.0))
    save_file({"other": torch.ones(1)}, base / "late.safetensors")
    with pytest.raises(UserError, match=rf"late\.safetensors: has no {name}"):
        read_factors(run, QUERY, base)
    (base / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(UserError, match=r"index\.json: not an index"):
        read_factors(run, QUERY, base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_base_counts_as_its_training_in_the_runs_dtype_began(tmp_path, dtype):
    """A base in another type is rounded by the loading: that rounding is no update."""
    name = f"model.{QUERY}.weight"
    start = torch.cat([torch.randn(40, 16, dtype=torch.float64), 1 + torch.arange(16)[None].double() / 256])  # ties too
    for stored in (torch.float64, torch.float32, torch.bfloat16):
        base = write_model(tmp_path / "base", {name: start.to(stored)})
        run = write_model(tmp_path / "run", {name: start.to(stored).to(dtype)})
        assert not read_factors(run, QUERY, base).b.any(), stored


def test_a_module_is_found_behind_any_prefix_but_must_be_alone(tmp_path):
    base = write_model(tmp_path / "base", {f"model.language_model.{QUERY}.weight": torch.zeros(2, 2)})
    twelve = {f"model.1{QUERY}.weight": torch.ones(2, 2), f"model.1{QUERY[:6]}1{QUERY[6:]}.weight": torch.ones(2, 2)}
    run = write_model(tmp_path / "run", {f"{QUERY}.weight": torch.ones(2, 2), **twelve})
    assert read_factors(run, QUERY, base).b.sum() == 4
    with pytest.raises(UserError, match=r"run: one tensor must be named \.\.\.layers\.7\.mlp\.weight, but none is"):
        read_factors(run, "layers.7.mlp", base)
    write_model(tmp_path / "base", {f"text.{QUERY}.weight": torch.ones(2, 2), f"vision.{QUERY}.weight": torch.ones(2)})
    with pytest.raises(UserError, match=r"base: one tensor .* but 2 are: text\.layers.*, vision\.layers"):
        read_factors(run, QUERY, base)


def test_what_is_no_checkpoint_of_the_base_is_named(tmp_path, saved):
    name = f"model.{QUERY}.weight"
    run = write_model(tmp_path / "run", {name: torch.zeros(3, 2)})
    base = write_model(tmp_path / "base", {name: torch.zeros(3, 3)})
    with pytest.raises(UserError, match=r"is \(3, 2\), but \(3, 3\) in .*base"):
        read_factors(run, QUERY, base)
    with pytest.raises(UserError, match=r"give the base's folder \(--base\)"):
        read_factors(run, QUERY)
    with pytest.raises(UserError, match="no model's folder"):
        read_factors(run, QUERY, saved)
    write_model(tmp_path / "run", {name: torch.full((3, 3), float("nan"))})
    with pytest.raises(UserError, match=r"q_proj\.weight holds NaN"):
        read_factors(run, QUERY, base)
    write_model(tmp_path / "run", {name: torch.zeros(3)})
    write_model(tmp_path / "base", {name: torch.zeros(3)})
    with pytest.raises(UserError, match="linear layers"):
        read_factors(run, QUERY, base)
    (run / "config.json").unlink()
    with pytest.raises(UserError, match=r"neither adapter_config\.json .* nor config\.json and model\.safetensors"):
        read_factors(run, QUERY, base)


def test_the_two_kinds_of_runs_are_told_apart(tmp_path, saved):
    assert not is_checkpoint(saved)
    assert is_checkpoint(write_model(tmp_path / "run", {}))
    with pytest.raises(UserError, match="no run's folder"):
        is_checkpoint(tmp_path / "nowhere")


def test_a_bases_weights_are_looked_for_in_the_folder_then_the_cache_then_the_hub(tmp_path, monkeypatch):
    assert hub.weights_folder(str(tmp_path), None) == tmp_path
    calls = []

    def snapshot_download(source, *, local_files_only=False, **options):
        calls.append((source, local_files_only, options["revision"]))
        assert {"*.safetensors", "model.safetensors.index.json"} == set(options["allow_patterns"])
        if not (tmp_path / "snapshot").exists() and local_files_only:
            raise LocalEntryNotFoundError("not in the cache")
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    ask = [("some/base", True, "v1"), ("some/base", False, "v1")]

    def asked():
        calls.clear()
        assert hub.weights_folder("some/base", "v1") == tmp_path / "snapshot"
        return calls

    assert asked() == ask
    (tmp_path / "snapshot").mkdir()
    assert asked() == ask  # there, with other files alone
    shards = {"one": {"a": torch.ones(1)}, "two": {"b": torch.ones(1)}}
    (tmp_path / "snapshot").rmdir()
    write_shards(tmp_path / "snapshot", **shards)
    assert asked() == ask[:1]  # whole
    (tmp_path / "snapshot" / "two.safetensors").unlink()
    assert asked() == ask


@pytest.mark.parametrize("source", ["./nowhere", "no/such-base"])
def test_a_base_that_cannot_be_had_is_named(tmp_path, source, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=f"'{source}' is no folder, and its weights cannot be fetched"):
        hub.weights_folder(source, None)
