"""Folders as other tools leave them: read where they say what they are, else refused with the way out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch
from transformers import AutoModelForCausalLM

from deltageom.deltas.adapter import Adapter
from deltageom.deltas.folder import is_checkpoint
from deltageom.deltas.hub import adapter_folder
from deltageom.deltas.linear_weights import LinearWeights
from deltageom.deltas.open import open_run
from deltageom.errors import UserError
from tests.deltas.test_whole_model import write_model

PREFIX = "base_model.model.model."
MODULES = [f"layers.{i}.self_attn.q_proj" for i in range(2)]
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
Tensors = dict[str, np.ndarray]


def factors(modules: list[str] = MODULES, prefix: str = PREFIX, a: str = "lora_A", b: str = "lora_B") -> Tensors:
    rng = np.random.default_rng(0)
    return {
        f"{prefix}{module}.{factor}.weight": rng.normal(size=shape).astype("f4")
        for module in modules
        for factor, shape in ((a, (2, 6)), (b, (5, 2)))
    }


def write(folder: Path, files: dict[str, Tensors], config: dict[str, Any] = CONFIG) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    for name, tensors in files.items():
        save_file(tensors, folder / name)
    return folder


def same(one: Adapter, other: Adapter) -> bool:
    return one.modules == other.modules and all(
        np.array_equal(one.read(module).b, other.read(module).b) for module in one.modules
    )


@pytest.fixture
def plain(tmp_path: Path) -> Adapter:
    return Adapter(write(tmp_path / "plain", {"adapter_model.safetensors": factors()}))


@pytest.mark.parametrize(
    "tensors",
    [
        factors(a="lora_A.policy", b="lora_B.policy"),
        factors(prefix="model."),
        factors(prefix="base_model.model.model.language_model."),
        factors(prefix="base_model.model.language_model.model."),
        factors(prefix="base_model.model._orig_mod.model."),
        factors(prefix="base_model.model._fsdp_wrapped_module.model."),
    ],
)
def test_keys_of_other_tools(tmp_path: Path, plain: Adapter, tensors: Tensors) -> None:
    assert same(plain, Adapter(write(tmp_path / "other", {"adapter_model.safetensors": tensors})))


def test_two_adapters_in_one_file_are_named(tmp_path: Path) -> None:
    both = factors(MODULES[:1], a="lora_A.one", b="lora_B.one") | factors(MODULES[1:], a="lora_A.two", b="lora_B.two")
    with pytest.raises(UserError, match=r"lora_A\.one\.weight and \S+lora_A\.two\.weight are of two adapters"):
        Adapter(write(tmp_path / "both", {"adapter_model.safetensors": both}))


def test_an_adapter_in_shards(tmp_path: Path, plain: Adapter) -> None:
    tensors = factors()
    parts = [dict(list(tensors.items())[first : first + 2]) for first in (0, 2)]
    names = [f"adapter_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    folder = write(tmp_path / "shards", dict(zip(names, parts, strict=True)))
    (folder / "adapter_model.safetensors.index.json").write_text('{"weight_map": {}}')
    assert same(plain, Adapter(folder))
    assert adapter_folder(str(folder)) == folder
    (folder / names[1]).write_bytes((folder / names[0]).read_bytes())
    with pytest.raises(UserError, match=r"00002\.safetensors: \S+ is in adapter_model-00001-of-00002\.safetensors too"):
        Adapter(folder)
    (folder / names[0]).unlink()
    with pytest.raises(UserError, match=r"adapter_model-00001-of-00002\.safetensors missing, of the 00002 files"):
        Adapter(folder)


def lfs(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")


def mlx(path: Path) -> None:
    path.unlink()
    (path.parent / "adapters.safetensors").touch()
    (path.parent / "adapter_config.json").write_text('{"fine_tune_type": "lora", "num_layers": 4}')


def empty(*shape: int) -> Callable[[Path], None]:
    return lambda path: save_file({name: np.zeros(shape, "f4") for name in factors()}, path)


def fp8(path: Path) -> None:
    save_torch({name: torch.ones(2, 2).to(torch.float8_e5m2) for name in factors()}, path)


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pointer of Git LFS": (lfs, r"adapter_model\.safetensors: a pointer of Git LFS.* git lfs pull"),
    "MLX": (mlx, "an adapter of MLX"),
    "ZeRO-3, flat": (empty(0), r"lora_A\.weight is empty: DeepSpeed ZeRO-3 .* zero_to_fp32\.py"),
    "ZeRO-3, of two dimensions": (empty(0, 0), r"lora_A\.weight is empty: DeepSpeed ZeRO-3"),
    "ZeRO-3, no tensors": (lambda path: save_file({}, path), "it has no tensors: DeepSpeed ZeRO-3"),
    "a convolution": (
        lambda path: save_file({name: np.ones((2, 2, 3, 3), "f4") for name in factors()}, path),
        r"lora_A\.weight \(2, 2, 3, 3\) is of a convolution, no matrix",
    ),
    "another FP8": (fp8, r"is F8_E5M2: only F64, F32, F16, BF16, F8_E4M3 are read: save it in one of them"),
    "a weight alone": (
        lambda path: save_file(factors() | {f"{PREFIX}norm.base_layer.weight": np.ones(3, "f4")}, path),
        r"norm\.base_layer\.weight is no LoRA factor",  # a copy belongs to a module that has factors
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_adapter_says_what_it_is(tmp_path: Path, kind: str) -> None:
    change, says = KINDS[kind]
    folder = write(tmp_path / "run", {"adapter_model.safetensors": factors()})
    change(folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match=says) as error:
        open_run(folder).read(MODULES[0])
    assert "\n" not in str(error.value)


def test_a_folder_above_adapters_names_them(tmp_path: Path) -> None:
    for name in ("policy", "reference"):
        write(tmp_path / "run" / name, {"adapter_model.safetensors": factors()})
    with pytest.raises(UserError, match=r"adapters of the names policy, reference: .* such as \S+/run/policy$"):
        open_run(tmp_path / "run")


def test_a_whole_model_may_have_kept_its_adapters_configuration(tmp_path: Path) -> None:
    tensors = {f"model.{MODULES[0]}.weight": torch.ones(2, 2)}
    run, base = (write_model(tmp_path / name, tensors) for name in ("run", "base"))
    (run / "adapter_config.json").write_text(json.dumps(CONFIG))
    assert is_checkpoint(run)
    assert open_run(run, base).kind == "checkpoint"
    save_file(factors(), run / "adapter_model.safetensors")  # with its weights it is one
    assert not is_checkpoint(run)


@pytest.mark.filterwarnings("ignore")
def test_a_head_that_peft_saves_beside_its_factors_is_no_training(tiny_model: Path, tmp_path: Path) -> None:
    """What PEFT does by itself where embeddings or a head are targeted."""
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "run")
    path, copy = tmp_path / "run" / "adapter_model.safetensors", "base_model.model.lm_head.base_layer.weight"
    tensors = load_file(path)
    assert copy in tensors
    for given, says in ((None, "is taken for the base's own weight"), (tiny_model, "is the base's weight")):
        run = Adapter(tmp_path / "run", given)
        assert run.modules == ["lm_head"]
        assert [note.startswith(f"{copy} {says}") for note in run.notes] == [True]
    expected = model.base_model.model.lm_head.get_delta_weight("default").detach().numpy()
    np.testing.assert_allclose(run.read("lm_head").dense(), expected, atol=1e-6)
    tensors[copy] = tensors[copy] + np.float32(1e-3)
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"lm_head\.base_layer\.weight is not the weight of \S+, so B @ A is not"):
        Adapter(tmp_path / "run", tiny_model)


def quantised(how: str) -> dict[str, torch.Tensor]:
    """A text tower quantised, and a vision tower of the same shapes that is not."""
    at = f"model.language_model.{MODULES[0]}"
    packed = torch.zeros(32, 1, dtype=torch.uint8)
    found: dict[str, dict[str, torch.Tensor]] = {
        "GPTQ or AWQ": {f"{at}.qweight": torch.zeros(1, 8, dtype=torch.int32), f"{at}.scales": torch.ones(1, 8)},
        "bitsandbytes 4-bit": {f"{at}.weight": packed, f"{at}.weight.quant_state.bitsandbytes__nf4": packed.clone()},
        "bitsandbytes 8-bit": {f"{at}.weight": torch.ones(8, 8, dtype=torch.int8), f"{at}.SCB": torch.ones(8)},
        "FP8 blocks": {
            f"{at}.weight": torch.ones(8, 8).to(torch.float8_e4m3fn),
            f"{at}.weight_scale_inv": torch.ones(1, 1),
        },
        "compressed-tensors": {f"{at}.weight_packed": torch.zeros(8, 1, dtype=torch.int32)},
        "F8_E4M3": {f"{at}.weight": torch.ones(8, 8).to(torch.float8_e4m3fn)},
    }
    return found[how] | {f"model.vision_tower.vision_model.encoder.{MODULES[0]}.weight": torch.ones(8, 8)}


@pytest.mark.parametrize(
    "how",
    ["GPTQ or AWQ", "bitsandbytes 4-bit", "bitsandbytes 8-bit", "FP8 blocks", "compressed-tensors", "F8_E4M3"],
)
def test_quantised_weights_are_told_as_such(tmp_path: Path, how: str) -> None:
    """And no weight of another tower is taken in their place."""
    folder = write_model(tmp_path / "quantised", quantised(how))
    weights = LinearWeights(folder)
    if how == "FP8 blocks":
        assert weights.read(MODULES[0]).all()
    else:
        with pytest.raises(UserError, match=rf"quantised: {MODULES[0]} is quantised \({how}\): give the folder"):
            weights.read(MODULES[0])
    assert weights.read(f"vision_tower.encoder.{MODULES[0]}").all()
    other = write_model(tmp_path / "plain", {f"model.{MODULES[0]}.weight": torch.ones(8, 8)})
    sides = [(folder, other, "its difference to the base"), (other, folder, "the difference to it")]
    for run, base, says in sides[:1] if how == "FP8 blocks" else sides:
        with pytest.raises(UserError, match=rf"/quantised: {MODULES[0]} is quantised \({how}\), so {says} would be"):
            open_run(run, base)


def test_fp8_blocks_are_what_they_stand_for(tmp_path: Path) -> None:
    """All values of the type, as torch reads them, times their block's scale; the last blocks are cut."""
    name = f"model.{MODULES[0]}.weight"
    codes = torch.arange(256, dtype=torch.uint8)
    values = torch.cat([codes[(codes & 127) != 127], torch.zeros(2, dtype=torch.uint8)]).repeat(2).reshape(16, 32)
    stored, scales = values.view(torch.float8_e4m3fn), torch.rand(4, 3) + 0.5
    tensors = {name: stored, f"{name}_scale_inv": scales}
    folder = write_model(tmp_path / "base", tensors)
    (folder / "config.json").write_text('{"quantization_config": {"weight_block_size": [5, 11]}}')
    expected = stored.double().numpy().copy()
    for i in range(16):
        for j in range(32):
            expected[i, j] *= float(scales[i // 5, j // 11])
    assert np.array_equal(LinearWeights(folder).read(MODULES[0]), expected)
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"the scales \(4, 3\) of \S+ do not fit \(16, 32\) in blocks of \[128, 128\]"):
        LinearWeights(folder).read(MODULES[0])
    for block in (128, [128], [128, "64"], [0, 128]):
        (folder / "config.json").write_text(json.dumps({"quantization_config": {"weight_block_size": block}}))
        with pytest.raises(UserError, match=r"base/config\.json: weight_block_size must be two whole numbers, not "):
            LinearWeights(folder).read(MODULES[0])
    write_model(tmp_path / "base", {name: stored, f"{name}_scale_inv": torch.tensor(3.0)})  # one for all, as Mistral's
    assert np.array_equal(LinearWeights(folder).read(MODULES[0]), 3 * stored.double().numpy())
    fused = {"model.layers.0.mlp.experts.down_proj": torch.ones(2, 4, 4).to(torch.float8_e4m3fn)}
    with pytest.raises(UserError, match=r"layers\.0\.mlp\.experts\.down_proj is quantised \(F8_E4M3\)"):
        LinearWeights(write_model(tmp_path / "fused", fused)).read("layers.0.mlp.experts.1.down_proj")


def test_experts_that_are_quantised_together(tmp_path: Path) -> None:
    at = "model.layers.0.mlp.experts"
    tensors = {f"{at}.gate_up_proj_blocks": torch.zeros(2, 4, 1, dtype=torch.uint8), f"{at}.x": torch.ones(2)}
    with pytest.raises(UserError, match=r"layers\.0\.mlp\.experts\.gate_up_proj is quantised \(MXFP4\)"):
        LinearWeights(write_model(tmp_path / "base", tensors)).read("layers.0.mlp.experts.1.gate_up_proj")
