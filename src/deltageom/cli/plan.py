"""Say what a study costs before it is run: jobs, time and disk of each rule; after a run, the true figures beside."""

import argparse
import os
from dataclasses import fields
from pathlib import Path

from deltageom.plan_assumptions import DEFAULT_GPU, GPUS, Assumptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="STUDY", help="without it, the one config.yaml names")
    parser.add_argument("--results", type=Path, metavar="DIR", help="of a run of it (results/STUDY)")
    parser.add_argument(
        "--problems",
        type=_named_count,
        action="append",
        default=[],
        metavar="[NAME=]N",
        help="problems to train on, or of benchmark NAME, where the study cannot tell; repeat",
    )
    parser.add_argument(
        "--mean-tokens",
        type=_named_amount,
        action="append",
        default=[],
        metavar="[NAME=]N",
        help="mean tokens of a completion: of all, of the rollouts (train=N), of a benchmark's answers; repeat",
    )
    parser.add_argument("--parameters", type=_amount, metavar="N", help="of the base, for instance 4.0e9")
    parser.add_argument(
        "--generator-parameters", type=_amount, metavar="N", help="of the rollouts' model; of experts, all of them"
    )
    parser.add_argument(
        "--gpu",
        type=_gpus,
        default=(1, DEFAULT_GPU),
        metavar="[Nx]NAME",
        help=f"GPUs that may be used at once, for instance 4xh100: {', '.join(GPUS)} (1x{DEFAULT_GPU})",
    )
    parser.add_argument("--cores", type=_count, default=len(os.sched_getaffinity(0)), help="CPU cores (%(default)s)")
    for field in fields(Assumptions):
        about, default = field.metadata, "" if field.default is None else f" ({field.default:g})"
        kind = _share if field.name.endswith("share") or field.name == "utilisation" else _amount
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=kind,
            default=field.default,
            metavar="X",
            help=f"{about['says']}{about['unit'] and ', ' + about['unit']}{default}",
        )


def run(arguments: argparse.Namespace) -> None:
    from deltageom import plan, plan_console, plan_inputs, plan_measured
    from deltageom.plan_work import Machine
    from deltageom.study import load_study

    study = load_study({"study": arguments.name} if arguments.name else None)
    assumed = Assumptions(**{field.name: getattr(arguments, field.name) for field in fields(Assumptions)})
    sizes = arguments.parameters, arguments.generator_parameters
    inputs = plan_inputs.gather(study, assumed, *sizes, dict(arguments.problems), dict(arguments.mean_tokens))
    number, card = arguments.gpu
    made = plan.make(study, inputs, assumed, Machine(card, number, arguments.cores))
    measured = plan_measured.read(arguments.results or Path("results", study.study), made.stages)
    plan_console.show(study.study, made, inputs, assumed, measured)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def _named_count(text: str) -> tuple[str, int]:
    name, _, number = text.rpartition("=")
    return name or "train", _count(number)


def _named_amount(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    return name, _amount(number)


def _gpus(text: str) -> tuple[int, str]:
    number, _, name = text.rpartition("x") if text.partition("x")[0].isdecimal() else ("1", "", text)
    if name.lower() not in GPUS:
        raise argparse.ArgumentTypeError(f"{name!r} is none of the GPUs that are known: {', '.join(GPUS)}")
    return _count(number), name.lower()


def _amount(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = 0.0
    if not 0 < amount < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return amount


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share above 0 and up to 1")
    return share
