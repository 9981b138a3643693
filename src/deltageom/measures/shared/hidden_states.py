"""Hidden states of the prompts in every layer: what CKA compares."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from deltageom.files import whole_file
from deltageom.models.load import Model, autocast, load_run, load_tokenizer
from deltageom.models.prompts import prompt_ids
from deltageom.problems.problem import Problem
from deltageom.study.settings import HiddenSettings


def write(settings: HiddenSettings, base: str, adapter: Path | None, problems: list[Problem], output: Path) -> None:
    """Writes one float32 tensor `hidden` (layers, prompts, width) as safetensors. `adapter`: a run's folder, if any."""
    tokenizer = load_tokenizer(base, settings.base)
    model = load_run(base, settings.base, settings.device, adapter)
    prompts = [prompt_ids(tokenizer, settings.prompt, problem.question) for problem in problems]
    hidden = encode(model, prompts, settings.cka.pooling, settings.cka.batch_size)
    with whole_file(output) as aside:
        save_file({"hidden": hidden}, aside)


@torch.inference_mode()
def encode(model: Model, prompts: list[list[int]], pooling: str, batch_size: int) -> torch.Tensor:
    """(layers, prompts, width): each decoder layer's output, the last one after the final norm, as transformers has it.

    Pooled over the prompt: its last token, or the mean of its tokens. The embeddings are left out: no adapter
    changes them, and pooled by the last token, the same template token in every prompt, they are constant, in a
    checkpoint too.
    """
    batches = []
    for start in tqdm(range(0, len(prompts), batch_size), unit="batch"):
        rows = prompts[start : start + batch_size]
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
        if pooling == "last":
            pooled = states[:, torch.arange(len(rows)), mask.sum(1) - 1]
        else:
            pooled = (states * mask[None, :, :, None]).sum(2) / mask.sum(1)[None, :, None]
        batches.append(pooled.cpu())
    return torch.cat(batches, dim=1).contiguous()
