"""Where a model's weights and an adapter's files lie on this machine. Needs no torch."""

import functools
from collections.abc import Callable
from pathlib import Path

from deltageom.deltas.folder import CONFIG, MODEL_CONFIG, MODEL_INDEX, MODEL_WEIGHTS, WEIGHTS, has_adapter_weights
from deltageom.deltas.tensors import weight_files
from deltageom.errors import UserError


def weights_folder(source: str, revision: str | None) -> Path:
    """The folder of a model's safetensors files: `source` if it is a folder, else a snapshot in the hub's cache.

    The hub is asked only for what the cache has not: after training, nothing. Raises UserError if the files
    cannot be had.
    """
    patterns = ["*.safetensors", MODEL_INDEX, MODEL_CONFIG]
    return _folder(source, revision, patterns, _has_weights, "its weights cannot be fetched from the hub")


def adapter_folder(source: str) -> Path:
    """The folder of an adapter or a checkpoint: `source` itself, or a snapshot of the hub's `owner/name` or
    `owner/name@revision`. Raises UserError if it cannot be had.
    """
    # `model*` and not `*`, which would also match the checkpoints in a repository's folders
    patterns = [
        CONFIG,
        WEIGHTS,
        "adapter_model-*-of-*.safetensors",
        MODEL_CONFIG,
        MODEL_WEIGHTS,
        "model*.safetensors",
        MODEL_INDEX,
    ]
    return _folder(*with_revision(source), patterns, _has_run, "no run of this name can be fetched from the hub")


def at_hand(source: str, revision: str | None) -> Path | None:
    """The folder of a model's weights if it is on this machine: a folder, or a snapshot in the hub's cache."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        cached = Path(snapshot_download(source, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None
    return cached if _has_weights(cached) else None


def with_revision(source: str) -> tuple[str, str | None]:
    """`owner/name@revision` in its two parts; None for a folder and for an id alone."""
    name, mark, revision = source.rpartition("@")
    return (name, revision) if mark and not Path(source).is_dir() else (source, None)


def _folder(
    source: str, revision: str | None, patterns: list[str], whole: Callable[[Path], bool], otherwise: str
) -> Path:
    if Path(source).is_dir():
        return Path(source)
    if Path(source).is_file():
        raise UserError(f"{source}: is a file: give the folder that holds it")
    from huggingface_hub import snapshot_download

    snapshot = functools.partial(snapshot_download, source, revision=revision, allow_patterns=patterns)
    try:
        cached = Path(snapshot(local_files_only=True))
        if whole(cached):
            return cached
    except (OSError, ValueError):
        pass  # not there, or no hub id: the hub says it better
    try:
        return Path(snapshot())
    except (OSError, ValueError) as error:
        says = " ".join(str(error).split())  # the hub's messages have several lines
        raise UserError(f"{source!r} is no folder, and {otherwise}: {says}") from error


def _has_weights(folder: Path) -> bool:
    try:
        return all((folder / file).is_file() for file in weight_files(folder))
    except UserError:  # a snapshot of other files alone: the tokenizer, the configuration
        return False


def _has_run(folder: Path) -> bool:
    if (folder / CONFIG).is_file() and has_adapter_weights(folder):
        return True
    return (folder / MODEL_CONFIG).is_file() and _has_weights(folder)
