"""The logit lens: what a model would predict if it ended after each layer (nostalgebraist 2020)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from deltageom.errors import UserError
from deltageom.measures.shared.losses.own_answers import Text
from deltageom.measures.shared.policies import SIDES, Sides
from deltageom.models.load import Model, autocast
from deltageom.study.schema import Base, Device

Row = dict[str, Any]
FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm")  # by transformers' names, of the decoders


def read_lens(
    base: str, settings: Base, device: Device, folder: Path, texts: Sequence[Text], batch_size: int
) -> Iterator[Row]:
    """Of the base and of a run, on the same texts: a row per side, problem and layer, and one per side and problem.

    side; problem_id; tokens, of its texts; layer (0: the embeddings) and agreed, the tokens for which the layer's
    prediction is the last layer's; or, with layer None, depth, the sum over tokens of `depths`. Memory: the hidden
    states of all layers of `batch_size` texts, and the logits of one layer of one text.
    """
    sides = Sides(settings, device, base, folder)
    for side in SIDES:
        found: dict[str, Tensor] = {}
        for start in tqdm(range(0, len(texts), batch_size), desc=side, unit="batch", mininterval=5):
            chosen = texts[start : start + batch_size]
            with sides.model(side) as model:
                predictions = predicted(model, chosen)
            for text, tokens in zip(chosen, predictions, strict=True):
                before = found.get(text.problem_id)
                found[text.problem_id] = tokens if before is None else torch.cat([before, tokens], 1)
        for problem_id, tokens in found.items():
            row = {"side": side, "problem_id": problem_id, "tokens": tokens.shape[1]}
            for layer, agreed in enumerate((tokens == tokens[-1]).sum(1).tolist()):
                yield row | {"layer": layer, "agreed": agreed, "depth": None}
            yield row | {"layer": None, "agreed": None, "depth": int(depths(tokens).sum())}


@torch.inference_mode()
def predicted(model: Model, texts: Sequence[Text]) -> list[Tensor]:
    """Of each text (layers + 1, T): the most likely token at each of the answer's T places after each layer.

    Every layer's state goes through the model's own final norm and head; the last one has its norm already.
    Raises UserError for a model whose final norm has none of the known names.
    """
    norm, head = _final_norm(model), model.get_output_embeddings()
    rows = [[*text.prompt, *text.answer] for text in texts]
    width = max(map(len, rows))
    # padded on the right, where a causal model needs no mask
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
    with autocast(model):
        states = model(input_ids=ids, output_hidden_states=True, logits_to_keep=1, use_cache=False).hidden_states
        found = []
        for i, text in enumerate(texts):
            places = slice(len(text.prompt) - 1, len(text.prompt) + len(text.answer) - 1)
            early = [head(norm(state[i, places])).argmax(-1) for state in states[:-1]]
            found.append(torch.stack([*early, head(states[-1][i, places]).argmax(-1)]).cpu())
    return found


def depths(predicted: Tensor) -> Tensor:
    """(T,): after how many layers the prediction stands, from predictions (layers + 1, T).

    The least d such that after layer d, and after every later one, it is the last layer's. 0: that of the embeddings.
    """
    other = predicted != predicted[-1]
    layers = torch.arange(1, len(predicted) + 1)[:, None]
    return (other * layers).max(0).values


def _final_norm(model: Model) -> nn.Module:
    decoder = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder = decoder.get_decoder() if hasattr(decoder, "get_decoder") else decoder.base_model
    for name in FINAL_NORMS:
        if isinstance(found := getattr(decoder, name, None), nn.Module):
            return found
    raise UserError(
        f"measures.logit_lens: {type(decoder).__name__} has no final norm by a known name ({', '.join(FINAL_NORMS)}): "
        "set measures.logit_lens to null"
    )
