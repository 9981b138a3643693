"""What a study costs before it is run: jobs, time and disk of each rule of the workflow."""

from collections.abc import Iterator
from dataclasses import dataclass

from deltageom import plan_costs as costs
from deltageom.errors import UserError
from deltageom.plan_assumptions import GPUS, Assumptions
from deltageom.plan_inputs import Inputs
from deltageom.plan_stages import Stages
from deltageom.plan_work import Machine, RunRows, Stage, Work
from deltageom.resolved import Study


@dataclass(frozen=True)
class Plan:
    """Numbers by rule are NaN where something that they depend on is unknown."""

    stages: tuple[Stage, ...]
    runs: tuple[RunRows, ...]
    machine: Machine
    warnings: tuple[str, ...] = ()

    def job_counts(self) -> dict[str, int]:
        return {stage.rule: len(stage.jobs) for stage in self.stages if stage.jobs}

    def gpu_seconds(self) -> dict[str, float]:
        return {stage.rule: stage.seconds * stage.gpus for stage in self.stages if stage.gpus}

    def core_seconds(self) -> dict[str, float]:
        """Of the rules that use no GPU."""
        cores = self.machine.cores
        return {stage.rule: stage.seconds * min(stage.threads, cores) for stage in self.stages if not stage.gpus}

    def walls(self) -> dict[str, float]:
        """Seconds of each rule, its jobs side by side. Rules overlap in truth, so their sum is a little too long."""
        return {stage.rule: costs.makespan(stage.jobs, stage.at_once(self.machine)) for stage in self.stages}

    def disk(self) -> dict[str, float]:
        """Bytes that stay."""
        return {stage.rule: stage.disk for stage in self.stages}

    def scratch(self) -> dict[str, float]:
        """Bytes beside those that stay, while a rule's jobs run."""
        return {stage.rule: stage.scratch * stage.at_once(self.machine) for stage in self.stages if stage.jobs}


def make(study: Study, inputs: Inputs, assumed: Assumptions, machine: Machine) -> Plan:
    """Raises UserError if a job takes more GPUs than `machine` has."""
    work = Work(study, inputs, assumed, machine)
    stages = Stages(work)
    found = stages.all()
    for stage in found:
        if stage.gpus > machine.gpus:
            raise UserError(
                f"a job of {stage.rule} takes {stage.gpus} GPUs, but --gpus is {machine.gpus}: raise it, or lower "
                "execution.processes and execution.tensor_parallel"
            )
    runs = tuple(stages.run_rows(name) for name in sorted(study.runs))
    return Plan(found, runs, machine, tuple(_too_large(work)))


def _too_large(work: Work) -> Iterator[str]:
    """The models whose weights alone do not fit where the study puts them."""
    study, inputs = work.study, work.inputs
    used = {"base": (inputs.base, study.evaluation.engine)}
    if inputs.generator:
        used["rollouts.generator"] = (inputs.generator, study.rollouts.engine)
    card = GPUS[work.machine.gpu].memory * 1e9
    for name, (shape, engine) in used.items():
        share = study.execution.memory_share if engine == "vllm" else 1.0
        needed, there = shape.parameters * work.engine_width(engine), card * share * work.engine_gpus(engine)
        if work.on_gpu and needed > there:
            raised = ": raise execution.tensor_parallel" if engine == "vllm" else ""
            yield (
                f"{name}: its weights are {needed / 1e9:.0f} GB, but a job of engine {engine} has "
                f"{there / 1e9:.0f} GB of {work.machine.gpu}{raised}"
            )
