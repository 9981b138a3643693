"""The sections on how a study is run: how its jobs run, how often all is drawn, what generates the answers, whose word
grades them, and how scores are compared."""

from typing import Annotated, Literal

from pydantic import Field

from deltageom.fields import Count, Section, Seed
from deltageom.study.schema import Engine, Jobs

Grader = Literal["strict", "math_verify"]


class Execution(Section):
    """How jobs run, not what they compute: a change reruns nothing."""

    processes: Count
    jobs_per_gpu: Count
    checkpoint_every: Count | None
    shard_size: Count
    tensor_parallel: Count
    memory_share: Annotated[float, Field(gt=0, le=1)]
    warm_start: bool
    report_to: list[Literal["tensorboard", "wandb", "trackio"]]


class Replicates(Section):
    """How often the study is drawn, and what is drawn anew each time."""

    count: Count
    vary: list[Literal["rollouts", "order", "init_a", "base"]]


class Grading(Section):
    """Whose word is the score, and whose the reward; what the other says is recorded, too."""

    primary: Grader
    rewards: Grader | None  # None: as `primary`

    def grader(self, dataset: str) -> Grader:
        """Of a benchmark, or of the training problems (`train`)."""
        return self.rewards or self.primary if dataset == "train" else self.primary


class Evaluation(Section):
    engine: Engine
    batch_size: Count
    jobs: Jobs = 1
    log_probs: bool = False


class Transformers(Section):
    """What the transformers engine is told beside the model and the decoding."""

    batch_tokens: Count  # of the prompts and completions in a batch: its key-value cache


class Vllm(Section):
    """What the vLLM engine is told beside the model and the decoding."""

    dtype: Literal["float32", "bfloat16", "float16"] | None  # None: the base's
    max_model_length: Count | None  # tokens of prompt and completion; None: what the job's requests need
    eager: bool


class Statistics(Section):
    """Which comparisons of scores are confirmatory, and how the others' intervals are resampled."""

    family: Literal["base", "compare_with", "all"]
    resamples: Annotated[int, Field(ge=100)]
    seed: Seed
