"""Pre-training of the embedded base model, a tiny Qwen3 in the world of `world.py`, and of its teacher."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    set_seed,
)

from deltageom import models
from deltageom.embedded.muon import Muon
from deltageom.embedded.tokenizer import train_tokenizer
from deltageom.embedded.world import documents
from deltageom.errors import UserError
from deltageom.schema import Embedded, Prompt

TOKENIZER_DOCUMENTS = 4000  # the first so many train the tokenizer
EMBEDDING_RATE = 0.2  # AdamW's learning rate, on embeddings and norms, as a share of Muon's
TEACHER_RATE = 0.5  # the teacher's learning rate as a share of the base's
TEACHER_CARELESSNESS = 0.25  # share of the teacher's documents by careless authors: its samples should differ
PROMPT_WEIGHT = 0.02  # of a prompt token's loss: enough to learn the words, and the capacity goes to solving
WARM_UP, DECAY = 0.03, 0.85  # fractions of the steps: the rate rises, stays and falls to zero
BUCKET = 32  # batches sorted by length together, so that little is padding


def pretrain(settings: Embedded, prompt: Prompt, output: Path) -> None:
    """Writes the embedded base and its tokenizer to `output`, as save_pretrained does.

    Equal settings and threads give equal weights. Raises UserError if the loss is not finite.
    """
    set_seed(settings.seed)
    texts = list(documents(settings.documents, settings.seed, careful=False))
    tokenizer = train_tokenizer(part for text in texts[:TOKENIZER_DOCUMENTS] for part in text)
    model = Qwen3ForCausalLM(_configuration(tokenizer))
    model.generation_config = _generation(tokenizer)
    _train(model, _encode(tokenizer, prompt, texts), settings, settings.learning_rate, "pre-training")
    _save(model, tokenizer, output)


def train_teacher(base: Path, settings: Embedded, count: int, prompt: Prompt, output: Path) -> None:
    """Writes a copy of the base trained on `count` more, mostly careful documents to `output`. Raises as `pretrain`."""
    set_seed(settings.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    careful, careless = (documents(count, settings.seed, c) for c in (True, False))
    share = Random(settings.seed)
    texts = [
        bad if share.random() < TEACHER_CARELESSNESS else good for good, bad in zip(careful, careless, strict=True)
    ]
    _train(model, _encode(tokenizer, prompt, texts), settings, TEACHER_RATE * settings.learning_rate, "teacher")
    _save(model, tokenizer, output)


def _configuration(tokenizer: models.Tokenizer) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.05,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        dtype="float32",
    )


def _generation(tokenizer: models.Tokenizer) -> GenerationConfig:
    return GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)


Row = tuple[torch.Tensor, torch.Tensor]  # token ids and loss weights, each (T,)


def _encode(tokenizer: models.Tokenizer, prompt: Prompt, texts: list[tuple[str, str]]) -> list[Row]:
    encoded = tokenizer.apply_chat_template(
        [[*models.conversation(prompt, q), {"role": "assistant", "content": s}] for q, s in texts],
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    return [
        (torch.tensor(ids), torch.where(torch.tensor(mask, dtype=torch.bool), 1.0, PROMPT_WEIGHT))
        for ids, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    ]


def _batches(rows: list[Row], size: int, rng: Random) -> list[list[Row]]:
    """The rows in random order, of similar lengths in a batch, the batches in random order; one pass."""
    rows = rng.sample(rows, len(rows))
    chunk = size * BUCKET
    batches = []
    for start in range(0, len(rows), chunk):
        bucket = sorted(rows[start : start + chunk], key=lambda row: len(row[0]))
        cut = [bucket[i : i + size] for i in range(0, len(bucket), size)]
        batches += rng.sample(cut, len(cut))
    return batches


def _schedule(steps: int) -> Callable[[int], float]:
    """The share of the peak rate at a step: linear warm-up, constant, linear to zero."""
    return lambda step: min(1.0, (step + 1) / max(1.0, WARM_UP * steps), (steps - step) / max(1.0, DECAY * steps))


def _train(model: models.Model, rows: list[Row], settings: Embedded, rate: float, what: str) -> None:
    """One pass: Muon on the weight matrices, AdamW on embeddings and norms. AdamW alone learns no sums."""
    batches = _batches(rows, settings.batch_size, Random(settings.seed))
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        Muon(matrices, lr=rate),
        torch.optim.AdamW(others, lr=EMBEDDING_RATE * rate, weight_decay=0.0),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, _schedule(len(batches))) for o in optimizers]
    model.train()
    progress = tqdm(batches, desc=what, unit="step", mininterval=2)
    for batch in progress:
        loss = _loss(model, batch)
        if not torch.isfinite(loss):
            raise UserError(f"{what}: the loss is {loss.item()}: lower embedded.learning_rate")
        model.zero_grad()
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def _loss(model: models.Model, batch: list[Row]) -> torch.Tensor:
    """Weighted mean of the next-token losses of a batch."""
    ids = pad_sequence([row[0] for row in batch], batch_first=True)
    weights = pad_sequence([row[1] for row in batch], batch_first=True)[:, 1:]  # padding weighs 0
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]  # causal: padding on the right needs no mask
    losses = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


def _save(model: models.Model, tokenizer: models.Tokenizer, output: Path) -> None:
    """Files appear under `output` whole or not at all: written beside it, then moved."""
    aside = output.with_name(f".{output.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    output.mkdir(parents=True, exist_ok=True)
    for file in aside.iterdir():
        file.replace(output / file.name)
    aside.rmdir()
