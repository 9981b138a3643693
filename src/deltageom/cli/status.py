"""Say on one screen how far a study is: what is done, by run and stage, what would run, and why."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="STUDY", help="without it, the one that config.yaml names")


def run(arguments: argparse.Namespace) -> None:
    from deltageom.planning import jobs, status
    from deltageom.study import sharing
    from deltageom.study.load import ancestors, load_study

    study = load_study({"study": arguments.name} if arguments.name else None)
    views = sharing.views(study, ancestors(study.study))
    plan = status.planned(arguments.name)
    status.show(study.study, jobs.of_replicates(views), ["base", *study.all_runs()], plan)
