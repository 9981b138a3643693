"""Decontamination against its definition by brute force, its laws, and the files that the command writes."""

import json
import string
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltageom.files import read_jsonl
from deltageom.problems import decontamination
from deltageom.problems.decontamination import Overlap
from deltageom.problems.problem import Problem, read_problems, write_problems
from tests.conftest import BIN, ROOT

# few words, so that random texts share runs of them
TEXTS = st.lists(st.lists(st.sampled_from("abc"), max_size=9).map(" ".join), min_size=1, max_size=6)
SIZES = st.integers(1, 6)


def problems(texts: Sequence[str], prefix: str = "") -> list[Problem]:
    return [Problem(f"{prefix}{i}", text, "1", None) for i, text in enumerate(texts)]


def pairs(train: Sequence[str], other: Sequence[str], n: int) -> set[tuple[str, str]]:
    found = decontamination.overlaps(problems(train), {"x": problems(other)}, n)
    return {(overlap.train_id, overlap.problem_id) for overlap in found}


def runs(text: list[str], n: int) -> list[list[str]]:
    return [text[start : start + n] for start in range(len(text) - n + 1)]


def by_definition(train: Sequence[str], other: Sequence[str], n: int) -> list[Overlap]:
    """Texts of one-letter words, every pair looked at."""
    found = []
    for i, mine in enumerate(map(str.split, train)):
        for j, yours in enumerate(map(str.split, other)):
            size = min(n, len(mine), len(yours))
            both = [run for run in runs(mine, size) if run in runs(yours, size)] if size else []
            if both:
                found.append(Overlap(str(i), "x", str(j), " ".join(both[0]), mine == yours))
    return found


@given(TEXTS, TEXTS, SIZES)
def test_is_its_definition(train: list[str], other: list[str], n: int) -> None:
    found = decontamination.overlaps(problems(train), {"x": problems(other)}, n)
    assert found == by_definition(train, other, n)


@given(TEXTS, TEXTS, SIZES)
def test_is_symmetric(train: list[str], other: list[str], n: int) -> None:
    assert pairs(train, other, n) == {(mine, yours) for yours, mine in pairs(other, train, n)}


@given(TEXTS, TEXTS, SIZES, st.randoms(use_true_random=False))
def test_case_spacing_and_order_change_nothing(train, other, n, random):  # type: ignore[no-untyped-def]
    def disguised(text: str) -> str:
        gaps = [" ", "\n", "\t ", " $", "$, ", " \\, ", "\u00a0", " -- "]
        return "".join(random.choice([str.upper, str.lower])(word) + random.choice(gaps) for word in text.split())

    order = random.sample(range(len(train)), len(train))
    shuffled = pairs([disguised(train[i]) for i in order], [disguised(text) for text in other], n)
    assert {(str(order[int(mine)]), yours) for mine, yours in shuffled} == pairs(train, other, n)


@given(TEXTS, TEXTS, SIZES, st.integers(1, 3))
def test_longer_runs_never_add_an_overlap_among_long_problems(
    train: list[str], other: list[str], n: int, more: int
) -> None:
    train = [text for text in train if len(text.split()) >= n + more]
    other = [text for text in other if len(text.split()) >= n + more]
    assert pairs(train, other, n + more) <= pairs(train, other, n)


@given(TEXTS, st.integers(1, 20))
def test_a_problem_overlaps_with_itself(texts: list[str], n: int) -> None:
    found = decontamination.overlaps(problems(texts), {"x": problems(texts)}, n)
    itself = {o.train_id for o in found if o.train_id == o.problem_id and o.identical}
    assert itself == {str(i) for i, text in enumerate(texts) if text}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Find $m+n$.", "find m n"),
        ("\\frac{1}{2}", "frac 1 2"),
        ("\\frac12x^2", "frac 12 x 2"),
        ("\\\\frac{1}{2}", "frac 1 2"),  # AIME 2025 number 8
        ("2x+3", "2 x 3"),
        ("x² − ½", "x 2 1 2"),
        ("ﬁve ＡＢＣ１２", "five abc 12"),
        ("STRASSE Straße", "strasse strasse"),
        ("a_1 snake_case", "a 1 snake case"),
        ("Pell's équation", "pell s équation"),
        ("e\u0301quation", "équation"),
        ("1,000.50", "1 000 50"),
        ("x\u200by", "x y"),
        ("?! $$ \\, ___", ""),
        ("", ""),
    ],
)
def test_words(text: str, words: str) -> None:
    assert decontamination.words(text) == tuple(words.split())


@given(st.text())
def test_words_are_folded_once_and_for_all(text: str) -> None:
    found = decontamination.words(text)
    assert decontamination.words(" ".join(found)) == found


def test_the_first_shared_run_is_given_and_a_short_problem_stands_whole_in_another() -> None:
    train = [Problem("t", "What is two plus two, in all of the world?", "4", None), Problem("s", "plus two", "1", None)]
    other = [Problem("b", "Say: is TWO plus two in fact four?", "4", None), Problem("c", "Plus two.", "1", None)]
    found = decontamination.overlaps(train, {"x": other, "y": other[1:]}, 3)
    assert found == [
        Overlap("t", "x", "b", "is two plus", False),
        Overlap("t", "x", "c", "plus two", False),
        Overlap("t", "y", "c", "plus two", False),
        Overlap("s", "x", "b", "plus two", False),
        Overlap("s", "x", "c", "plus two", True),
        Overlap("s", "y", "c", "plus two", True),
    ]


def test_time_grows_with_the_words_not_with_the_pairs() -> None:
    """Twenty thousand problems against two thousand: forty million pairs, which no loop over pairs does in seconds."""
    rng = np.random.default_rng(0)
    vocabulary = np.array(["".join(letters) for letters in rng.choice(list(string.ascii_lowercase), (2000, 5))])
    texts = [" ".join(vocabulary[rng.integers(0, 2000, size)]) for size in rng.integers(5, 80, 22_000)]
    start = time.perf_counter()
    found = decontamination.overlaps(problems(texts[:20_000]), {"x": problems(texts[19_990:])}, 13)
    assert {(o.train_id, o.problem_id) for o in found if o.identical} == {(str(19_990 + i), str(i)) for i in range(10)}
    assert time.perf_counter() - start < 30  # under two seconds where nothing else runs


def decontaminate(tmp_path: Path, overlap: str, *benchmarks: str, words: int = 5) -> subprocess.CompletedProcess[str]:
    train = [
        Problem("a", "Ann has three red pens and buys four.", "7", "3+4=7"),
        Problem("b", "Bo sells all of his nine boats to Cy.", "9", None),
        Problem("d", "Does it matter that Ann has three red pens?", "1", None),
        Problem("c", "What is the sum of one and two and three?", "6", None),
    ]
    write_problems(tmp_path / "train.jsonl", train)
    write_problems(tmp_path / "none.jsonl", [Problem("n", "Nothing like any other text is in here.", "0", None)])
    write_problems(
        tmp_path / "some.jsonl",
        [
            Problem("p", "bo SELLS all of his nine boats to cy", "9", None),
            Problem("q", "Today Ann has three red pens; and you?", "3", None),
            Problem("r", "Ann has three red pens and buys ten.", "13", None),
        ],
    )
    settings = {"decontamination": {"words": words, "overlap": overlap}}
    named = [argument for name in benchmarks for argument in ("--benchmark", name.format(tmp_path))]
    return subprocess.run(
        [
            *(BIN / "deltageom", "decontaminate", "--settings", json.dumps(settings)),
            *("--train", tmp_path / "train.jsonl", *named, "--output", tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("overlap", "kept"), [("count", ["a", "b", "d", "c"]), ("drop", ["c"])])
def test_the_command_counts_or_drops(tmp_path: Path, overlap: str, kept: list[str]) -> None:
    done = decontaminate(tmp_path, overlap, "none={}/none.jsonl", "some={}/some.jsonl")
    assert done.returncode == 0, done.stderr
    before = {problem.id: problem for problem in read_problems(tmp_path / "train.jsonl")}
    assert read_problems(tmp_path / "out" / "train.jsonl") == [before[key] for key in kept]
    assert read_jsonl(tmp_path / "out" / "overlaps.jsonl") == [
        {"train_id": t, "benchmark": "some", "problem_id": p, "shared": shared, "identical": identical}
        for t, p, shared, identical in [
            ("a", "q", "ann has three red pens", False),
            ("a", "r", "ann has three red pens", False),
            ("b", "p", "bo sells all of his", True),
            ("d", "q", "ann has three red pens", False),
            ("d", "r", "ann has three red pens", False),
        ]
    ]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == {
        "words": 5,
        "overlap": overlap,
        "training_problems": 4,
        "kept": len(kept),
        "benchmarks": [
            {
                "benchmark": "none",
                "problems": 1,
                "overlapping_problems": 0,
                "overlapping_training_problems": 0,
                "identical": 0,
            },
            {
                "benchmark": "some",
                "problems": 3,
                "overlapping_problems": 3,
                "overlapping_training_problems": 3,
                "identical": 1,
            },
        ],
    }
    assert done.stdout.splitlines() == [
        "none: 0 of 1 problems overlap with 0 training problems, 0 of them identical",
        "some: 3 of 3 problems overlap with 3 training problems, 1 of them identical",
        f"{len(kept)} of 4 training problems are kept",
    ]


def test_nothing_left_and_a_name_twice_are_errors(tmp_path: Path) -> None:
    for benchmarks, says in [
        (["x={}/train.jsonl"], "drops all 4 training problems: raise decontamination.words (5), or set"),
        (["x={}/none.jsonl", "x={}/some.jsonl"], "--benchmark: two have the same name"),
    ]:
        done = decontaminate(tmp_path, "drop", *benchmarks)
        assert done.returncode == 1
        assert says in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "out").exists()


DATA = ROOT.parent / "shared" / "data"


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data files are not beside this checkout")
def test_the_documented_counts_of_real_sets_are_so() -> None:
    def real(name: str, field: str) -> list[Problem]:
        return problems([row[field] for row in read_jsonl(DATA / f"{name}.jsonl")], prefix=name)

    def overlapping(train: list[Problem], other: list[Problem], n: int) -> tuple[int, int]:
        (row,) = decontamination.summary({"x": other}, decontamination.overlaps(train, {"x": other}, n))
        return int(row["overlapping_training_problems"]), int(row["overlapping_problems"])

    said = " ".join((ROOT / "docs" / "data.md").read_text().split())
    train, test = real("gsm8k_train", "question"), real("gsm8k_test", "question")
    (a, b), (c, d) = (overlapping(train, test, n) for n in (13, 8))
    assert (
        f"{len(train):,} training problems {a} share 13 words with {b} test problems, and {c} share 8 words with {d}"
        in said
    )
    before = [*real("aime_2024", "problem"), *real("aime_2025", "problem")]
    (a, b), (c, d), none = (overlapping(before, real("aime_2026", "problem"), n) for n in (13, 16, 20))
    assert (
        f"At 13 words {a} of the {len(before)} problems of AIME 2024 and 2025 overlap with {b} of the 30 of 2026"
        in said
    )
    assert f"at 16 words {c} with {d}, at 20 none" in said
    assert none == (0, 0)
    short = sum(len(decontamination.words(problem.question)) < 13 for problem in real("math_500", "problem"))
    assert f"MATH-500 has {short} problems of fewer than 13 words" in said
