"""A study resolved: every section, and the checks that need more than one of them, so that a job never has to fail.

Nothing here may import more than pydantic, for the Snakemake process reads it on every start.
"""

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from deltageom.fields import NAME, Section
from deltageom.methods import interface as methods
from deltageom.study import measured
from deltageom.study.checks import online
from deltageom.study.derived.check import check
from deltageom.study.derived.recipe import Recipe
from deltageom.study.measured import Measures
from deltageom.study.running import Evaluation, Execution, Grading, Replicates, Statistics, Transformers, Vllm
from deltageom.study.schema import (
    TOY_BASE,
    Base,
    Benchmark,
    Dataset,
    Decontamination,
    Device,
    Online,
    Prompt,
    Reference,
    Rollouts,
    Run,
    Teacher,
    Toy,
)


class Study(Section):
    """Everything that is compared, resolved: defaults, inheritance and overrides applied."""

    study: str
    replicates: Replicates
    device: Device
    base: Base
    toy: Toy
    teacher: Teacher
    prompt: Prompt
    grading: Grading
    problems: Dataset
    decontamination: Decontamination
    rollouts: Rollouts
    reference: Reference
    online: Online
    execution: Execution
    runs: dict[str, Run]  # those that are trained
    derived: dict[str, Recipe] = Field(default_factory=dict)  # those that are computed from them
    benchmarks: dict[str, Benchmark]
    evaluation: Evaluation
    transformers: Transformers
    vllm: Vllm
    statistics: Statistics
    measures: Measures

    @field_validator("runs", "benchmarks")
    @classmethod
    def names_are_plain(cls, entries: dict[str, Any]) -> dict[str, Any]:
        if not entries:
            raise ValueError("is empty: name at least one")
        for name in entries:
            if not NAME.fullmatch(name):
                raise ValueError(
                    f"name {name!r} becomes a file name: use A-Z a-z 0-9 . _ - and begin with a letter or digit"
                )
        for name in ("base", "train"):
            if name in entries:
                raise ValueError(f"the name {name!r} is taken by the workflow's own files: choose another")
        return entries

    @model_validator(mode="after")
    def refers_to_what_exists(self) -> "Study":
        measured.check(self.measures, self.all_runs(), list(self.benchmarks))
        self._replicates_differ()
        self._methods_have_what_they_need()
        online.check(self.runs, self.online, self.rollouts, self.device)
        self._batches_split_evenly()
        self._kl_needs_held_out_prompts()
        self._ranks_are_enough()
        self._targets_are_the_same()
        self._norms_can_be_matched()
        self._gradients_have_their_batches()
        self._snapshots_are_of_the_same_steps()
        self._trajectories_have_snapshots()
        check(self.derived, self.ranks(), {int(module.split(".")[1]) for module in self.modules()})
        self._gpus_can_be_shared()
        self._jobs_have_prompts()
        if self.base.model != TOY_BASE:
            self._needs_no_toy_world()
        return self

    @model_serializer(mode="wrap")
    def as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `derived` where there are none, so that nothing that is told of such a study changes."""
        plain: dict[str, Any] = handler(self)
        return {key: value for key, value in plain.items() if value or key != "derived"}

    def all_runs(self) -> list[str]:
        """Every run that has an update, the trained ones before the derived ones."""
        return [*self.runs, *self.derived]

    def with_derived(self) -> dict[str, Run | None]:
        """The same with their trainings; a derived run has none."""
        return {name: self.runs.get(name) for name in self.all_runs()}

    def ranks(self) -> dict[str, int | None]:
        """Of each trained run's adapter; None for a run without one."""
        return {
            name: run.training.lora.rank if run.training.adapter == "lora" else None for name, run in self.runs.items()
        }

    def is_replicate(self) -> bool:
        """Whether this is one of a study's further replicates, see replicates.py: no study has a / in its name."""
        return "/" in self.study

    def gpus(self) -> int:
        """GPUs that the largest job takes; none on the CPU."""
        if self.device == "cpu":
            return 0
        return max(self.execution.processes, self.execution.tensor_parallel if self.uses_vllm() else 1)

    def datasets(self) -> dict[str, Dataset]:
        """The problem sets by their keys: `problems`, `benchmarks.NAME`."""
        return {"problems": self.problems} | {f"benchmarks.{name}": of.dataset for name, of in self.benchmarks.items()}

    def uses_vllm(self) -> bool:
        sampled = self.rollouts.file is None and self.rollouts.engine == "vllm"
        return self.evaluation.engine == "vllm" or sampled or bool(self.online.engine == "vllm" and self.online_runs())

    def modules(self) -> list[str]:
        """The modules whose deltas are compared: the same in every run."""
        return next(iter(self.runs.values())).training.lora.targets(self.base)

    def snapshots(self) -> list[int]:
        """The steps after which adapters are kept, the same in each of `with_snapshots`."""
        return next((run.training.snapshots for run in self.runs.values() if run.training.snapshots), [])

    def with_snapshots(self) -> list[str]:
        return [name for name, run in self.runs.items() if run.training.snapshots]

    def online_runs(self) -> list[str]:
        """Those that sample while they train."""
        return [name for name, run in self.runs.items() if online.is_online(run)]

    def with_gradients(self) -> list[str]:
        return [name for name, run in self.runs.items() if online.has_base_gradient(run)]

    def _replicates_differ(self) -> None:
        vary = self.replicates.vary
        if self.replicates.count > 1 and not vary:
            raise ValueError("replicates.vary is empty: name what each replicate draws anew, or set count: 1")
        if "base" in vary and self.base.model != TOY_BASE:
            raise ValueError(
                f"replicates.vary names base, but base.model is {self.base.model!r}: only the toy base can be drawn "
                "again: take base out of vary"
            )
        if self.replicates.count > 1 and "rollouts" in vary and self.rollouts.file:
            others = ", ".join(name for name in vary if name != "rollouts")
            raise ValueError(
                "replicates.vary names rollouts, but rollouts.file holds finished ones: set "
                + (f"replicates.vary: [{others}], or count: 1" if others else "replicates.count: 1")
            )

    def _gpus_can_be_shared(self) -> None:
        sharers, share = self.execution.jobs_per_gpu, self.execution.memory_share
        if self.device == "cpu" or sharers == 1:
            return
        if self.gpus() > 1:
            raise ValueError(
                f"execution.jobs_per_gpu is {sharers}, but a job takes {self.gpus()} GPUs (execution.processes, "
                "execution.tensor_parallel): only jobs of one GPU share it: set jobs_per_gpu: 1"
            )
        if self.uses_vllm() and share * sharers > 1:
            raise ValueError(
                f"execution.memory_share {share} of {sharers} vLLM engines is more than the GPU that "
                f"execution.jobs_per_gpu lets them share: set memory_share to {int(100 / sharers) / 100} or less"
            )

    def _jobs_have_prompts(self) -> None:
        """As far as the study says how many prompts there are; a job says so for the others."""
        limits = {"rollouts": [self.problems.limit], "evaluation": [of.limit for of in self.benchmarks.values()]}
        for key, known in limits.items():
            jobs, prompts = getattr(self, key).jobs, sum(limit or 0 for limit in known)
            if None not in known and jobs > prompts:
                raise ValueError(
                    f"{key}.jobs {jobs} is more than the {prompts} prompts that they share: set it to {prompts} or less"
                )

    def _methods_have_what_they_need(self) -> None:
        for name, run in self.runs.items():
            if run.method not in methods.names():
                raise ValueError(f"run {name!r}: unknown method {run.method!r}; known: {', '.join(methods.names())}")
            method = methods.load(run.method)
            if "groups" in method.needs and self.rollouts.samples == 1:
                raise ValueError(
                    f"run {name!r}: {run.method} compares rollouts of one problem, but rollouts.samples is 1: "
                    "draw two or more"
                )
            own = self.rollouts.file is None and run.training.rollouts_of is None
            if "behaviour" in method.needs and own and not self.rollouts.log_probs:
                raise ValueError(f"run {name!r}: {run.method} reads rollouts.log_probs, which is false: set it to true")

    def _batches_split_evenly(self) -> None:
        for name, run in self.runs.items():
            batch, micro = run.training.batch_size, run.training.micro_batch_size
            if batch % (self.execution.processes * micro):
                raise ValueError(
                    f"run {name!r}: execution.processes {self.execution.processes} times micro_batch_size {micro} "
                    f"must divide batch_size {batch}"
                )

    def _kl_needs_held_out_prompts(self) -> None:
        asked = [name for name, run in self.runs.items() if run.training.kl_every]
        if asked and self.reference.benchmark not in self.benchmarks:
            raise ValueError(
                f"reference.benchmark {self.reference.benchmark!r} is none of the benchmarks "
                f"({', '.join(self.benchmarks)}), but run {asked[0]!r} follows the KL to the base on its prompts: "
                "name one, or set kl_every: null"
            )

    def _ranks_are_enough(self) -> None:
        ranks = {name: rank for name, rank in self.ranks().items() if rank is not None}
        if not ranks:
            return
        smallest = min(ranks, key=lambda name: ranks[name])
        top_k = self.measures.geometry.top_k[-1]
        if top_k > ranks[smallest]:
            raise ValueError(
                f"measures.geometry.top_k {top_k} is more than the rank {ranks[smallest]} "
                f"of run {smallest!r}: no adapter has that many singular directions"
            )

    def _targets_are_the_same(self) -> None:
        for name, run in self.runs.items():
            given = run.training.lora.target_modules
            if isinstance(given, list) and (unknown := [module for module in given if module not in self.base.modules]):
                raise ValueError(
                    f"run {name!r}: lora.target_modules names {unknown[0]!r}, which is none of base.modules: "
                    f"{', '.join(self.base.modules)}"
                )
        targets = {name: run.training.lora.targets(self.base) for name, run in self.runs.items()}
        for name, modules in targets.items():
            if not modules:
                raise ValueError(
                    f"run {name!r}: lora.target_modules {self.runs[name].training.lora.target_modules!r} matches no "
                    f"module; there are {', '.join(f'layers.N.{module}' for module in self.base.modules)}"
                )
        first = next(iter(targets))
        for name, modules in targets.items():
            if modules != targets[first]:
                raise ValueError(
                    f"runs {first!r} and {name!r} adapt other modules ({_within_layer(targets[first])}; "
                    f"{_within_layer(modules)}): deltas are compared module by module, so target the same ones"
                )
        by_layer: dict[str, set[str]] = {}
        for module in targets[first]:
            _, layer, rest = module.split(".", 2)
            by_layer.setdefault(layer, set()).add(rest)
        if len({frozenset(names) for names in by_layer.values()}) > 1:
            raise ValueError(
                "lora.target_modules selects other modules in one layer than in another: choose layers and "
                "modules, but the same modules in each layer chosen"
            )

    def _norms_can_be_matched(self) -> None:
        for name, run in self.runs.items():
            match = run.training.match_norm
            if match is None:
                continue
            if match.run not in self.runs or match.run == name:
                others = ", ".join(other for other in self.runs if other != name)
                raise ValueError(f"runs.{name}.match_norm.run {match.run!r} is none of the other runs: {others}")
            target = self.runs[match.run].training
            if target.match_norm or target.adapter == "none":
                what = "matches another run itself" if target.match_norm else "trains without an adapter"
                raise ValueError(f"runs.{name}.match_norm.run {match.run!r} {what}: name a plain LoRA run")

    def _gradients_have_their_batches(self) -> None:
        wanted = self.measures.gradients
        if wanted is None:
            return
        trainings = {name: self.runs[name].training for name in self.with_gradients()}
        steps = {name: training.report_step or training.steps for name, training in trainings.items()}
        if not steps:
            raise ValueError(
                "measures.gradients compares runs with adapter: lora that are trained on rollouts, but there is none: "
                "set it to null"
            )
        shortest = min(steps, key=lambda name: steps[name])
        if wanted.batches > steps[shortest]:
            raise ValueError(
                f"measures.gradients.batches {wanted.batches} is more than the {steps[shortest]} steps, of a global "
                f"batch each, that run {shortest!r} is trained for: lower batches to {steps[shortest]} or less"
            )

    def _snapshots_are_of_the_same_steps(self) -> None:
        kept, steps = self.with_snapshots(), self.snapshots()
        for name in kept:
            if (own := self.runs[name].training.snapshots) != steps:
                raise ValueError(
                    f"runs.{name}.snapshots {own} are of other steps than the {steps} of run {kept[0]!r}: "
                    "runs are compared step by step, so name the same steps, or null"
                )

    def _trajectories_have_snapshots(self) -> None:
        if self.measures.trajectory is None:
            return
        followed, compare_with = self.with_snapshots(), self.measures.compare_with
        if compare_with not in followed:
            raise ValueError(
                f"measures.trajectory holds runs against {compare_with!r} (measures.compare_with) by their snapshots, "
                "but that keeps none: name steps in training.snapshots, or set measures.trajectory: null"
            )
        if len(followed) == 1:
            raise ValueError(
                f"measures.trajectory compares runs by their snapshots, but of {len(self.runs)} runs only "
                f"{compare_with!r} keeps snapshots: name steps in training.snapshots, or set measures.trajectory: null"
            )

    def _needs_no_toy_world(self) -> None:
        for key, dataset in self.datasets().items():
            if dataset.source == TOY_BASE:
                raise ValueError(f"{key}.source is toy, but base.model is {self.base.model!r}")
        if self.rollouts.generator == "teacher":
            raise ValueError(
                f"rollouts.generator 'teacher' is the toy base's; with base.model {self.base.model!r} "
                "give a hub id, a folder, or `base`"
            )


def _within_layer(modules: list[str]) -> str:
    return ", ".join(dict.fromkeys(module.split(".", 2)[2] for module in modules)) + f" in {len(modules)} places"
