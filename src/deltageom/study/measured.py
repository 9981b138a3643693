"""What a study may say of its measures: a section each. None leaves a measure out."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from deltageom.fields import Count, Section, Seed


class Geometry(Section):
    top_k: Annotated[list[Count], Field(min_length=1)]
    base_rank: Count | None

    @field_validator("top_k", mode="before")
    @classmethod
    def one_or_more(cls, top_k: Any) -> Any:
        return [top_k] if type(top_k) is int else top_k

    @field_validator("top_k")
    @classmethod
    def in_order(cls, top_k: list[int]) -> list[int]:
        return sorted(set(top_k))

    @model_validator(mode="after")
    def the_base_is_known_as_far(self) -> "Geometry":
        if self.base_rank is not None and self.base_rank < self.top_k[-1]:
            raise ValueError(f"base_rank {self.base_rank} is less than top_k {self.top_k[-1]}: raise it")
        return self


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


class Gradients(Section):
    batches: Count  # the first so many global batches of each run


class Behaviour(Section):
    benchmark: str
    prompts: Annotated[int, Field(ge=2)]  # one sample has no standard error
    max_tokens: Count
    batch_size: Count
    seed: Seed


class Representations(Section):
    """On the prompts of `cka`. resamples: random parts of them, for the interval of CKA."""

    resamples: Annotated[int, Field(ge=100)]
    seed: Seed


class Trajectory(Section):
    """The updates at the steps of `training.snapshots`: nothing to choose."""


class Measures(Section):
    compare_with: str  # the run that the others are held against
    geometry: Geometry
    connectivity: Connectivity
    held_out_paths: Connectivity | None
    cka: Cka
    gradients: Gradients | None
    behaviour: Behaviour | None
    trajectory: Trajectory | None
    representations: Representations | None
