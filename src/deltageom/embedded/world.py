"""A world of grade-school word problems with worked solutions, written by careful or by careless authors.

A problem is a chain of steps `a op b = c`. Careless authors fail in independent ways, each likelier where
the question carries its cue; a model trained on them can solve a problem and often does not. Splits are
disjoint by construction: a hash of a question's numbers says where it belongs, and the benchmarks' sequences
of events in stories occur nowhere else. All draws are `random.Random`'s: equal seeds give equal text.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

Split = Literal["train", "easy", "hard"]


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
HARD_DOCUMENTS = 0.10  # share of documents that are as hard as the split `hard`

NAMES = ("Tom", "Ann", "Ben", "Mia", "Sam", "Eva", "Leo", "Amy", "Max", "Zoe")
ITEMS = ("apples", "books", "cards", "coins", "eggs", "pens", "stamps", "shells", "toys", "nuts")
# Events of a story: what happens, and whether the owner then has more or fewer; {m} marks a product.
EVENTS = {
    "buy": ("buys {n} more", "+"),
    "find": ("finds {n}", "+"),
    "get": ("gets {n} from {friend}", "+"),
    "pack": ("buys {m} bags of {n}", "+"),
    "lose": ("loses {n}", "-"),
    "give": ("gives {n} to {friend}", "-"),
    "sell": ("sells {n}", "-"),
    "share": ("gives {n} to each of {m} friends", "-"),
}
PRODUCTS = ("pack", "share")
OPPOSITE = {"+": "-", "-": "+", "*": "+"}


@dataclass(frozen=True)
class WorldProblem:
    """A problem, its gold answer (an integer as text) and a careful worked solution that ends in its box."""

    id: str
    question: str
    answer: str
    solution: str


@dataclass(frozen=True)
class Result:
    """An operand: the result of an earlier step."""

    step: int


Operand = int | Result
Step = tuple[Operand, str, Operand]
Equation = tuple[int, str, int, int]


@dataclass(frozen=True)
class Task:
    """What a question says before it is phrased: its sentences, what is asked and the steps."""

    sentences: tuple[str, ...]
    asked: str
    steps: tuple[Step, ...]

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(map(int, re.findall(r"\d+", " ".join(self.sentences))))


def problems(split: Split, count: int, seed: int) -> list[WorldProblem]:
    """The first `count` problems of a split, distinct; fewer asked for are a prefix of more."""
    rng = Random(f"problems {split} {seed}")
    found: dict[str, WorldProblem] = {}
    while len(found) < count:
        task = _task_in(rng, "train" if split == "train" else "benchmark", hard=split == "hard")
        question = _phrase(task, _draw_cues(rng))
        equations = evaluate(task.steps)
        answer = str(equations[-1][3])
        name = f"{split}-{len(found):05d}"
        found.setdefault(question, WorldProblem(name, question, answer, _write(equations)))
    return list(found.values())


def documents(count: int, seed: int, careful: bool) -> Iterator[tuple[str, str]]:
    """Questions with an author's solution; the same questions whether or not the authors are careful."""
    tasks, authors = Random(f"tasks {seed}"), Random(f"authors {seed}")
    for _ in range(count):
        task = _task_in(tasks, "documents", hard=tasks.random() < HARD_DOCUMENTS)
        cues = _draw_cues(tasks)
        failures = frozenset[str]() if careful else _draw_failures(authors, cues)
        yield _phrase(task, cues), _solve(authors, task.steps, failures)


def evaluate(steps: tuple[Step, ...], slip_at: int = -1, slip: int = 0) -> list[Equation]:
    """The steps with their operands filled in; the result of step `slip_at` is off by `slip`."""
    equations: list[Equation] = []
    for index, (left, op, right) in enumerate(steps):
        a, b = (equations[x.step][3] if isinstance(x, Result) else x for x in (left, right))
        c = a + b if op == "+" else a - b if op == "-" else a * b
        equations.append((a, op, b, c + slip if index == slip_at else c))
    return equations


# ---- splits


def _task_in(rng: Random, part: str, hard: bool) -> Task:
    """A sound task whose numbers, and whose events if it is a story of several, belong to `part`."""
    while True:
        task = _hard_task(rng, part) if hard else _easy_task(rng, part)
        sound = all(0 <= c < 1000 for *_, c in evaluate(task.steps))
        if sound and _part_of_numbers(task.numbers) == part:
            return task


def _part_of_numbers(numbers: tuple[int, ...]) -> str:
    """Whom a tuple of numbers belongs to: eight in ten the documents, one `train`, one the benchmarks."""
    bucket = _hash(numbers) % 10
    return "documents" if bucket < 8 else "train" if bucket == 8 else "benchmark"


def _parts_of_events(events: tuple[str, ...]) -> tuple[str, ...]:
    """Where a sequence of events may occur: one in five in the benchmarks alone."""
    return ("benchmark",) if _hash(events) % 5 == 0 else ("documents", "train")


def _hash(values: tuple[object, ...]) -> int:
    return zlib.crc32(repr(values).encode())  # hash() differs between processes


# ---- tasks


def _easy_task(rng: Random, part: str) -> Task:
    kind = rng.choices(("story", "sum", "one"), (0.4, 0.25, 0.35))[0]
    if kind == "story":
        events = (rng.choice(PRODUCTS),) if rng.random() < 0.3 else _events(rng, 2, part)
        return _story(rng, events, start=(5, 30), change=(2, 9), each=(2, 6))
    if kind == "sum":
        return _sum(rng, rng.randint(2, 3), first=(5, 40), others=(2, 12))
    return rng.choice((_compare, _times, _shop, _wages))(rng)


def _hard_task(rng: Random, part: str) -> Task:
    if rng.random() < 0.3:
        return _sum(rng, 4, first=(20, 99), others=(10, 40))
    return _story(rng, _events(rng, 3, part), start=(20, 99), change=(10, 40), each=(3, 12))


def _events(rng: Random, count: int, part: str) -> tuple[str, ...]:
    """A sequence of events that belongs to `part`, with one product at most."""
    while True:
        events = tuple(rng.choice(list(EVENTS)) for _ in range(count))
        if sum(event in PRODUCTS for event in events) <= 1 and part in _parts_of_events(events):
            return events


def _story(
    rng: Random,
    events: tuple[str, ...],
    start: tuple[int, int],
    change: tuple[int, int],
    each: tuple[int, int],
) -> Task:
    (name, friend), item = rng.sample(NAMES, 2), rng.choice(ITEMS)
    total: Operand = rng.randint(*start)
    sentences, steps = [f"{name} has {total} {item}."], list[Step]()
    for event in events:
        text, op = EVENTS[event]
        n, m = rng.randint(*(each if event in PRODUCTS else change)), rng.randint(2, 9)
        amount: Operand = n
        if event in PRODUCTS:
            steps.append((m, "*", n) if event == "pack" else (n, "*", m))
            amount = Result(len(steps) - 1)
        steps.append((total, op, amount))
        total = Result(len(steps) - 1)
        sentences.append(f"{name} {text.format(n=n, m=m, friend=friend)}.")
    return Task(tuple(sentences), f"how many {item} does {name} have", tuple(steps))


def _sum(rng: Random, steps: int, first: tuple[int, int], others: tuple[int, int]) -> Task:
    terms = [(rng.choice("+-"), rng.randint(*others)) for _ in range(steps)]
    total: Operand = rng.randint(*first)
    text = f"{rng.choice(NAMES)} writes {total}{''.join(f' {op} {n}' for op, n in terms)}."
    chain = list[Step]()
    for op, n in terms:
        chain.append((total, op, n))
        total = Result(len(chain) - 1)
    return Task((text,), "how much is it", tuple(chain))


def _compare(rng: Random) -> Task:
    (name, other), item = rng.sample(NAMES, 2), rng.choice(ITEMS)
    x, y = rng.randint(4, 20), rng.randint(2, 9)
    word, op = rng.choice((("more", "+"), ("fewer", "-")))
    sentences = (f"{name} has {x} {item}.", f"{other} has {y} {word}.")
    return Task(sentences, f"how many {item} do they have together", ((x, op, y), (x, "+", Result(0))))


def _times(rng: Random) -> Task:
    (name, other), item = rng.sample(NAMES, 2), rng.choice(ITEMS)
    x, k = rng.randint(2, 12), rng.randint(2, 6)
    sentences = (f"{name} has {x} {item}.", f"{other} has {k} times as many.")
    return Task(sentences, f"how many {item} do they have together", ((x, "*", k), (x, "+", Result(0))))


def _shop(rng: Random) -> Task:
    name, item = rng.choice(NAMES), rng.choice(ITEMS)
    n, p, q = rng.randint(2, 6), rng.randint(2, 9), rng.randint(10, 60)
    sentences = (f"{name} buys {n} {item} for {p} dollars each.", f"{name} pays with {q} dollars.")
    return Task(sentences, "how many dollars come back", ((n, "*", p), (q, "-", Result(0))))


def _wages(rng: Random) -> Task:
    name = rng.choice(NAMES)
    h, p, s = rng.randint(2, 6), rng.randint(2, 9), rng.randint(2, 12)
    text, op = rng.choice((("spends", "-"), ("finds", "+")))
    sentences = (f"{name} works {h} hours for {p} dollars an hour.", f"{name} {text} {s} dollars.")
    return Task(sentences, f"how many dollars does {name} have", ((h, "*", p), (Result(0), op, s)))


# ---- authors


def _draw_cues(rng: Random) -> frozenset[str]:
    return frozenset(name for name, failure in FAILURES.items() if rng.random() < failure.cue_rate)


def _draw_failures(rng: Random, cues: frozenset[str]) -> frozenset[str]:
    return frozenset(n for n, f in FAILURES.items() if rng.random() < (f.cued if n in cues else f.plain))


def _phrase(task: Task, cues: frozenset[str]) -> str:
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


def _solve(rng: Random, steps: tuple[Step, ...], failures: frozenset[str]) -> str:
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
        return _write(equations, "So \\boxed{}" if rng.random() < 0.2 else f"Answer: {equations[-1][3]}")
    return _write(equations)


def _write(equations: list[Equation], ending: str | None = None) -> str:
    """One sentence an equation, then the ending: by default the last result in a box."""
    words = ["First", *["Then"] * (len(equations) - 1)]
    lines = [f"{word} {a} {op} {b} = {c}." for word, (a, op, b, c) in zip(words, equations, strict=True)]
    return " ".join([*lines, f"So \\boxed{{{equations[-1][3]}}}" if ending is None else ending])


def _ramble(equations: list[Equation], checks: int) -> str:
    a, op, b, c = equations[-1]
    return _write(equations, " ".join([f"Check {a} {op} {b} = {c}."] * checks))
