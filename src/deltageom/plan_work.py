"""How much work a study's jobs are, and how long a job of its machine takes for it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from deltageom import plan_costs as costs
from deltageom.plan_assumptions import GPUS, Assumptions
from deltageom.plan_costs import Sampling
from deltageom.plan_inputs import Inputs, Shape
from deltageom.resolved import Study
from deltageom.schema import Decoding


@dataclass(frozen=True)
class Machine:
    """What may be used at once."""

    gpu: str
    gpus: int
    cores: int


@dataclass(frozen=True)
class Stage:
    """A rule: seconds of each of its jobs, what a job takes, the bytes that it leaves, and where under the results.

    scratch: bytes that a job has on disk while it runs, beyond those. NaN where something is unknown.
    """

    rule: str
    jobs: tuple[float, ...]
    gpus: int
    threads: int
    disk: float
    files: tuple[str, ...]
    scratch: float = 0.0

    @property
    def seconds(self) -> float:
        return sum(self.jobs)

    def at_once(self, machine: Machine) -> int:
        by_cores = max(1, machine.cores // self.threads)
        return min(len(self.jobs), by_cores, machine.gpus // self.gpus if self.gpus else by_cores)


@dataclass(frozen=True)
class RunRows:
    """What a run is trained on. rows: those (or pairs) that its method selects; epochs and tokens: of all its steps."""

    run: str
    method: str
    unit: str
    rows: float
    epochs: float
    tokens: float


@dataclass(frozen=True)
class Work:
    study: Study
    inputs: Inputs
    assumed: Assumptions
    machine: Machine

    @cached_property
    def runs(self) -> list[str]:
        return sorted(self.study.runs)

    @cached_property
    def pairs(self) -> int:
        return len(self.runs) * (len(self.runs) - 1) // 2

    @cached_property
    def whole(self) -> list[str]:
        """Runs without an adapter."""
        return [name for name in self.runs if self.study.runs[name].training.adapter == "none"]

    @cached_property
    def layers(self) -> int:
        """Those with adapted modules."""
        return len({module.split(".")[1] for module in self.study.modules()})

    @cached_property
    def shapes(self) -> list[tuple[float, float]]:
        """(d_out, d_in) of every compared module; NaN for one that the model's configuration does not tell."""
        unknown = (math.nan, math.nan)
        return [self.inputs.base.modules.get(module.split(".", 2)[2], unknown) for module in self.study.modules()]

    @cached_property
    def on_gpu(self) -> int:
        return 1 if self.study.device == "cuda" else 0

    @cached_property
    def width(self) -> int:
        """Bytes of a number in the study's dtype."""
        return 2 if self.study.base.dtype == "bfloat16" else 4

    @cached_property
    def rollouts(self) -> Sampling:
        return self.sampling("train", self.study.rollouts, self.study.rollouts.batch_size)

    @cached_property
    def row_tokens(self) -> float:
        return self.rollouts.prompt + self.rollouts.tokens

    @cached_property
    def held_out(self) -> Sampling | None:
        """The base's samples that runs are held against."""
        wanted = self.study.reference
        if wanted.benchmark is None:
            return None
        prompts = least(wanted.prompts, self.inputs.problems[wanted.benchmark])
        prompt, tokens = (
            self.inputs.prompt_tokens[wanted.benchmark],
            self.mean_tokens(wanted.benchmark, wanted.max_tokens),
        )
        return Sampling(prompts, prompt, tokens, wanted.max_tokens, wanted.batch_size)

    @cached_property
    def held_out_tokens(self) -> float:
        samples = self.held_out
        return samples.completions * (samples.prompt + samples.tokens) if samples else 0.0

    def steps(self, run: str) -> int:
        training = self.study.runs[run].training
        return training.report_step or training.steps

    def mean_tokens(self, dataset: str, most: int) -> float:
        return min(most, self.inputs.mean_tokens.get(dataset, self.assumed.completion_share * most))

    def sampling(self, dataset: str, decoding: Decoding, batch: int) -> Sampling:
        return Sampling(
            completions=self.inputs.problems[dataset] * decoding.samples,
            prompt=self.inputs.prompt_tokens[dataset],
            tokens=self.mean_tokens(dataset, decoding.max_tokens),
            most=decoding.max_tokens,
            batch=batch,
        )

    def device(self, engine: str, width: int, threads: int) -> costs.Device:
        """Of a job: its GPU, or its threads together."""
        if self.on_gpu:
            return costs.gpu(GPUS[self.machine.gpu], width, engine, self.assumed)
        return costs.cores(min(threads, self.machine.cores), self.assumed)

    def start(self, shape: Shape, engine: str = "transformers") -> float:
        """Seconds until a job has its model."""
        first = self.assumed.vllm_start if engine == "vllm" else self.assumed.torch_start
        return first + shape.parameters * shape.stored / (self.assumed.read_rate * 1e9)

    def generate(self, asked: Sequence[Sampling], engine: str, shape: Shape, threads: int) -> float:
        """Seconds for completions of a model that is loaded."""
        width, devices = self.engine_width(engine), self.engine_gpus(engine) or 1
        on = self.device(engine, width, threads)
        weights, cache = shape.parameters * width, shape.cache * width
        fitting = [replace(one, batch=self.fitting(one, engine, shape)) for one in asked]
        return sum(costs.generation_seconds(one, engine, shape.active, weights, cache, on) / devices for one in fitting)

    def fitting(self, asked: Sampling, engine: str, shape: Shape) -> float:
        """Sequences that vLLM runs at once: the batch, or as many as have room for keys and values beside the weights.

        NaN where the weights alone do not fit on the job's GPUs.
        """
        if engine != "vllm" or not self.on_gpu:
            return asked.batch
        width, execution = self.engine_width(engine), self.study.execution
        memory = GPUS[self.machine.gpu].memory * 1e9 * execution.memory_share * execution.tensor_parallel
        room = (memory - shape.parameters * width) / (shape.cache * width * costs.mean_context(asked, engine))
        return math.nan if room < 1 else least(asked.batch, room)

    def engine_gpus(self, engine: str) -> int:
        return self.on_gpu * (self.study.execution.tensor_parallel if engine == "vllm" else 1)

    def engine_width(self, engine: str) -> int:
        given = self.study.vllm.dtype if engine == "vllm" else None
        return self.width if given is None else 4 if given == "float32" else 2

    def compute(self, flops: float, threads: int = 1) -> float:
        """Seconds of `flops` by torch."""
        return flops / self.device("transformers", self.width, threads).flops

    def forward(self, tokens: float, threads: int = 1) -> float:
        """Seconds for the base to read `tokens`."""
        return self.compute(costs.forward_flops(self.inputs.base.active, tokens), threads)


def least(a: float, b: float) -> float:
    """The smaller; NaN if one is, which `min` does not promise."""
    return math.nan if math.isnan(a) or math.isnan(b) else min(a, b)
