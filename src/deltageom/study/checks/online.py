"""Runs that sample while they train, and runs that are trained on what those have sampled: what a study must say."""

from collections.abc import Mapping

from deltageom.methods import interface as methods
from deltageom.study.schema import Device, Online, Rollouts, Run


def is_online(run: Run) -> bool:
    return isinstance(methods.load(run.method), methods.Online)


def has_base_gradient(run: Run) -> bool:
    """Whether a job can take its loss's gradient at the base with respect to an adapter: on rows that are there before
    any training."""
    return run.training.adapter == "lora" and not is_online(run)


def check(runs: Mapping[str, Run], online: Online, rollouts: Rollouts, device: Device) -> None:
    """Raises ValueError, naming the run and the key, for what no job could do. The runs' methods are known."""
    for name, run in runs.items():
        if is_online(run):
            _check_online(name, run, online, rollouts, device)
        elif run.training.rollouts_of is not None:
            _check_replay(name, run, runs, online)


def _check_online(name: str, run: Run, online: Online, rollouts: Rollouts, device: Device) -> None:
    training, group = run.training, run.options["group"]
    if training.batch_size % group:
        raise ValueError(
            f"run {name!r}: batch_size {training.batch_size} counts completions, and group {group} of one problem "
            "must divide it"
        )
    if training.adapter == "none":
        raise ValueError(f"run {name!r}: {run.method} trains an adapter: set adapter: lora")
    if training.rollouts_of is not None:
        raise ValueError(f"run {name!r}: {run.method} draws its own samples: set rollouts_of: null")
    if online.engine == "vllm" and device == "cpu":
        raise ValueError(f"online.engine vllm of run {name!r} needs device: cuda: set engine: transformers")
    method = methods.load(run.method)
    if isinstance(method, methods.Online) and method.teacher:
        if rollouts.file is not None:
            raise ValueError(
                f"run {name!r}: {run.method} asks rollouts.generator for its distribution, but rollouts.file holds "
                "finished rollouts: name a generator, and set file: null"
            )
        if rollouts.generator == "base":
            raise ValueError(
                f"run {name!r}: {run.method} would learn the base's own distribution, for rollouts.generator is base: "
                "name another model"
            )


def _check_replay(name: str, run: Run, runs: Mapping[str, Run], online: Online) -> None:
    training, of = run.training, run.training.rollouts_of
    sources = [other for other, given in runs.items() if is_online(given)]
    if of not in sources:
        raise ValueError(f"runs.{name}.rollouts_of {of!r} is none of the online runs: {', '.join(sources) or 'none'}")
    method, source = methods.load(run.method), runs[of]
    if not isinstance(method, methods.Likelihood) or method.source != "rollout" or "base" in method.needs:
        raise ValueError(
            f"run {name!r}: {run.method} cannot be trained step by step on the samples of {of!r}: rollouts_of takes "
            "the methods that read single rollouts and no log-prob of the base"
        )
    if source.options.get("iterations", 1) > 1:
        raise ValueError(f"runs.{name}.rollouts_of {of!r} takes several steps per batch of samples: set iterations: 1")
    if training.batch_size != source.training.batch_size:
        raise ValueError(
            f"run {name!r}: batch_size {training.batch_size} is not the {source.training.batch_size} of run {of!r}, "
            "whose steps it repeats: set the same"
        )
    steps, drawn = (one.report_step or one.steps for one in (training, source.training))
    if steps > drawn:
        raise ValueError(f"run {name!r}: {steps} steps are more than the {drawn} that run {of!r} samples for")
    if steps * training.batch_size > online.keep:
        raise ValueError(
            f"run {name!r}: reads {steps * training.batch_size} completions of run {of!r}, which keeps {online.keep}: "
            "raise online.keep"
        )
