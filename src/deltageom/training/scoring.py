"""Log-probs of given completions under a model, token by token, without the logits of a whole batch being kept."""

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from deltageom.models.load import Model, autocast
from deltageom.training.batches import IGNORED, RowCollator

Ids = Sequence[int]


@torch.no_grad()  # not inference_mode: autocast would keep its tensors for the training that goes on
def token_log_probs(
    model: Model, prompts: Sequence[Ids], completions: Sequence[Ids], batch_size: int, progress: bool = False
) -> list[Tensor]:
    """log pi(y_t | x, y_<t) of each completion's tokens, float64 on the CPU, in the order given.

    The model has TRL's fused head (`trl.trainer.utils.add_fused_lm_head`).
    """
    examples = [
        {"input_ids": [*prompt, *completion], "labels": [IGNORED] * len(prompt) + list(completion)}
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    order = sorted(range(len(examples)), key=lambda i: -len(examples[i]["input_ids"]))
    collate = RowCollator(pad_token_id=0)
    found: dict[int, Tensor] = {}
    with tqdm(total=len(order), unit="row", mininterval=5, disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = collate([examples[i] for i in rows])
            # padded on the right, where a causal model needs no mask
            ids = {key: batch[key].to(model.device) for key in ("input_ids", "labels")}
            with autocast(model):
                outputs = model(**ids, fused_lm_head=True)
            log_probs, mask = outputs.log_probs.double().cpu(), outputs.label_mask.cpu()
            found |= {row: log_probs[k][mask[k]] for k, row in enumerate(rows)}
            bar.update(len(rows))
    return [found[i] for i in range(len(examples))]


@torch.no_grad()
def token_kl(model: Model, prompts: Sequence[Ids], completions: Sequence[Ids]) -> list[Tensor]:
    """KL(base || run) of the next token at each completion's tokens, float64 on the CPU, in the order given.

    The exact sum over the vocabulary, of a model with an adapter, whose base is itself with the adapter off. One row at
    a time: (T, V) logits twice.
    """
    found = []
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = torch.tensor([[*prompt, *completion]], device=model.device)
        keep = len(completion) + 1
        with autocast(model):
            run = model(input_ids=ids, logits_to_keep=keep, use_cache=False).logits
            with model.disable_adapter():
                base = model(input_ids=ids, logits_to_keep=keep, use_cache=False).logits
        run, base = (logits[0, :-1].double().log_softmax(-1) for logits in (run, base))
        found.append(exact_kl(base, run).cpu())
    return found


def exact_kl(own: Tensor, other: Tensor) -> Tensor:
    """KL(own || other) in nats, the sum over the vocabulary, (...), from log-probs of all of its tokens, (..., V)."""
    return (own.exp() * (own - other)).sum(-1)
