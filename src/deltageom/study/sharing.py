"""What a study shares with those that it extends: a stage with equal settings and inputs is not computed again.

A stage is what one job makes, or all jobs of the geometry or of a measure. Its fingerprint is of what
its job is told and of the fingerprints of what it reads. The owner of a stage is the farthest study in
the chain of `extends` that has the stage with an equal fingerprint, and else the study itself: its
files lie in results/OWNER, with the settings that the owner's own jobs have. Nothing is copied.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from pydantic import BaseModel

from deltageom.methods import interface as methods
from deltageom.study.layers import settings
from deltageom.study.measured import HeldOutPaths
from deltageom.study.replicates import replicate, replicates
from deltageom.study.resolved import Study
from deltageom.study.running import Grader
from deltageom.study.schema import TOY_BASE, Dataset, Run


@dataclass(frozen=True)
class Stage:
    """told: canonical JSON, the job's --settings as far as it takes any; needs: the stages that it reads."""

    told: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """A replicate of a study, and where its files lie.

    owners: by stage the folder below results/ that has its files; chain: the folders of the replicates whose files its
    jobs may take over where they are the same, the farthest first, its own last.
    """

    study: Study
    stages: Mapping[str, Stage]
    owners: Mapping[str, str]
    chain: tuple[str, ...]


def views(study: Study, ancestors: Sequence[Study]) -> list[View]:
    """The study's replicates in order. What none of them draws anew is computed once.

    Replicate N shares with its ancestors, their replicates N, and replicate 1.
    """
    return [_view(study, one, ancestors, number) for number, one in enumerate(replicates(study), 1)]


def _view(study: Study, one: Study, ancestors: Sequence[Study], number: int) -> View:
    others = []
    for other in (*ancestors, study):
        same = [other, *([replicate(other, number)] if 1 < number <= other.replicates.count else [])]
        others += [found for found in same if found.study != one.study]
    chain = (*(other.study for other in others), one.study)
    return View(one, stages(one), owners(one, others), chain)


def owners(study: Study, ancestors: Sequence[Study]) -> dict[str, str]:
    """The owner of each stage of the study, by the stage's name; `ancestors` from the farthest on."""
    own = _fingerprints(stages(study))
    found = dict.fromkeys(own, study.study)
    for ancestor in reversed(ancestors):
        theirs = _fingerprints(stages(ancestor))
        found |= {stage: ancestor.study for stage, mark in own.items() if theirs.get(stage) == mark}
    return found


def stage_of(job: str, stages: Mapping[str, object]) -> str:
    """The stage of a job by its name: `geometry` of `geometry/0`, but `train/sft` is a stage itself."""
    return job if job in stages else job.partition("/")[0]


def stages(study: Study) -> dict[str, Stage]:
    """Every stage of the study but its tables, figures, summary and provenance, which are always its own."""
    return {**_data(study), **_trained(study), **_measured(study)}


def run_stage(study: Study, run: str) -> str:
    """The stage that makes a run's files."""
    return f"derive/{run}" if run in study.derived else f"train/{run}"


def trained_on(study: Study) -> str:
    """The stage whose problems are sampled and trained on."""
    # where overlaps are only counted, a new benchmark is no reason to sample the training problems again
    return "decontaminate" if study.decontamination.overlap == "drop" else "problems/train"


def completions(study: Study) -> str:
    """The stage that the completions come from."""
    return "rollouts" if study.rollouts.file is None else "import_rollouts"


def mismatched(run: Run) -> tuple[str, ...]:
    """The stage that a run's KL term reads, named by what decides its pairs; none for a loss without that term."""
    seed = _kl_seed(run)
    return () if seed is None else (f"mismatched/seed{seed}-length{run.training.max_length}",)


def _kl_seed(run: Run) -> int | None:
    method = methods.load(run.method)
    if not isinstance(method, methods.Unpaired):
        return None
    return method.mismatched(method.options.model_validate(run.options))


def _base(study: Study) -> tuple[str, ...]:
    return ("pretrain",) if study.base.model == TOY_BASE else ()


def _transformers(study: Study, engine: str) -> object:
    """Those of the transformers engine where it generates: jobs of another engine do not depend on them."""
    return study.transformers if engine == "transformers" else None


def _problems(study: Study) -> list[str]:
    return [f"problems/{name}" for name in sorted(study.benchmarks)]


def _data(study: Study) -> dict[str, Stage]:
    """Problems, the toy base and its teacher, and what every run is trained on."""
    sets = {"train": study.problems} | {name: of.dataset for name, of in study.benchmarks.items()}
    world = {"seed": study.toy.seed, "world": study.toy.world}
    toy = {"toy": study.toy, "prompt": study.prompt, "device": study.device, "dtype": study.base.dtype}
    common = {"prompt": study.prompt, "base": study.base}
    on, sampled, base = trained_on(study), study.rollouts, _base(study)
    found = {
        f"problems/{name}": Stage(settings(dataset=dataset, grader=_dropping(study, name, dataset), **world))
        for name, dataset in sets.items()
    }
    found["decontaminate"] = Stage(
        settings(decontamination=study.decontamination), ("problems/train", *_problems(study))
    )
    if base:
        found["pretrain"] = Stage(settings(**toy))
    if sampled.file is None:
        teacher = ("teacher",) if sampled.generator == "teacher" else ()
        if teacher:
            found["teacher"] = Stage(settings(teacher=study.teacher, **toy), base)
        told = settings(
            rollouts=sampled,
            device=study.device,
            transformers=_transformers(study, sampled.engine),
            vllm=study.vllm,
            **common,
        )
        found["rollouts"] = Stage(told, (*base, *teacher, on))
    else:
        dropped = ("decontaminate",) if on == "decontaminate" else ()
        found["import_rollouts"] = Stage(settings(rollouts=sampled, **common), (*base, on, *dropped))
    # the card names the study too, which is the owner
    card = settings(problems=study.problems, rollouts=sampled, grader=study.grading.grader("train"), **common)
    found["reward"] = Stage(card, (*base, completions(study), on))
    return found


def _dropping(study: Study, name: str, dataset: Dataset) -> Grader | None:
    """The grader that decides which problems are dropped; None where none is, so that another changes no problem."""
    return study.grading.grader(name) if dataset.bad_answers == "drop" and dataset.source != TOY_BASE else None


def _trained(study: Study) -> dict[str, Stage]:
    """Each run, trained or derived, its answers and what these are graded as."""
    base = _base(study)
    held_out = (f"problems/{study.reference.benchmark}",) if study.reference.benchmark else ()
    found = {}
    if any(_reads_reference(study, run) for run in study.runs):
        told = settings(
            reference=study.reference,
            prompt=study.prompt,
            base=study.base,
            device=study.device,
            transformers=study.transformers,
        )
        found["reference"] = Stage(told, (*base, "reward", *held_out))
    scored = {"batch_size": study.reference.batch_size, "base": study.base, "device": study.device}
    for name, run in study.runs.items():
        for stage in mismatched(run):
            asked = settings(seed=_kl_seed(run), max_length=run.training.max_length, **scored)
            found[stage] = Stage(asked, (*base, "reward"))
        reference = ("reference",) if _reads_reference(study, name) else ()
        match = (f"train/{run.training.match_norm.run}",) if run.training.match_norm else ()
        told, data = _taught(study, name)
        found[f"train/{name}"] = Stage(told, (*base, *data, *reference, *mismatched(run), *match))
    for name, recipe in study.derived.items():
        operands = tuple(run_stage(study, other) for other in recipe.operands())
        found[f"derive/{name}"] = Stage(settings(recipe), operands)
    answered = settings(
        evaluation=study.evaluation,
        decodings={name: of.decoding.model_dump(mode="json") for name, of in study.benchmarks.items()},
        prompt=study.prompt,
        base=study.base,
        device=study.device,
        transformers=_transformers(study, study.evaluation.engine),
        vllm=study.vllm,
    )
    for model in ("base", *study.all_runs()):
        adapter = () if model == "base" else (run_stage(study, model),)
        found[f"evaluate/{model}"] = Stage(answered, (*base, *adapter, *_problems(study)))
        found[f"grade/{model}"] = Stage(settings(primary=study.grading.primary), (f"evaluate/{model}",))
    return found


def _taught(study: Study, name: str) -> tuple[str, tuple[str, ...]]:
    """What a run's training is told, and the stages that its data are of."""
    run = study.runs[name]
    method = methods.load(run.method)
    if not isinstance(method, methods.Online):
        return settings(run, run=name, base=study.base, device=study.device), (_rollouts_of(study, name),)
    teacher = study.rollouts.generator if method.teacher else None
    told = settings(
        run,
        run=name,
        base=study.base,
        device=study.device,
        online=study.online,
        prompt=study.prompt,
        grader=study.grading.grader("train"),
        teacher=teacher,
        transformers=_transformers(study, study.online.engine),
    )
    return told, (trained_on(study), *(("teacher",) if teacher == "teacher" else ()))


def _rollouts_of(study: Study, name: str) -> str:
    """The stage whose rollouts a run is trained on: of the study, or of the online run whose samples they are."""
    of = study.runs[name].training.rollouts_of
    return f"train/{of}" if of else "reward"


def _reads_reference(study: Study, run: str) -> bool:
    return "base" in methods.load(study.runs[run].method).needs or study.runs[run].training.kl_every is not None


def _measured(study: Study) -> dict[str, Stage]:
    """The geometry, hidden states, and each measure of `measures`: these read what they like of all that is above."""
    base, rank, modules = _base(study), study.measures.geometry.base_rank, study.modules()
    runs = tuple(run_stage(study, run) for run in sorted(study.all_runs()))
    spectrum = ("base_spectrum",) if rank else ()
    common = {"prompt": study.prompt, "base": study.base, "device": study.device}
    found = {
        "geometry": Stage(
            settings(geometry=study.measures.geometry, base=study.base, modules=modules), (*base, *runs, *spectrum)
        )
    }
    if rank:
        found["base_spectrum"] = Stage(settings(base=study.base, rank=rank, modules=modules), base)
    for run in study.all_runs():
        found[f"hidden_states/{run}"] = _hidden_states(study, run_stage(study, run))
    above = (*_data(study), *_trained(study), *found)
    for name, section in study.measures:
        if isinstance(section, BaseModel) and name != "geometry":
            told = section.path() if isinstance(section, HeldOutPaths) else section
            found[name] = Stage(settings(**{name: told}, transformers=study.transformers, **common), above)
    return found | _held_out(study, runs) | _gradients(study) | _representations(study)


def _held_out(study: Study, runs: tuple[str, ...]) -> dict[str, Stage]:
    """What `held_out_paths` does besides, where it is asked."""
    wanted, found = study.measures.held_out_paths, {}
    common = {"prompt": study.prompt, "base": study.base, "device": study.device}
    if wanted and wanted.from_base:
        answers = tuple(f"grade/{model}" for model in ("base", *sorted(study.all_runs())))
        told = settings(held_out_paths=wanted.path(), **common)
        found["held_out_from_base"] = Stage(told, (*_base(study), *runs, *answers))
    if wanted and wanted.accuracy:
        decoding = study.benchmarks[wanted.benchmark].decoding
        told = settings(
            held_out_accuracy=wanted.answered(),
            max_tokens=decoding.max_tokens,
            thinking=decoding.thinking,
            grader=study.grading.primary,
            transformers=study.transformers,
            **common,
        )
        found["held_out_accuracy"] = Stage(told, (*_base(study), *runs, f"problems/{wanted.benchmark}"))
    return found


def _hidden_states(study: Study, *model: str) -> Stage:
    """Of the base, or of what the stage `model` makes of it."""
    cka = study.measures.cka
    told = settings(cka=cka, prompt=study.prompt, base=study.base, device=study.device)
    answers = ("grade/base",) if cka.pooling == "completion" else ()
    return Stage(told, (*_base(study), *model, *answers, f"problems/{cka.benchmark}"))


def _representations(study: Study) -> dict[str, Stage]:
    """The base's hidden states, which no other measure reads, and their comparison with the runs', if it is asked."""
    wanted = study.measures.representations
    if wanted is None:
        return {}
    models = ("base", *sorted(study.all_runs()))
    return {
        "hidden_states/base": _hidden_states(study),
        "representations": Stage(settings(representations=wanted), tuple(f"hidden_states/{model}" for model in models)),
    }


def _gradients(study: Study) -> dict[str, Stage]:
    """Each run's gradient at the base, which no other measure reads, and their comparison; none if it is not asked."""
    wanted, found = study.measures.gradients, {}
    if wanted is None:
        return {}
    adapted = sorted(study.with_gradients())
    for name in adapted:
        run = study.runs[name]
        told = settings(run, run=name, gradients=wanted, base=study.base, device=study.device)
        reference = ("reference",) if "base" in methods.load(run.method).needs else ()
        needs = (*_base(study), _rollouts_of(study, name), *reference, *mismatched(run))
        found[f"base_gradient/{name}"] = Stage(told, needs)
    found["gradients"] = Stage(settings(), (*found, *(f"train/{name}" for name in adapted)))
    return found


def _fingerprints(stages: Mapping[str, Stage]) -> dict[str, str]:
    @cache
    def of(stage: str) -> str:
        told, needs = stages[stage].told, stages[stage].needs
        text = json.dumps([stage, told, [[need, of(need)] for need in needs if need in stages]])
        return hashlib.sha256(text.encode()).hexdigest()

    return {stage: of(stage) for stage in stages}
