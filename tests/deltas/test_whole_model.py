"""Checkpoints' deltas: exact differences of stored tensors, in one file or in shards."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from deltageom.deltas.delta import Dense
from deltageom.deltas.folder import is_checkpoint
from deltageom.deltas.open import open_run
from deltageom.errors import UserError
from tests.deltas import tiny_checkpoints

QUERY = "layers.2.self_attn.q_proj"


def write_model(folder, tensors):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    copies = {name: tensor.clone() for name, tensor in tensors.items()}  # safetensors saves none that share memory
    save_file(copies, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def with_config(folder, **config):
    path = folder / "config.json"
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | config))
    return folder


def write_shards(folder, **shards):
    """Each shard's tensors in a file of its own, and the index of them all."""
    folder.mkdir()
    for shard, tensors in shards.items():
        save_file(tensors, folder / f"{shard}.safetensors")
    names = {name: f"{shard}.safetensors" for shard, tensors in shards.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_a_checkpoints_delta_is_the_exact_difference(tmp_path, shape, dtype):
    torch.manual_seed(0)
    name = f"model.{QUERY}.weight"
    start, end = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    base, run = write_model(tmp_path / "base", {name: start}), write_model(tmp_path / "run", {name: end})
    delta = open_run(run, base).read(QUERY)
    assert isinstance(delta, Dense)
    assert delta.weight.dtype == np.float64
    assert np.array_equal(delta.weight, (end.double() - start.double()).numpy())


def test_shards_of_a_run_and_of_its_base_are_incomplete_without_one_another(tmp_path):
    name = f"model.{QUERY}.weight"
    shards = {"early": {"model.embed_tokens.weight": torch.ones(2, 2)}, "late": {name: torch.full((3, 3), 2.0)}}
    base = write_shards(tmp_path / "base", **shards)
    run = write_model(tmp_path / "run", {name: torch.full((3, 3), 5.0)})
    assert np.array_equal(open_run(run, base).read(QUERY).weight, np.full((3, 3), 3.0))
    assert np.array_equal(open_run(with_config(base), run).read(QUERY).weight, np.full((3, 3), -3.0))
    save_file({"other": torch.ones(1)}, base / "late.safetensors")
    for one, other in ((run, base), (base, run)):
        with pytest.raises(
            UserError, match=rf"late\.safetensors: has no {name}, though model\.safetensors\.index\.json"
        ):
            open_run(one, other)
    (base / "late.safetensors").unlink()
    with pytest.raises(UserError, match=r"late\.safetensors: no such file, though model\.safetensors\.index\.json"):
        open_run(run, base)
    for content in ("[]", "{", "{}", '{"weight_map": {"a": "../a.safetensors"}}', '{"weight_map": {"a": 1}}'):
        (base / "model.safetensors.index.json").write_text(content)
        with pytest.raises(UserError, match=r"index\.json: not an index"):
            open_run(run, base)


@pytest.mark.parametrize("sharded", ["run", "base", "both"])
def test_what_transformers_shards_is_read_as_one_file_is(tiny_model, tmp_path, sharded):
    """All linear layers of the model, each as the difference of the tensors that were saved in one file."""
    run = tiny_checkpoints.perturbed(tiny_model, tmp_path / "run", seed=1)
    end, start = load_file(run / "model.safetensors"), load_file(tiny_model / "model.safetensors")
    folders = {"run": run, "base": tiny_model}
    for name, folder in folders.items():
        if sharded in (name, "both"):
            folders[name] = tmp_path / f"{name}_shards"
            AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folders[name], max_shard_size="20KB")
            assert len(list(folders[name].glob("model-*.safetensors"))) > 3
            assert not (folders[name] / "model.safetensors").exists()
    delta = open_run(folders["run"], folders["base"])
    linear = [*(f"self_attn.{x}_proj" for x in "koqv"), *(f"mlp.{x}_proj" for x in ("down", "gate", "up"))]
    layers = [f"layers.{layer}.{name}" for layer in (0, 1) for name in sorted(linear)]
    assert delta.modules == ["embed_tokens", *layers]
    for module in delta.modules:
        expected = end[f"model.{module}.weight"].astype(float) - start[f"model.{module}.weight"]
        assert np.array_equal(delta.read(module).weight, expected)
    (others,) = delta.notes
    assert "others that are no matrices" in others
    assert "layers.0.input_layernorm.weight" in others
    assert (delta.kind, delta.base_name) == ("checkpoint", None)


def test_gpt2s_weights_lie_the_other_way_round(tmp_path):
    """Its Conv1D is x @ W, so that the linear layer's weight is W^T; the hub's files lack its prefix."""
    torch.manual_seed(0)
    models = [GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=11, n_positions=7)) for _ in "ab"]
    models[0].save_pretrained(tmp_path / "run")
    models[1].transformer.save_pretrained(tmp_path / "base")
    delta = open_run(tmp_path / "run", tmp_path / "base")
    layers = [f"h.{layer}.{n}" for layer in (0, 1) for n in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
    assert delta.modules == [*layers, "wpe", "wte"]
    for module in layers:
        one, other = (model.transformer.get_submodule(module) for model in models)
        wide = torch.randn(1, one.weight.shape[0])
        expected = (one(wide) - one.bias) - (other(wide) - other.bias)
        np.testing.assert_allclose(wide.double().numpy() @ delta.read(module).weight.T, expected.detach(), atol=1e-6)
    assert not [note for note in delta.notes if "lacks" in note]
    for module in ("wpe", "wte", "lm_head"):  # which lie as they are used
        one, other = (
            model.lm_head.weight if module == "lm_head" else model.transformer.get_submodule(module).weight
            for model in models
        )
        assert np.array_equal(delta.read(module).weight, (one.double() - other.double()).detach().numpy())
    for folder in ("run", "base"):  # the weights alone tell, where no configuration does
        (tmp_path / folder / "config.json").write_text("{}")
    again = open_run(tmp_path / "run", tmp_path / "base")
    assert all(np.array_equal(again.read(module).weight, delta.read(module).weight) for module in delta.modules)


def test_what_one_side_lacks_is_noted_and_left_out(tmp_path):
    weight = torch.ones(2, 2)
    both = {f"model.layers.{layer}.q.weight": weight for layer in range(12)} | {"model.norm.weight": torch.ones(2)}
    embeddings = {"model.embed_tokens.weight": weight}
    ones = {f"model.layers.{layer}.extra.weight": weight for layer in range(5)}
    run = write_model(tmp_path / "run", both | embeddings | ones | {"lm_head.weight": weight})
    base = write_model(tmp_path / "base", both | embeddings | {"model.layers.0.gone.weight": weight})
    modules = [f"layers.{layer}.q" for layer in range(12)]
    delta = open_run(run, base)
    assert delta.modules == ["embed_tokens", *modules, "lm_head"]
    assert delta.notes == [
        "the base lacks layers.0.extra.weight, layers.1.extra.weight, layers.2.extra.weight, ... (5 in all): "
        "not compared",
        "the checkpoint lacks layers.0.gone.weight: not compared",
        "norms, biases and others that are no matrices: not compared: norm.weight",
    ]
    compared = sum(np.prod(delta.shape(module)) for module in delta.modules)
    assert delta.n_weights - compared == 5 * 4 + 2
    with pytest.raises(UserError, match=r"base: no weight of layers\.0\.extra; there is "):
        delta.read("layers.0.extra")


@pytest.mark.parametrize("config", [{"tie_word_embeddings": True}, {"text_config": {"tie_word_embeddings": True}}, {}])
def test_a_tied_head_is_the_embeddings(tmp_path, config):
    """Also where the configuration says nothing: a model that ties none is never saved without one."""
    embeddings, head = torch.full((3, 2), 2.0), torch.full((3, 2), 7.0)
    both = {f"model.{QUERY}.weight": torch.ones(2, 2), "model.embed_tokens.weight": embeddings}
    untied = write_model(tmp_path / "untied", both | {"lm_head.weight": head})
    tied = with_config(write_model(tmp_path / "tied", both), **config)
    moved = with_config(write_model(tmp_path / "moved", both | {"model.embed_tokens.weight": head}), **config)
    for run, base, difference in ((untied, tied, 5), (tied, untied, -5)):
        delta = open_run(run, base)
        assert (delta.modules, delta.notes) == (["embed_tokens", QUERY, "lm_head"], [])
        assert (delta.read("lm_head").weight == difference).all()
        assert not delta.read("embed_tokens").weight.any()
    delta = open_run(moved, tied)
    assert delta.modules == ["embed_tokens", QUERY]  # a weight is not counted twice, but may be asked for
    assert (delta.read("lm_head").weight == 5).all()
    with_config(tied, tie_word_embeddings=False, text_config=None)
    assert open_run(untied, tied).notes == ["the base lacks lm_head.weight: not compared"]


def test_models_without_a_layer_in_common_and_a_module_twice(tmp_path):
    run = write_model(tmp_path / "run", {f"model.{QUERY}.weight": torch.ones(2, 2), "a.weight": torch.ones(2)})
    base = write_model(tmp_path / "base", {"model.layers.1.q.weight": torch.ones(2, 2), "a.weight": torch.ones(2)})
    with pytest.raises(UserError, match=r"run and .*base have no linear layers in common: one has layers\.2.*\.1\.q"):
        open_run(run, base)
    twice = {f"model.{QUERY}.weight": torch.ones(2, 2), f"{QUERY}.weight": torch.ones(2, 2)}
    write_model(run, twice)
    with pytest.raises(UserError, match=rf"would both be {QUERY}"):
        open_run(run, write_model(tmp_path / "base", twice))


def test_a_tower_of_images_is_not_taken_for_the_language_model(tmp_path):
    """Tensors of the same name belong together, whatever else ends so."""
    names = [f"model.{part}.{QUERY}.weight" for part in ("language_model", "vision_tower")]
    run = write_model(tmp_path / "run", {name: torch.full((2, 2), 5.0 + 10 * i) for i, name in enumerate(names)})
    base = write_model(tmp_path / "base", {name: torch.full((2, 2), 1.0 + i) for i, name in enumerate(names)})
    delta = open_run(run, base)
    assert delta.modules == [QUERY, f"vision_tower.{QUERY}"]
    assert [delta.read(module).weight[0, 0] for module in delta.modules] == [4, 13]
    write_model(base, {f"model.{QUERY}.weight": torch.full((2, 2), 2.0)})  # the language model alone
    delta = open_run(run, base)
    assert delta.modules == [QUERY]
    assert delta.read(QUERY).weight[0, 0] == 3
    assert delta.notes == [f"the base lacks vision_tower.{QUERY}.weight: not compared"]


def test_a_models_configuration_that_is_none(tmp_path):
    tensors = {f"model.{QUERY}.weight": torch.ones(2, 2)}
    run, base = (write_model(tmp_path / name, tensors) for name in ("run", "base"))
    for content, what in (("{", "not JSON"), ("[]", "not a model's configuration")):
        (run / "config.json").write_text(content)
        with pytest.raises(UserError, match=rf"run/config\.json: {what}"):
            open_run(run, base)


def test_a_base_of_pickled_weights_is_named_with_the_way_out(tmp_path):
    run = write_model(tmp_path / "run", {f"model.{QUERY}.weight": torch.ones(2, 2)})
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match=r"base: no model's folder.*has pytorch_model\.bin.*safe_serialization=True"):
        open_run(run, tmp_path / "base")


def test_modules_are_the_matrices_of_numbered_layers(tmp_path):
    tensors = {
        "model.layers.10.mlp.experts.3.up_proj.weight": torch.ones(2, 3),
        "model.layers.2.mlp.gate.weight": torch.ones(2, 3),
        "model.layers.2.mlp.experts.gate_up_proj": torch.ones(4, 2, 3),
        "model.layers.2.conv1d.weight": torch.ones(4, 1, 3),
        "model.layers.2.A_log": torch.ones(4, 3),
        "model.layers.2.norm.weight": torch.ones(4),
        "blocks.1.w.weight": torch.ones(3, 3),
        "lm_head.weight": torch.ones(5, 3),
    }
    run, base = (write_model(tmp_path / name, tensors) for name in ("run", "base"))
    delta = open_run(run, base)
    assert delta.modules == [
        "blocks.1.w",
        *(f"layers.2.mlp.experts.{i}.gate_up_proj" for i in range(4)),
        "layers.2.mlp.gate",
        "layers.10.mlp.experts.3.up_proj",
        "lm_head",
    ]
    (note,) = delta.notes
    assert "layers.2.A_log, layers.2.conv1d.weight, layers.2.norm.weight" in note
    for module in ("layers.2.norm", "layers.2.conv1d"):
        with pytest.raises(UserError, match=rf"no weight of {module}"):
            delta.read(module)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_base_counts_as_its_training_in_the_runs_dtype_began(tmp_path, dtype):
    """A base in another type is rounded by the loading: that rounding is no update."""
    name = f"model.{QUERY}.weight"
    start = torch.cat([torch.randn(40, 16, dtype=torch.float64), 1 + torch.arange(16)[None].double() / 256])  # ties too
    for stored in (torch.float64, torch.float32, torch.bfloat16):
        base = write_model(tmp_path / "base", {name: start.to(stored)})
        run = write_model(tmp_path / "run", {name: start.to(stored).to(dtype)})
        assert not open_run(run, base).read(QUERY).weight.any(), stored


def test_a_module_is_found_by_its_whole_name_alone(tmp_path):
    base = write_model(tmp_path / "base", {f"model.language_model.{QUERY}.weight": torch.zeros(2, 2)})
    others = {f"model.1{QUERY}.weight": torch.ones(2, 2), f"draft.{QUERY}.weight": torch.full((2, 2), 9.0)}
    run = write_model(tmp_path / "run", {f"{QUERY}.weight": torch.ones(2, 2), **others})
    assert open_run(run, base).read(QUERY).weight.sum() == 4
    write_model(
        tmp_path / "base", {f"text.{QUERY}.weight": torch.ones(2, 2), f"vision.{QUERY}.weight": torch.ones(2, 2)}
    )
    with pytest.raises(UserError, match=r"no linear layers in common.* the other text\.layers\.2.*, vision\.layers\.2"):
        open_run(run, base)


def test_what_is_no_checkpoint_of_the_base_is_named(tmp_path, tiny_adapters):
    name = f"model.{QUERY}.weight"
    run = write_model(tmp_path / "run", {name: torch.zeros(3, 2)})
    base = write_model(tmp_path / "base", {name: torch.zeros(3, 3)})
    with pytest.raises(UserError, match=r"is \(3, 2\), but \(3, 3\) in .*base"):
        open_run(run, base).read(QUERY)
    with pytest.raises(UserError, match=r"give the base's folder \(--base\)"):
        open_run(run).read(QUERY)
    with pytest.raises(UserError, match="no model's folder"):
        open_run(run, tiny_adapters["first"]).read(QUERY)
    write_model(tmp_path / "run", {name: torch.full((3, 3), float("nan"))})
    with pytest.raises(UserError, match=r"q_proj\.weight holds NaN"):
        open_run(run, base).read(QUERY)
    write_model(tmp_path / "run", {name: torch.zeros(3)})
    write_model(tmp_path / "base", {name: torch.zeros(3)})
    with pytest.raises(UserError, match="no linear layers in common: one has none, the other none"):
        open_run(run, base).read(QUERY)
    (run / "config.json").unlink()
    with pytest.raises(UserError, match=r"neither adapter_config\.json .* nor config\.json and model\.safetensors"):
        open_run(run, base).read(QUERY)


def test_the_two_kinds_of_runs_are_told_apart(tmp_path, tiny_adapters):
    assert not is_checkpoint(tiny_adapters["first"])
    assert is_checkpoint(write_model(tmp_path / "run", {}))
    assert is_checkpoint(with_config(write_shards(tmp_path / "shards", one={"a": torch.ones(1)})))
    with pytest.raises(UserError, match="no run's folder"):
        is_checkpoint(tmp_path / "nowhere")
