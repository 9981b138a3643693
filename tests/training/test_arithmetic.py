"""One arithmetic for training, scoring, generation and the measures; and what training leaves out of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trl.trainer.utils import add_fused_lm_head

from deltageom.generation.engine import Request, Sampling
from deltageom.generation.engines.transformers import TransformersEngine
from deltageom.measures.shared import hidden_states
from deltageom.measures.shared.losses import loss_paths
from deltageom.models.load import load_model, load_run
from deltageom.study.schema import Base
from deltageom.training import scoring, trainers
from tests.training.tiny_runs import built, rollouts, settings

PROMPTS = [[11, 12, 13, 14], [20, 21]]
ANSWERS = [[30, 31], [40]]
ADAPTED = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@contextmanager
def watched(model: Any) -> Iterator[list[tuple[bool, Any]]]:
    """Of each pass through the first decoder layer: whether autocast is on, and the attention mask."""
    seen: list[tuple[bool, Any]] = []
    decoder = next(m for n, m in model.named_modules() if n.endswith("layers.0"))

    def note(_: Any, __: Any, named: dict[str, Any]) -> None:
        seen.append((torch.is_autocast_enabled("cpu"), named.get("attention_mask")))

    hook = decoder.register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    hook.remove()


def generates(model: Any) -> None:
    engine = TransformersEngine(model, 0, [1], 2)
    asked = [Request(prompt, number) for number, prompt in enumerate(PROMPTS)]
    assert len(list(engine.generate(asked, Sampling(1.0, 1.0, 0, 3)))) == 2


def scores(model: Any) -> None:
    add_fused_lm_head(model.get_base_model())
    assert len(scoring.token_log_probs(model, PROMPTS, ANSWERS, 2)) == 2


PATHS: dict[str, Callable[[Any], Any]] = {
    "generation": generates,
    "scoring": scores,
    "connectivity": lambda model: list(loss_paths.answer_nll(model, PROMPTS, ANSWERS, 2)),
    "hidden states": lambda model: hidden_states.encode(model, PROMPTS, "mean", 2),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_path_computes_as_training_does(
    path: str, dtype: str, tiny_model: Path, tiny_adapters: dict[str, Path], base_settings: Base
) -> None:
    base = base_settings.model_copy(update={"dtype": dtype})
    model = load_run(str(tiny_model), base, "cpu", tiny_adapters["first"])
    with watched(model) as seen:
        PATHS[path](model)
    assert seen
    assert {autocast for autocast, _ in seen} == {dtype == "bfloat16"}


def test_an_adapters_products_are_those_of_training(
    tiny_model: Path, tiny_adapters: dict[str, Path], base_settings: Base
) -> None:
    """In bfloat16 PEFT alone would multiply the factors in float32: these are the trainers' bits, and those are not."""
    base = base_settings.model_copy(update={"dtype": "bfloat16"})
    model = load_run(str(tiny_model), base, "cpu", tiny_adapters["first"])
    ids = torch.tensor([PROMPTS[0]])
    with torch.inference_mode():
        with torch.autocast("cpu", torch.bfloat16):
            trained = model(ids, output_hidden_states=True).hidden_states[-1][:, -1]
        alone = model(ids, output_hidden_states=True).hidden_states[-1][:, -1]
    (found,) = hidden_states.encode(model, [PROMPTS[0]], "last", 1)[-1:]
    assert torch.equal(found, trained.float())
    assert not torch.equal(found, alone.float())


@pytest.mark.parametrize("method", ["sft", "dpo", "simpo", "kto"])
def test_no_mask_reaches_the_decoder_in_training(
    method: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    """And it would change nothing but the last digits: padding is on the right."""
    run = settings(base_settings, method)
    found = {}
    for masked in (False, True):
        trainer = built(run, rollouts(), tiny_model, tmp_path / str(masked))
        if masked:
            trainer.mask_hook.remove()
        with watched(trainer.model) as seen:
            trainer.train()
        assert any(mask is not None for _, mask in seen) == masked
        found[masked] = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    for name, weight in found[True].items():
        torch.testing.assert_close(found[False][name], weight, rtol=1e-4, atol=1e-6)


def test_a_decoder_outside_training_keeps_its_mask(tiny_model: Path, base_settings: Base) -> None:
    model = load_model(str(tiny_model), base_settings, "cpu")
    mask = torch.tensor([[0, 0, 1, 1]])
    with watched(model) as seen:
        model(torch.tensor([[0, 0, 20, 21]]), attention_mask=mask)
        trainers.drop_mask(model)
        model(torch.tensor([[20, 21, 0, 0]]), attention_mask=mask.flip(1))
    assert [mask is None for _, mask in seen] == [False, True]


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_without_float32_copies_of_the_inputs_the_adapter_is_the_same_to_the_bit(
    method: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    run = settings(base_settings.model_copy(update={"dtype": "bfloat16"}), method)
    for copied in (False, True):
        trainer = built(run, rollouts(), tiny_model, tmp_path / str(copied))
        layers = [module for module in trainer.model.modules() if hasattr(module, "cast_input_dtype_enabled")]
        assert len(layers) == 8
        assert not any(layer.cast_input_dtype_enabled for layer in layers)
        for layer in layers:
            layer.cast_input_dtype_enabled = copied
        trainer.train()
        trainer.model.save_pretrained(tmp_path / str(copied) / "adapter")
    one, other = (load_file(tmp_path / copied / "adapter" / ADAPTED) for copied in ("False", "True"))
    assert all(torch.equal(one[name], weight) for name, weight in other.items())
    assert all(weight.abs().max() > 0 for weight in one.values())
