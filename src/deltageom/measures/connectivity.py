"""The loss along the path between two deltas: alpha dW_a + (1 - alpha) dW_b, in one loaded model.

The loss (2606.23740) is the cross-entropy of the gold `\\boxed{answer}` placed right after the prompt.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from tqdm import tqdm

from deltageom import connectivity, models
from deltageom.jobs import ConnectivitySettings
from deltageom.records import Problem

Row = dict[str, float | str | int]


def loss_along_paths(
    settings: ConnectivitySettings, base: str, a: Path, others: dict[str, Path], problems: list[Problem]
) -> list[Row]:
    """The paths between run a and each of `others` (name to folder), in one process: starting costs more than a path.

    One row a path, point and problem: b, alpha (weight of a), problem_id, nll summed over the answer's tokens, tokens.
    """
    tokenizer = models.load_tokenizer(base, settings.base)
    model = models.load_adapter(models.load_model(base, settings.base, settings.device), a)
    prompts = [models.prompt_ids(tokenizer, settings.prompt, problem.question) for problem in problems]
    answers = [list(tokenizer.encode(f"\\boxed{{{problem.answer}}}", add_special_tokens=False)) for problem in problems]
    rows: list[Row] = []
    for b, folder in tqdm(others.items(), unit="path"):
        # both adapters are loaded, each scaled: the sum of the scaled deltas, with no cross terms and no merging
        model.load_adapter(folder, adapter_name="b")
        model.base_model.set_adapter(["default", "b"])
        for alpha in connectivity.path(settings.connectivity.points).tolist():
            _scale(model, {"default": alpha, "b": 1.0 - alpha})
            losses = answer_nll(model, prompts, answers, settings.connectivity.batch_size)
            for problem, answer, nll in zip(problems, answers, losses, strict=True):
                rows.append({"b": b, "alpha": alpha, "problem_id": problem.id, "nll": nll, "tokens": len(answer)})
        model.delete_adapter("b")
    return rows


@torch.inference_mode()
def answer_nll(
    model: models.Model, prompts: list[list[int]], answers: list[list[int]], batch_size: int
) -> Iterator[float]:
    """The summed negative log-likelihood of each answer after its prompt, in nats."""
    for start in range(0, len(prompts), batch_size):
        yield from _batch_nll(model, prompts[start : start + batch_size], answers[start : start + batch_size])


def _batch_nll(model: models.Model, prompts: list[list[int]], answers: list[list[int]]) -> list[float]:
    # padded on the left, so that the answers end together and only their logits are computed
    rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    width, longest = max(map(len, rows)), max(map(len, answers))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        logits_to_keep=longest + 1,
        use_cache=False,
    ).logits
    log_probs = logits[:, :-1].float().log_softmax(-1)
    chosen = log_probs.gather(2, ids[:, -longest:, None]).squeeze(2)
    is_answer = torch.arange(longest, 0, -1, device=model.device)[None] <= torch.tensor(
        [[len(answer)] for answer in answers], device=model.device
    )
    totals: list[float] = (-chosen * is_answer).double().sum(1).tolist()
    return totals


def _scale(model: models.Model, weights: dict[str, float]) -> None:
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for adapter, weight in weights.items():
                layer.set_scale(adapter, weight)
