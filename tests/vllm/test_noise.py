"""The noise of the transformers engine is what vLLM's sampler for GPUs adds, by its own source run on numpy's words."""

from types import ModuleType

import numpy as np
import pytest
import torch

from deltageom.generation.noise import gumbel


class Words(np.ndarray):
    """What triton's functions ask of a tensor, which changes no tensor in place."""

    __imul__ = np.ndarray.__mul__
    __ixor__ = np.ndarray.__xor__

    def to(self, dtype: type) -> "Words":
        return self.astype(dtype).view(Words)


def words(values: list[int]) -> Words:
    return np.array(values, dtype=np.int64).reshape(-1, 1).view(Words)


@pytest.fixture
def of_vllm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Its module; without triton, as on a CPU, its kernels are plain functions of whatever has their operators."""
    from vllm.triton_utils import HAS_TRITON
    from vllm.v1.worker.gpu.sample import gumbel as module

    if HAS_TRITON:
        pytest.skip("triton is here and compiles the functions: tests/gpu runs the kernel itself")
    for name in ("int32", "int64", "uint32", "float32"):
        monkeypatch.setattr(module.tl, name, getattr(np, name), raising=False)
    return module


def test_the_noise_is_the_one_of_vllms_kernel(of_vllm: ModuleType) -> None:
    random = np.random.default_rng(0)
    seeds = [0, 1, 2**63 - 1, *random.integers(0, 2**63, 5).tolist()]
    positions = [0, 1, 4095, *random.integers(0, 40_000, 5).tolist()]
    tokens = np.arange(1000, dtype=np.int64).reshape(1, -1).view(Words)
    uniform = np.asarray(of_vllm.murmur3_uniform32(words(seeds), words(positions), tokens), dtype=np.float64)
    assert uniform.shape == (8, 1000)
    expected = -np.log(-np.log1p(-np.minimum(uniform, 1 - 2.0**-24)))
    np.testing.assert_allclose(gumbel(seeds, torch.tensor(positions), 1000).numpy(), expected, rtol=1e-5, atol=1e-6)
