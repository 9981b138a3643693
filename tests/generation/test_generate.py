"""Shards: what a killed generation goes on from, and that nothing of it shows in the completions."""

import dataclasses
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from deltageom.errors import UserError
from deltageom.generation import generate as generation
from deltageom.generation.engine import Completion, Engine, Request, Sampling, Setup, load_engine, sequences_at_once
from deltageom.generation.shards import Shards, identity
from deltageom.models.load import load_tokenizer
from deltageom.models.prompts import prompt_ids
from deltageom.problems.problem import Problem, write_problems
from deltageom.study.running import Transformers, Vllm
from deltageom.study.schema import Base, Prompt, Rollouts
from deltageom.study.settings import RolloutSettings
from tests.conftest import BIN
from tests.training.tiny_runs import CONFIG

SAMPLING = Sampling(1.0, 1.0, 0, 6)
TRANSFORMERS = Transformers(batch_tokens=131072)
VLLM = Vllm(dtype=None, max_model_length=None, eager=True)
PROBLEMS = [Problem(f"p{i}", f"Tom has {i} apples" + " and pens" * (i % 4), "1", None) for i in range(9)]


class Killed(Exception):
    pass


class Dying:
    """An engine that is gone after so many completions; it counts those it was asked for."""

    def __init__(self, engine: Engine, after: int) -> None:
        self.engine, self.after, self.asked = engine, after, 0

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, at_once: int | None = None
    ) -> Iterator[tuple[int, Completion]]:
        self.asked = len(requests)
        for number, found in enumerate(self.engine.generate(requests, sampling, at_once)):
            if number == self.after:
                raise Killed
            yield found


class Shuffled(Dying):
    """An engine that finishes a later request before an earlier one, as vLLM does."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, at_once: int | None = None
    ) -> Iterator[tuple[int, Completion]]:
        found = list(self.engine.generate(requests, sampling, at_once))
        for number in range(0, len(found), 5):
            yield from reversed(found[number : number + 5])


@pytest.fixture(scope="module")
def setup(tiny_model: Path, base_settings: Base) -> Setup:
    return Setup(str(tiny_model), base_settings, "cpu", None, 4, 512, VLLM)


@pytest.fixture(scope="module")
def engine(setup: Setup) -> Engine:
    return load_engine("transformers", setup)


@pytest.fixture(scope="module")
def wanted(tiny_model: Path, base_settings: Base, prompt: Prompt) -> list[Request]:
    tokenizer = load_tokenizer(str(tiny_model), base_settings)
    prompts = [prompt_ids(tokenizer, prompt, problem.question) for problem in PROBLEMS]
    return generation.requests(PROBLEMS, prompts, 2, seed=3)


def shards(folder: Path, size: int = 4, identity: dict[str, int] | None = None) -> Shards:
    return Shards(folder, identity or {}, size, 4)


@pytest.mark.parametrize("after", [0, 3, 4, 9, 15, 17])
def test_a_killed_job_goes_on_to_the_same_bits(
    engine: Engine, wanted: list[Request], tmp_path: Path, after: int
) -> None:
    """Log-probs too: the batches after the kill are those that there would have been."""
    whole = generation.complete(engine, wanted, SAMPLING)
    with pytest.raises(Killed):
        generation.complete(Dying(engine, after), wanted, SAMPLING, shards(tmp_path))
    again = Dying(engine, 99)
    assert generation.complete(again, wanted, SAMPLING, shards(tmp_path)) == whole
    assert again.asked == len(wanted) - after // 4 * 4


@pytest.mark.parametrize("after", [0, 2, 7, 11])
def test_a_killed_job_goes_on_in_the_same_batches_of_tokens(
    setup: Setup, wanted: list[Request], tmp_path: Path, after: int
) -> None:
    """What is left has the longest prompt still, so that batches of `batch_tokens` stay of one size."""
    longest = max(len(request.prompt) for request in wanted) + SAMPLING.max_tokens
    cut = dataclasses.replace(setup, batch_size=16, batch_tokens=3 * longest)
    assert sequences_at_once(16, cut.batch_tokens, wanted, SAMPLING) == 3
    engine = load_engine("transformers", cut)
    whole = generation.complete(engine, wanted, SAMPLING)
    with pytest.raises(Killed):
        generation.complete(Dying(engine, after), wanted, SAMPLING, Shards(tmp_path, {}, 1, 3))
    again = Dying(engine, 99)
    assert generation.complete(again, wanted, SAMPLING, Shards(tmp_path, {}, 1, 3)) == whole
    assert again.asked == len(wanted) - after // 3 * 3


@pytest.mark.parametrize("size", [1, 3, 4, 5, 12, 1000])
def test_the_size_of_shards_shows_nowhere(engine: Engine, wanted: list[Request], tmp_path: Path, size: int) -> None:
    """Nor does another size after a kill."""
    whole = generation.complete(engine, wanted, SAMPLING)
    assert generation.complete(engine, wanted, SAMPLING, shards(tmp_path / "a", size)) == whole
    with pytest.raises(Killed):
        generation.complete(Dying(engine, 13), wanted, SAMPLING, shards(tmp_path / "b", 4))
    assert generation.complete(engine, wanted, SAMPLING, shards(tmp_path / "b", size)) == whole


def test_an_engine_may_finish_in_any_order(engine: Engine, wanted: list[Request], tmp_path: Path) -> None:
    whole = generation.complete(engine, wanted, SAMPLING)
    assert generation.complete(Shuffled(engine, 0), wanted, SAMPLING, shards(tmp_path, 3)) == whole
    assert generation.complete(Dying(engine, 0), wanted, SAMPLING, shards(tmp_path, 3)) == whole  # nothing is left


def test_a_half_written_shard_is_none(engine: Engine, wanted: list[Request], tmp_path: Path) -> None:
    kept = shards(tmp_path)
    kept.folder.mkdir(parents=True)
    (kept.folder / ".000000001.parquet.x1.parquet").write_bytes(b"PAR1 half")
    assert kept.read() == {}
    assert generation.complete(engine, wanted, SAMPLING, kept) == generation.complete(engine, wanted, SAMPLING)


def test_order_of_problems_and_other_problems_change_no_completion(engine: Engine, wanted: list[Request]) -> None:
    """Tokens, not the last digit of their log-probs: the batches are others."""
    whole = generation.complete(engine, wanted, SAMPLING)
    turned = generation.complete(engine, wanted[::-1], SAMPLING)[::-1]
    fewer = generation.complete(engine, wanted[4:8], SAMPLING)
    assert [c.token_ids for c in turned] == [c.token_ids for c in whole]
    assert [c.token_ids for c in fewer] == [c.token_ids for c in whole[4:8]]


def test_a_sampling_job_that_is_killed_goes_on_to_the_same_file(
    tiny_model: Path, base_settings: Base, prompt: Prompt, tmp_path: Path
) -> None:
    """`deltageom rollouts`, killed by SIGKILL each time it has kept one shard more, until it ends by itself."""
    write_problems(tmp_path / "problems.jsonl", [Problem(f"p{i}", f"Tom has {i}.", "1", None) for i in range(24)])
    keys = {"samples": 4, "max_tokens": 60, "batch_size": 8}
    rollouts = Rollouts.model_validate(CONFIG["rollouts"] | keys)
    told = RolloutSettings(
        rollouts=rollouts, prompt=prompt, base=base_settings, device="cpu", transformers=TRANSFORMERS, vllm=VLLM
    )

    def start(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                *(BIN / "deltageom", "rollouts", "--settings", told.model_dump_json(), "--shard-size", "24"),
                *("--base", tiny_model, "--generator", tiny_model, "--problems", tmp_path / "problems.jsonl"),
                *("--output", tmp_path / f"{name}.parquet", "--scratch", tmp_path / name),
                *("--log", tmp_path / f"{name}.log"),
            ]
        )

    def shards() -> int:
        try:
            return len(list((tmp_path / "killed").rglob("[0-9]*.parquet")))
        except FileNotFoundError:  # a job at its end takes its folder away
            return 0

    assert start("whole").wait(120) == 0
    kills = 0
    while True:
        before = shards()
        job = start("killed")
        while job.poll() is None and shards() <= before:
            time.sleep(0.002)
        job.kill()
        if job.wait(60) == 0:
            break
        kills += 1
        assert not (tmp_path / "killed.parquet").exists()
    assert kills >= 2
    assert "completions are in" in (tmp_path / "killed.log").read_text()
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not (tmp_path / "killed").exists()


def test_seeds_are_of_problem_sample_and_seed() -> None:
    prompts = [[1, 2]] * 2
    one, two = (generation.requests(PROBLEMS[:2], prompts, 3, seed) for seed in (1, 2))
    assert len({request.seed for request in [*one, *two]}) == 12
    assert all(0 <= request.seed < 2**63 for request in one)
    more = generation.requests(PROBLEMS[:2][::-1], prompts, 5, 1)
    assert [r.seed for r in more[5:8]] == [r.seed for r in one[:3]]


def test_shards_are_of_all_that_decides_the_completions(
    setup: Setup, wanted: list[Request], tiny_adapters: dict[str, Path]
) -> None:
    def folder(setup: Setup = setup, asked: list[Request] = wanted, sampling: Sampling = SAMPLING) -> str:
        return Shards(Path(), identity("transformers", setup, asked, sampling), 1, 1).folder.name

    base = setup.base.model_copy(update={"dtype": "bfloat16"})
    others = [
        folder(dataclasses.replace(setup, adapter=tiny_adapters["first"])),
        folder(dataclasses.replace(setup, adapter=tiny_adapters["second"])),
        folder(dataclasses.replace(setup, model="owner/name")),
        folder(dataclasses.replace(setup, batch_size=2)),
        folder(dataclasses.replace(setup, base=base)),
        folder(asked=wanted[:-1]),
        folder(asked=[*wanted[:-1], Request(wanted[-1].prompt, 1)]),
        folder(sampling=Sampling(0.9, 1.0, 0, 6)),
    ]
    assert len({folder(), *others}) == len(others) + 1
    moved = dataclasses.replace(
        setup, tensor_parallel=2, memory_share=0.5, vllm=VLLM.model_copy(update={"eager": False})
    )
    assert folder(moved) == folder()


def test_shards_of_other_settings_stay_and_are_not_read(engine: Engine, wanted: list[Request], tmp_path: Path) -> None:
    kept = shards(tmp_path, identity={"temperature": 1})
    generation.complete(engine, wanted, SAMPLING, kept)
    assert len(kept.read()) == len(wanted)
    other = shards(tmp_path, identity={"temperature": 2})
    assert other.read() == {}
    other.remove()
    assert len(kept.read()) == len(wanted)
    kept.remove()
    assert not tmp_path.joinpath(kept.folder.name).exists()


def test_a_prompt_over_the_context_is_found_before_an_engine_starts() -> None:
    assert generation.longest([[1] * 5, [1] * 9], 10, 19, "rollouts") == 19
    with pytest.raises(UserError, match="benchmark 'x': the longest prompt has 9 tokens and max_tokens is 11, more"):
        generation.longest([[1] * 5, [1] * 9], 11, 19, "benchmark 'x'")
