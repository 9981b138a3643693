"""Say what a study's jobs have to do: rows, tokens, disk, hours by a measured rate; after a run, what they took."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="STUDY", help="without it, the one that config.yaml names")
    parser.add_argument(
        "--problems",
        type=_named_count,
        action="append",
        default=[],
        metavar="[NAME=]N",
        help="problems to train on, or of benchmark NAME, where the study cannot tell; repeat for more",
    )
    parser.add_argument("--mean-tokens", type=_count, metavar="N", help="of a completion; else the most allowed")
    parser.add_argument("--devices", type=_count, metavar="N", help="GPUs to use at once; adds hours of the clock")
    parser.add_argument("--like", metavar="STUDY", help="take the tokens per second of a study that has run here")
    parser.add_argument(
        "--rate",
        type=_rate,
        action="append",
        default=[],
        metavar="generation|training=X",
        help="tokens per second that you have measured, in place of those of --like",
    )


def run(arguments: argparse.Namespace) -> None:
    from deltageom.planning import disk, doctor, jobs, measured, work
    from deltageom.planning.plan import Plan, show
    from deltageom.study import sharing
    from deltageom.study.load import ancestors, load_study

    study = load_study({"study": arguments.name} if arguments.name else None)
    views = sharing.views(study, ancestors(study.study))
    found = jobs.of_replicates(views)
    asked = work.generation(study, work.problem_counts(study, dict(arguments.problems)), arguments.mean_tokens)
    runs = work.training(study, arguments.mean_tokens)
    like = measured.rates(Path("results", arguments.like)) if arguments.like else measured.Rates(None, None)
    given = dict(arguments.rate)
    rates = measured.Rates(given.get("generation", like.generated), given.get("training", like.trained))
    origin = "the rates given" if given else f"the rates of results/{arguments.like}"

    lacking = {one.name: one.revision for one in doctor.hub_models(study) if one.kind == "model" and not one.cached}
    of_one = disk.results(study, asked, runs)
    of_all = {what: taken and taken * study.replicates.count for what, taken in of_one.items()}
    sizes = of_all, disk.downloads(lacking)
    took = measured.by_rule(found)
    show(Plan(study, [job for job, _ in found], asked, runs, rates, origin, *sizes, took, arguments.devices))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def _named_count(text: str) -> tuple[str, int]:
    name, _, number = text.rpartition("=")
    return name or "train", _count(number)


def _rate(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        rate = float(number)
    except ValueError:
        rate = 0.0
    if name not in ("generation", "training") or not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not generation=X or training=X with X tokens per second")
    return name, rate
