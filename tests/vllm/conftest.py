"""The real vLLM, where it is installed (`make test-vllm`), with a tiny model whose heads it has kernels for."""

import importlib.util
from pathlib import Path

import pytest

from tests.conftest import save_tiny_adapters, save_tiny_model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("vllm") is None:
        skip = pytest.mark.skip(reason="vLLM is not in this environment: `make test-vllm` makes one that has it")
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"), head_dim=32)


@pytest.fixture(scope="session")
def tiny_adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_tiny_adapters(tiny_model, tmp_path_factory)
