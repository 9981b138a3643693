"""Batched generation with transformers: key-value cache, left padding, the policy's log-probs kept step by step."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from deltageom import models
from deltageom.engines import Completion, Sampling
from deltageom.errors import UserError
from deltageom.schema import Base, Device


def load(model: str, base: Base, device: Device, adapter: Path | None, batch_size: int) -> "TransformersEngine":
    network = models.load_run(model, base, device, adapter)
    tokenizer = models.load_tokenizer(model, base)
    return TransformersEngine(network, tokenizer.pad_token_id, tokenizer.eos_token_id, batch_size)


class TransformersEngine:
    def __init__(self, model: models.Model, pad: int, eos: int, batch_size: int) -> None:
        self.model = model
        self.pad = pad
        configured = model.generation_config.eos_token_id
        configured = configured if isinstance(configured, list) else [configured]
        self.eos = sorted({eos, *(token for token in configured if token is not None)})
        self.batch_size = batch_size

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Completion]]:
        self._check_lengths(prompts, sampling.max_tokens)
        # neighbours of like length waste little padding; the sort is stable, so equal calls make equal batches
        flat = sorted(range(len(prompts) * sampling.samples), key=lambda i: len(prompts[i // sampling.samples]))
        found: dict[int, Completion] = {}
        torch.manual_seed(sampling.seed)
        with tqdm(total=len(flat), unit="completion", mininterval=5) as progress:
            for start in range(0, len(flat), self.batch_size):
                rows = flat[start : start + self.batch_size]
                made = self._batch([prompts[row // sampling.samples] for row in rows], sampling)
                found.update(zip(rows, made, strict=True))
                progress.update(len(rows))
        return [
            [found[index * sampling.samples + sample] for sample in range(sampling.samples)]
            for index in range(len(prompts))
        ]

    def _batch(self, prompts: list[Sequence[int]], sampling: Sampling) -> list[Completion]:
        width = max(map(len, prompts))
        ids = torch.tensor([[self.pad] * (width - len(p)) + list(p) for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        recorder = _Recorder()
        sequences = self.model.generate(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            generation_config=self._config(sampling),
            logits_processor=LogitsProcessorList([*_warpers(sampling), recorder]),
        )
        log_probs = recorder.finish(sequences).cpu()
        return [
            self._completion(tokens, scores)
            for tokens, scores in zip(sequences[:, width:].tolist(), log_probs.tolist(), strict=True)
        ]

    def _config(self, sampling: Sampling) -> GenerationConfig:
        """Everything that a model's own generation_config may set is set here: the study's policy, nothing else."""
        return GenerationConfig(
            do_sample=sampling.temperature > 0,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            repetition_penalty=1.0,
            num_return_sequences=1,
            max_new_tokens=sampling.max_tokens,
            eos_token_id=self.eos,
            pad_token_id=self.pad,
        )

    def _completion(self, tokens: list[int], scores: list[float]) -> Completion:
        end = next((i for i, token in enumerate(tokens) if token in self.eos), None)
        length = len(tokens) if end is None else end + 1
        return Completion(tokens[:length], scores[:length], "length" if end is None else "stop")

    def _check_lengths(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> None:
        context = self.model.config.get_text_config().max_position_embeddings
        longest = max(map(len, prompts))
        if longest + max_tokens > context:
            raise UserError(
                f"the longest prompt has {longest} tokens and max_tokens is {max_tokens}, more than the model's "
                f"context of {context}: lower max_tokens"
            )


def _warpers(sampling: Sampling) -> list[LogitsProcessor]:
    """The sampling policy, in transformers' own order. Given by hand, since the recorder must come after them."""
    if sampling.temperature == 0:
        return []
    warpers: list[LogitsProcessor] = []
    if sampling.temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return warpers


class _Recorder(LogitsProcessor):
    """Keeps the log-prob of each chosen token, and of the (batch, vocabulary) scores only the last step's."""

    def __init__(self) -> None:
        self.chosen: list[torch.Tensor] = []
        self.last: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._take(input_ids)
        self.last = scores.float().log_softmax(-1)
        return scores

    def finish(self, sequences: torch.Tensor) -> torch.Tensor:
        """(batch, steps): the log-prob of each new token."""
        self._take(sequences)
        return torch.cat(self.chosen, dim=1)

    def _take(self, sequences: torch.Tensor) -> None:
        if self.last is not None:
            self.chosen.append(self.last.gather(1, sequences[:, -1:].to(self.last.device)))
