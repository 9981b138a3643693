"""From per-item records to a model's scores on a benchmark, and to the comparison of two models' scores. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltageom.errors import UserError
from deltageom.evaluation import power, statistics

Record = Mapping[str, Any]

MCNEMAR = "McNemar, exact"
SIGN_FLIP = "sign-flip permutation"
WILSON = "Wilson"
BOOTSTRAP = "bootstrap over problems"


@dataclass(frozen=True)
class Scores:
    """problems: ids, sorted, (n,); solved: bool (n, samples), whether each completion is correct."""

    problems: tuple[str, ...]
    solved: NDArray[np.bool_]

    @property
    def n(self) -> int:
        return len(self.problems)

    @property
    def samples(self) -> int:
        return int(self.solved.shape[1])

    @property
    def by_problem(self) -> NDArray[np.float64]:
        """Share of each problem's completions that are correct, (n,)."""
        return np.asarray(self.solved.mean(axis=1), dtype=np.float64)

    @property
    def accuracy(self) -> float:
        """Mean over problems: avg@k, and with one completion a problem pass@1."""
        return float(self.solved.mean())


@dataclass(frozen=True)
class Comparison:
    """Two models on the same problems. What is undefined, or has no meaning with several samples, is None.

    difference: accuracy of a minus that of b; low, high: its 95 % interval, Tango's score
    interval, or with several samples the bootstrap over problems (BCa).
    only_a, only_b: ids of the problems that just one of the two solves; both: how many both solve. p: two-sided, of
    `test`. minimum_detectable: the smallest true difference that this test would find (see power.py).
    """

    test: str  # MCNEMAR or SIGN_FLIP
    n: int
    samples: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    low: float | None
    high: float | None
    both: int | None
    only_a: tuple[str, ...] | None
    only_b: tuple[str, ...] | None
    p: float
    minimum_detectable: float | None


def read(records: Sequence[Record], name: str) -> Scores:
    """Scores of one model from records with problem_id, correct and, where a problem has several, sample.

    Raises UserError, with `name` for the records, where there are none, a field is missing or of another type, a
    (problem_id, sample) stands twice, or problems differ in how many samples they have.
    """
    if not records:
        raise UserError(f"{name}: no records")
    found: dict[str, dict[int, bool]] = {}
    for number, record in enumerate(records, 1):
        problem, sample, correct = _fields(record, f"{name}: record {number}")
        of_problem = found.setdefault(problem, {})
        if sample in of_problem:
            raise UserError(
                f"{name}: problem_id {problem[:80]!r} with sample {sample} stands twice: "
                "leave one, or number several completions of a problem in `sample`"
            )
        of_problem[sample] = correct
    problems = sorted(found)
    samples = len(found[problems[0]])
    for problem in problems:
        if len(found[problem]) != samples:
            raise UserError(
                f"{name}: {len(found[problem])} samples of problem_id {problem[:80]!r} but {samples} of "
                f"{problems[0][:80]!r}: every problem needs as many"
            )
    solved = [[found[problem][sample] for sample in sorted(found[problem])] for problem in problems]
    return Scores(tuple(problems), np.array(solved, dtype=np.bool_))


def interval(scores: Scores, resamples: int, seed: int) -> tuple[str, float | None, float | None]:
    """The accuracy's 95 % interval, as (which, low, high): Wilson's, or with several samples bootstrap's."""
    if scores.samples == 1:
        return WILSON, *statistics.wilson(int(scores.solved.sum()), scores.n)
    return BOOTSTRAP, *(statistics.bootstrap(scores.by_problem, resamples, seed) or (None, None))


def compare(
    a_records: Sequence[Record],
    b_records: Sequence[Record],
    resamples: int,
    seed: int,
    names: tuple[str, str] = ("a", "b"),
) -> Comparison:
    """Two models on one benchmark, paired by problem_id whatever the order of the records.

    With one completion a problem: exact McNemar. With several: a sign-flip permutation test of the differences of
    the problems' means; completions of a problem are independent draws, so there are no pairs of them. `resamples`
    and `seed` are of that test and of the bootstrap. Raises UserError, with `names` for the records, as `read` does,
    and where the two have other problems or other numbers of samples.
    """
    a, b = read(a_records, names[0]), read(b_records, names[1])
    _check_pairing(a, b, names)
    differences = a.by_problem - b.by_problem
    low: float | None
    high: float | None
    both = only_a = only_b = None
    if a.samples == 1:
        one, other = a.solved[:, 0], b.solved[:, 0]
        both, only_a, only_b = int((one & other).sum()), _where(a, one & ~other), _where(a, other & ~one)
        p = statistics.mcnemar(one, other).p
        low, high = statistics.tango(len(only_a), len(only_b), a.n)
        detectable = power.detectable_by_mcnemar(a.n, (len(only_a) + len(only_b)) / a.n)
    else:
        low, high = statistics.bootstrap(differences, resamples, seed) or (None, None)
        p = statistics.sign_flip(differences, resamples, seed)
        detectable = power.detectable_by_means(differences)
    return Comparison(
        test=MCNEMAR if a.samples == 1 else SIGN_FLIP,
        n=a.n,
        samples=a.samples,
        accuracy_a=a.accuracy,
        accuracy_b=b.accuracy,
        difference=float(differences.mean()),
        low=low,
        high=high,
        both=both,
        only_a=only_a,
        only_b=only_b,
        p=p,
        minimum_detectable=detectable,
    )


def _fields(record: Record, where: str) -> tuple[str, int, bool]:
    for field in ("problem_id", "correct"):
        if field not in record:
            raise UserError(f"{where}: no {field!r}: give graded records, with problem_id and correct")
    problem, sample, correct = record["problem_id"], record.get("sample", 0), record["correct"]
    if type(problem) not in (str, int):
        raise UserError(f"{where}: problem_id must be text or a whole number, not {type(problem).__name__}")
    if type(sample) is not int:
        raise UserError(f"{where}: sample must be a whole number, not {type(sample).__name__}")
    if type(correct) not in (bool, int, float) or correct not in (0, 1):
        raise UserError(f"{where}: correct must be true or false, or 1 or 0, not {str(correct)[:40]!r}")
    return str(problem), sample, bool(correct)


def _check_pairing(a: Scores, b: Scores, names: tuple[str, str]) -> None:
    if a.problems != b.problems:
        alone = sorted(set(a.problems) ^ set(b.problems))
        raise UserError(
            f"{names[0]} and {names[1]} have different problems ({len(alone)} in one alone, {alone[0][:80]!r} the "
            "first): compare answers to the same benchmark"
        )
    if a.samples != b.samples:
        raise UserError(
            f"{names[0]} has {a.samples} and {names[1]} {b.samples} samples a problem: compare equal numbers of them"
        )


def _where(scores: Scores, mask: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(scores.problems[i] for i in np.flatnonzero(mask))
