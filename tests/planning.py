"""What the tests of plans share: a study of one's own, and the configurations of two published models."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from deltageom.resolved import Study
from deltageom.study import load_study
from tests.conftest import ROOT

# Qwen3-4B's and Qwen3-30B-A3B's config.json, the keys that count
QWEN3_4B = {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
QWEN3_30B_A3B = QWEN3_4B | {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "tie_word_embeddings": False,
}


def study(parent: str = "toy", **config: Any) -> Study:
    """The toy, or another study, with these keys of its own."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        shutil.copy(ROOT / "config.yaml", root)
        shutil.copytree(ROOT / "studies", root / "studies")
        (root / "studies" / "own.yaml").write_text(yaml.safe_dump({"extends": parent} | config))
        return load_study({"study": "own"}, root)


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-12)
