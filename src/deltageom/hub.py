"""Where a model's weights lie on this machine. Needs no torch."""

import functools
from pathlib import Path

from deltageom.adapters import MODEL_INDEX, tensor_files
from deltageom.errors import UserError


def weights_folder(source: str, revision: str | None) -> Path:
    """The folder of a model's safetensors files: `source` if it is a folder, else a snapshot in the hub's cache.

    The hub is asked only for what the cache has not: after training, nothing. Raises UserError if the files
    cannot be had.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    snapshot = functools.partial(
        snapshot_download, source, revision=revision, allow_patterns=["*.safetensors", MODEL_INDEX]
    )
    try:
        cached = Path(snapshot(local_files_only=True))
        if _is_whole(cached):
            return cached
    except (OSError, ValueError):
        pass  # not there, or no hub id: the hub says it better
    try:
        return Path(snapshot())
    except (OSError, ValueError) as error:
        raise UserError(f"{source!r} is no folder, and its weights cannot be fetched from the hub: {error}") from error


def _is_whole(folder: Path) -> bool:
    try:
        return all((folder / file).is_file() for file in set(tensor_files(folder).values()))
    except UserError:  # a snapshot of other files alone: the tokenizer, the configuration
        return False
