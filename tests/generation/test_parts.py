"""Generations that several jobs share: the same bytes however many there are, after kills too, and nothing is lost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltageom.errors import UserError
from deltageom.evaluation.answer import evaluate
from deltageom.generation import parts, shards
from deltageom.generation.generate import Job
from deltageom.generation.shards import Shards, versions
from deltageom.problems.problem import Problem
from deltageom.rollouts.sample import sample
from deltageom.study.running import Evaluation, Transformers, Vllm
from deltageom.study.schema import Base, Decoding, Prompt, Rollouts
from deltageom.study.settings import EvaluationSettings, RolloutSettings
from tests.training.tiny_runs import CONFIG

PROBLEMS = [Problem(f"p{i}", f"Tom has {i} apples" + " and pens" * (3 * (i % 5)), "1", None) for i in range(9)]
COMMON: dict[str, Any] = {
    "device": "cpu",
    # three of the longest prompts, so that a part of shorter ones could take larger batches
    "transformers": Transformers(batch_tokens=150),
    "vllm": Vllm(dtype=None, max_model_length=None, eager=True),
}
Make = Callable[[Path, Job], Any]


@pytest.fixture
def rollouts(tiny_model: Path, base_settings: Base, prompt: Prompt) -> Make:
    keys = {"samples": 2, "max_tokens": 6, "batch_size": 8, "seed": 3}
    told = RolloutSettings(
        rollouts=Rollouts.model_validate(CONFIG["rollouts"] | keys), prompt=prompt, base=base_settings, **COMMON
    )

    def make(folder: Path, job: Job) -> Any:
        model = str(tiny_model)
        return sample(told, model, model, PROBLEMS, folder / "completions.parquet", job)

    return make


@pytest.fixture
def answers(tiny_model: Path, base_settings: Base, prompt: Prompt, tiny_adapters: dict[str, Path]) -> Make:
    def decoding(**keys: Any) -> Decoding:
        return Decoding.model_validate(CONFIG["decoding"] | {"max_tokens": 6} | keys)

    told = EvaluationSettings(
        evaluation=Evaluation(engine="transformers", batch_size=4),
        decodings={"x": decoding(), "y": decoding(samples=3, temperature=1.0)},
        prompt=prompt,
        base=base_settings,
        **COMMON,
    )

    def make(folder: Path, job: Job) -> Any:
        benchmarks = {"x": PROBLEMS[:3], "y": PROBLEMS}
        return evaluate(told, str(tiny_model), tiny_adapters["first"], benchmarks, folder, job)

    return make


@pytest.fixture(params=["rollouts", "answers"])
def make(request: pytest.FixtureRequest) -> Make:
    found: Make = request.getfixturevalue(request.param)
    return found


def job(folder: Path, of: int = 1, part: int | None = None, size: int = 1) -> Job:
    return Job(folder / "scratch", shard_size=size, parts=of, part=part)


def make_part(make: Make, folder: Path, part: int, of: int) -> None:
    """With its mark, which is the provenance record that the command writes."""
    make(folder, job(folder, of, part))
    path = parts.mark(folder / "scratch", part, of)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"versions": dict(versions())}))


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def whole(make: Make, tmp_path: Path) -> dict[str, bytes]:
    """By one job."""
    folder = tmp_path / "whole"
    folder.mkdir()
    make(folder, job(folder))
    found = written(folder)
    assert found
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "shared"
    made.mkdir()
    return made


@pytest.mark.parametrize("of", [3, 7])
def test_any_number_of_jobs_makes_the_same_bytes(
    make: Make, whole: dict[str, bytes], folder: Path, of: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in reversed(range(1, of + 1)):
        make_part(make, folder, part, of)
    assert written(folder) == {}
    monkeypatch.setattr("deltageom.generation.generate.load_engine", None)  # the merge starts none
    make(folder, job(folder, of))
    assert written(folder) == whole
    assert not list((folder / "scratch").rglob("*.parquet"))


def test_other_numbers_of_jobs_go_on_from_what_is_kept(
    make: Make, whole: dict[str, bytes], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of three has ended and one was killed; then there are seven jobs, and in the end one."""
    make_part(make, folder, 2, 3)

    class Killed(Exception):
        pass

    with monkeypatch.context() as patch:
        kept: list[Any] = []
        keep = shards._Writer.add

        def add(writer: Any, *completion: Any) -> None:
            if len(kept) == 5:
                raise Killed
            kept.append(completion)
            keep(writer, *completion)

        patch.setattr(shards._Writer, "add", add)
        with pytest.raises(Killed):
            make(folder, job(folder, 3, 3))
    for part in (4, 1):
        make_part(make, folder, part, 7)
    make(folder, job(folder))
    assert written(folder) == whole
    assert not list((folder / "scratch").rglob("*"))  # no mark of theirs either


def test_lost_shards_are_made_again_and_no_others(make: Make, whole: dict[str, bytes], folder: Path) -> None:
    for part in (1, 2, 3):
        make_part(make, folder, part, 3)
    lost, *others = sorted((folder / "scratch").glob("*/*.parquet"))
    content, stamps = lost.read_bytes(), [path.stat().st_mtime_ns for path in others]
    lost.unlink()
    with pytest.raises(
        UserError, match=r"of 3 jobs' completions these are not in .*scratch: \d of part \d; shards were"
    ):
        make(folder, job(folder, 3))
    marked = [part for part in (1, 2, 3) if parts.mark(folder / "scratch", part, 3).exists()]
    assert len(marked) == 2  # Snakemake does the third again
    (again,) = {1, 2, 3} - set(marked)
    make_part(make, folder, again, 3)
    assert lost.read_bytes() == content
    assert [path.stat().st_mtime_ns for path in others] == stamps
    make(folder, job(folder, 3))
    assert written(folder) == whole


def test_versions_are_not_mixed(make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        old = dict(versions()) | {"torch": "2.0.0"}
        patch.setattr("deltageom.generation.shards.versions", lambda: iter(old.items()))
        make(folder, job(folder, 2, 1))
        parts.mark(folder / "scratch", 1, 2).write_text(json.dumps({"versions": old}))
    make_part(make, folder, 2, 2)
    with pytest.raises(UserError) as caught:
        make(folder, job(folder, 2))
    now = dict(versions())["torch"]
    assert f"of part 1; they were made with torch 2.0.0 and this job has torch {now}" in str(caught.value)
    assert not parts.mark(folder / "scratch", 1, 2).exists()
    assert parts.mark(folder / "scratch", 2, 2).exists()


def test_batches_are_dealt_evenly(tmp_path: Path) -> None:
    """All of them, each to one part; a batch is never split."""
    kept = Shards(tmp_path, {"any": 1}, 1, 4)
    order = list(range(99))[::-1]
    dealt = [parts.share(order, kept, part, 6) for part in range(1, 7)]
    assert sorted(index for one in dealt for index in one) == sorted(order)
    whole = [one for one in dealt if len(one) % 4 == 0]
    assert len(whole) == 5  # the last batch has three
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 4
    assert all(one[at] - one[at + 3] == 3 for one in whole for at in range(0, len(one), 4))


def test_more_jobs_than_prompts_is_an_error(make: Make, folder: Path) -> None:
    with pytest.raises(UserError, match=r"(rollouts|evaluation)\.jobs 13 is more than the (9|12) prompts"):
        make(folder, job(folder, 13, 1))


@pytest.mark.parametrize(("part", "of"), [(0, 3), (4, 3), (None, 0)])
def test_there_is_no_such_part(tmp_path: Path, part: int | None, of: int) -> None:
    with pytest.raises(UserError, match=f"part {part} of {of}: parts are numbered from 1"):
        job(tmp_path, of, part)


def test_the_record_of_a_merge_is_of_all_jobs(tmp_path: Path) -> None:
    def record(seconds: float, peak: float, gpu: float | None, device: str) -> dict[str, Any]:
        values = {"wall_seconds": seconds, "peak_memory_mib": peak, "peak_gpu_memory_mib": gpu}
        return values | {"machine": {"device": device}, "started": f"2026-01-0{int(seconds)}", "settings": {}}

    merged = record(3, 10, None, "cpu")
    assert parts.with_parts(merged, tmp_path, 2) == merged
    for part, one in enumerate([record(4, 20, 5, "H100"), record(2, 30, 7, "H100")], 1):
        parts.mark(tmp_path, part, 2).write_text(json.dumps(one))
    found = parts.with_parts(merged, tmp_path, 2)
    assert (found["wall_seconds"], found["peak_memory_mib"], found["peak_gpu_memory_mib"]) == (9, 30, 7)
    assert (found["machine"], found["started"]) == ({"device": "H100"}, "2026-01-02")
    assert [one["wall_seconds"] for one in found["parts"]] == [4, 2]
