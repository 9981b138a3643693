"""What an online run has drawn: graded, kept step by step, and written as one table that other runs can train on."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import TrainerCallback

from deltageom.files import whole_file
from deltageom.generation.engine import Completion
from deltageom.grading import graders, second_opinion
from deltageom.grading.answers import as_said
from deltageom.models.prompts import VOCABULARY, Tokenizer, vocabulary_digest
from deltageom.problems.problem import Problem
from deltageom.study.running import Grader
from deltageom.training import resume

FILE = "samples.parquet"
COUNTS = b"deltageom.counts"
SCHEMA = pa.schema(
    [
        ("step", pa.int32()),  # the optimiser's step that they were drawn for, the first one where it is several
        ("problem_id", pa.string()),
        ("sample", pa.int32()),  # within the step's group of this problem
        ("source", pa.string()),  # "rollout": what methods that read rollouts ask for
        ("text", pa.string()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),
        ("log_prob", pa.float64()),  # nats, summed, under the run as it was
        ("token_log_probs", pa.list_(pa.float32())),
        ("finish_reason", pa.string()),  # "stop" or "length"
        ("extracted", pa.string()),
        ("reward", pa.float64()),  # 1 or 0, by the study's grader of training problems
    ]
)


@dataclass(frozen=True)
class Asked:
    """A completion's problem, its number in the step's group, and the problem's prompt as token ids."""

    problem: Problem
    sample: int
    prompt: Sequence[int]


@dataclass(frozen=True)
class Drawn:
    """What a step has drawn, in the order asked for: the completions, their texts, rewards (N,) and read answers."""

    asked: Sequence[Asked]
    completions: Sequence[Completion]
    texts: Sequence[str]
    rewards: Sequence[float]
    extracted: Sequence[str | None]


def grade(tokenizer: Tokenizer, grader: Grader, asked: Sequence[Asked], completions: Sequence[Completion]) -> Drawn:
    """The completions with their rewards, by the grader whose word the study's rollouts are graded with."""
    judge = partial(second_opinion.judge, progress=False) if grader == "math_verify" else None
    texts = [tokenizer.decode(list(one.token_ids), skip_special_tokens=True) for one in completions]
    said = [
        (as_said(tokenizer.decode(list(ask.prompt)), text, one.finish_reason), ask.problem.answer)
        for ask, text, one in zip(asked, texts, completions, strict=True)
    ]
    verdicts = graders.grade(said, judge, grader)
    rewards, extracted = [float(one.correct) for one in verdicts], [one.extracted for one in verdicts]
    return Drawn(asked, completions, texts, rewards, extracted)


class Samples(TrainerCallback):
    """Keeps each step's samples in the scratch folder, the first `keep` of all, and counts all; `publish` merges them.

    They are on the disk before a checkpoint of their step is, so a training that goes on from a checkpoint has all
    before it, and draws the later ones again. drawn_at: of the first so many steps those that drew; problems: how many
    there are to ask.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        scratch: Path,
        keep: int,
        problems: int,
        drawn_at: Callable[[int], range],
        process: int = 0,
    ) -> None:
        self.folder = scratch / "samples"
        self.metadata = {VOCABULARY: vocabulary_digest(tokenizer)}
        self.keep = keep
        self.problems = problems
        self.drawn_at = drawn_at
        self.process = process

    def add(self, step: int, first: int, drawn: Drawn, counts: dict[str, int]) -> None:
        """What was drawn for a step; `first` is the number of completions that were drawn before, `counts` its own."""
        kept = max(0, min(len(drawn.asked), self.keep - first))
        rows = list(zip(drawn.asked, drawn.completions, drawn.texts, drawn.extracted, drawn.rewards, strict=True))
        columns: dict[str, Any] = {
            "step": [step] * len(rows),
            "problem_id": [ask.problem.id for ask, *_ in rows],
            "sample": [ask.sample for ask, *_ in rows],
            "source": ["rollout"] * len(rows),
            "text": drawn.texts,
            "prompt_token_ids": [list(ask.prompt) for ask, *_ in rows],
            "token_ids": [list(one.token_ids) for one in drawn.completions],
            "log_prob": [one.log_prob for one in drawn.completions],
            "token_log_probs": [one.token_log_probs for one in drawn.completions],
            "finish_reason": [one.finish_reason for one in drawn.completions],
            "extracted": drawn.extracted,
            "reward": drawn.rewards,
        }
        said = {COUNTS: json.dumps(counts).encode()}
        table = pa.table(columns, schema=SCHEMA.with_metadata(self.metadata | said)).slice(0, kept)
        with whole_file(self._shard(step)) as aside:
            pq.write_table(table, aside)

    def check(self, resumed: Path | None) -> None:
        resume.check_kept(lambda done: map(self._shard, self.drawn_at(done)), resumed, self.folder.parent)

    def publish(self, output: Path) -> dict[str, Any]:
        """Writes samples.parquet, step by step; returns the counts of all steps, summed."""
        counts: Counter[str] = Counter()
        schema = SCHEMA.with_metadata(self.metadata)
        with whole_file(output / FILE) as aside, pq.ParquetWriter(aside, schema) as writer:
            for path in sorted(self.folder.glob("*.parquet")):
                table = pq.read_table(path)
                counts.update(json.loads(table.schema.metadata[COUNTS]))
                counts["samples_kept"] += len(table)
                writer.write_table(table.replace_schema_metadata(self.metadata))
        shutil.rmtree(self.folder)
        # an order of problems comes back to one only when it has had them all
        return {**counts, "problems": min(self.problems, counts["groups"]), "selected": counts["rows"]}

    def _shard(self, step: int) -> Path:
        return self.folder / f"{step:07d}-{self.process:03d}.parquet"
