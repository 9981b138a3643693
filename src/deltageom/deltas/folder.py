"""What lies in a run's folder: an adapter or a whole model, by its files."""

from pathlib import Path

from deltageom.deltas.names import some
from deltageom.errors import UserError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MODEL_CONFIG = "config.json"
MODEL_WEIGHTS = "model.safetensors"
MODEL_INDEX = "model.safetensors.index.json"
MLX_WEIGHTS = "adapters.safetensors"
MLX = (
    "an adapter of MLX, whose factors have other names, sides and scales than PEFT's: fuse it into the model "
    "(mlx_lm.fuse) and compare that, or convert it to PEFT's form"
)
_PICKLED = ("adapter_model.bin", "pytorch_model.bin", "pytorch_model.bin.index.json")


def snapshot(folder: Path, step: int) -> Path:
    """The weights of a run's adapter as they were after a step; the configuration is the run's own."""
    return folder / "snapshots" / f"{step}.safetensors"


def is_checkpoint(folder: Path) -> bool:
    """Whether a run's folder holds a whole model; False for an adapter. Raises UserError if it is neither.

    A model into which an adapter was merged may have kept that adapter's configuration: the weights decide.
    """
    model = (folder / MODEL_CONFIG).is_file() and any(
        (folder / name).is_file() for name in (MODEL_WEIGHTS, MODEL_INDEX)
    )
    if (folder / CONFIG).is_file() and (has_adapter_weights(folder) or not model):
        return False
    if model:
        return True
    if (folder / MLX_WEIGHTS).is_file():
        raise UserError(f"{folder}: {MLX}")
    raise UserError(
        f"{folder}: no run's folder: it has neither {CONFIG} and {WEIGHTS} (an adapter) "
        f"nor {MODEL_CONFIG} and {MODEL_WEIGHTS} (a checkpoint); {instead(folder)}"
    )


def has_adapter_weights(folder: Path) -> bool:
    return (folder / WEIGHTS).is_file() or any(folder.glob("adapter_model-*-of-*.safetensors"))


def instead(folder: Path) -> str:
    if not folder.is_dir():
        return "there is no such folder"
    names = sorted(path.name for path in folder.iterdir())
    if pickled := [name for name in _PICKLED if name in names]:
        return f"it has {pickled[0]}, but safetensors only are read: save it again with safe_serialization=True"
    if adapters := [name for name in names if (folder / name / CONFIG).is_file()]:
        return (
            f"it holds adapters of the names {some(adapters)}: give the folder of one, such as {folder / adapters[0]}"
        )
    return f"it has {some(names)}" if names else "it is empty"
