"""Replicates: the study drawn again, with other seeds for what varies and the same for everything else.

Replicate 1 is the study itself and lies in results/STUDY; replicate N lies in results/STUDY/replicates/N. Within a
replicate all runs share the rollouts, the order and the initial A, as the study says.
"""

from typing import Any

from deltageom.study.resolved import Study

FOLDER = "replicates"
SHIFT = 1000  # seed 42 is 1042 in replicate 2, so seeds that differ in the study differ in every replicate


def replicates(study: Study) -> list[Study]:
    """All of them, the study itself first."""
    return [replicate(study, number) for number in range(1, study.replicates.count + 1)]


def replicate(study: Study, number: int) -> Study:
    """The study as replicate `number` from 1 on: `study.study` is the folder of its results below results/."""
    if number == 1:
        return study
    moved: dict[str, object] = {"study": f"{study.study}/{FOLDER}/{number}"}
    by, vary = SHIFT * (number - 1), study.replicates.vary
    if "base" in vary:
        moved["toy"] = _shifted(study.toy, seed=by)
    if "rollouts" in vary:
        moved["rollouts"] = _shifted(study.rollouts, seed=by)
        moved["online"] = _shifted(study.online, seed=by)
    order, init_a = by * ("order" in vary), by * ("init_a" in vary)
    runs = {}
    for name, run in study.runs.items():
        training = _shifted(run.training, seed=order)
        training = training.model_copy(update={"lora": _shifted(training.lora, init_seed=init_a)})
        runs[name] = run.model_copy(update={"training": training})
    return study.model_copy(update={**moved, "runs": runs})


def _shifted(section: Any, **seeds: int) -> Any:
    return section.model_copy(update={name: getattr(section, name) + by for name, by in seeds.items()})
