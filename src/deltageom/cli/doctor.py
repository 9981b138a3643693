"""Say what is here and what is not, for a study or at all, each with the command or key that mends it."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="STUDY", help="what it needs is checked; what is missing fails")


def run(arguments: argparse.Namespace) -> None:
    from deltageom.errors import UserError
    from deltageom.planning import doctor

    found = doctor.lines(arguments.name)
    doctor.show(found)
    missing = [line.what for line in found if line.state == "missing"]
    if arguments.name and missing:
        raise UserError(f"study {arguments.name!r} cannot run here: {', '.join(dict.fromkeys(missing))}")
