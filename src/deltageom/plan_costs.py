"""Seconds, FLOPs and bytes of what a study does: numbers in, numbers out. NaN in, NaN out: unknown, never 0.

The formulas with their sources: docs/planning.md.
"""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from deltageom.plan_assumptions import Assumptions, Gpu

TEXT = 4  # bytes of text a token
IDS, SCORES = 4, 4  # of a token id and of a log-prob
PACKED = 3  # of a token's text and id in parquet; its log-prob does not compress


@dataclass(frozen=True)
class Device:
    """What a GPU, or some CPU cores, do a second: FLOP/s, and bytes/s from memory (inf where FLOP/s say it all)."""

    flops: float
    bandwidth: float


def gpu(card: Gpu, width: int, engine: str, assumed: Assumptions) -> Device:
    """For numbers of `width` bytes: 2 for bfloat16, 4 for float32."""
    peak = card.bfloat16 if width == 2 else card.float32
    share = assumed.bandwidth_share if engine == "vllm" else assumed.transformers_share
    return Device(peak * 1e12 * assumed.utilisation, card.bandwidth * 1e12 * share)


def cores(number: int, assumed: Assumptions) -> Device:
    return Device(number * assumed.core_gflops * 1e9, math.inf)


def forward_flops(active: float, tokens: float) -> float:
    """2 a parameter and token (2001.08361, section 2.1); the products of attention itself are left out."""
    return 2 * active * tokens


def training_flops(active: float, tokens: float, whole: bool, checkpointing: bool, extra_forwards: int = 0) -> float:
    """Of the forward, the backward to the activations, with `whole` that to the weights, each 2 a parameter and token.

    LoRA's own matrices are left out. `checkpointing` adds a forward; `extra_forwards` are those without a backward.
    """
    return forward_flops(active, tokens) * (2 + whole + checkpointing + extra_forwards)


@dataclass(frozen=True)
class Sampling:
    """`completions` of `prompt` tokens each in the mean, answered by `tokens` in the mean and at most `most`."""

    completions: float
    prompt: float
    tokens: float
    most: float
    batch: float


def generated(sampling: Sampling, engine: str) -> tuple[float, float]:
    """Tokens computed and steps taken. vLLM fills a place as it frees; transformers' batch waits for its longest."""
    if engine == "vllm":
        tokens = sampling.completions * sampling.tokens
        return tokens, _most(sampling.most, tokens / sampling.batch)
    batches = sampling.completions / sampling.batch
    steps = (batches if math.isnan(batches) else math.ceil(batches)) * sampling.most
    return sampling.completions * sampling.most, steps


def mean_context(sampling: Sampling, engine: str) -> float:
    """Tokens that a step reads of a row: its prompt and half of what it will have."""
    return sampling.prompt + (sampling.tokens if engine == "vllm" else sampling.most) / 2


def generation_seconds(
    sampling: Sampling, engine: str, active: float, weights: float, cache: float, on: Device
) -> float:
    """Prompts at `on.flops`; tokens at the slower of that and of reading weights and cache at `on.bandwidth`.

    weights: bytes of all parameters, read once a step; cache: bytes a token of context, read with every token.
    """
    tokens, steps = generated(sampling, engine)
    context = mean_context(sampling, engine)
    prompts = forward_flops(active, sampling.completions * sampling.prompt) / on.flops
    computed = forward_flops(active, tokens) / on.flops
    read = (steps * weights + tokens * context * cache) / on.bandwidth
    return prompts + _most(computed, read)


def pairs_a_problem(samples: int, correct: float, most: int | None, mixed: float | None = None) -> float:
    """The mean number of (right, wrong) pairs of a problem's `samples`, at most `most`: c right ones give c (K - c).

    c is binomial, every rollout right with probability `correct`; `mixed`: the share of problems with 0 < c < K, where
    that is known better, c given that still binomial.
    """
    found = mixed_problems = 0.0
    for right in range(1, samples):
        chance = math.comb(samples, right) * correct**right * (1 - correct) ** (samples - right)
        pairs = right * (samples - right)
        found += chance * (pairs if most is None else min(pairs, most))
        mixed_problems += chance
    if mixed is None:
        return found
    return mixed * found / mixed_problems if mixed_problems else 0.0


def adapter_bytes(shapes: Iterable[tuple[float, float]], rank: int) -> float:
    """Of the float32 A (r, d_in) and B (d_out, r) of every module (d_out, d_in): 4 r (d_in + d_out) each."""
    return sum(4 * rank * (d_in + d_out) for d_out, d_in in shapes)


def spectra_bytes(shapes: Iterable[tuple[float, float]], rank: int, dense: int) -> float:
    """Of the float64 triplets of every base weight: all of them where its smaller side is at most `dense` or 4 rank."""

    def kept(small: float) -> float:
        return small if small <= max(dense, 4 * rank) else min(rank, small)

    return sum(8 * kept(min(shape)) * (sum(shape) + 1) for shape in shapes)


def table_bytes(completions: float, prompt: float, tokens: float) -> float:
    """Of a parquet table of completions: prompts' ids, text, ids and log-probs."""
    return completions * (prompt * PACKED + tokens * (PACKED + SCORES))


def shard_bytes(completions: float, tokens: float) -> float:
    """Of what a generation keeps until its output is whole."""
    return completions * tokens * (IDS + SCORES)


def record_bytes(completions: float, prompt: float, tokens: float) -> float:
    """Of the jsonl of a benchmark's answers: question, rendered prompt, response and the short fields."""
    return completions * (TEXT * (2 * prompt + tokens) + 200)


def makespan(jobs: Sequence[float], slots: int) -> float:
    """Seconds until all are done, the longest first, each on the slot that is free first; within 4/3 of the best
    (Graham 1969). NaN if a job's time is unknown."""
    if any(map(math.isnan, jobs)):
        return math.nan
    ends = [0.0] * max(1, slots)
    for seconds in sorted(jobs, reverse=True):
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


def known_sum(values: Mapping[str, float]) -> tuple[float, list[str]]:
    """The sum of what is known, and the names of what is not."""
    unknown = [name for name, value in values.items() if math.isnan(value)]
    return sum(value for value in values.values() if not math.isnan(value)), unknown


def _most(a: float, b: float) -> float:
    """The greater; NaN if one is, which `max` does not promise."""
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)
