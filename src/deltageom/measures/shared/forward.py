"""One pass of a model over prompts and what follows them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deltageom.models.load import Model, autocast

Ids = Sequence[int]


def completion_logits(
    model: Model, prompts: Sequence[Ids], completions: Sequence[Ids]
) -> tuple[Tensor, Tensor, Tensor]:
    """logits (B, T, V) from which each of the completions' tokens is predicted, their ids (B, T), and where they are
    (B, T): completions end together, so a short one has other positions before it."""
    # padded on the left, so that only the completions' logits are computed
    rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    width, longest = max(map(len, rows)), max(map(len, completions))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with autocast(model):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            logits_to_keep=longest + 1,
            use_cache=False,
        ).logits
    lengths = torch.tensor([[len(completion)] for completion in completions], device=model.device)
    is_completion = torch.arange(longest, 0, -1, device=model.device)[None] <= lengths
    return logits[:, :-1], ids[:, -longest:], is_completion
