"""A world of grade-school word problems with worked solutions, written by careful or by careless authors.

A problem is a chain of steps. Careless authors fail in independent ways, each likelier where the question carries its
cue; a model trained on them can solve a problem and often does not. Splits are disjoint. All draws are
`random.Random`'s: equal seeds give equal text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from deltageom.problems import authors, tasks
from deltageom.study.schema import World

Split = Literal["train", "easy", "hard"]
TOY = World(hard_documents=0.10, hard_problems=0.0, hard_events=[3, 3], hard_scale=1)  # config.yaml's


@dataclass(frozen=True)
class WorldProblem:
    """A problem, its gold answer (an integer as text) and a careful worked solution that ends in its box."""

    id: str
    question: str
    answer: str
    solution: str


def problems(split: Split, count: int, seed: int, world: World = TOY) -> list[WorldProblem]:
    """The first `count` problems of a split, distinct; fewer asked for are a prefix of more.

    `world` says how hard the hard ones are, and which share of `train` is hard.
    """
    rng = Random(f"problems {split} {seed}")
    found: dict[str, WorldProblem] = {}
    while len(found) < count:
        hard = split == "hard" or (split == "train" and _chosen(rng, world.hard_problems))
        task = tasks.draw(rng, "train" if split == "train" else "benchmark", hard, world)
        question = authors.phrase(task, authors.draw_cues(rng))
        equations = tasks.evaluate(task.steps)
        answer = str(equations[-1][3])
        name = f"{split}-{len(found):05d}"
        found.setdefault(question, WorldProblem(name, question, answer, authors.write(equations)))
    return list(found.values())


def documents(count: int, seed: int, careful: bool, world: World = TOY) -> Iterator[tuple[str, str]]:
    """Questions with an author's solution; the same questions whether or not the authors are careful."""
    drawn, mistakes = Random(f"tasks {seed}"), Random(f"authors {seed}")
    for _ in range(count):
        task = tasks.draw(drawn, "documents", drawn.random() < world.hard_documents, world)
        cues = authors.draw_cues(drawn)
        failures = frozenset[str]() if careful else authors.draw_failures(mistakes, cues)
        yield authors.phrase(task, cues), authors.solve(mistakes, task.steps, failures)


def _chosen(rng: Random, share: float) -> bool:
    """True in `share` of the draws. A share of 0 draws nothing: the toy's problems stay what they were."""
    return share > 0 and rng.random() < share
