"""Reasons made short, durations, and the guess at what is left."""

import json

import pytest

from snakemake_logger_plugin_deltageom.progress import Progress, clock
from snakemake_logger_plugin_deltageom.reasons import short

CHANGED = "Params have changed since last execution: Union of exclusive params before and now across all output: "


@pytest.mark.parametrize(
    ("reason", "made", "says"),
    [
        ("Missing output files: results/a/x.csv, results/a/y.csv", False, "not made yet"),
        ("Missing output files: results/a/y.csv, results/a/x.csv", True, "missing: x.csv, y.csv"),
        ("Incomplete output files: results/a/x", True, "was stopped before its end"),
        ("Updated input files: results/a/easy.jsonl (update)", True, "changed: easy.jsonl"),
        ("Input files updated by another job: results/b, results/a/c (non-empty), d", True, "follows grade, train"),
        ("Missing output files: a; Input files updated by another job: results/b", False, "not made yet"),
        ("Set of input files has changed since last execution", True, "reads other files than before"),
        ("Forced execution", True, "forced"),
        ("Something that a later Snakemake says", True, "Something that a later Snakemake says"),
        (
            f"{CHANGED}before: 'deltageom/a.py 0123456789ab' now: 'deltageom/a.py 1123456789ab' ",
            True,
            "edited deltageom/a.py",
        ),
        (f"{CHANGED}before: <nothing exclusive> now: '--x','5' ", True, "(nothing) -> --x, 5"),
    ],
)
def test_reasons(reason: str, made: bool, says: str) -> None:
    assert short(reason, made, {"results/b": "train", "results/a/c": "grade"}) == says


def test_of_changed_settings_the_keys_are_named() -> None:
    """Whatever their values hold: quotes, and words that Snakemake's own reasons begin with."""
    before = {"run": {"steps": 64, "name": "it's; Forced execution"}, "kept": [1, 2], "gone": None}
    now = {"run": {"steps": 128, "name": 'a "b" now: c'}, "kept": [1, 2]}
    reason = f"{CHANGED}before: {json.dumps(before)!r} now: {json.dumps(now)!r} "
    assert short(reason, True, {}) == (
        'run.steps: 64 -> 128; run.name: "it\'s; Forced execution" -> "a \\"b\\" now: c"; gone: null -> (none)'
    )


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1m00s"), (100, "1m40s"), (3700, "1h01m"), (86400 * 2 + 4 * 3600, "2d04h")],
)
def test_durations(seconds: float, says: str) -> None:
    assert clock(seconds) == says


def test_what_is_left_is_of_each_rules_mean_and_of_how_many_ran_at_once() -> None:
    progress = Progress()
    progress.expect({"train": 4, "tables": 1}, 100.0)
    progress.start(1, "train", {}, 100.0)
    progress.start(2, "train", {}, 100.0)
    assert progress.left(101.0) is None  # nothing has finished
    progress.finish(1, 110.0)
    progress.finish(2, 110.0)
    # two trainings and the tables of nobody knows what, taken for as long as a training; two jobs ran at once
    assert progress.left(110.0) == pytest.approx(15.0)
    progress.start(3, "train", {}, 110.0)
    assert progress.left(114.0) == pytest.approx((30 - 4) * 14 / 24)
    assert progress.line(114.0) == "[2/5  14 s, about 15 s left]"


def test_nothing_is_said_of_rules_that_nobody_has_seen() -> None:
    progress = Progress()
    progress.expect({"problems": 2, "train": 8}, 0.0)
    progress.start(1, "problems", {}, 0.0)
    progress.finish(1, 1.0)
    assert progress.left(1.0) is None
    assert progress.line(1.0) == "[ 1/10  1 s]"
