"""What a study may say: one pydantic model a section. Defaults live in config.yaml alone, never here.

A rule hands a command just the sections that it uses, as JSON; the command reads them back with the same models.
Nothing here may import more than pydantic, for the Snakemake process reads it on every start.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from deltageom.fields import Count, Fraction, NonNegative, Positive, Section, Seed

TOY_BASE = "toy"

Engine = Literal["transformers", "vllm"]
Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16"]
# of one generation; how it runs, not what it computes: no job is told, and so a change reruns nothing
Jobs = Annotated[Count, Field(exclude=True)]


class Base(Section):
    model: str  # hub id, local folder, or `toy`
    revision: str | None
    layers: Count
    modules: Annotated[list[str], Field(min_length=1)]  # linear layers within a decoder layer
    dtype: Dtype
    attention: Literal["sdpa", "eager", "flash_attention_2"]
    trust_remote_code: bool


class World(Section):
    """How hard the toy's world's hard problems are, and how many problems are hard."""

    hard_documents: Fraction  # share of the documents that are as hard as the split `hard`
    hard_problems: Fraction  # share of the split `train` that is
    # fewest and most events of a hard story; more than 8 are seldom sound, and one has no sequence to hold out
    hard_events: Annotated[list[Annotated[int, Field(ge=2, le=8)]], Field(min_length=2, max_length=2)]
    hard_scale: Annotated[int, Field(ge=1, le=1000)]  # factor on a hard problem's numbers

    @field_validator("hard_events")
    @classmethod
    def in_order(cls, events: list[int]) -> list[int]:
        if events[0] > events[1]:
            raise ValueError(f"is [fewest, most]; got {events}")
        return events


class Toy(Section):
    """The toy base: its world, its size and its pre-training."""

    shipped: bool
    seed: Seed
    world: World
    documents: Count
    batch_size: Count
    learning_rate: Positive
    hidden: Count
    layers: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    intermediate: Count
    vocabulary: Annotated[int, Field(ge=261)]  # the bytes and the special tokens

    @model_validator(mode="after")
    def heads_divide(self) -> "Toy":
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads {self.kv_heads} must divide heads {self.heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} must be even: rotary positions turn its halves")
        return self


class Teacher(Section):
    """The further training that makes the toy base's teacher."""

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
    """Problems: the toy's world's, a jsonl file's, or a hub data set's."""

    source: Literal["toy", "file", "hub"]
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
        if self.source == TOY_BASE:
            if self.split not in ("train", "easy", "hard"):
                raise ValueError("source: toy needs split: train, easy or hard")
            if self.limit is None:
                raise ValueError("source: toy needs limit: the number of problems to make")
        elif not self.path:
            what = "the jsonl file" if self.source == "file" else "the hub data set's id"
            raise ValueError(f"source: {self.source} needs path: {what}")
        return self


class Decoding(Section):
    """How a model is sampled. Temperature 0 is greedy; top_p 1 and top_k 0 are off."""

    samples: Count
    temperature: NonNegative
    top_p: Annotated[float, Field(gt=0, le=1)]
    top_k: Annotated[int, Field(ge=0)]
    max_tokens: Count
    thinking: bool | None  # what the chat template is told as enable_thinking; None says nothing
    seed: Seed

    @model_validator(mode="after")
    def samples_differ(self) -> "Decoding":
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples {self.samples} at temperature 0 would be equal: set temperature above 0, or samples: 1"
            )
        return self


class Rollouts(Decoding):
    generator: str  # base, teacher (the toy's only), hub id or local folder
    file: str | None  # finished rollouts instead of a generator
    engine: Engine
    batch_size: Count
    jobs: Jobs = 1
    log_probs: bool = True


class Benchmark(Dataset, Decoding):
    """Problems, and how they are answered."""

    @property
    def dataset(self) -> Dataset:
        return Dataset(**{key: getattr(self, key) for key in Dataset.model_fields})

    @property
    def decoding(self) -> Decoding:
        return Decoding(**{key: getattr(self, key) for key in Decoding.model_fields})


class Decontamination(Section):
    """Training problems that share a run of words with a benchmark's."""

    words: Count
    overlap: Literal["count", "drop"]


class Lora(Section):
    rank: Count
    alpha: Positive
    rslora: bool
    dropout: Annotated[float, Field(ge=0, lt=1)]
    target_modules: Annotated[list[str], Field(min_length=1)] | str  # names within a layer, or a regular expression
    init_seed: Seed

    @field_validator("target_modules")
    @classmethod
    def compiles(cls, targets: list[str] | str) -> list[str] | str:
        if isinstance(targets, str):
            try:
                re.compile(targets)
            except re.error as error:
                raise ValueError(f"is no regular expression: {error}") from None
        return targets

    def targets(self, base: Base) -> list[str]:
        """The adapted modules, 'layers.3.self_attn.q_proj', by layer, then by name.

        A regular expression must match such a name whole.
        """
        if isinstance(self.target_modules, list):
            return [f"layers.{layer}.{name}" for layer in range(base.layers) for name in sorted(self.target_modules)]
        names = [f"layers.{layer}.{name}" for layer in range(base.layers) for name in sorted(base.modules)]
        return [name for name in names if re.fullmatch(self.target_modules, name)]


class MatchNorm(Section):
    """Make a run's delta as long as another run's: stop the training there, or scale the delta afterwards."""

    run: str
    how: Literal["stop", "scale"]


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
    reduction: Literal["token", "sequence", "length"]
    max_length: Count
    over_length: Literal["error", "drop"]
    gradient_checkpointing: bool
    kl_every: Count | None
    match_norm: MatchNorm | None
    snapshots: Annotated[list[Count], Field(min_length=1)] | None  # steps after which the adapter is kept
    order: Literal["own", "shared", "shared_zero"]
    rollouts_of: str | None  # the online run whose own samples are the rollouts, in the order in which it drew them
    seed: Seed
    adapter: Literal["lora", "none"]
    lora: Lora

    @field_validator("snapshots")
    @classmethod
    def in_order(cls, steps: list[int] | None) -> list[int] | None:
        if steps and (twice := [step for step in steps if steps.count(step) > 1]):
            raise ValueError(f"names step {twice[0]} twice: name each step once")
        return sorted(steps) if steps else steps

    @model_validator(mode="after")
    def fits_together(self) -> "Training":
        if self.report_step is not None and self.report_step > self.steps:
            raise ValueError(f"report_step {self.report_step} is after the last of {self.steps} steps")
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} must divide batch_size {self.batch_size}")
        if self.match_norm and self.adapter == "none":
            raise ValueError("match_norm needs adapter: lora, whose delta has a norm that is cheap to follow")
        self._can_keep_snapshots()
        return self

    def _can_keep_snapshots(self) -> None:
        if self.snapshots is None:
            return
        last = self.report_step or self.steps
        if self.snapshots[-1] > last:
            raise ValueError(
                f"snapshots names step {self.snapshots[-1]}, but training ends after step {last}: name steps up to that"
            )
        if self.adapter == "none":
            raise ValueError("snapshots needs adapter: lora, of which each is small: set snapshots: null")
        if self.match_norm and self.match_norm.how == "stop":
            raise ValueError(
                "snapshots cannot be promised with match_norm how: stop, whose last step is not known before: "
                "set snapshots: null"
            )


class Online(Section):
    """How runs of online methods are sampled while they train; what is asked for is in each method's options."""

    engine: Engine
    batch_size: Count
    seed: Seed
    keep: Count
    sleep: bool
    # how it runs, not what it computes: no job is told, and so a change reruns nothing
    memory_share: Annotated[float, Field(gt=0, le=1, exclude=True)] = 0.3


class Reference(Section):
    """The base's own log-probs of the rollouts, and its samples on held-out prompts, for the KL of each run to it."""

    benchmark: str | None
    prompts: Count
    max_tokens: Count
    batch_size: Count
    seed: Seed


class Run(Section):
    """A method trained once: its options and its training, overrides applied."""

    method: str
    options: dict[str, Any]
    training: Training
