"""What a study may say: one pydantic model a section. Defaults live in config.yaml alone, never here.

A rule hands a command just the sections that it uses, as JSON; the command reads them back with the same models.
Nothing here may import more than pydantic, for the Snakemake process reads it on every start.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

EMBEDDED = "embedded"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Engine = Literal["transformers", "vllm"]
Device = Literal["cpu", "cuda"]


class Section(BaseModel):
    """Unknown keys and silent conversions ('1e-5' to a number) are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Base(Section):
    model: str  # hub id, local folder, or `embedded`
    revision: str | None
    layers: Count
    dtype: Literal["float32", "bfloat16"]
    attention: Literal["sdpa", "eager", "flash_attention_2"]
    trust_remote_code: bool


class Embedded(Section):
    """The world and the pre-training of the embedded base."""

    seed: Seed
    documents: Count
    batch_size: Count
    learning_rate: Positive


class Teacher(Section):
    """The further training that makes the embedded base's teacher."""

    documents: Count


class Prompt(Section):
    template: str
    system: str | None

    @field_validator("template")
    @classmethod
    def has_question(cls, template: str) -> str:
        if "{question}" not in template:
            raise ValueError("must contain {question}, where the problem goes")
        try:
            template.format(question="")
        except (KeyError, IndexError, ValueError):
            raise ValueError("{question} is its one field; write other braces twice: {{ and }}") from None
        return template


class Dataset(Section):
    """Problems: the embedded world's, a jsonl file's, or a hub data set's."""

    source: Literal["embedded", "file", "hub"]
    path: str | None  # file: path from the working directory; hub: data set id
    config: str | None
    split: str | None
    revision: str | None
    limit: Count | None
    id_field: str | None
    question_field: str
    answer_field: str
    answer_after: str | None
    solution_field: str | None
    bad_answers: Literal["error", "drop"]

    @model_validator(mode="after")
    def names_its_source(self) -> "Dataset":
        if self.source == EMBEDDED:
            if self.split not in ("train", "easy", "hard"):
                raise ValueError("source: embedded needs split: train, easy or hard")
            if self.limit is None:
                raise ValueError("source: embedded needs limit: the number of problems to make")
        elif not self.path:
            what = "the jsonl file" if self.source == "file" else "the hub data set's id"
            raise ValueError(f"source: {self.source} needs path: {what}")
        return self


class Rollouts(Section):
    generator: str  # base, teacher (embedded only), hub id or local folder
    engine: Engine
    samples: Count
    temperature: Positive
    top_p: Annotated[float, Field(gt=0, le=1)]
    top_k: Annotated[int, Field(ge=0)]
    max_tokens: Count
    batch_size: Count
    seed: Seed


class Lora(Section):
    rank: Count
    alpha: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)]
    target_modules: Annotated[list[str], Field(min_length=1)]
    init_seed: Seed


class Training(Section):
    """How a run is trained; a run may override any of these."""

    learning_rate: Positive
    steps: Count
    report_step: Count | None
    batch_size: Count
    micro_batch_size: Count
    warmup: Fraction
    schedule: Literal["cosine", "linear", "constant_with_warmup"]
    weight_decay: NonNegative
    max_grad_norm: Positive
    reduction: Literal["token", "sequence"]
    max_length: Count
    over_length: Literal["error", "drop"]
    gradient_checkpointing: bool
    seed: Seed
    lora: Lora

    @model_validator(mode="after")
    def fits_together(self) -> "Training":
        if self.report_step is not None and self.report_step > self.steps:
            raise ValueError(f"report_step {self.report_step} is after the last of {self.steps} steps")
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} must divide batch_size {self.batch_size}")
        return self


class Run(Section):
    """A method trained once: its options and its training, overrides applied."""

    method: str
    options: dict[str, Any]
    training: Training


class Evaluation(Section):
    engine: Engine
    max_tokens: Count
    batch_size: Count


class Geometry(Section):
    top_k: Count


class Connectivity(Section):
    benchmark: str
    problems: Count
    points: Annotated[int, Field(ge=3)]
    batch_size: Count


class Cka(Section):
    benchmark: str
    prompts: Annotated[int, Field(ge=4)]  # the debiased estimator divides by n - 3
    pooling: Literal["last", "mean"]
    batch_size: Count


class Measures(Section):
    reference: str
    geometry: Geometry
    connectivity: Connectivity
    cka: Cka


class Study(Section):
    """Everything that is compared, resolved: defaults, inheritance and overrides applied."""

    study: str
    device: Device
    base: Base
    embedded: Embedded
    teacher: Teacher
    prompt: Prompt
    problems: Dataset
    rollouts: Rollouts
    runs: dict[str, Run]
    benchmarks: dict[str, Dataset]
    evaluation: Evaluation
    measures: Measures

    @field_validator("runs", "benchmarks")
    @classmethod
    def names_are_plain(cls, entries: dict[str, Any]) -> dict[str, Any]:
        if not entries:
            raise ValueError("is empty: name at least one")
        for name in entries:
            if not NAME.fullmatch(name):
                raise ValueError(
                    f"name {name!r} becomes a file name: use A-Z a-z 0-9 . _ - and begin with a letter or digit"
                )
        for name in ("base", "train"):
            if name in entries:
                raise ValueError(f"the name {name!r} is taken by the workflow's own files: choose another")
        return entries

    @model_validator(mode="after")
    def refers_to_what_exists(self) -> "Study":
        if self.measures.reference not in self.runs:
            raise ValueError(
                f"measures.reference {self.measures.reference!r} is none of the runs: {', '.join(self.runs)}"
            )
        for key in ("connectivity", "cka"):
            benchmark = getattr(self.measures, key).benchmark
            if benchmark not in self.benchmarks:
                raise ValueError(
                    f"measures.{key}.benchmark {benchmark!r} is none of the benchmarks: {', '.join(self.benchmarks)}"
                )
        ranks = {name: run.training.lora.rank for name, run in self.runs.items()}
        smallest = min(ranks, key=lambda name: ranks[name])
        if self.measures.geometry.top_k > ranks[smallest]:
            raise ValueError(
                f"measures.geometry.top_k {self.measures.geometry.top_k} is more than the rank {ranks[smallest]} "
                f"of run {smallest!r}: no adapter has that many singular directions"
            )
        targets = {name: run.training.lora.target_modules for name, run in self.runs.items()}
        first = next(iter(targets))
        for name, modules in targets.items():
            if sorted(modules) != sorted(targets[first]):
                raise ValueError(
                    f"runs {first!r} and {name!r} adapt other modules ({', '.join(targets[first])}; "
                    f"{', '.join(modules)}): deltas are compared module by module, so target the same ones"
                )
        if self.base.model != EMBEDDED:
            self._needs_no_embedded_world()
        return self

    def _needs_no_embedded_world(self) -> None:
        sources = {"problems": self.problems, **{f"benchmarks.{n}": d for n, d in self.benchmarks.items()}}
        for key, dataset in sources.items():
            if dataset.source == EMBEDDED:
                raise ValueError(f"{key}.source is embedded, but base.model is {self.base.model!r}")
        if self.rollouts.generator == "teacher":
            raise ValueError(
                f"rollouts.generator 'teacher' is the embedded base's; with base.model {self.base.model!r} "
                "give a hub id, a folder, or `base`"
            )


class TrainSettings(Section):
    """What `deltageom train` is told."""

    run: str
    method: str
    options: dict[str, Any]
    training: Training
    base: Base
    device: Device


class RolloutSettings(Section):
    """What `deltageom rollouts` is told."""

    rollouts: Rollouts
    prompt: Prompt
    base: Base
    device: Device


class EvaluationSettings(Section):
    """What `deltageom evaluate` is told."""

    evaluation: Evaluation
    prompt: Prompt
    base: Base
    device: Device


class ConnectivitySettings(Section):
    """What `deltageom connectivity` is told."""

    connectivity: Connectivity
    prompt: Prompt
    base: Base
    device: Device


class HiddenSettings(Section):
    """What `deltageom hidden-states` is told."""

    cka: Cka
    prompt: Prompt
    base: Base
    device: Device


class ProblemSettings(Section):
    """What `deltageom problems` is told; `seed` is the embedded world's."""

    dataset: Dataset
    seed: Seed


class PretrainSettings(Section):
    """What `deltageom pretrain` is told."""

    embedded: Embedded
    prompt: Prompt


class TeacherSettings(Section):
    """What `deltageom teacher` is told."""

    embedded: Embedded
    teacher: Teacher
    prompt: Prompt


class TableSettings(Section):
    """What `deltageom tables` is told. JSON objects have no order: `order` is that of the runs in every table."""

    runs: dict[str, Run]
    order: list[str]
    benchmarks: list[str]
    modules: list[str]


class FigureSettings(Section):
    """What `deltageom figures` is told."""

    reference: str
