"""How a derived run is made from the weight updates of other runs: one entry of a study's `derived`.

Nothing here may import more than pydantic, for the Snakemake process reads it on every start.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from deltageom.fields import Count, Section

STARTS = ("of", "sum", "mean")
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Recipe(Section):
    """The steps in the order in which they are done, whatever the order in which they are written.

    It starts with the update `of` one run, a `sum` of updates with their coefficients, or their `mean`. Then it takes
    away (`remove`) or keeps alone (`keep`) the projection on another run's update, keeps some `layers` and is zero in
    the others, is cut to `rank` in each module, and is scaled to the Frobenius norm of another run's (`norm_of`).
    """

    of: str | None = None
    sum: Annotated[dict[str, Finite], Field(min_length=1)] | None = None
    mean: Annotated[list[str], Field(min_length=1)] | None = None
    remove: str | None = None
    keep: str | None = None
    # of remove and keep: one coefficient for all modules together (which is meant by None), or one per module
    project: Literal["global", "module"] | None = None
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    rank: Count | None = None
    norm_of: str | None = None

    @field_validator("mean", "layers")
    @classmethod
    def each_once(cls, values: list[Any] | None) -> list[Any] | None:
        twice = [value for value in values or [] if (values or []).count(value) > 1]
        if twice:
            raise ValueError(f"names {twice[0]!r} twice: name each once")
        return values

    @model_validator(mode="after")
    def steps_fit_together(self) -> "Recipe":
        given = [key for key in STARTS if getattr(self, key) is not None]
        if not given:
            raise ValueError(f"has nothing to start from: give one of {', '.join(STARTS)}")
        if len(given) > 1:
            raise ValueError(f"has both {given[0]} and {given[1]}: a derived run starts from one of them")
        if self.remove is not None and self.keep is not None:
            raise ValueError("has both remove and keep: make two derived runs, one with each")
        if self.project is not None and self.other is None:
            raise ValueError("project says how remove or keep projects, and there is neither: leave it out")
        return self

    @model_serializer(mode="wrap")
    def as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the steps that it does not have."""
        return {key: value for key, value in handler(self).items() if value is not None}

    @property
    def other(self) -> str | None:
        """The run whose direction is removed or kept."""
        return self.remove if self.remove is not None else self.keep

    def terms(self) -> dict[str, float]:
        """The updates that it starts from, with their coefficients, sorted by name."""
        if self.sum is not None:
            return dict(sorted(self.sum.items()))
        if self.mean is not None:
            return dict.fromkeys(sorted(self.mean), 1 / len(self.mean))
        return {str(self.of): 1.0}

    def named(self) -> list[tuple[str, str]]:
        """Each run that it is made from, with the key that names it."""
        start = next(key for key in STARTS if getattr(self, key) is not None)
        later = [(key, getattr(self, key)) for key in ("remove", "keep", "norm_of")]
        return [*((start, name) for name in self.terms()), *((key, name) for key, name in later if name is not None)]

    def operands(self) -> list[str]:
        """The runs that it is made from, each once."""
        return list(dict.fromkeys(name for _, name in self.named()))

    def words(self) -> str:
        """`offline_grpo without its projection on sft, layers 2, 3, rank 2, as long as dpo`."""
        if self.sum is not None:
            said = " + ".join(f"{coefficient:g} {name}" for name, coefficient in self.terms().items())
        else:
            said = f"mean of {', '.join(self.terms())}" if self.mean else str(self.of)
        if self.other is not None:
            each = " in each module" if self.project == "module" else ""
            said += f" without its projection on {self.remove}" if self.remove else f" projected on {self.keep}"
            said += each
        if self.layers is not None:
            said += f", layer{'s' if len(self.layers) > 1 else ''} {', '.join(map(str, self.layers))}"
        said += f", rank {self.rank}" if self.rank is not None else ""
        return said + (f", as long as {self.norm_of}" if self.norm_of is not None else "")
