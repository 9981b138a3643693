"""The sections on how a study is run: how its jobs run, how often all is drawn, and whose word grades it."""

from typing import Annotated, Literal

from pydantic import Field

from deltageom.fields import Count, Section

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
