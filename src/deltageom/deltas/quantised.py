"""Which of a model's layers are quantised, and how; those of FP8 with a scale per block, or one, are read."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltageom.deltas.folder import MODEL_CONFIG
from deltageom.deltas.names import canonical
from deltageom.deltas.tensors import FLOATS, FP8, Tensors
from deltageom.errors import UserError

FP8_BLOCKS = "FP8 blocks"
EXPERTS = ("gate_up_proj", "gate_proj", "up_proj", "down_proj")
SCALE = "_scale_inv"  # beside a weight; of a block: what its values are multiplied by

# What stands in a layer's place, or beside its weight, and whose it is.
_ENDINGS = {
    ".qweight": "GPTQ or AWQ",
    ".weight_packed": "compressed-tensors",
    f".weight{SCALE}": FP8_BLOCKS,
    ".weight.quant_state.bitsandbytes__nf4": "bitsandbytes 4-bit",
    ".weight.quant_state.bitsandbytes__fp4": "bitsandbytes 4-bit",
    ".SCB": "bitsandbytes 8-bit",
    "_blocks": "MXFP4",
}


def quantised_modules(tensors: Tensors, config: dict[str, Any]) -> dict[str, str]:
    """Module to how it is quantised: by the tensors beside its weight, or by a type that is no float's."""
    method = _settings(config).get("quant_method")
    found = {}
    for name in tensors.names:
        for ending, how in _ENDINGS.items():
            if name.endswith(ending):
                found[canonical(name.removesuffix(ending))] = how
        module = name.removesuffix(".weight")
        is_weight = name != module or module.rpartition(".")[2] in EXPERTS
        if is_weight and tensors.dtype(name) not in FLOATS:
            found.setdefault(canonical(module), method or tensors.dtype(name))
    return found


def is_fp8_blocks(tensors: Tensors, name: str) -> bool:
    """Whether a weight is a matrix of FP8 with a scale per block, as DeepSeek's are."""
    return f"{name}{SCALE}" in tensors and tensors.dtype(name) == FP8 and len(tensors.shape(name)) == 2


def read_fp8_blocks(tensors: Tensors, name: str, config: dict[str, Any]) -> NDArray[np.float64]:
    """The weight (d_out, d_in) that the values stand for. Raises UserError where the scales do not fit the blocks."""
    block = _settings(config).get("weight_block_size") or [128, 128]
    if not (isinstance(block, list) and len(block) == 2 and all(type(size) is int and size > 0 for size in block)):
        raise UserError(f"{tensors.folder / MODEL_CONFIG}: weight_block_size must be two whole numbers, not {block!r}")
    rows, columns = block
    weight, scales = tensors.read(name), tensors.read(f"{name}{SCALE}")
    height, width = weight.shape
    if scales.size == 1:  # of the whole weight, as Mistral's are
        weight *= scales.item()
        return weight
    if scales.shape != (-(-height // rows), -(-width // columns)):
        raise UserError(
            f"{tensors.path(name)}: the scales {scales.shape} of {name} do not fit {weight.shape} in blocks of "
            f"{[rows, columns]}"
        )
    for i, of_row in enumerate(scales):  # by rows of blocks: a matrix of scales would be as large as the weight
        weight[i * rows : (i + 1) * rows] *= np.repeat(of_row, columns)[:width]
    return weight


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    said = config.get("quantization_config")
    return said if isinstance(said, dict) else {}
