"""What `deltageom mcnemar` prints."""

from collections.abc import Sequence

from deltageom.evaluation import scores
from deltageom.evaluation.scores import Comparison, Record, Scores
from deltageom.text import plain

SHOWN_IDS = 20
SHOWN_NAME = 200  # characters of a file's name
SHOWN_ID = 60


def report(
    a_records: Sequence[Record], b_records: Sequence[Record], names: tuple[str, str], resamples: int, seed: int
) -> str:
    """Two models on the same problems, in words, from their per-item records. Raises UserError as `scores.compare`."""
    found = scores.compare(a_records, b_records, resamples, seed, names)
    answers = "one answer" if found.samples == 1 else f"{found.samples} samples"
    lines = [f"n = {found.n} problems, {answers} each"]
    for letter, name, records in zip("AB", names, (a_records, b_records), strict=True):
        model = scores.read(records, name)
        lines.append(f"{letter}: {_accuracy(model, resamples, seed)}  {plain(name, SHOWN_NAME)}")
    bootstrap = f"paired bootstrap over problems, BCa, {resamples} resamples, seed {seed}"
    how = "Tango's score interval" if found.samples == 1 else bootstrap
    lines.append(f"difference A - B: {found.difference:+.4f} {_interval(found.low, found.high)} (95 %, {how})")
    lines += _sampled(found, resamples, seed) if found.only_a is None else _paired(found)
    lines.append(_detectable(found))
    lines += _ids("only A", found.only_a) + _ids("only B", found.only_b)
    return "\n".join(lines)


def _accuracy(model: Scores, resamples: int, seed: int) -> str:
    which, low, high = scores.interval(model, resamples, seed)
    return f"accuracy {model.accuracy:.4f} {_interval(low, high)} (95 %, {which})"


def _interval(low: float | None, high: float | None) -> str:
    return "[undefined: all problems alike]" if low is None or high is None else f"[{low:.4f}, {high:.4f}]"


def _paired(found: Comparison) -> list[str]:
    both, only_a, only_b = found.both or 0, len(found.only_a or ()), len(found.only_b or ())
    neither = found.n - both - only_a - only_b
    return [
        f"both {both}, only A {only_a}, only B {only_b}, neither {neither}",
        f"{found.test}: p = {found.p:.4g} (two-sided)",
    ]


def _sampled(found: Comparison, resamples: int, seed: int) -> list[str]:
    return [
        "A problem has several samples, and McNemar's test needs one: instead a sign-flip permutation test of the "
        "problems' mean differences.",
        f"{found.test}: p = {found.p:.4g} (two-sided; at most {resamples} sign patterns, seed {seed})",
    ]


def _detectable(found: Comparison) -> str:
    if found.minimum_detectable is None:
        return f"Minimum detectable difference: none; these {found.n} problems cannot tell with 80 % power at 5 %."
    given = "the observed spread of the differences"
    if found.only_a is not None and found.only_b is not None:
        given = f"{len(found.only_a) + len(found.only_b)} of {found.n} problems discordant"
    return (
        f"Minimum detectable difference: {found.minimum_detectable:.4f}; a smaller true one is found with less than "
        f"80 % power (at 5 %, two-sided, {given})."
    )


def _ids(title: str, ids: tuple[str, ...] | None) -> list[str]:
    if not ids:
        return []
    shown = ", ".join(plain(problem, SHOWN_ID) for problem in ids[:SHOWN_IDS])
    more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return [f"{title}: {shown}{more}"]
