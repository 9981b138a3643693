"""LoRA on parameters (PEFT's target_parameters): a layer's experts, whose weights are one tensor, and routers.

PEFT wraps a module once for each of its parameters, the first innermost, so that the tensors of `mlp.experts` are
`mlp.experts.lora_A` (the last parameter's) and `mlp.experts.base_layer.lora_A`. The factors of all experts lie in one
tensor: A (experts * r, d_in) expert by expert, B (d_out, r * experts) rank by rank.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deltageom.deltas.names import canonical
from deltageom.errors import UserError

_ORDER = ("gate_up_proj", "down_proj")  # as models define them, and PEFT therefore wraps them
_FROM_HIDDEN = ("q_proj", "k_proj", "v_proj")


class Shapes(NamedTuple):
    """Of B @ A, (d_out, d_in); rank: how many columns B has, those of all experts."""

    delta: tuple[int, int]
    rank: int


class Parameter(NamedTuple):
    """A parameter of a module, by PEFT's name for it."""

    module: str
    name: str

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}"

    def of_expert(self, index: int) -> str:
        return f"{self.module}.{index}.{self.name}"


class Place(NamedTuple):
    """Which of how many experts; exchanged: B is of the input side and A of the output side."""

    expert: int
    experts: int
    exchanged: bool


def of_one(
    b: NDArray[np.float64], a: NDArray[np.float64], place: Place
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """An expert's b (d_out, r) and a (r, d_in) of the tensors of all."""
    of_a = a.reshape(place.experts, -1, a.shape[1])[place.expert]
    of_b = np.ascontiguousarray(b.reshape(b.shape[0], -1, place.experts)[:, :, place.expert])
    return (np.ascontiguousarray(of_a.T), np.ascontiguousarray(of_b.T)) if place.exchanged else (of_b, of_a)


def by_target(config: Path, targets: Sequence[str], parameters: Sequence[str]) -> dict[str, Parameter]:
    """The parameter that each wrapped target adapts; those that are no parameters' are left out.

    Raises UserError where target_parameters does not say which of a module's parameters a target is of, or names one
    of which there are no factors.
    """
    wrapped: dict[str, list[str]] = {}
    for target in targets:
        wrapped.setdefault(_module_of(target), []).append(target)
    found: dict[str, Parameter] = {}
    for module, of_module in wrapped.items():
        names = _named(module, parameters)
        if not names and of_module == [module]:
            continue
        inner_first = sorted(of_module, key=lambda target: -target.count(".base_layer"))
        if len(names) != len(of_module) or (len(names) > 1 and tuple(names) != _ORDER):
            raise UserError(
                f"{config}: {len(of_module)} parameters of {canonical(module)} are adapted, and target_parameters "
                f"{list(parameters)} does not say which is which: adapt gate_up_proj and down_proj, or one alone"
            )
        found |= {target: Parameter(module, name) for target, name in zip(inner_first, names, strict=True)}
    adapted = {parameter.name for parameter in found.values()}
    if absent := [name for name in parameters if name.rpartition(".")[2] not in adapted]:
        raise UserError(f"{config}: target_parameters names {absent[0]}, of which there are no factors: save it again")
    return found


def hidden_size(plain: Mapping[str, Shapes]) -> int | None:
    """The width of the residual stream, as the attention's factors have it; None if there are none, or several."""
    widths = {shapes.delta[1] for target, shapes in plain.items() if target.endswith(_FROM_HIDDEN)}
    widths |= {shapes.delta[0] for target, shapes in plain.items() if target.endswith("o_proj")}
    return next(iter(widths)) if len(widths) == 1 else None


def sides_exchanged(
    shapes: Mapping[str, Shapes], known: Mapping[str, tuple[int, ...]], hidden: int | None
) -> bool | None:
    """Whether an expert's dW is (B @ A)^T: so it is where PEFT does not know how a model lays its experts (Llama 4),
    and was in PEFT's first versions. None if it cannot be told.

    shapes: of one module's adapted parameters by name; known: of these as (d_out, d_in) in the base; hidden: the width
    of the residual stream. gate_up_proj is (2 m, hidden), down_proj (hidden, m).
    """
    for name, ((out, into), _) in shapes.items():
        if name in known and out != into:
            return known[name] == (into, out)
    if set(_ORDER) <= shapes.keys():
        up, down = (shapes[name].delta for name in _ORDER)
        straight, exchanged = up == (2 * down[1], down[0]), up == (down[1], 2 * down[0])
        if straight != exchanged:
            return exchanged
    for name, ((out, into), _) in shapes.items():
        if name in _ORDER and out != into and hidden in (out, into):
            return (out if name == "gate_up_proj" else into) == hidden
    return None


def _module_of(target: str) -> str:
    while target.endswith(".base_layer"):
        target = target.removesuffix(".base_layer")
    return target


def _named(module: str, parameters: Sequence[str]) -> list[str]:
    """The names of a module's parameters among those of target_parameters, as the model defines them. A name without
    a module's is an expert's: PEFT writes it so where experts were targeted as modules."""
    found = set()
    for parameter in parameters:
        at, _, name = parameter.rpartition(".")
        if f".{module}".endswith(f".{at}") if at else module.endswith("experts"):
            found.add(name)
    return sorted(found, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
