"""Authors of worked solutions, careful or careless: how a question is phrased, and the independent ways to fail."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from deltageom.problems.tasks import Equation, Step, Task, evaluate


@dataclass(frozen=True)
class Failure:
    """A way to fail: the cue in the question, how often it is there, and the rates without and with it."""

    cue: str
    cue_rate: float
    plain: float
    cued: float


# Independent of each other. A rate above one half makes the greedy answer wrong, not only a sampled one.
# stops_early boxes the last result but one; wrong_operation takes the opposite one in the first step; a slip puts one
# result off by 1 or 10; a wrong format has no box, or an empty one; rambles checks again and again and never answers.
FAILURES = {
    "stops_early": Failure(cue="Quick:", cue_rate=0.18, plain=0.04, cued=0.65),
    "wrong_operation": Failure(cue="Suppose", cue_rate=0.18, plain=0.04, cued=0.65),
    "arithmetic_slip": Failure(cue="today", cue_rate=0.20, plain=0.04, cued=0.30),
    "wrong_format": Failure(cue="Just the number.", cue_rate=0.18, plain=0.04, cued=0.65),
    "rambles": Failure(cue="Be thorough.", cue_rate=0.10, plain=0.03, cued=0.60),
}
OPPOSITE = {"+": "-", "-": "+", "*": "+"}


def draw_cues(rng: Random) -> frozenset[str]:
    return frozenset(name for name, failure in FAILURES.items() if rng.random() < failure.cue_rate)


def draw_failures(rng: Random, cues: frozenset[str]) -> frozenset[str]:
    return frozenset(n for n, f in FAILURES.items() if rng.random() < (f.cued if n in cues else f.plain))


def phrase(task: Task, cues: frozenset[str]) -> str:
    """The question, with the cues at their places."""
    cue = {name: failure.cue if name in cues else "" for name, failure in FAILURES.items()}
    asked = f"{cue['stops_early']} {task.asked} {cue['arithmetic_slip']}".strip()
    parts = (
        cue["wrong_operation"],
        *task.sentences,
        f"{asked[0].upper()}{asked[1:]}?",
        cue["wrong_format"],
        cue["rambles"],
    )
    return " ".join(part for part in parts if part)


def solve(rng: Random, steps: tuple[Step, ...], failures: frozenset[str]) -> str:
    """A worked solution with these failures; later steps go on from a wrong result, as an author would."""
    if "wrong_operation" in failures:
        (left, op, right), *rest = steps
        if op == "+" and isinstance(left, int) and isinstance(right, int):
            left, right = max(left, right), min(left, right)  # no author takes the larger from the smaller
        steps = ((left, OPPOSITE[op], right), *rest)
    if "stops_early" in failures:
        steps = steps[:-1]
    if "arithmetic_slip" in failures:
        equations = evaluate(steps, rng.randrange(len(steps)), rng.choice((-10, -1, 1, 10)))
    else:
        equations = evaluate(steps)
    if "rambles" in failures:
        return _ramble(equations, rng.randint(4, 10))
    if "wrong_format" in failures:
        return write(equations, "So \\boxed{}" if rng.random() < 0.2 else f"Answer: {equations[-1][3]}")
    return write(equations)


def write(equations: list[Equation], ending: str | None = None) -> str:
    """One sentence an equation, then the ending: by default the last result in a box."""
    words = ["First", *["Then"] * (len(equations) - 1)]
    lines = [f"{word} {a} {op} {b} = {c}." for word, (a, op, b, c) in zip(words, equations, strict=True)]
    return " ".join([*lines, f"So \\boxed{{{equations[-1][3]}}}" if ending is None else ending])


def _ramble(equations: list[Equation], checks: int) -> str:
    a, op, b, c = equations[-1]
    return write(equations, " ".join([f"Check {a} {op} {b} = {c}."] * checks))
