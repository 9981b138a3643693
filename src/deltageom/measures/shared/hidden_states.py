"""Hidden states of the prompts, or of answers to them, in every layer: what CKA compares."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from deltageom.errors import UserError
from deltageom.files import whole_file
from deltageom.measures.shared.losses import own_answers
from deltageom.measures.shared.losses.own_answers import Text
from deltageom.measures.shared.settings import HiddenSettings
from deltageom.models.load import Model, autocast, load_run, load_tokenizer
from deltageom.models.prompts import prompt_ids
from deltageom.problems.problem import Problem


def write(
    settings: HiddenSettings,
    base: str,
    adapter: Path | None,
    problems: list[Problem],
    output: Path,
    answers: Path | None = None,
) -> None:
    """Writes one float32 tensor `hidden` (layers, prompts, width) as safetensors.

    `adapter`: a run's folder, if any; `answers`: the base's graded answers to the problems, for pooling `completion`.
    Raises UserError if they are needed and not there.
    """
    tokenizer = load_tokenizer(base, settings.base)
    if settings.cka.pooling == "completion":
        if answers is None:
            raise UserError("measures.cka.pooling completion: the base's answers are needed: give --answers")
        texts = _first_of_each(own_answers.correct(tokenizer, [answers], len(problems), wrong_too=True))
        prompts, completions = [text.prompt for text in texts], [text.answer for text in texts]
    else:
        prompts = [prompt_ids(tokenizer, settings.prompt, problem.question) for problem in problems]
        completions = [[] for _ in prompts]
    model = load_run(base, settings.base, settings.device, adapter)
    hidden = encode(model, prompts, settings.cka.pooling, settings.cka.batch_size, completions)
    with whole_file(output) as aside:
        save_file({"hidden": hidden}, aside)


@torch.inference_mode()
def encode(
    model: Model,
    prompts: list[list[int]],
    pooling: str,
    batch_size: int,
    completions: list[list[int]] | None = None,
) -> torch.Tensor:
    """(layers, prompts, width): each decoder layer's output, the last one after the final norm, as transformers has it.

    Pooled over the prompt, its last token (last) or the mean of its tokens (mean), or over the tokens that follow it
    (completion). The embeddings are left out: no adapter changes them, and pooled by the last token, the same template
    token in every prompt, they are constant, in a checkpoint too.
    """
    batches, follows = [], completions or [[] for _ in prompts]
    whole = [[*prompt, *completion] for prompt, completion in zip(prompts, follows, strict=True)]
    for start in tqdm(range(0, len(prompts), batch_size), unit="batch"):
        rows = whole[start : start + batch_size]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
        with autocast(model):
            outputs = model(
                input_ids=ids,  # padded on the right, where a causal model needs no mask
                output_hidden_states=True,
                logits_to_keep=1,
                use_cache=False,
            )
        states = torch.stack(outputs.hidden_states[1:]).float()
        if pooling == "completion":
            before = torch.tensor([[len(prompt)] for prompt in prompts[start : start + batch_size]])
            mask *= torch.arange(width, device=model.device) >= before.to(model.device)
        if pooling == "last":
            pooled = states[:, torch.arange(len(rows)), mask.sum(1) - 1]
        else:
            pooled = (states * mask[None, :, :, None]).sum(2) / mask.sum(1)[None, :, None]
        batches.append(pooled.cpu())
    return torch.cat(batches, dim=1).contiguous()


def _first_of_each(texts: Sequence[Text]) -> list[Text]:
    """The first answer to each problem, of those that have tokens."""
    return list({text.problem_id: text for text in reversed(texts) if text.answer}.values())[::-1]
