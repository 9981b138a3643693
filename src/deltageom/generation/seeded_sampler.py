"""vLLM's draw by each request's own seed, where vLLM's own would cost a generator per request.

On a GPU vLLM's runner (V2, its default) draws as `deltageom.generation.noise` does, and there is nothing to do. The
runner that it has for CPUs (V1) draws a row of the vocabulary for each request by torch's generator; here its
last step is replaced. What precedes the draw, such as temperature, top-k and top-p, stays vLLM's.
"""

from typing import Any

import torch

from deltageom.errors import UserError
from deltageom.generation.noise import gumbel

SEED = "seed"  # of a request's extra_args: of one that vLLM knew of it would keep a generator


def install(worker: Any) -> bool:
    """Whether a worker of vLLM now draws by SEED; where not, it does by the request's own seed.

    Raises UserError if this vLLM has neither of the two samplers.
    """
    runner = getattr(worker, "worker", worker).model_runner
    if type(runner.sampler).__module__ == "vllm.v1.worker.gpu.sample.sampler":
        return False
    if not hasattr(runner.sampler, "topk_topp_sampler") or not hasattr(runner, "seq_lens"):
        raise UserError("this version of vLLM draws in a way that is not known here: install the one that envs/ names")
    runner.sampler.topk_topp_sampler = SeededSampler(runner)
    return True


class SeededSampler(torch.nn.Module):
    """Takes the place of vLLM's TopKTopPSampler, with its arguments and results."""

    def __init__(self, runner: Any) -> None:
        super().__init__()
        self.runner = [runner]  # in a list: no module of this module

    def forward(
        self,
        logits: torch.Tensor,
        _generators: dict[int, torch.Generator],
        k: torch.Tensor | None,
        p: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The drawn tokens (N,) of `logits` (N, vocabulary), and the policy's log-probs if a request asks for any."""
        from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

        (runner,) = self.runner
        logits = apply_top_k_top_p(logits, k, p)
        log_probs = logits.log_softmax(-1, dtype=torch.float32) if runner.input_batch.num_logprobs else None
        asked = [runner.requests[request].sampling_params for request in runner.input_batch.req_ids[: len(logits)]]
        seeds = [one.extra_args[SEED] for one in asked] + [0] * (len(logits) - len(asked))  # 0: of vLLM's trial runs
        positions = runner.seq_lens[: len(logits)] - 1
        return logits.add_(gumbel(seeds, positions, logits.shape[1])).argmax(-1), log_probs
