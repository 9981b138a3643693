"""What a plan has to assume: every number with what it is and where it is from, and an option of its name.

Only the standard library: every command's start reads this file.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """Peak dense TFLOP/s in bfloat16 and in float32 (no TF32), memory bandwidth in TB/s, memory in GB."""

    bfloat16: float
    float32: float
    bandwidth: float
    memory: float


# NVIDIA's data sheets (SXM where there are several); without sparsity
GPUS = {
    "a100-40gb": Gpu(312, 19.5, 1.555, 40),
    "a100": Gpu(312, 19.5, 2.039, 80),
    "h100": Gpu(989, 67, 3.35, 80),
    "h200": Gpu(989, 67, 4.8, 141),
    "l4": Gpu(121, 30.3, 0.3, 24),
    "l40s": Gpu(362, 91.6, 0.864, 48),
    "rtx4090": Gpu(165, 82.6, 1.008, 24),
}
DEFAULT_GPU = "h100"


def _assume(default: float | None, unit: str, says: str, source: str = "not measured") -> Any:
    return field(default=default, metadata={"unit": unit, "says": says, "source": source})


@dataclass(frozen=True)
class Assumptions:
    """Shares are in [0, 1], all else is above 0. None: as `says` has it."""

    completion_share: float = _assume(
        0.35, "", "mean tokens of a completion, as a share of max_tokens; or see --mean-tokens", "the toy"
    )
    prompt_tokens: float | None = _assume(None, "", "mean tokens of a prompt; 28 in the embedded world, else 120")
    correct_share: float = _assume(0.7, "", "share of the rollouts that are right", "the toy: .68")
    mixed_share: float | None = _assume(
        None, "", "share of the problems with right and wrong rollouts; else as if all were equally hard: too many"
    )
    utilisation: float = _assume(0.35, "", "share of a GPU's peak FLOP/s that training and prompts reach")
    bandwidth_share: float = _assume(0.5, "", "share of a GPU's memory bandwidth that vLLM's tokens reach")
    transformers_share: float = _assume(0.1, "", "the same of engine transformers")
    core_gflops: float = _assume(20, "GFLOP/s", "what a CPU core reaches", "the toy; 11 in docs/benchmarks.md")
    torch_start: float = _assume(5, "s", "start of a job with torch, on top of reading weights", "the toy")
    vllm_start: float = _assume(90, "s", "start of vLLM, on top of reading weights")
    light_start: float = _assume(0.5, "s", "start of a job without torch", "the toy")
    read_rate: float = _assume(1, "GB/s", "how fast weights are read")
    grade_seconds: float = _assume(
        0.003, "s", "math-verify's time for a completion", "the toy; long answers take longer"
    )
