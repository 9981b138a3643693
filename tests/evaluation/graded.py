"""Graded records of made-up answers, as `deltageom grade` leaves them."""

from typing import Any

from deltageom.study.running import Statistics

STATISTICS = Statistics(family="base", resamples=500, seed=42)
NO_OVERLAP: dict[str, Any] = {"words": 13, "overlap": "count", "training_problems": 9, "kept": 9, "benchmarks": []}


def answers(*solved: str, **changes: Any) -> list[dict[str, Any]]:
    """Records of problems p0, p1, ...; a text a sample of them all: '1' solved, '0' not."""
    return [
        {"problem_id": f"p{problem}", "sample": sample, "gold": "1", "extracted": mark}
        | {"correct": mark == "1", "strict": mark == "1", "reason": "correct" if mark == "1" else "wrong"}
        | {"math_verify": mark == "1", "math_verify_failure": None, "finish_reason": "stop", "length": 10}
        | changes
        for problem, marks in enumerate(zip(*solved, strict=True))
        for sample, mark in enumerate(marks)
    ]
