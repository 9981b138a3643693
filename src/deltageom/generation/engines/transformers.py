"""Batched generation with transformers: key-value cache, left padding, each row drawn with its own random numbers."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from deltageom.generation.engine import Completion, Request, Sampling, Setup, sequences_at_once
from deltageom.hardware import memory
from deltageom.models.load import Model, autocast, load_run, load_tokenizer
from deltageom.models.prompts import end_tokens

MEMORY_KEYS = "transformers.batch_tokens, batch_size or max_tokens"


def load(setup: Setup) -> "TransformersEngine":
    network = load_run(setup.model, setup.base, setup.device, setup.adapter)
    tokenizer = load_tokenizer(setup.model, setup.base)
    limits = setup.batch_size, setup.batch_tokens
    ends = end_tokens(tokenizer, network.generation_config)
    return TransformersEngine(network, tokenizer.pad_token_id, ends, *limits)


class TransformersEngine:
    """Requests go through the model in the order given, `batch_size` at a time or as many as `batch_tokens` allows."""

    def __init__(
        self, model: Model, pad: int, ends: list[int], batch_size: int, batch_tokens: int | None = None
    ) -> None:
        self.model = model
        self.pad = pad
        self.ends = ends
        self.batch_size, self.batch_tokens = batch_size, batch_tokens

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, at_once: int | None = None
    ) -> Iterator[tuple[int, Completion]]:
        if not requests:
            return
        size = at_once or sequences_at_once(self.batch_size, self.batch_tokens, requests, sampling)
        self._check_memory(size, requests, sampling)
        for start in range(0, len(requests), size):
            batch = requests[start : start + size]
            with memory.out_of_memory(f"a batch of {len(batch)} sequences", MEMORY_KEYS):
                completions = self._batch(batch, sampling)
            yield from enumerate(completions, start)

    def _check_memory(self, size: int, requests: Sequence[Request], sampling: Sampling) -> None:
        """Raises UserError, before the first batch, if the key-value cache of the largest one cannot fit.

        The longest `size` prompts bound that batch from below; each sequence may get all its tokens.
        """
        longest = sorted(len(request.prompt) for request in requests)[-size:]
        tokens = len(longest) * (longest[0] + sampling.max_tokens)
        cache = tokens * memory.cache_bytes_per_token(self.model.config, self.model.dtype)
        free, total = memory.free_memory(self.model.device.type)
        memory.check({"key-value cache": cache}, free, total, f"batches of {size} sequences", MEMORY_KEYS)

    @torch.inference_mode()
    def _batch(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        prompts = [list(request.prompt) for request in requests]
        width = max(map(len, prompts))
        ids = torch.tensor([[self.pad] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        chooser = _Chooser(_uniforms(requests, sampling, self.model.device))
        with autocast(self.model):
            sequences = self.model.generate(
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                generation_config=self._config(sampling),
                logits_processor=LogitsProcessorList([*_warpers(sampling), chooser]),
            )
        log_probs = torch.cat(chooser.log_probs, dim=1).cpu()
        return [
            self._completion(tokens, scores)
            for tokens, scores in zip(sequences[:, width:].tolist(), log_probs.tolist(), strict=True)
        ]

    def _config(self, sampling: Sampling) -> GenerationConfig:
        """Everything that a model's own generation_config may set is set here: the study's policy, nothing else."""
        return GenerationConfig(
            do_sample=False,  # the chooser leaves one token to choose from
            temperature=1.0,
            top_p=1.0,
            top_k=50,  # transformers' default: unused where nothing is sampled, and it warns of any other
            repetition_penalty=1.0,
            num_return_sequences=1,
            max_new_tokens=sampling.max_tokens,
            eos_token_id=self.ends,
            pad_token_id=self.pad,
        )

    def _completion(self, tokens: list[int], scores: list[float]) -> Completion:
        end = next((i for i, token in enumerate(tokens) if token in self.ends), None)
        length = len(tokens) if end is None else end + 1
        return Completion(tokens[:length], scores[:length], "length" if end is None else "stop")


def _uniforms(requests: Sequence[Request], sampling: Sampling, device: torch.device) -> torch.Tensor | None:
    """(requests, max_tokens) in [0, 1), a row by its request's seed alone; None for greedy."""
    if sampling.temperature == 0:
        return None
    rows = [np.random.default_rng(request.seed).random(sampling.max_tokens) for request in requests]
    return torch.from_numpy(np.stack(rows)).to(device)


def _warpers(sampling: Sampling) -> list[LogitsProcessor]:
    """The sampling policy, in transformers' own order. Given by hand, since the chooser must come after them."""
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


class _Chooser(LogitsProcessor):
    """Chooses each row's next token, and keeps its log-prob; all other tokens' scores become -inf.

    A draw inverts the cumulative distribution at the row's own next uniform number: transformers draws a whole batch
    from one generator, so that a completion would depend on which requests stand beside it.
    """

    def __init__(self, uniforms: torch.Tensor | None) -> None:
        self.uniforms = uniforms
        self.log_probs: list[torch.Tensor] = []

    def __call__(self, _input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        log_probs = scores.float().log_softmax(-1)
        token = log_probs.argmax(-1, keepdim=True) if self.uniforms is None else self._draw(log_probs, self.uniforms)
        self.log_probs.append(log_probs.gather(1, token))
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)

    def _draw(self, log_probs: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        sums = log_probs.double().exp().cumsum(-1)
        # times the last sum, which is not quite 1: so the first sum above is never past the end, nor of probability 0
        return torch.searchsorted(sums, uniforms[:, len(self.log_probs), None] * sums[:, -1:], right=True)
