"""Connectivity and hidden states of real models against dense weights and unpadded forward passes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from deltageom import adapters, models
from deltageom.jobs import ConnectivitySettings, HiddenSettings
from deltageom.measures import connectivity, geometry, hidden_states
from deltageom.records import Problem
from deltageom.schema import Base, Cka, Connectivity, Prompt

PROBLEMS = [
    Problem("1", "Tom has 3 apples.", "3", None),
    Problem("2", "A much longer question, with 12 pens and 7 boxes in it?", "1234", None),
    Problem("3", "Ana buys 5.", "56", None),
]


def dense_model(folder: Path, weighted: list[tuple[float, Path]]) -> PreTrainedModel:
    """The base with W + sum of weight * scale B A written into its float64 weights, module by module."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    for weight, adapter in weighted:
        for module in adapters.module_names(adapter):
            factors = adapters.read_factors(adapter, module)
            delta = weight * factors.scale * factors.b @ factors.a
            model.get_submodule(f"model.{module}").weight.data += torch.from_numpy(delta)
    return model


def test_path_interpolates_the_deltas_without_cross_terms(
    tiny_model: Path, tiny_adapters: dict[str, Path], base_settings: Base, prompt: Prompt
) -> None:
    wanted = Connectivity(benchmark="easy", problems=3, points=3, batch_size=2)
    settings = ConnectivitySettings(connectivity=wanted, prompt=prompt, base=base_settings, device="cpu")
    a, b = tiny_adapters["first"], tiny_adapters["second"]
    rows = connectivity.loss_along_paths(settings, str(tiny_model), a, {"b": b, "itself": a}, PROBLEMS)
    assert [row["alpha"] for row in rows] == 2 * ([0.0] * 3 + [0.5] * 3 + [1.0] * 3)
    tokenizer = models.load_tokenizer(str(tiny_model), base_settings)
    for row in rows:
        alpha = float(row["alpha"])
        model = dense_model(tiny_model, [(alpha, a), (1 - alpha, b if row["b"] == "b" else a)])
        problem = next(p for p in PROBLEMS if p.id == row["problem_id"])
        question = models.prompt_ids(tokenizer, prompt, problem.question)
        answer = tokenizer.encode(f"\\boxed{{{problem.answer}}}", add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.tensor([question + answer])).logits[0]
        log_probs = logits.log_softmax(-1)[len(question) - 1 : -1]
        expected = -log_probs.gather(1, torch.tensor(answer)[:, None]).sum()
        assert row["tokens"] == len(answer)
        assert row["nll"] == pytest.approx(float(expected), abs=1e-3)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_hidden_states_equal_an_unpadded_pass_of_the_dense_model(
    tiny_model: Path,
    tiny_adapters: dict[str, Path],
    base_settings: Base,
    prompt: Prompt,
    pooling: str,
    tmp_path: Path,
) -> None:
    wanted = Cka(benchmark="easy", prompts=4, pooling=pooling, batch_size=2)  # type: ignore[arg-type]
    settings = HiddenSettings(cka=wanted, prompt=prompt, base=base_settings, device="cpu")
    output = tmp_path / "hidden.safetensors"
    hidden_states.write(settings, str(tiny_model), tiny_adapters["first"], PROBLEMS, output)
    hidden = load_file(output)["hidden"]
    assert hidden.shape == (2, 3, 32)
    model = dense_model(tiny_model, [(1.0, tiny_adapters["first"])])
    tokenizer = models.load_tokenizer(str(tiny_model), base_settings)
    for index, problem in enumerate(PROBLEMS):
        ids = torch.tensor([models.prompt_ids(tokenizer, prompt, problem.question)])
        with torch.no_grad():
            states = torch.stack(model(ids, output_hidden_states=True).hidden_states[1:])[:, 0]
        expected = states[:, -1] if pooling == "last" else states.mean(1)
        np.testing.assert_allclose(hidden[:, index], expected.numpy(), atol=1e-4)


def test_geometry_files_hold_every_run_and_pair(tiny_adapters: dict[str, Path], tmp_path: Path) -> None:
    module = "layers.1.self_attn.o_proj"
    geometry.write([module], tiny_adapters, top_k=2, output=tmp_path)
    found = json.loads((tmp_path / f"{module}.json").read_text())
    assert (found["module"], found["layer"]) == (module, 1)
    assert [row["run"] for row in found["runs"]] == ["first", "second"]
    (pair,) = found["pairs"]
    one, two = (
        factors.scale * factors.b @ factors.a
        for factors in (adapters.read_factors(folder, module) for folder in tiny_adapters.values())
    )
    cosine = (one * two).sum() / np.linalg.norm(one) / np.linalg.norm(two)
    assert pair["cosine"] == pytest.approx(cosine, abs=1e-12)
