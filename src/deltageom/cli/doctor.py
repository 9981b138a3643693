"""Say what is here and what is not, for a study or at all, each with the command or key that mends it."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="STUDY", help="what it needs is checked; what is missing fails")


def run(arguments: argparse.Namespace) -> None:
    from deltageom import doctor, doctor_lines
    from deltageom.errors import UserError

    lines = doctor.run(arguments.name)
    doctor.show(lines)
    if failed := doctor_lines.failed(lines):
        raise UserError(f"study {arguments.name!r} cannot run here: {', '.join(failed)}")
