"""Loading the base and the two kinds of runs by one path."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from deltageom.deltas.open import open_run
from deltageom.errors import UserError
from deltageom.hardware import memory
from deltageom.models.load import _parameters, context_length, load_model, load_run, load_tokenizer
from deltageom.study.schema import Base
from tests.deltas import tiny_checkpoints

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def checkpoint(tiny_model: Path, tmp_path: Path) -> Path:
    return tiny_checkpoints.perturbed(tiny_model, tmp_path / "run", seed=1)


def test_the_base_itself(tiny_model: Path, base_settings: Base) -> None:
    model = load_run(str(tiny_model), base_settings, "cpu", None)
    assert torch.equal(
        model.model.embed_tokens.weight, load_file(tiny_model / "model.safetensors")["model.embed_tokens.weight"]
    )


def test_an_adapter_stays_beside_the_bases_own_weights(
    tiny_model: Path, tiny_adapters: dict[str, Path], base_settings: Base
) -> None:
    model = load_run(str(tiny_model), base_settings, "cpu", tiny_adapters["first"])
    assert isinstance(model, PeftModel)
    layer = model.base_model.model.model.layers[1].self_attn.q_proj
    start = load_file(tiny_model / "model.safetensors")["model.layers.1.self_attn.q_proj.weight"]
    assert torch.equal(layer.base_layer.weight, start)
    factors = open_run(tiny_adapters["first"]).read("layers.1.self_attn.q_proj")
    assert torch.equal(layer.lora_B["default"].weight.double(), torch.from_numpy(factors.b))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_has_its_own_weights_and_the_studys_dtype(
    tiny_model: Path, checkpoint: Path, base_settings: Base, dtype: str
) -> None:
    base = base_settings.model_copy(update={"dtype": dtype})
    model = load_run(str(tiny_model), base, "cpu", checkpoint)
    assert not model.training
    stored = load_file(checkpoint / "model.safetensors")
    assert set(stored) == {name for name, _ in model.named_parameters()}
    for name, value in model.named_parameters():
        assert torch.equal(value, stored[name].to(getattr(torch, dtype))), name


def test_a_checkpoint_in_shards_is_loaded_as_one_file_is(
    tiny_model: Path, checkpoint: Path, base_settings: Base, tmp_path: Path
) -> None:
    one = load_run(str(tiny_model), base_settings, "cpu", checkpoint)
    one.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert not (tmp_path / "shards" / "model.safetensors").exists()
    shards = load_run(str(tiny_model), base_settings, "cpu", tmp_path / "shards")
    for (name, value), other in zip(one.named_parameters(), shards.parameters(), strict=True):
        assert torch.equal(value, other), name


def test_a_checkpoint_goes_by_the_bases_configuration(tiny_model: Path, checkpoint: Path, base_settings: Base) -> None:
    (checkpoint / "config.json").write_text((checkpoint / "config.json").read_text().replace("512", "7"))
    model = load_run(str(tiny_model), base_settings, "cpu", checkpoint)
    assert model.config.max_position_embeddings == 512


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), r"model\.norm\.weight is missing"),
        (lambda tensors: tensors.update(extra=torch.ones(1)), "extra is none of the base's"),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.ones(7)}),
            r"model\.norm\.weight is \(7,\), not \(32,\)",
        ),
        (
            lambda tensors: [tensors.pop(name) for name in list(tensors) if "layers.1." in name],
            r"missing.*, and 8 more",
        ),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused(
    tiny_model: Path, checkpoint: Path, base_settings: Base, change: Callable[[Tensors], object], what: str
) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"no checkpoint of the base .*{what}"):
        load_run(str(tiny_model), base_settings, "cpu", checkpoint)


def test_a_folder_of_neither_kind_and_a_damaged_file(
    tiny_model: Path, checkpoint: Path, base_settings: Base, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no run's folder"):
        load_run(str(tiny_model), base_settings, "cpu", tmp_path)
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match=r"cannot load .*run"):
        load_run(str(tiny_model), base_settings, "cpu", checkpoint)


def test_an_adapter_of_another_shape_is_refused(
    tiny_model: Path, tiny_adapters: dict[str, Path], base_settings: Base, tmp_path: Path
) -> None:
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / file).write_bytes((tiny_adapters["first"] / file).read_bytes())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    save_file({name: torch.ones(5, 5) for name in tensors}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match="cannot load the adapter"):
        load_run(str(tiny_model), base_settings, "cpu", tmp_path)


def test_layers_are_checked_before_weights_load(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    """With no weights in the folder at all: a command that generates reads the tokenizer first."""
    for file in tiny_model.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    source = str(tmp_path)
    wrong = base_settings.model_copy(update={"model": source, "layers": 3})
    for read in (
        lambda: load_tokenizer(source, wrong),
        lambda: context_length(source, wrong),
        lambda: load_model(source, wrong, "cpu"),
        lambda: load_run(source, wrong, "cpu", None),
    ):
        with pytest.raises(UserError, match=r"base\.layers is 3, but .* has 2: set base\.layers: 2"):
            read()
    right = base_settings.model_copy(update={"model": source})
    assert context_length(source, right) == 512
    other = base_settings.model_copy(update={"model": "another", "layers": 3})
    assert load_tokenizer(source, other)  # a generator's layers are nobody's business


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_weights_that_do_not_fit_are_refused_before_they_load(
    tiny_model: Path, base_settings: Base, monkeypatch: pytest.MonkeyPatch, dtype: str, size: int
) -> None:
    base = base_settings.model_copy(update={"dtype": dtype})
    exact = size * sum(tensor.numel() for tensor in load_file(tiny_model / "model.safetensors").values())
    monkeypatch.setattr(memory, "machine_memory", lambda: (2.0**40, float(exact)))
    load_model(str(tiny_model), base, "cpu")
    monkeypatch.setattr(memory, "machine_memory", lambda: (2.0**40, float(exact - 1)))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    with pytest.raises(UserError, match=rf"^loading {tiny_model}: takes at least .*\(weights .* change base\.model"):
        load_model(str(tiny_model), base, "cpu")


def test_weights_that_are_not_here_are_known_by_their_shape(base_settings: Base) -> None:
    config = Qwen3Config(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=100)
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config)
    norms = sum(p.numel() for name, p in model.named_parameters() if "norm" in name)
    found = _parameters("nobody/nothing", base_settings, config)
    assert found == sum(p.numel() for p in model.parameters()) - norms
