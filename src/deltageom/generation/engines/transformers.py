"""Batched generation with transformers: key-value cache, left padding, each row drawn with its own random numbers."""

from collections.abc import Iterator, Sequence

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from deltageom.generation.engine import Completion, Request, Sampling, Setup, sequences_at_once
from deltageom.generation.noise import gumbel
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
        chooser = _Chooser(requests, sampling, self.model.device)
        with autocast(self.model):
            sequences = self.model.generate(
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                generation_config=self._config(sampling),
                logits_processor=LogitsProcessorList([*_warpers(sampling), chooser]),
            )
        made = sequences[:, width:].tolist()
        scores = torch.cat(chooser.log_probs, dim=1).tolist() if sampling.log_probs else [None] * len(made)
        return [self._completion(*of_row) for of_row in zip(made, scores, strict=True)]

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

    def _completion(self, tokens: list[int], scores: list[float] | None) -> Completion:
        end = next((i for i, token in enumerate(tokens) if token in self.ends), None)
        length = len(tokens) if end is None else end + 1
        return Completion(tokens[:length], scores and scores[:length], "length" if end is None else "stop")


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
    """Chooses each row's next token, keeps its log-prob if asked to, and sets all other tokens' scores to -inf.

    transformers draws a whole batch from one generator, so that a completion would depend on which requests stand
    beside it. Here a draw is a function of the request's own seed.
    """

    def __init__(self, requests: Sequence[Request], sampling: Sampling, device: torch.device) -> None:
        self.seeds = torch.tensor([request.seed for request in requests], device=device)
        self.last = torch.tensor([len(request.prompt) - 1 for request in requests], device=device)
        self.sampling = sampling
        self.log_probs: list[torch.Tensor] = []

    def __call__(self, _input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.float()
        token = self._draw(scores).argmax(-1, keepdim=True)
        if self.sampling.log_probs:
            self.log_probs.append(scores.log_softmax(-1).gather(1, token))
        self.last += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)

    def _draw(self, scores: torch.Tensor) -> torch.Tensor:
        """The scores whose largest is the token: those with noise, unless the policy is greedy."""
        if self.sampling.temperature == 0:
            return scores
        return scores + gumbel(self.seeds, self.last, scores.shape[-1])
