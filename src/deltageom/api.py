"""The Python interface: compare weight updates, grade answers, test differences, and the losses by name.

    import deltageom

    table = deltageom.compare(["runs/sft", "runs/dpo", "owner/adapter"], top_k=[4])
    deltageom.grade(r"so \\boxed{18}", "18").correct
    deltageom.statistics.mcnemar(right_of_a, right_of_b)
    deltageom.method("dft").loss(log_probs, mask, {}, options)

`compare` needs what `pip install .` brings; the losses need torch, which the extra `study` brings.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deltageom.errors import UserError
from deltageom.evaluation import statistics
from deltageom.grading.strict import Grade, grade

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Grade", "UserError", "compare", "grade", "method", "statistics"]


def compare(
    runs: Sequence[str | Path] | Mapping[str, str | Path],
    *,
    base: str | Path | None = None,
    top_k: Sequence[int] = (10,),
    level: Literal["module", "layer", "global"] = "global",
    seeds: Sequence[Sequence[str]] = (),
    intersect: bool = False,
    any_base: bool = False,
    draws: int | None = None,
    processes: int = 1,
) -> "pd.DataFrame":
    """The numbers of `deltageom compare`: one row per measure of a run (`b` is missing) or of a pair of runs.

    `runs`: two or more folders or hub ids of LoRA adapters or whole models, by name if a mapping; `base`: what a whole
    model's delta is taken from; `top_k`: sizes of the singular subspaces; `level`: per module, per layer, or all
    modules stacked; `seeds`: groups of names that differ only in seed; `intersect`: where modules differ, those that
    all have; `any_base`: also where adapters name different bases; `draws`: random B of each run and module for the
    chance of the right side, at least 2 (a few, by rank, unless given). Raises UserError for what is wrong with them.
    docs/geometry.md explains every measure and column.
    """
    import pandas as pd

    from deltageom.comparison import records
    from deltageom.comparison import runs as sources

    if isinstance(runs, Mapping):
        named = {str(name): str(path) for name, path in runs.items()}
        if len(named) < 2:
            raise UserError("compare needs two or more runs")
    else:
        named = sources.named([str(run) for run in runs])
    opened = sources.open_all(named, str(base) if base else None, intersect, any_base)
    found = records.measure(opened, sorted(set(top_k)), None, processes, draws)
    return pd.DataFrame(records.table(opened, found, level, records.seed_pairs(list(opened.deltas), seeds)))


def method(name: str) -> Any:
    """A method by its name ('dft', 'dpo', ...): its options, what it selects and its loss; see methods/interface.py.

    Raises KeyError for an unknown name.
    """
    from deltageom.methods import interface

    return interface.load(name)
