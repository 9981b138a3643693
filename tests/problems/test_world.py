"""The world's laws, checked on its text alone: splits, sums, failures, determinism."""

import hashlib
import math
import re
from itertools import islice

import pytest
import yaml

from deltageom.problems.authors import FAILURES
from deltageom.problems.tasks import NAMES
from deltageom.problems.world import TOY, documents, problems
from deltageom.study.schema import World
from tests.conftest import ROOT

COUNT = 1000
HARD = World(hard_documents=0.5, hard_problems=0.25, hard_events=[4, 7], hard_scale=10)
# SHA-256 of the toy's problems and documents, recorded before the world had keys
RECORDED = {
    "documents": "61efcdc12eb0a22432252facb7e5752e41ceb8e42d03a5e2c7dfb8d27226b53a",
    "careful": "aaa502238ee27aeef9ec766646311ac16389a10e7d149807014a6efc433e7e2e",
    "train": "026cedcde768bac47476a424e3a65f1a9d03904ac3f9a5bbb894be52a502c97e",
    "easy": "2266b7196b44d8221e68e215bd13895714bf32bb12685866089e1b5dd415f6df",
    "hard": "ad5d5d0da8d8793e52171cf6e93518d054fe5333471c108640eebbf381e0aed0",
}
EQUATION = re.compile(r"(-?\d+) ([-+*]) (-?\d+) = (-?\d+)")
STEP = re.compile(r"(?:First|Then) (-?\d+) ([-+*]) (-?\d+) = (-?\d+)\.")
BOX = re.compile(r"\\boxed\{(-?\d+)\}")


def numbers(question):
    return tuple(map(int, re.findall(r"\d+", question)))


def plot(question):
    """A story's sequence of events: its sentences after the first, names and numbers hidden."""
    hidden = re.sub("|".join(NAMES), "X", re.sub(r"\d+", "0", question))
    sentences = re.match(r"(.*\. )?", hidden.split("Quick:")[0].split("How many")[0]).group().split(". ")
    return tuple(sentence for sentence in sentences[1:] if sentence)


def false(equations):
    values = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
    return [e for e in equations if values[e[1]](int(e[0]), int(e[2])) != int(e[3])]


def told(question):
    """The answer by reading the question: an independent solver that knows no steps."""
    n = numbers(question)
    if "times as many" in question:
        return n[0] * (1 + n[1])
    if "together" in question:
        return 2 * n[0] + (n[1] if " more." in question else -n[1])
    if "writes" in question:
        return eval(re.search(r"writes ([-+ \d]+)\.", question)[1])
    if "come back" in question:
        return n[2] - n[0] * n[1]
    if "works" in question:
        return n[0] * n[1] + (n[2] if " finds " in question else -n[2])
    total = n[0]
    for clause in re.findall(r"(?:buys|finds|gets|loses|gives|sells) [^.]*", question):
        total += math.prod(numbers(clause)) * (1 if clause.split()[0] in ("buys", "finds", "gets") else -1)
    return total


def steps(solution):
    return len(EQUATION.findall(solution))


@pytest.fixture(scope="module", params=[TOY, HARD], ids=["toy", "harder"])
def world(request):
    return request.param


@pytest.fixture(scope="module")
def splits(world):
    return {split: problems(split, COUNT, 3, world) for split in ("train", "easy", "hard")}


@pytest.fixture(scope="module")
def careless(world):
    return list(documents(5000, 3, False, world))


@pytest.fixture(scope="module")
def careful(world):
    return list(documents(5000, 3, True, world))


@pytest.fixture(scope="module")
def questions(splits, careless):
    parts = {split: [p.question for p in problems] for split, problems in splits.items()}
    return parts | {"documents": [question for question, _ in careless]}


@pytest.mark.parametrize(("a", "b"), [("documents", s) for s in ("train", "easy", "hard")] + [("train", "easy")])
def test_no_tuple_of_numbers_is_shared_between_splits(questions, a, b):
    assert not {numbers(q) for q in questions[a]} & {numbers(q) for q in questions[b]}


def test_benchmarks_tell_stories_of_events_that_training_never_saw(questions):
    seen = {plot(q) for part in ("documents", "train") for q in questions[part] if "have" in q}
    for part in ("easy", "hard"):
        plots = {plot(q) for q in questions[part] if " has " in q and len(plot(q)) > 1}
        assert plots
        assert not plots & seen


@pytest.mark.parametrize("split", ["train", "easy", "hard"])
def test_reference_solutions_are_right(splits, split):
    for problem in splits[split]:
        equations = EQUATION.findall(problem.solution)
        assert len(equations) >= 2
        assert not false(equations)
        assert BOX.findall(problem.solution) == [problem.answer] == [equations[-1][3]]
        assert int(problem.answer) == told(problem.question) >= 0


def test_hard_problems_have_more_steps_and_larger_numbers(splits):
    def mean(split, of):
        return sum(map(of, splits[split])) / COUNT

    assert mean("hard", lambda p: p.solution.count("=")) > mean("easy", lambda p: p.solution.count("=")) + 0.8
    assert mean("hard", lambda p: max(numbers(p.question))) > 3 * mean("easy", lambda p: max(numbers(p.question)))


def test_the_worlds_keys_say_how_hard_hard_is(world, splits, careful):
    """A hard problem has a story's events, with a product a step more, or a sum of one step more."""
    least, most = world.hard_events
    lengths = {split: [steps(p.solution) for p in found] for split, found in splits.items()}
    assert set(lengths["hard"]) == set(range(least, most + 2))
    assert set(lengths["easy"]) == {2, 3}
    results = {
        split: [int(e[3]) for p in found for e in EQUATION.findall(p.solution)] for split, found in splits.items()
    }
    assert min(results["hard"]) >= 0
    assert 200 * world.hard_scale < max(results["hard"]) < 1000 * world.hard_scale
    for part, share, lengths_ in (
        ("train", world.hard_problems, lengths["train"]),
        ("documents", world.hard_documents, [steps(solution) for _, solution in careful]),
    ):
        hard = sum(n > 3 for n in lengths_) / len(lengths_)
        hard /= sum(n > 3 for n in lengths["hard"]) / COUNT  # some of the toy's have three steps
        assert abs(hard - share) <= 4 * math.sqrt(share / len(lengths_)), part


def test_the_toys_world_is_what_it_was():
    def digest(value):
        return hashlib.sha256(repr(value).encode()).hexdigest()

    found = {
        split: digest([(p.id, p.question, p.answer, p.solution) for p in problems(split, 500, 0)])
        for split in ("train", "easy", "hard")
    }
    found |= {name: digest(list(documents(3000, 0, name == "careful"))) for name in ("documents", "careful")}
    assert found == RECORDED
    assert World.model_validate(yaml.safe_load((ROOT / "config.yaml").read_text())["toy"]["world"]) == TOY


def test_problems_are_distinct_and_seeded():
    first = problems("train", 500, 1)
    assert len({p.id for p in first}) == len({p.question for p in first}) == 500
    assert first == problems("train", 500, 1)
    assert first[:100] == problems("train", 100, 1)
    assert not {p.question for p in first[:50]} & {p.question for p in problems("train", 50, 2)}
    ids = {p.id for split in ("train", "easy", "hard") for p in problems(split, 50, 0)}
    assert len(ids) == 150


def test_documents_are_seeded():
    assert list(documents(50, 1, False)) == list(islice(documents(90, 1, False), 50))
    assert list(documents(50, 1, False)) != list(documents(50, 2, False))


def test_careful_authors_are_right(careful):
    for question, solution in careful:
        assert BOX.findall(solution) == [str(told(question))]


HAPPENED = {  # read off the text of a document and of the careful one on the same question
    "stops_early": lambda text, right: len(STEP.findall(text)) == len(STEP.findall(right)) - 1,
    "wrong_operation": lambda text, right: STEP.findall(text)[0][1] != STEP.findall(right)[0][1],
    "arithmetic_slip": lambda text, _: bool(false(EQUATION.findall(text))),
    "wrong_format": lambda text, _: None if "Check" in text else not BOX.findall(text),
    "rambles": lambda text, _: "Check" in text and not BOX.findall(text),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("cued", [False, True])
def test_careless_authors_fail_at_the_documented_rates(careless, careful, name, cued):
    failure = FAILURES[name]
    seen = [
        HAPPENED[name](text, right)
        for (question, text), (same, right) in zip(careless, careful, strict=True)
        if question == same and (failure.cue in question) is cued
    ]
    seen = [happened for happened in seen if happened is not None]
    rate = failure.cued if cued else failure.plain
    assert len(seen) > 400
    assert abs(sum(seen) / len(seen) - rate) < 4 * math.sqrt(rate * (1 - rate) / len(seen))


@pytest.mark.parametrize("name", FAILURES)
def test_cues_come_at_the_documented_rates(careless, name):
    rate, n = FAILURES[name].cue_rate, len(careless)
    seen = sum(FAILURES[name].cue in question for question, _ in careless)
    assert abs(seen / n - rate) < 4 * math.sqrt(rate * (1 - rate) / n)
