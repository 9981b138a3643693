"""Names of linear layers: 'layers.17.self_attn.q_proj', 'layers.3.mlp.experts.7.down_proj', 'lm_head'.

One weight has several names: a file of another version of transformers, a model in memory (which PEFT's names follow)
and a wrapper of the training each write their own. `canonical` is the same for all of them.
"""

import re
from collections.abc import Collection
from functools import lru_cache

# Applied in this order. The sources are transformers' own renamings, in its conversion_mapping.py.
_RENAMED = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        # what torch.compile, FSDP, activation checkpointing and DDP put around modules
        (r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.", ""),
        (r"^module\.", ""),
        # the head of a language model, alone or within a model of images or sound
        (r"^(?:model\.)?(?:language_model|text_model)\.(?:model\.)?lm_head(?=\.|$)", "lm_head"),
        (r"^embed_out(?=\.|$)", "lm_head"),
        # its body: model.layers, model.language_model.layers, language_model.model.layers, text_model.model.layers
        (r"^(?:model\.)?(?:(?:language_model|text_model)\.)?(?:model\.)?", ""),
        (r"^transformer\.", ""),  # the hub's files of GPT-2, BLOOM and others lack it
        # towers of images: CLIP's and SigLIP's have lost a level
        (r"(?<![^.])(\w*tower)\.vision_model\.", r"\1."),
        # experts: Mixtral's, Granite's
        (r"(?<![^.])block_sparse_moe\.input_linear(?=\.|$)", "block_sparse_moe.experts.gate_up_proj"),
        (r"(?<![^.])block_sparse_moe\.output_linear(?=\.|$)", "block_sparse_moe.experts.down_proj"),
        (r"(?<![^.])block_sparse_moe\.router\.layer(?=\.|$)", "block_sparse_moe.router"),
        (r"(?<![^.])block_sparse_moe\.", "mlp."),
        (r"(?<=\.experts\.)(\d+)\.w1(?=\.|$)", r"\1.gate_proj"),
        (r"(?<=\.experts\.)(\d+)\.w2(?=\.|$)", r"\1.down_proj"),
        (r"(?<=\.experts\.)(\d+)\.w3(?=\.|$)", r"\1.up_proj"),
    )
)
_CONTAINERS = ("layers", "layer", "h", "blocks", "block")
_FUSED, _HALVES = "gate_up_proj", ("gate_proj", "up_proj")


@lru_cache(maxsize=1 << 17)  # asked for each of a large model's tensors several times
def canonical(name: str) -> str:
    """The one name of a module or tensor: `model.language_model.layers.0.mlp` and `layers.0.mlp` are the latter."""
    for pattern, new in _RENAMED:
        name = pattern.sub(new, name)
    return name


def layer_of(module: str) -> int | None:
    """The layer's number: the first component that is a decimal number. None for a module outside the layers."""
    return next((int(part) for part in module.split(".") if part.isdecimal()), None)


def tower_of(module: str) -> str:
    """What tells layers of one number apart: 'encoder', 'vision_tower.encoder'; '' for a model's only or main stack
    and for a module outside the layers."""
    parts = module.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdecimal()), 0)
    before = parts[:number]
    return ".".join(before[:-1] if before and before[-1] in _CONTAINERS else before)


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts layers.2 before layers.10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def halves(module: str) -> tuple[str, str] | None:
    """The two modules that an expert's `gate_up_proj` holds, the first in its upper rows; None for another module."""
    at, _, last = module.rpartition(".")
    return (f"{at}.{_HALVES[0]}", f"{at}.{_HALVES[1]}") if last == _FUSED and ".experts." in module else None


def whole_of(module: str) -> tuple[str, int] | None:
    """The `gate_up_proj` that an expert's `gate_proj` or `up_proj` may be in, and which half of its rows it is."""
    at, _, last = module.rpartition(".")
    return (f"{at}.{_FUSED}", _HALVES.index(last)) if last in _HALVES and ".experts." in module else None


def divided(modules: Collection[str]) -> set[str]:
    """The modules, each `gate_up_proj` in its halves where one of these is among them: no weight is in two modules."""
    found = set(modules)
    for module in modules:
        parts = halves(module)
        if parts and found.intersection(parts):
            found = (found - {module}) | set(parts)
    return found


def some(names: list[str], most: int = 3) -> str:
    """The first names, and how many there are if not all are listed: for messages."""
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
