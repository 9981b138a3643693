"""The loss along the path between two deltas: alpha dW_a + (1 - alpha) dW_b, in one loaded model."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from deltageom.measures.shared.forward import completion_logits
from deltageom.measures.shared.losses import barriers
from deltageom.measures.shared.losses.own_answers import Text, correct
from deltageom.measures.shared.losses.weighted_deltas import WeightedDeltas
from deltageom.measures.shared.settings import ConnectivitySettings, HeldOutPathsSettings
from deltageom.models.load import Model, load_tokenizer
from deltageom.models.prompts import Tokenizer, prompt_ids
from deltageom.problems.problem import Problem
from deltageom.study.schema import Base, Device, Prompt

Row = dict[str, float | str | int]


@dataclass(frozen=True)
class Grid:
    """The points of a path: so many between its ends, both included, in steps that go on past them as far as `beyond`,
    a share of the path; then the step around the highest point above the chord is halved `refine` times."""

    points: int
    beyond: float = 0.0
    refine: int = 0


@dataclass(frozen=True)
class Walk:
    """How a path is walked: where, and texts at once."""

    base: Base
    device: Device
    grid: Grid
    batch_size: int


def boxed(tokenizer: Tokenizer, prompt: Prompt, problems: list[Problem]) -> list[Text]:
    """The gold `\\boxed{answer}` right after each prompt (2606.23740)."""
    return [
        Text(
            problem.id,
            prompt_ids(tokenizer, prompt, problem.question),
            list(tokenizer.encode(f"\\boxed{{{problem.answer}}}", add_special_tokens=False)),
        )
        for problem in problems
    ]


def loss_along_paths(
    settings: ConnectivitySettings, base: str, a: Path, others: dict[str, Path], problems: list[Problem]
) -> list[Row]:
    """`along_paths` of the gold boxed answers, which are the same on every path."""
    wanted = settings.connectivity
    walk = Walk(settings.base, settings.device, Grid(wanted.points), wanted.batch_size)
    texts = boxed(load_tokenizer(base, settings.base), settings.prompt, problems)
    return along_paths(walk, base, a, others, lambda _b: texts)


def own_loss_along_paths(
    settings: HeldOutPathsSettings, inputs: Mapping[str, Path], others: Mapping[str, Path | None]
) -> list[Row]:
    """`along_paths` of what either end has answered correctly.

    inputs: base, a folder or hub id; a, the folder of the run that alpha weighs; answers, its graded ones;
    answers_of_NAME, those of each of `others`, which 1 - alpha weighs.
    """
    wanted, base = settings.held_out_paths, str(inputs["base"])
    tokenizer = load_tokenizer(base, settings.base)
    grid = Grid(wanted.points, wanted.beyond, wanted.refine)
    walk = Walk(settings.base, settings.device, grid, wanted.batch_size)

    def texts(b: str) -> list[Text]:
        return correct(tokenizer, [inputs["answers"], inputs[f"answers_of_{b}"]], wanted.problems)

    return along_paths(walk, base, inputs["a"], others, texts)


def along_paths(
    walk: Walk, base: str, a: Path, others: Mapping[str, Path | None], texts: Callable[[str], list[Text]]
) -> list[Row]:
    """The paths between run a and each of `others`, in one process: starting costs more than a path.

    others: names to folders, None for the base itself; texts: those of the path to each, by its name. One row per path,
    point and problem: b, alpha (weight of a), problem_id, nll summed over the problem's texts, their tokens, and
    uniform, the nats per token of a model that holds all tokens for equally likely.
    """
    deltas = WeightedDeltas(base, walk.base, walk.device)
    deltas.add("a", a)
    uniform = math.log(deltas.model.get_input_embeddings().num_embeddings)
    rows: list[Row] = []
    for b, folder in tqdm(others.items(), unit="path"):
        if asked := texts(b):
            with deltas.beside("b", folder):
                walked = _walked(deltas, asked, walk)
            for alpha, losses in walked.items():
                for problem_id, (nll, tokens) in losses.items():
                    row: Row = {"b": b, "alpha": alpha, "problem_id": problem_id, "nll": nll, "tokens": tokens}
                    rows.append(row | {"uniform": uniform})
    return rows


def _walked(deltas: WeightedDeltas, texts: list[Text], walk: Walk) -> dict[float, dict[str, tuple[float, int]]]:
    """By alpha, ascending, what `losses_by_problem` gives there."""
    found: dict[float, dict[str, tuple[float, int]]] = {}

    def visit(alphas: Iterable[float]) -> None:
        for alpha in alphas:
            model = deltas.weigh({"a": alpha, "b": 1.0 - alpha})
            found[alpha] = losses_by_problem(model, texts, walk.batch_size)

    visit(barriers.path(walk.grid.points, walk.grid.beyond).tolist())
    for _ in range(walk.grid.refine):
        losses = {alpha: sum(nll for nll, _ in found[alpha].values()) for alpha in sorted(found) if 0 <= alpha <= 1}
        visit(barriers.between(list(losses), list(losses.values())))
    return dict(sorted(found.items()))


def losses_by_problem(model: Model, texts: Sequence[Text], batch_size: int) -> dict[str, tuple[float, int]]:
    """Of each problem the negative log-likelihood (nats) and the tokens of all its texts."""
    prompts, answers = [text.prompt for text in texts], [text.answer for text in texts]
    found: dict[str, tuple[float, int]] = {}
    for text, nll in zip(texts, answer_nll(model, prompts, answers, batch_size), strict=True):
        before, tokens = found.get(text.problem_id, (0.0, 0))
        found[text.problem_id] = (before + nll, tokens + len(text.answer))
    return found


@torch.inference_mode()
def answer_nll(model: Model, prompts: list[list[int]], answers: list[list[int]], batch_size: int) -> Iterator[float]:
    """The summed negative log-likelihood of each answer after its prompt, in nats."""
    for start in range(0, len(prompts), batch_size):
        yield from _batch_nll(model, prompts[start : start + batch_size], answers[start : start + batch_size])


def _batch_nll(model: Model, prompts: list[list[int]], answers: list[list[int]]) -> list[float]:
    logits, ids, is_answer = completion_logits(model, prompts, answers)
    chosen = logits.float().log_softmax(-1).gather(2, ids[:, :, None]).squeeze(2)
    totals: list[float] = (-chosen * is_answer).double().sum(1).tolist()
    return totals
