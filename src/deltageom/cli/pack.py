"""Pack a finished study: another user unpacks the archive and finds nothing to run again."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", help="its name; run this in the project's folder")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="archive to write: .tar.gz, or .tar, which is faster"
    )
    parser.add_argument(
        "--no-models",
        action="store_true",
        help="leave out the weights of the toy base and teacher: nothing needs them until something changes; "
        "then they are made anew, and with them everything",
    )


def run(arguments: argparse.Namespace) -> None:
    from deltageom.jobs import pack
    from deltageom.study.load import load_study

    project, output = Path(), arguments.output
    study = load_study({"study": arguments.study}).study
    pack.check_output(project, study, output)
    pack.check_code(project)
    made = pack.check_finished(project, study)
    found = pack.contents(project, study, not arguments.no_models, made)
    folder = f"deltageom-{study}"
    pack.write(project, folder, found.members, output)
    print(f"{output}: {len(found.members)} files, {output.stat().st_size / 2**20:.1f} MiB")
    if found.outside:
        print("Read by jobs and not packed, for their licences may forbid it. They must lie at the same paths for")
        print("nothing to run again:")
        print(*(f"  {name}" for name in found.outside), sep="\n")
    print(f"Unpack: tar xf {output.name}; then in {folder}/: make setup, .venv/bin/snakemake -n --config study={study}")
