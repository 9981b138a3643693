"""Bytes that a study's large results take, and those that it has to download."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deltageom.hardware import memory
from deltageom.planning.work import RunWork, Sampling
from deltageom.study import base_config
from deltageom.study.derived.check import ranks_of
from deltageom.study.resolved import Study
from deltageom.study.schema import TOY_BASE

TOKEN_BYTES = 8  # of a sampled token: its id and its log-prob
TEXT_BYTES = 5  # of a token's text, in records of answers
STATES = 3  # a checkpoint holds the weights and AdamW's two moments
KEPT_CHECKPOINTS = 2


def results(study: Study, asked: list[Sampling], runs: list[RunWork], root: Path = Path()) -> dict[str, int | None]:
    """By what it is; None where a size is not known. Tables, figures and logs are a few MB and are left out."""
    tokens = {one.what: one.tokens for one in asked}
    rollouts = tokens.pop("rollouts", 0)
    answers = None if None in tokens.values() else sum(count or 0 for count in tokens.values())
    weights = {run: run_bytes(study, run, root) for run in (*(one.run for one in runs), *study.derived)}
    known = [one for one in weights.values() if one is not None]
    kept = {name: 1 + len(run.training.snapshots or []) for name, run in study.runs.items()}
    every_kept = sum(kept.get(run, 1) * (size or 0) for run, size in weights.items())
    every = study.execution.checkpoint_every
    checkpoints = KEPT_CHECKPOINTS * STATES * max(known, default=0) if every else 0
    return {
        "rollouts, twice: sampled and graded": None if rollouts is None else 2 * TOKEN_BYTES * rollouts,
        "answers, twice: given and graded": None if answers is None else 2 * TEXT_BYTES * answers,
        "runs": every_kept if len(known) == len(weights) else None,
        "checkpoints of a run while it is trained": checkpoints if len(known) == len(weights) else None,
    }


def run_bytes(study: Study, run: str, root: Path = Path()) -> int | None:
    """Of a run's adapter or whole model in float32, of a derived run at most; None if the base's sizes are unknown."""
    found = base_sizes(study, root)
    if found is None:
        return None
    if run in study.derived:
        rank = ranks_of(study.derived, study.ranks())[run]
        return 4 * memory.adapter_bytes(found, rank, study.modules()) // memory.OPTIMISED
    training = study.runs[run].training
    if training.adapter == "none":
        return 4 * found.parameters()
    targets = training.lora.targets(study.base)
    return 4 * memory.adapter_bytes(found, training.lora.rank, targets) // memory.OPTIMISED


def base_sizes(study: Study, root: Path = Path()) -> memory.Sizes | None:
    """Of the toy base from the study, else from its config.json, if that is on this machine."""
    base = study.base
    return memory.sizes(_toy(study) if base.model == TOY_BASE else base_config.config(base.model, base.revision, root))


def downloads(models: Mapping[str, str | None]) -> dict[str, int | None]:
    """Bytes of the weights of hub models, by id, given their revisions; None where the hub does not say."""
    return {model: _hub_bytes(model, revision) for model, revision in models.items()}


def _hub_bytes(model: str, revision: str | None) -> int | None:
    import httpx
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError, SafetensorsParsingError

    faults = (httpx.HTTPError, HfHubHTTPError, NotASafetensorsRepoError, SafetensorsParsingError, OSError, ValueError)
    width = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
    try:
        counts = get_safetensors_metadata(model, revision=revision).parameter_count
    except faults:  # offline, gated, unknown, or of another format
        return None
    return sum(width.get(dtype, 1) * count for dtype, count in counts.items())


def _toy(study: Study) -> dict[str, Any]:
    """As a config.json would say it."""
    own = study.toy
    return {
        "num_hidden_layers": own.layers,
        "hidden_size": own.hidden,
        "num_attention_heads": own.heads,
        "num_key_value_heads": own.kv_heads,
        "head_dim": own.head_dim,
        "intermediate_size": own.intermediate,
        "vocab_size": own.vocabulary,
    }
