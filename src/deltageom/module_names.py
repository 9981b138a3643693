"""Names of linear layers: 'layers.17.self_attn.q_proj', 'transformer.h.3.attn.c_attn', 'lm_head'."""

import re

# What stands before the layers of a language model, alone or within a model of images and text.
_PREFIX = re.compile(r"(?:model\.)?(?:language_model\.)?(?:model\.)?")


def layer_of(module: str) -> int | None:
    """The layer's number: the first component that is a decimal number. None for a module outside the layers."""
    return next((int(part) for part in module.split(".") if part.isdecimal()), None)


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts layers.2 before layers.10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def without_prefix(name: str) -> str:
    """The name without a leading `model.`, `model.language_model.` or `language_model.model.`."""
    return _PREFIX.sub("", name, count=1)


def some(names: list[str], most: int = 3) -> str:
    """The first names, and how many there are if not all are listed: for messages."""
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
