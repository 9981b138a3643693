"""A model's files on this machine: in its folder, or in the hub's cache. The standard library and the schema only: the
Snakemake process looks too.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deltageom.errors import UserError
from deltageom.study.schema import TOY_BASE, Base

CONFIG = "config.json"


def folder(model: str, revision: str | None, root: Path = Path()) -> Path | None:
    """The model's folder below `root`, or its snapshot in the hub's cache; None if it is in neither."""
    if (root / model).is_dir():
        return root / model
    if model.startswith((".", "/", "~")):
        return None
    stored = _cache() / f"models--{model.replace('/', '--')}"
    try:
        commit = (stored / "refs" / (revision or "main")).read_text(encoding="ascii").strip()
    except (OSError, ValueError):  # a revision that is a commit has no file of its own
        commit = revision or ""
    found = stored / "snapshots" / commit
    return found if commit and found.is_dir() else None


def config(model: str, revision: str | None, root: Path = Path()) -> dict[str, Any]:
    """What config.json says; empty where it is not on this machine or cannot be read, which loading then explains."""
    here = folder(model, revision, root)
    try:
        found: Any = json.loads((here / CONFIG).read_text(encoding="utf-8")) if here else None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def layers(config: Mapping[str, Any]) -> int | None:
    """Decoder layers, of the language model where there are several models; None if the configuration does not say."""
    text = config.get("text_config")
    found = (text if isinstance(text, Mapping) else config).get("num_hidden_layers")
    return found if type(found) is int else None


def check_layers(base: Base, found: int | None) -> None:
    """Raises UserError where the study names another number of layers than the `found` ones, if those are known."""
    if found is not None and found != base.layers:
        whose = "toy.layers is" if base.model == TOY_BASE else f"{base.model} has"
        raise UserError(f"base.layers is {base.layers}, but {whose} {found}: set base.layers: {found}")


def _cache() -> Path:
    """Where the hub's client keeps models."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or Path(home) / "hub"
    return Path(os.path.expandvars(given)).expanduser()
