"""Deltas of whole models whose weights are FP8 with a scale per block, as DeepSeek's and Qwen3's files have them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from deltageom.deltas.open import open_run
from deltageom.deltas.whole_model import FP8_ROUNDING
from deltageom.errors import UserError
from tests.deltas.test_whole_model import write_model

BLOCK = 128
QUERY = "layers.0.self_attn.q_proj"
MOVED = 0.01


def stored(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes, and a scale per block, by which a block's largest value is the type's."""
    scales = torch.empty(-(-weight.shape[0] // BLOCK), -(-weight.shape[1] // BLOCK))
    codes = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            block = (slice(i * BLOCK, (i + 1) * BLOCK), slice(j * BLOCK, (j + 1) * BLOCK))
            scales[i, j] = weight[block].abs().max() / torch.finfo(codes.dtype).max
            codes[block] = (weight[block] / scales[i, j]).to(codes.dtype)
    return codes, scales


def meant(codes: Tensor, scales: Tensor) -> Tensor:
    """In float32, as DeepSeek's own conversion to bfloat16 multiplies them."""
    wide = scales.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    return codes.float() * wide[: codes.shape[0], : codes.shape[1]]


def in_fp8(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Linear layers as codes and scales; the rest as it is."""
    found = {}
    for name, tensor in tensors.items():
        if tensor.dim() == 2 and "layers" in name:
            found[name], found[f"{name}_scale_inv"] = stored(tensor)
        else:
            found[name] = tensor
    return found


@pytest.fixture(scope="module")
def model() -> dict[str, Tensor]:
    """One layer whose sides are no multiples of a block, and that has several blocks."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=40, hidden_size=200, intermediate_size=300, num_hidden_layers=1, num_attention_heads=4, head_dim=70,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    return {name: tensor.detach() for name, tensor in Qwen3ForCausalLM(config).state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_run_that_was_trained_from_an_fp8_base(tmp_path: Path, model: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Training begins at what the codes stand for, in the run's type."""
    base = in_fp8(model)
    start = {
        name: (meant(tensor, base[f"{name}_scale_inv"]) if f"{name}_scale_inv" in base else tensor).to(dtype)
        for name, tensor in base.items()
        if not name.endswith("_scale_inv")
    }
    name = f"model.{QUERY}.weight"
    after = start | {name: (start[name].float() + MOVED * torch.randn(start[name].shape)).to(dtype)}
    delta = open_run(write_model(tmp_path / "run", after), write_model(tmp_path / "base", base))
    assert len(delta.modules) == 7 + 2  # the embeddings and the head too
    for module in delta.modules:
        key = f"model.{module}.weight" if module != "lm_head" else "lm_head.weight"
        expected = (after[key].double() - start[key].double()).numpy()
        assert np.array_equal(delta.read(module).dense(), expected), module
        assert delta.read(module).dense().any() == (module == QUERY)
    first, *others = delta.notes
    assert "layers.0.mlp.down_proj, " in first
    assert "(7 in all) of the base are FP8: rounding, about 2.6% of" in first
    assert first.endswith("unless it was trained from these very values")
    assert not any("scale_inv" in note for note in others)
    assert delta.n_weights == sum(tensor.numel() for tensor in model.values())


def test_two_models_in_fp8(tmp_path: Path, model: dict[str, Tensor]) -> None:
    """What was not trained has the same codes, and what was is known to the rounding of both."""
    name = f"model.{QUERY}.weight"
    moved = 5 * MOVED * torch.randn(model[name].shape)
    base, run = in_fp8(model), in_fp8(model | {name: model[name] + moved})
    delta = open_run(write_model(tmp_path / "run", run), write_model(tmp_path / "base", base))
    dense = delta.read(QUERY).dense()
    ends = [meant(side[name], side[f"{name}_scale_inv"]).double().numpy() for side in (run, base)]
    np.testing.assert_allclose(dense, ends[0] - ends[1], atol=1e-7)
    off = np.linalg.norm(dense - moved.double().numpy()) / np.linalg.norm(model[name].double().numpy())
    assert 0.5 * FP8_ROUNDING < off < 5 * FP8_ROUNDING
    assert not any(delta.read(module).dense().any() for module in delta.modules if module != QUERY)
    assert "of the base and of the checkpoint are FP8" in delta.notes[0]
    assert not any("scale_inv" in note for note in delta.notes)
    assert delta.n_weights == sum(tensor.numel() for tensor in model.values())


def test_the_rounding_that_is_told_is_that_of_the_type() -> None:
    weight = torch.randn(3 * BLOCK, 2 * BLOCK, generator=torch.Generator().manual_seed(0))
    off = (meant(*stored(weight)) - weight).norm() / weight.norm()
    assert float(off) == pytest.approx(FP8_ROUNDING, abs=0.001)


def test_a_run_in_fp8_beside_an_unquantised_base_is_refused(tmp_path: Path, model: dict[str, Tensor]) -> None:
    """Every weight that was not trained would have moved."""
    run, base = write_model(tmp_path / "run", in_fp8(model)), write_model(tmp_path / "base", model)
    with pytest.raises(UserError, match=r"run: layers\.0\.\S+ is quantised \(FP8 blocks\), so its difference to the"):
        open_run(run, base)
