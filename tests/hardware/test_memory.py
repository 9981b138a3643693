"""What models take of memory, against real models and real tensors; and the one line that refuses."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from deltageom.errors import UserError
from deltageom.hardware import cuda, memory
from deltageom.study.schema import Base, Training
from tests.training.tiny_runs import CONFIG

GIB = 2**30
# config.json of Qwen3-4B, as far as it tells sizes
QWEN3_4B = {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}


def training(**changes: Any) -> Training:
    return Training.model_validate(CONFIG["training"] | changes)


def is_matrix(name: str) -> bool:
    return "norm" not in name and "bias" not in name


def test_the_cache_of_qwen3_4b() -> None:
    config = Qwen3Config(**QWEN3_4B)
    for one in (config, QWEN3_4B, {"text_config": QWEN3_4B, "num_hidden_layers": 7}):
        assert memory.cache_bytes_per_token(one, torch.bfloat16) == 147_456
        assert memory.cache_bytes_per_token(one, "float32") == 294_912
    sliding = {**QWEN3_4B, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"] * 12}
    assert memory.cache_bytes_per_token(sliding, "bfloat16") == 147_456 / 3  # a window is no cost a token
    assert memory.cache_bytes_per_token({**QWEN3_4B, "num_experts": 128}, "bfloat16") == 0  # not known
    assert memory.cache_bytes_per_token({"n_layer": 12}, "bfloat16") == 0


def test_the_cache_is_what_transformers_keeps(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    cache = model(torch.ones(3, 11, dtype=torch.long), use_cache=True).past_key_values
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert kept == 3 * 11 * memory.cache_bytes_per_token(model.config, model.dtype)


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_model(tied: bool) -> None:
    config = Qwen3Config(**{**QWEN3_4B, "tie_word_embeddings": tied})
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config)
    found = memory.sizes(config)
    assert found is not None
    assert found.parameters() == sum(p.numel() for name, p in model.named_parameters() if is_matrix(name))


def test_an_adapter_is_pefts(tiny_model: Path, base_settings: Base) -> None:
    targets = ["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"]
    run = training(lora=CONFIG["training"]["lora"] | {"rank": 4, "target_modules": targets})
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    matrices = sum(p.nbytes for name, p in model.named_parameters() if is_matrix(name))
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    parts = memory.training_parts(model.config, run, base_settings, 1, 1)
    assert parts["adapter with gradients and optimiser"] == 16 * trained
    assert parts["weights"] == matrices


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("adapter", "crossed"), [("lora", 3), ("none", 4)])
@pytest.mark.parametrize("tokens", [8, 64])
def test_activations_are_less_than_autograd_keeps_but_not_much_less(
    checkpointing: bool, adapter: str, crossed: int, tokens: int
) -> None:
    """Of a model of several layers, in float32 with torch's own attention."""
    config = Qwen3Config(**(QWEN3_4B | {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4}))
    config.vocab_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim = 300, 4, 2, 16
    model: Any = Qwen3ForCausalLM(config)
    if adapter == "lora":
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM"))
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.get_decoder()(torch.randint(0, 300, (3, tokens))).last_hidden_state
    found = memory.sizes(config)
    assert found is not None
    bound = memory.activation_bytes(found, 3, tokens, "float32", checkpointing, crossed)
    if checkpointing:  # the one layer that is computed again is not there yet
        bound -= memory.activation_bytes(found, 3, tokens, "float32", True, 1) - 3 * tokens * 64 * 4
    assert hidden.requires_grad
    assert sum(kept.values()) / 5 < bound < sum(kept.values())


def test_training_of_every_weight_and_of_an_adapter(base_settings: Base) -> None:
    base = base_settings.model_copy(update={"dtype": "bfloat16", "layers": 36})
    whole = memory.training_parts(QWEN3_4B, training(adapter="none"), base, 8, 1024)
    numbers = 36 * (2560 * 128 * (2 * 32 + 2 * 8) + 3 * 2560 * 9728) + 151936 * 2560
    assert whole["weights, gradients and optimiser"] == 16 * numbers
    lora = memory.training_parts(QWEN3_4B, training(), base, 8, 1024)
    assert lora["weights"] == 2 * numbers
    token = 2 * (2 * 2560 + 48 * 128 + 2 * 9728)
    assert whole["activations"] == 8 * 1024 * 36 * token
    assert lora["activations"] == 8 * 1024 * 35 * token  # the first one adapted keeps less
    less = memory.training_parts(QWEN3_4B, training(gradient_checkpointing=True), base, 8, 1024)
    assert less["activations"] == 8 * 1024 * (34 * 2 * 2560 + token)
    above = training(lora=CONFIG["training"]["lora"] | {"target_modules": r"layers\.3[45]\..*q_proj"})
    assert memory.training_parts(QWEN3_4B, above, base, 8, 1024)["activations"] == 8 * 1024 * token
    assert memory.training_parts({"n_layer": 12}, training(), base, 8, 1024) == {}


def test_what_cannot_fit_is_refused_in_one_line() -> None:
    parts = {"weights": 7 * GIB + GIB // 2, "activations": 90 * GIB}
    memory.check(parts, sum(parts.values()), 100 * GIB, "run 'sft'", "training.max_length")
    memory.check(parts, 0, 0, "run 'sft'", "training.max_length")  # the machine does not say
    with pytest.raises(UserError) as refused:
        memory.check(parts, 79 * GIB, 80 * GIB, "run 'sft'", "training.micro_batch_size or training.max_length")
    assert str(refused.value) == (
        "run 'sft': takes at least 97.50 GiB of memory (weights 7.50 GiB, activations 90.00 GiB), but 79.00 GiB of "
        "80.00 GiB are free: change training.micro_batch_size or training.max_length"
    )


Gpu = Callable[..., None]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gpu:
    """A GPU of 80 GiB as torch and an nvidia-smi see it, `free` of it free and `allocated` torch's own."""

    def pretend(free: int, allocated: int = 0, reserved: int = 0, processes: str = "") -> None:
        values = {
            "init": lambda: None,
            "is_initialized": lambda: True,
            "mem_get_info": lambda: (free, 80 * GIB),
            "memory_allocated": lambda: allocated,
            "memory_reserved": lambda: reserved,
            "max_memory_allocated": lambda: 78 * GIB,
        }
        for name, value in values.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        program = tmp_path / "nvidia-smi"
        program.write_text(
            '#!/bin/sh\n[ "$*" = "--query-compute-apps=pid,process_name,used_memory --format=csv,noheader -i 3" ]'
            f" || exit 2\nprintf '%s\\n' {shlex.quote(processes)}\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")

    return pretend


def test_what_torch_keeps_and_does_not_use_is_free(gpu: Gpu) -> None:
    gpu(free=10 * GIB, allocated=20 * GIB, reserved=50 * GIB)
    assert memory.free_memory("cuda") == (40 * GIB, 80 * GIB)


def test_who_else_holds_the_gpu_is_named(gpu: Gpu) -> None:
    gpu(10 * GIB, 20 * GIB, 50 * GIB, f"7, /opt/a, b/python, 20480 MiB\n{os.getpid()}, python, 51200 MiB")
    with pytest.raises(UserError) as refused:
        memory.check({"weights": 60 * GIB}, *memory.free_memory("cuda"), "loading m", "base.model")
    assert str(refused.value).endswith(
        "but 40.00 GiB of 80.00 GiB are free; other processes hold 20.00 GiB (/opt/a, b/python (pid 7, 20480 MiB)): "
        "change base.model"
    )
    gpu(10 * GIB, 60 * GIB, 70 * GIB)  # nobody but this process and its context
    with pytest.raises(UserError, match=r"but 20\.00 GiB of 80\.00 GiB are free: change base\.model$"):
        memory.check({"weights": 60 * GIB}, *memory.free_memory("cuda"), "loading m", "base.model")


def test_out_of_memory_is_one_line(gpu: Gpu) -> None:
    gpu(free=GIB, allocated=78 * GIB, reserved=78 * GIB)
    with (
        pytest.raises(UserError, match=r"^run 'a': out of GPU memory: 78\.00 GiB of 80\.00 GiB were allocated at most"),
        memory.out_of_memory("run 'a'", "training.micro_batch_size"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    with pytest.raises(RuntimeError, match="another"), memory.out_of_memory("run 'a'", "k"):
        raise RuntimeError("another")


def test_memory_of_the_machine() -> None:
    total, available = memory.machine_memory()
    assert 0 < available <= total <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 1.01
    free, whole = memory.free_memory("cpu")
    assert whole == int(total)
    assert 0 < free <= whole


OLD = (
    "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver by downloading "
    "and installing a new version.\nAlternatively, install a PyTorch version compiled with your driver."
)


@pytest.mark.parametrize(
    ("where", "says", "becomes"),
    [
        (
            "init",
            OLD,
            rf"driver here reaches CUDA 12\.4 and torch {torch.__version__.replace('+', '.')} is built for 13",
        ),
        ("init", "Found no NVIDIA driver on your system.", "no CUDA GPU is visible here: set `device: cpu`"),
        ("init", "No CUDA GPUs are available", "no CUDA GPU is visible here"),
        ("init", "Unexpected error from cudaGetDeviceCount()\nmore", r"CUDA does not start: Unexpected .*Count\(\)$"),
        (
            "mem_get_info",
            "CUDA error: all CUDA-capable devices are busy or unavailable\nSearch for it",
            r"another process has the GPU, which is in exclusive mode \(python \(pid 7, 812 MiB\)\): wait for it",
        ),
        ("mem_get_info", "CUDA error: out of memory", r"other processes fill the GPU's memory \(python \(pid 7, 812"),
    ],
)
def test_a_gpu_that_cannot_be_used_says_why(
    monkeypatch: pytest.MonkeyPatch, gpu: Gpu, where: str, says: str, becomes: str
) -> None:
    gpu(free=70 * GIB, processes="7, python, 812 MiB")

    def fail() -> None:
        raise RuntimeError(says)

    monkeypatch.setattr(torch.cuda, where, fail)
    for ask in (cuda.check_device, memory.free_memory):
        with pytest.raises(UserError, match=f"^device is cuda, but (the NVIDIA )?{becomes}") as refused:
            ask("cuda")
        assert "\n" not in str(refused.value)


def test_a_usable_gpu_and_the_cpu(gpu: Gpu) -> None:
    cuda.check_device("cpu")
    gpu(free=70 * GIB)
    cuda.check_device("cuda")


def test_a_torch_without_cuda(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(free=70 * GIB)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match=r"but torch .* is built without CUDA: install a build with CUDA \(docs/env"):
        cuda.check_device("cuda")
    monkeypatch.setenv("PATH", "/nowhere")  # no nvidia-smi: no GPU either
    with pytest.raises(UserError, match="no CUDA GPU is visible here"):
        cuda.check_device("cuda")
