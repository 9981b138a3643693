"""How torch takes memory from a GPU in the commands that train."""

import os


def let_segments_grow() -> None:
    """Rows of many lengths would fragment a GPU's fixed segments. Before torch is imported; the user's word counts."""
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
