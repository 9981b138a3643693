"""Open a run's folder as its weight update."""

from pathlib import Path

from deltageom.deltas.adapter import Adapter
from deltageom.deltas.delta import Delta
from deltageom.deltas.folder import is_checkpoint
from deltageom.deltas.whole_model import Checkpoint
from deltageom.errors import UserError


def open_run(folder: Path, base: Path | None = None) -> Delta:
    """The delta of a run's folder; `base` is the folder of the base's safetensors files, where there is one.

    Raises UserError for a folder of neither kind, a checkpoint without `base`, and for what Adapter and Checkpoint
    do.
    """
    if not is_checkpoint(folder):
        return Adapter(folder, base)
    if base is None:
        raise UserError(
            f"{folder}: a checkpoint's delta is its difference to the base: give the base's folder (--base)"
        )
    return Checkpoint(folder, base)
