"""What a study may say of its measures: a section each. None leaves a measure out."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from deltageom.fields import Count, Section, Seed

Alpha = Annotated[float, Field(ge=-1, le=2, allow_inf_nan=False)]


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


class HeldOutPath(Connectivity):
    """beyond: how far the path goes past its ends, as a share of it; refine: times that the step around the highest
    point above the chord is halved."""

    beyond: Annotated[float, Field(ge=0, le=2)] = 0.0
    refine: Annotated[int, Field(ge=0, le=10)] = 0


class HeldOutAccuracy(Section):
    """alphas: the points of each path whose models answer; from_base: on the paths from the base, too."""

    benchmark: str
    problems: Count
    batch_size: Count
    alphas: list[float]
    from_base: bool


class HeldOutPaths(HeldOutPath):
    """from_base: the paths from the base to each run, too; accuracy: the alphas at which the model also answers."""

    from_base: bool = False
    accuracy: list[Alpha] | None = None

    @field_validator("accuracy")
    @classmethod
    def one_or_more(cls, accuracy: list[float] | None) -> list[float] | None:
        if accuracy == []:
            raise ValueError("is empty: name an alpha, or leave it out")
        return accuracy and sorted(set(accuracy))

    @model_serializer(mode="wrap")
    def as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the options that are off, so that nothing that is told of such a study changes."""
        plain: dict[str, Any] = handler(self)
        return {key: value for key, value in plain.items() if value or key not in ("from_base", "accuracy")}

    def path(self) -> HeldOutPath:
        """What a job that walks a path is told."""
        return HeldOutPath(**{key: getattr(self, key) for key in HeldOutPath.model_fields})

    def answered(self) -> HeldOutAccuracy | None:
        """What a job that answers along paths is told; None where none is asked for."""
        if self.accuracy is None:
            return None
        told = {key: getattr(self, key) for key in ("benchmark", "problems", "batch_size", "from_base")}
        return HeldOutAccuracy(alphas=self.accuracy, **told)


class Cka(Section):
    benchmark: str
    prompts: Annotated[int, Field(ge=4)]  # the debiased estimator divides by n - 3
    pooling: Literal["last", "mean", "completion"]
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


class Attribution(Section):
    """Of each run's own correct answers to the first `problems` of the benchmark."""

    benchmark: str
    problems: Count
    batch_size: Count


class LogitLens(Section):
    """On the base's answers to the first `problems` of the benchmark."""

    benchmark: str
    problems: Annotated[int, Field(ge=2)]  # one has no standard error
    batch_size: Count


class LossPlane(Section):
    """models: three, runs or `base`; margin: how far the grid goes beyond them, as a share of its width."""

    models: Annotated[list[str], Field(min_length=3, max_length=3)]
    benchmark: str
    problems: Count
    points: Annotated[int, Field(ge=3)]
    margin: Annotated[float, Field(ge=0, le=10)]
    batch_size: Count

    @field_validator("models")
    @classmethod
    def different(cls, models: list[str]) -> list[str]:
        if len(set(models)) < len(models):
            raise ValueError("name three different models")
        return models


class Trajectory(Section):
    """The updates at the steps of `training.snapshots`: nothing to choose."""


class Measures(Section):
    compare_with: str  # the run that the others are held against
    geometry: Geometry
    connectivity: Connectivity
    held_out_paths: HeldOutPaths | None
    cka: Cka
    gradients: Gradients | None
    behaviour: Behaviour | None
    trajectory: Trajectory | None
    representations: Representations | None
    attribution: Attribution | None
    loss_plane: LossPlane | None
    logit_lens: LogitLens | None


def check(measures: Measures, runs: Sequence[str], benchmarks: Sequence[str]) -> None:
    """Raises ValueError where a measure names a run or a benchmark that the study does not have."""
    if measures.compare_with not in runs:
        raise ValueError(f"measures.compare_with {measures.compare_with!r} is none of the runs: {', '.join(runs)}")
    for key, section in measures:
        benchmark = getattr(section, "benchmark", None)
        if hasattr(section, "benchmark") and benchmark not in benchmarks:
            raise ValueError(
                f"measures.{key}.benchmark {benchmark!r} is none of the benchmarks: {', '.join(benchmarks)}"
            )
    for model in measures.loss_plane.models if measures.loss_plane else ():
        if model not in ("base", *runs):
            raise ValueError(
                f"measures.loss_plane.models: {model!r} is neither base nor one of the runs: {', '.join(runs)}"
            )
