"""The logit lens against one unpadded pass per text, layer by layer, with the norm and the head written out."""

from pathlib import Path

import pytest
import torch
from torch import nn

from deltageom.errors import UserError
from deltageom.files import write_csv, write_jsonl
from deltageom.measures import logit_lens
from deltageom.measures.shared import lens
from deltageom.measures.shared.losses.own_answers import Text
from deltageom.measures.shared.settings import LogitLensSettings
from deltageom.models.load import load_run
from deltageom.study.measured import LogitLens
from deltageom.study.schema import Base
from tests.deltas import tiny_checkpoints

TEXTS = [Text("1", [5, 6, 7], [8, 9]), Text("2", [11], [13, 14, 15, 16]), Text("1", [5, 6, 7], [20])]


@pytest.fixture(params=["adapter", "whole"])
def run(
    request: pytest.FixtureRequest,
    tiny_model: Path,
    tiny_adapters: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    if request.param == "adapter":
        return tiny_adapters["first"]
    return tiny_checkpoints.perturbed(tiny_model, tmp_path_factory.mktemp("whole") / "run", seed=1)


def by_hand(model: nn.Module, text: Text) -> torch.Tensor:
    """(layers + 1, T): what each layer's state predicts, from the decoder's own modules."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    states: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _m, _a, out: states.append(out[0] if isinstance(out, tuple) else out))
        for layer in causal.model.layers
    ]
    ids = torch.tensor([text.prompt + text.answer])
    with torch.no_grad():
        causal(ids)
        states.insert(0, causal.model.embed_tokens(ids))
        for hook in hooks:
            hook.remove()
        weight, eps = causal.model.norm.weight, causal.model.norm.variance_epsilon
        normed = [weight * s * torch.rsqrt(s.pow(2).mean(-1, keepdim=True) + eps) for s in states]
        logits = torch.stack([s @ causal.get_output_embeddings().weight.T for s in normed])
    return logits[:, 0, len(text.prompt) - 1 : -1].argmax(-1)


def test_predictions_are_those_of_each_layers_own_state(tiny_model: Path, base_settings: Base, run: Path) -> None:
    model = load_run(str(tiny_model), base_settings, "cpu", run)
    for text, found in zip(TEXTS, lens.predicted(model, TEXTS), strict=True):
        assert torch.equal(found, by_hand(model, text))


def test_depth_is_the_layer_from_which_the_prediction_stands() -> None:
    predicted = torch.tensor([[7, 1, 7, 2], [7, 7, 3, 2], [7, 7, 7, 5], [7, 7, 7, 9]])
    assert lens.depths(predicted).tolist() == [0, 1, 2, 3]


def test_rows_count_a_problems_texts_together_for_base_and_run(
    tiny_model: Path, base_settings: Base, run: Path
) -> None:
    rows = list(lens.read_lens(str(tiny_model), base_settings, "cpu", run, TEXTS, 2))
    for side, folder in (("base", None), ("run", run)):
        model = load_run(str(tiny_model), base_settings, "cpu", folder)
        for problem in ("1", "2"):
            parts = [by_hand(model, text) for text in TEXTS if text.problem_id == problem]
            own = [row for row in rows if row["side"] == side and row["problem_id"] == problem]
            assert {row["tokens"] for row in own} == {sum(part.shape[1] for part in parts)}
            layers = {row["layer"]: row["agreed"] for row in own if row["layer"] is not None}
            whole = torch.cat(parts, 1)
            assert layers == {i: int((layer == whole[-1]).sum()) for i, layer in enumerate(whole)}
            assert [row["depth"] for row in own if row["layer"] is None] == [int(lens.depths(whole).sum())]


def test_the_tables_of_a_study(
    tiny_model: Path, tiny_adapters: dict[str, Path], base_settings: Base, tmp_path: Path
) -> None:
    record = {"prompt": "Tom has 3.", "finish_reason": "stop", "correct": False}
    answers = [record | {"problem_id": str(i), "response": f" {i} and 4"} for i in range(4)]
    write_jsonl(tmp_path / "answers.jsonl", answers)
    wanted = LogitLens(benchmark="easy", problems=3, batch_size=2)
    settings = LogitLensSettings(logit_lens=wanted, base=base_settings, device="cpu")
    inputs = {"base": tiny_model, "run": tiny_adapters["first"], "answers": tmp_path / "answers.jsonl"}
    rows = logit_lens.MEASURE.rows(settings, inputs, {})
    (tmp_path / "logit_lens").mkdir()
    write_csv(tmp_path / "logit_lens" / "sft.csv", rows)
    tables = logit_lens.MEASURE.build(tmp_path, ["sft"])
    (whole,) = tables["logit_lens"].to_dict("records")
    tokens = sum(row["tokens"] for row in rows if row["layer"] is None and row["side"] == "run")

    def mean(side: str) -> float:
        return sum(row["depth"] for row in rows if row["layer"] is None and row["side"] == side) / tokens

    assert whole["n"] == 3
    assert whole["layers"] == base_settings.layers
    assert (whole["depth"], whole["base_depth"]) == pytest.approx((mean("run"), mean("base")))
    assert whole["difference"] == pytest.approx(mean("run") - mean("base"))
    layers = tables["logit_lens_layers"].set_index("layer")
    assert layers.loc[base_settings.layers, ["agreement", "base_agreement"]].tolist() == [1.0, 1.0]
    assert len(layers) == base_settings.layers + 1


def test_a_decoder_without_a_final_norm_is_refused() -> None:
    class Bare(nn.Module):
        def get_decoder(self) -> nn.Module:
            return nn.Linear(2, 2)

    with pytest.raises(UserError, match=r"measures\.logit_lens: Linear has no final norm"):
        lens._final_norm(Bare())
