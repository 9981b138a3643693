"""Chains of steps `a op b = c` and the sentences that tell them, each drawn within the split that it belongs to.

Splits are disjoint by construction: a hash of a question's numbers says where it belongs, and the benchmarks'
sequences of events in stories occur nowhere else.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from random import Random

from deltageom.study.schema import World

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


def evaluate(steps: tuple[Step, ...], slip_at: int = -1, slip: int = 0) -> list[Equation]:
    """The steps with their operands filled in; the result of step `slip_at` is off by `slip`."""
    equations: list[Equation] = []
    for index, (left, op, right) in enumerate(steps):
        a, b = (equations[x.step][3] if isinstance(x, Result) else x for x in (left, right))
        c = a + b if op == "+" else a - b if op == "-" else a * b
        equations.append((a, op, b, c + slip if index == slip_at else c))
    return equations


# ---- splits


def draw(rng: Random, part: str, hard: bool, world: World) -> Task:
    """A sound task whose numbers, and whose events if it is a story of several, belong to `part`.

    Sound: every result is at least 0 and below 1000, in a hard task below 1000 times `world.hard_scale`.
    """
    limit = 1000 * world.hard_scale if hard else 1000
    while True:
        task = _hard_task(rng, part, world) if hard else _easy_task(rng, part)
        sound = all(0 <= c < limit for *_, c in evaluate(task.steps))
        if sound and _part_of_numbers(task.numbers) == part:
            return task


def _part_of_numbers(numbers: tuple[int, ...]) -> str:
    """Whom a tuple of numbers belongs to: eight in ten the documents, one `train`, one the benchmarks."""
    bucket = _hash(numbers) % 10
    return "documents" if bucket < 8 else "train" if bucket == 8 else "benchmark"


def _parts_of_events(events: tuple[str, ...]) -> tuple[str, ...]:
    """Where a sequence of events may occur: one in five only in the benchmarks."""
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


def _hard_task(rng: Random, part: str, world: World) -> Task:
    """A story of `hard_events` events, or a sum of one step more."""
    least, most = world.hard_events
    is_sum = rng.random() < 0.3
    events = least if least == most else rng.randint(least, most)
    start, change, each = (_scaled(numbers, world.hard_scale) for numbers in ((20, 99), (10, 40), (3, 12)))
    if is_sum:
        return _sum(rng, events + 1, first=start, others=change)
    return _story(rng, _events(rng, events, part), start, change, each)


def _scaled(numbers: tuple[int, int], scale: int) -> tuple[int, int]:
    return numbers[0] * scale, numbers[1] * scale


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
