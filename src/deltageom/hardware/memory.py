"""What a model takes of a device's memory, in bytes, and a refusal of what cannot fit, before it is loaded.

Every number is a lower bound: what is refused cannot fit, what is let through may still not. torch is imported only
where a device is asked.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltageom.errors import UserError
from deltageom.hardware import nvidia_smi
from deltageom.study.schema import Base, Device, Training

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
OPTIMISED = 16  # bytes a trained number: itself, its gradient and AdamW's two moments, each in float32
HELD_BY_OTHERS = 0.1  # of the total: less is a context's own, and worth no word
# of models whose layers are built otherwise, or have experts
OTHERWISE = {"num_experts", "num_local_experts", "n_routed_experts", "kv_lora_rank"}


@dataclass(frozen=True)
class Sizes:
    """A decoder's shape. `cached_layers`: those whose keys and values are kept for the whole length."""

    layers: int
    cached_layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool

    def modules(self) -> dict[str, tuple[int, int]]:
        """(d_out, d_in) of the linear layers in each decoder layer, by their names in it."""
        queries, groups = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (queries, self.hidden),
            "self_attn.k_proj": (groups, self.hidden),
            "self_attn.v_proj": (groups, self.hidden),
            "self_attn.o_proj": (self.hidden, queries),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }

    def parameters(self) -> int:
        """Numbers in the weight matrices, the embeddings and the head; biases and norms are left out."""
        layer = sum(d_out * d_in for d_out, d_in in self.modules().values())
        return self.layers * layer + self.vocabulary * self.hidden * (1 if self.tied else 2)


def sizes(config: Any) -> Sizes | None:
    """Of a transformers configuration or of config.json's content; None where Llama's and Qwen's keys do not tell."""
    if isinstance(config, Mapping):
        values = config["text_config"] if isinstance(config.get("text_config"), Mapping) else config
    else:
        values = config.get_text_config().to_dict()
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
    if not all(type(values.get(name)) is int for name in names) or any(values.get(name) for name in OTHERWISE):
        return None
    layers, hidden, heads, intermediate, vocabulary = (values[name] for name in names)
    kinds = values.get("layer_types") or ["full_attention"] * layers
    return Sizes(
        layers=layers,
        cached_layers=kinds.count("full_attention"),
        hidden=hidden,
        heads=heads,
        kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim") or hidden // heads,
        intermediate=intermediate,
        vocabulary=vocabulary,
        tied=bool(values.get("tie_word_embeddings", True)),  # transformers' default, and the lesser
    )


def cache_bytes_per_token(config: Any, dtype: Any) -> int:
    """Keys and values of one token in the layers that attend to everything; 0 where the sizes are not known.

    `dtype`: a name or torch's.
    """
    found = sizes(config)
    return found.cached_layers * 2 * found.kv_heads * found.head_dim * dtype_bytes(dtype) if found else 0


def adapter_bytes(sizes: Sizes, rank: int, targets: Sequence[str]) -> int:
    """LoRA factors of the modules ('layers.3.self_attn.q_proj') with gradients and AdamW's moments, in float32."""
    shapes = sizes.modules()
    within = [shapes.get(target.split(".", 2)[2], (0, 0)) for target in targets]
    return OPTIMISED * rank * sum(d_out + d_in for d_out, d_in in within)


def activation_bytes(sizes: Sizes, rows: int, tokens: int, dtype: Any, checkpointing: bool, layers: int) -> int:
    """What the forward pass keeps for the backward pass of a batch (rows, tokens), in `layers` that gradients cross.

    Counted in each layer are the inputs of its two norms, queries, keys and values, and the outputs of the gate and of
    the up projection. With checkpointing the input of each layer is counted, and the set of one, which is computed
    again. Not counted, since a kernel may do without: float32 copies in norms and rotary embeddings, attention scores
    and outputs, the activation's product, inputs of LoRA factors, logits.
    """
    attention = (sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim
    layer = 2 * sizes.hidden + attention + 2 * sizes.intermediate
    numbers = (layers - 1) * sizes.hidden + layer if checkpointing else layers * layer
    return rows * tokens * numbers * dtype_bytes(dtype) if layers else 0


def training_parts(config: Any, training: Training, base: Base, rows: int, tokens: int) -> dict[str, int]:
    """Bytes by part that training takes at least, with micro batches of (rows, tokens); none if sizes are unknown.

    `rows`: sequences at once in one process, two for each pair of a preference method. With `adapter: none` every
    weight is trained, in float32. With LoRA only the layers above the first one adapted are sure to keep everything.
    """
    found = sizes(config)
    if found is None:
        return {}
    if training.adapter == "none":
        crossed = found.layers
        parts = {"weights, gradients and optimiser": OPTIMISED * found.parameters()}
    else:
        targets = training.lora.targets(base)
        crossed = found.layers - 1 - min(int(target.split(".")[1]) for target in targets)
        parts = {
            "weights": found.parameters() * dtype_bytes(base.dtype),
            "adapter with gradients and optimiser": adapter_bytes(found, training.lora.rank, targets),
        }
    kept = activation_bytes(found, rows, tokens, base.dtype, training.gradient_checkpointing, crossed)
    return {**parts, "activations": kept}


def check(parts: Mapping[str, int], free: int, total: int, what: str, keys: str) -> None:
    """Raises UserError where the parts, in bytes, are more than is free; nothing is refused where `total` is 0.

    `what` begins the message; `keys` are the study's that help.
    """
    needed = sum(parts.values())
    if not total or needed <= free:
        return
    shown = ", ".join(f"{name} {gib(size)}" for name, size in parts.items())
    raise UserError(
        f"{what}: takes at least {gib(needed)} of memory ({shown}), but {gib(free)} of {gib(total)} are free"
        f"{_others(free, total)}: change {keys}"
    )


def free_memory(device: Device) -> tuple[int, int]:
    """(free, total) bytes of torch's current GPU, or of this machine; (0, 0) if the machine does not say.

    What torch has kept of memory that it no longer uses counts as free. Raises UserError for a GPU that is not usable.
    """
    if device == "cpu":
        total, available = machine_memory()
        return int(available), int(total)
    from deltageom.hardware import cuda

    cuda.check_device(device)
    return _gpu_memory()


@contextmanager
def out_of_memory(what: str, keys: str) -> Iterator[None]:
    """Turns torch's OutOfMemoryError into a UserError: what was allocated at most, of how much, and keys that help."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        peak = torch.cuda.max_memory_allocated()
        free, total = _gpu_memory()
        raise UserError(
            f"{what}: out of GPU memory: {gib(peak)} of {gib(total)} were allocated at most{_others(free, total)}: "
            f"change {keys}"
        ) from None


def machine_memory() -> tuple[float, float]:
    """Bytes in all and available, of the machine or of this process's control group, the lesser; 0 if unknown."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return 0.0, 0.0
    found = {key: float(value) * 1024 for key, value in re.findall(r"^(\w+): +(\d+) kB", text, flags=re.MULTILINE)}
    total, available = found.get("MemTotal", 0.0), found.get("MemAvailable", 0.0)
    group = Path("/sys/fs/cgroup")
    try:
        limit = float((group / "memory.max").read_text(encoding="ascii"))
        used = float((group / "memory.current").read_text(encoding="ascii"))
        held = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        used -= float(held["inactive_file"]) + float(held["active_file"])  # of files, which the kernel gives back
    except (OSError, ValueError, KeyError):  # no control groups of version 2, or "max"
        return total, available
    return min(total, limit), min(available, max(0.0, limit - used))


def dtype_bytes(dtype: Any) -> int:
    """Of a number; `dtype`: a name or torch's."""
    return DTYPE_BYTES[str(dtype).removeprefix("torch.")]


def gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _gpu_memory() -> tuple[int, int]:
    import torch

    free, total = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated(), total


def _others(free: int, total: int) -> str:
    """Who else holds much of the GPU's memory; nothing on a machine's own memory, which torch does not account for."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return ""
    held = total - free - torch.cuda.memory_allocated()
    if held < HELD_BY_OTHERS * total:
        return ""
    names = ", ".join(nvidia_smi.processes())
    return f"; other processes hold {gib(held)}{f' ({names})' if names else ''}"
