"""What each command is told: the study's sections that it uses, as JSON (`--settings`)."""

from typing import Any

from deltageom.fields import Count, Section, Seed
from deltageom.study.running import Evaluation, Grader, Statistics, Transformers, Vllm
from deltageom.study.schema import (
    Base,
    Dataset,
    Decoding,
    Decontamination,
    Device,
    Dtype,
    Online,
    Prompt,
    Reference,
    Rollouts,
    Run,
    Teacher,
    Toy,
    Training,
    World,
)


class TrainSettings(Section):
    """What `deltageom train` is told."""

    run: str
    method: str
    options: dict[str, Any]
    training: Training
    base: Base
    device: Device


class OnlineSettings(TrainSettings):
    """What `deltageom train-online` is told. teacher: the model that `rollouts.generator` names, None for methods that
    ask none; transformers: None for another engine."""

    online: Online
    prompt: Prompt
    grader: Grader
    teacher: str | None
    transformers: Transformers | None


class RolloutSettings(Section):
    """What `deltageom rollouts` is told."""

    rollouts: Rollouts
    prompt: Prompt
    base: Base
    device: Device
    transformers: Transformers | None  # None for another engine
    vllm: Vllm


class RewardSettings(Section):
    """What `deltageom reward` is told; `problems`, `rollouts` and `study` are for the data set's card."""

    study: str
    problems: Dataset
    rollouts: Rollouts
    prompt: Prompt
    base: Base
    grader: Grader


class ReferenceSettings(Section):
    """What `deltageom reference` is told."""

    reference: Reference
    prompt: Prompt
    base: Base
    device: Device
    transformers: Transformers


class MismatchedSettings(Section):
    """What `deltageom mismatched` is told; seed and max_length decide the pairs, batch_size rows are scored at once."""

    seed: Seed
    max_length: Count
    batch_size: Count
    base: Base
    device: Device


class EvaluationSettings(Section):
    """What `deltageom evaluate` is told."""

    evaluation: Evaluation
    decodings: dict[str, Decoding]
    prompt: Prompt
    base: Base
    device: Device
    transformers: Transformers | None  # None for another engine
    vllm: Vllm


class ProblemSettings(Section):
    """What `deltageom problems` is told; `seed` and `world` are the toy's world's.

    `grader`: the one whose golds are kept; None where all are, so that the problems are the same with either.
    """

    dataset: Dataset
    grader: Grader | None
    seed: Seed
    world: World


class PretrainSettings(Section):
    """What `deltageom pretrain` is told."""

    toy: Toy
    prompt: Prompt
    device: Device
    dtype: Dtype


class TeacherSettings(Section):
    """What `deltageom teacher` is told."""

    toy: Toy
    teacher: Teacher
    prompt: Prompt
    device: Device
    dtype: Dtype


class TableSettings(Section):
    """What `deltageom tables` is told. JSON objects have no order: `order` is that of the runs in every table."""

    runs: dict[str, Run]
    order: list[str]
    benchmarks: list[str]
    modules: list[str]
    measures: list[str]
    statistics: Statistics
    compare_with: str


class ReplicateSettings(Section):
    """What `deltageom replicates` is told; same_problems: whether all replicates answer the same problems."""

    compare_with: str
    same_problems: bool
    statistics: Statistics


class FigureSettings(Section):
    """What `deltageom figures` is told."""

    compare_with: str


class DecontaminationSettings(Section):
    """What `deltageom decontaminate` is told."""

    decontamination: Decontamination


class ImportSettings(Section):
    """What `deltageom import-rollouts` is told."""

    rollouts: Rollouts
    prompt: Prompt
    base: Base
