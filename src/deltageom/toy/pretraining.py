"""Pre-training of the toy base model, a small Qwen3 in the world of `world.py`, and of its teacher.

With dtype bfloat16 the products are in bfloat16 (autocast) and the weights in float32 until they are saved.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
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

from deltageom.errors import UserError
from deltageom.hardware import cuda
from deltageom.models.load import Model
from deltageom.models.prompts import Tokenizer, conversation
from deltageom.problems.world import documents
from deltageom.study.schema import Device, Dtype, Prompt, Toy
from deltageom.toy.muon import Muon
from deltageom.toy.tokenizer import train_tokenizer

TOKENIZER_DOCUMENTS = 4000  # the first so many train the tokenizer
# Found at this hidden size, the toy's. The embeddings' share of Muon's learning rate, for AdamW on embeddings and
# norms, and the deviation of the initial weights go with 1 / sqrt(hidden): the first logits, and the share of an
# embedding that a step changes, then stay what they are.
WIDTH, EMBEDDING_RATE, DEVIATION = 128, 0.2, 0.05
TEACHER_RATE = 0.5  # the teacher's learning rate as a share of the base's
TEACHER_CARELESSNESS = 0.25  # share of the teacher's documents by careless authors: its samples should differ
PROMPT_WEIGHT = 0.02  # of a prompt token's loss: enough to learn the words, and the capacity goes to solving
WARM_UP, DECAY = 0.03, 0.85  # fractions of the steps: the rate rises, stays and falls to zero
ENCODED = 10_000  # documents tokenized at once: the tokenizer's own records are large
BUCKET = 32  # batches sorted by length together, so that little is padding


def pretrain(settings: Toy, prompt: Prompt, output: Path, device: Device = "cpu", dtype: Dtype = "float32") -> None:
    """Writes the toy base, in `dtype`, and its tokenizer to `output`, as save_pretrained does.

    On the CPU equal settings and threads give equal weights. Raises UserError if the loss is not finite, and if there
    is no such device.
    """
    cuda.check_device(device)
    set_seed(settings.seed)
    texts = list(documents(settings.documents, settings.seed, False, settings.world))
    tokenizer = train_tokenizer((p for text in texts[:TOKENIZER_DOCUMENTS] for p in text), settings.vocabulary)
    model: Model = Qwen3ForCausalLM(configuration(settings, tokenizer))
    model.generation_config = _generation(tokenizer)
    rows = _encode(tokenizer, prompt, texts)
    _train(model.to(device), rows, settings, settings.learning_rate, "pre-training", dtype)
    _save(model, tokenizer, output, dtype)


def train_teacher(
    base: Path,
    settings: Toy,
    count: int,
    prompt: Prompt,
    output: Path,
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Writes a copy of the base trained on `count` more, mostly careful documents to `output`. Raises as `pretrain`."""
    cuda.check_device(device)
    set_seed(settings.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model: Model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    careful, careless = (documents(count, settings.seed, c, settings.world) for c in (True, False))
    share = Random(settings.seed)
    texts = [
        bad if share.random() < TEACHER_CARELESSNESS else good for good, bad in zip(careful, careless, strict=True)
    ]
    rows = _encode(tokenizer, prompt, texts)
    _train(model.to(device), rows, settings, TEACHER_RATE * settings.learning_rate, "teacher", dtype)
    _save(model, tokenizer, output, dtype)


def configuration(settings: Toy, tokenizer: Tokenizer) -> Qwen3Config:
    """The toy model's, of the sizes that the study names."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        head_dim=settings.head_dim,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=DEVIATION * (WIDTH / settings.hidden) ** 0.5,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        dtype="float32",
    )


def _generation(tokenizer: Tokenizer) -> GenerationConfig:
    return GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)


Row = tuple[torch.Tensor, torch.Tensor]  # token ids and loss weights, each (T,)


def _encode(tokenizer: Tokenizer, prompt: Prompt, texts: list[tuple[str, str]]) -> list[Row]:
    """In the chat template, prompt and completion apart: they meet at a special token, so the ids are the whole's."""
    rows: list[Row] = []
    for start in range(0, len(texts), ENCODED):
        chunk = texts[start : start + ENCODED]
        asked = tokenizer.apply_chat_template(
            [conversation(prompt, question) for question, _ in chunk], add_generation_prompt=True, tokenize=False
        )
        answered = [solution + tokenizer.eos_token for _, solution in chunk]
        encode = partial(tokenizer.backend_tokenizer.encode_batch_fast, add_special_tokens=False)
        rows += [
            (torch.tensor(a.ids + b.ids), torch.tensor([PROMPT_WEIGHT] * len(a.ids) + [1.0] * len(b.ids)))
            for a, b in zip(encode(asked), encode(answered), strict=True)
        ]
    return rows


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


def _train(model: Model, rows: list[Row], settings: Toy, rate: float, what: str, dtype: Dtype) -> None:
    """One pass: Muon on the weight matrices, AdamW on embeddings and norms. AdamW alone learns no sums."""
    batches = _batches(rows, settings.batch_size, Random(settings.seed))
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        Muon(matrices, lr=rate, dtype=torch.bfloat16 if model.device.type == "cuda" else torch.float32),
        torch.optim.AdamW(others, lr=EMBEDDING_RATE * rate * (WIDTH / settings.hidden) ** 0.5, weight_decay=0.0),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, _schedule(len(batches))) for o in optimizers]
    model.train()
    progress = tqdm(batches, desc=what, unit="step", mininterval=2)
    for batch in progress:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = _loss(model, batch)
        if not torch.isfinite(loss):
            raise UserError(f"{what}: the loss is {loss.item()}: lower toy.learning_rate")
        model.zero_grad()
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def _loss(model: Model, batch: list[Row]) -> torch.Tensor:
    """Weighted mean of the next-token losses of a batch."""
    ids = pad_sequence([row[0] for row in batch], batch_first=True).to(model.device)
    weights = pad_sequence([row[1] for row in batch], batch_first=True).to(model.device)[:, 1:]  # padding weighs 0
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]  # causal: padding on the right needs no mask
    losses = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


def _save(model: Model, tokenizer: Tokenizer, output: Path, dtype: Dtype) -> None:
    """Files appear under `output` whole or not at all: written beside it, then moved."""
    aside = output.with_name(f".{output.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    model.to(getattr(torch, dtype)).save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    output.mkdir(parents=True, exist_ok=True)
    for file in aside.iterdir():
        file.replace(output / file.name)
    aside.rmdir()
