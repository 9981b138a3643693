r"""Training problems that share a run of words with a benchmark's: pure, linear in the words of both.

Words: the text is folded (Unicode NFKC, then case) and cut into maximal runs of letters and maximal runs of digits;
everything else only parts them. A LaTeX command is so the word of its name: `\frac{1}{2}` is `frac 1 2`; and `2x` and
`$2 x$` are both `2 x`.

The rule: two problems of a and b words overlap if they share a run of min(n, a, b) words, so that one shorter than n
words overlaps where it stands in the other whole. A problem without any word overlaps with nothing.
GPT-3's training data was filtered so, with n = 13 (2005.14165, appendix C).
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from deltageom.problems.problem import Problem

_WORD = re.compile(r"[^\W\d_]+|\d+")

Words = tuple[str, ...]


@dataclass(frozen=True)
class Overlap:
    """`shared`: the first run of words in the training problem that the other has too. `identical`: all words are."""

    train_id: str
    benchmark: str
    problem_id: str
    shared: str
    identical: bool


def words(text: str) -> Words:
    """The words that texts are compared by."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return tuple(_WORD.findall(folded))


def overlaps(training: Sequence[Problem], benchmarks: Mapping[str, Sequence[Problem]], n: int) -> list[Overlap]:
    """Every pair that overlaps, once: in the order of the training problems, then of the benchmarks' problems."""
    train = [words(problem.question) for problem in training]
    named = [(name, problem.id) for name, problems in benchmarks.items() for problem in problems]
    other = [words(problem.question) for problems in benchmarks.values() for problem in problems]
    shared: dict[tuple[int, int], Words] = {}
    for at, run, numbers in _runs_in(train, _by_run(other, n), n):
        for number in numbers:
            shared.setdefault((at, number), run)
    for at, run, numbers in _wholes_in(train, _shorter(other, n)):
        shared.update({(at, number): run for number in numbers})
    for at, run, numbers in _wholes_in(other, _shorter(train, n)):
        shared.update({(number, at): run for number in numbers})
    return [
        Overlap(training[mine].id, *named[yours], " ".join(run), train[mine] == other[yours])
        for (mine, yours), run in sorted(shared.items())
    ]


def without(training: Sequence[Problem], found: Sequence[Overlap]) -> list[Problem]:
    """The training problems that overlap with nothing, in their order."""
    overlapping = {overlap.train_id for overlap in found}
    return [problem for problem in training if problem.id not in overlapping]


def summary(benchmarks: Mapping[str, Sequence[Problem]], found: Sequence[Overlap]) -> list[dict[str, str | int]]:
    """A row per benchmark. `identical`: training problems with the very words of one of its problems."""
    rows: list[dict[str, str | int]] = []
    for name, problems in benchmarks.items():
        own = [overlap for overlap in found if overlap.benchmark == name]
        rows.append(
            {
                "benchmark": name,
                "problems": len(problems),
                "overlapping_problems": len({overlap.problem_id for overlap in own}),
                "overlapping_training_problems": len({overlap.train_id for overlap in own}),
                "identical": len({overlap.train_id for overlap in own if overlap.identical}),
            }
        )
    return rows


def _runs(text: Words, n: int) -> Iterator[Words]:
    """Every run of n consecutive words, in order; none where there are fewer."""
    return zip(*(text[start:] for start in range(n)), strict=False)


def _by_run(texts: Sequence[Words], n: int) -> dict[Words, list[int]]:
    """The numbers of the texts that hold each run of n words."""
    found: dict[Words, list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        for run in set(_runs(text, n)):
            found[run].append(number)
    return found


def _runs_in(texts: Sequence[Words], index: dict[Words, list[int]], n: int) -> Iterator[tuple[int, Words, list[int]]]:
    """Where a text has a run of the index: the text's number, the run, and the index's numbers."""
    for at, text in enumerate(texts):
        for run in _runs(text, n):
            if run in index:
                yield at, run, index[run]


def _shorter(texts: Sequence[Words], n: int) -> dict[Words, list[int]]:
    """The numbers of the texts of fewer than n words, by their words."""
    found: dict[Words, list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        if 0 < len(text) < n:
            found[text].append(number)
    return found


def _wholes_in(texts: Sequence[Words], index: dict[Words, list[int]]) -> Iterator[tuple[int, Words, list[int]]]:
    """As `_runs_in`, of runs of every length in the index: tried only at the few words that one of them begins with."""
    beginnings = {run[0] for run in index}
    lengths = {len(run) for run in index}
    for at, text in enumerate(texts):
        for start, word in enumerate(text):
            if word in beginnings:
                for length in lengths:
                    run = text[start : start + length]
                    if run in index:
                        yield at, run, index[run]
