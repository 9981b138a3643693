"""How much a study's jobs have to do, in rows and tokens: what its file says, without a guess."""

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass

from deltageom.errors import UserError
from deltageom.methods import interface as methods
from deltageom.problems.load import problems_from_file
from deltageom.study.resolved import Study
from deltageom.study.running import Grader
from deltageom.study.schema import TOY_BASE, Dataset, Decoding, Run


@dataclass(frozen=True)
class Sampling:
    """Completions that a model is asked for, and the tokens that they have at most; None where nobody says how many."""

    what: str
    completions: int | None
    tokens: int | None


@dataclass(frozen=True)
class RunWork:
    """What a run is trained on: `rows` of its loss in all steps (a row of a pairwise loss is a pair), and the tokens of
    their completions, at most; `sampled`, the tokens that the run draws itself."""

    run: str
    method: str
    unit: str
    rows: int
    tokens: int
    sampled: int = 0


def problem_counts(study: Study, given: Mapping[str, int]) -> dict[str, int | None]:
    """By data set, `train` and the benchmarks: as `given`, counted in a local file, the toy's world's, or the limit.

    None for a hub data set without a limit. Raises UserError for a name that is no data set of the study.
    """
    datasets = {"train": study.problems} | {name: benchmark.dataset for name, benchmark in study.benchmarks.items()}
    if unknown := [name for name in given if name not in datasets]:
        raise UserError(f"--problems {unknown[0]}=...: the study's data sets are {', '.join(datasets)}")
    return {
        name: given[name] if name in given else _count(dataset, study.grading.grader(name))
        for name, dataset in datasets.items()
    }


def generation(study: Study, counts: Mapping[str, int | None], mean_tokens: int | None) -> list[Sampling]:
    """What every engine is asked for: rollouts once, and each benchmark's answers by the base and every run.

    `mean_tokens` of a completion, as the user knows them, in place of the most that the study allows.
    """
    models = len(study.all_runs()) + 1
    asked = [] if study.rollouts.file else [_sampling("rollouts", counts["train"], study.rollouts, 1, mean_tokens)]
    return asked + [
        _sampling(f"{name}, {models} models", counts[name], benchmark.decoding, models, mean_tokens)
        for name, benchmark in study.benchmarks.items()
    ]


def training(study: Study, mean_tokens: int | None) -> list[RunWork]:
    """Every run's rows and tokens, in the study's order."""
    longest = study.rollouts.max_tokens if study.rollouts.file is None else None
    found = []
    for name, run in study.runs.items():
        method, training = methods.load(run.method), run.training
        if isinstance(method, methods.Online):
            found.append(_sampling_run(name, run, mean_tokens))
            continue
        paired = methods.in_pairs(method)
        rows = (training.report_step or training.steps) * training.batch_size
        # the problems' own solutions are as long as max_length lets them be
        drawn = study.runs[training.rollouts_of].options["max_tokens"] if training.rollouts_of else longest
        sampled = drawn if method.source == "rollout" else None
        most = min(sampled or training.max_length, training.max_length)
        each = min(mean_tokens or most, most)
        found.append(RunWork(name, run.method, "pairs" if paired else "rows", rows, rows * each * (2 if paired else 1)))
    return found


def _sampling_run(name: str, run: Run, mean_tokens: int | None) -> RunWork:
    """Of a run that draws a batch of completions once in `iterations` steps."""
    steps, most = run.training.report_step or run.training.steps, run.options["max_tokens"]
    batches = -(-steps // run.options.get("iterations", 1))
    each = min(mean_tokens or most, most)
    rows, drawn = (number * run.training.batch_size for number in (steps, batches))
    return RunWork(name, run.method, "completions", rows, rows * each, drawn * each)


def _sampling(what: str, problems: int | None, decoding: Decoding, models: int, mean_tokens: int | None) -> Sampling:
    if problems is None:
        return Sampling(what, None, None)
    completions = problems * decoding.samples * models
    return Sampling(what, completions, completions * min(mean_tokens or decoding.max_tokens, decoding.max_tokens))


def _count(dataset: Dataset, grader: Grader) -> int | None:
    if dataset.source == "file":
        with contextlib.redirect_stdout(io.StringIO()):
            return len(problems_from_file(dataset, grader))
    assert dataset.limit is not None or dataset.source != TOY_BASE, "the schema wants a limit there"
    return dataset.limit
