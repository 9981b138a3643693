"""Merge the provenance of a study's jobs into one file, with its results' digests; or verify results against it."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_shared, by_name, parse_settings
from deltageom.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", metavar="JSON", help="the resolved study")
    parser.add_argument("--records", type=Path, metavar="DIR", help="folder of the jobs' provenance")
    add_shared(parser)
    parser.add_argument("--results", type=Path, nargs="+", metavar="FILE", help="results to digest, beside --output")
    parser.add_argument("--output", type=Path, metavar="FILE", help="provenance.json of the study, in its folder")
    parser.add_argument(
        "--verify",
        type=Path,
        metavar="FILE",
        help="alone: are the results beside this provenance.json those it saw?",
    )


def run(arguments: argparse.Namespace) -> None:
    from deltageom import files
    from deltageom.jobs import study_provenance
    from deltageom.planning.jobs import job_names
    from deltageom.study.resolved import Study

    merging = [arguments.settings, arguments.records, arguments.results, arguments.output]
    if arguments.verify:
        if any(merging):
            raise UserError("--verify stands alone: it reads one file and the results beside it")
        print(f"{arguments.verify}: {study_provenance.verify(arguments.verify)} results are as they were recorded")
        return
    if not all(merging):
        raise UserError("give --settings, --records, --results and --output, or --verify alone")
    study = parse_settings(Study, arguments.settings)
    shared = by_name("--shared", arguments.shared)
    jobs = study_provenance.read(arguments.records, job_names(study), shared)
    results = study_provenance.digests(arguments.results, arguments.output.parent)
    merged = study_provenance.merge(study, jobs, results, study_provenance.checkout(Path()))
    files.write_json(arguments.output, merged)
    print(f"{len(jobs)} jobs, {len(results)} results")
    for what, values in merged["mixed"].items():
        print(f"Not the same in all jobs: {what}: {', '.join(f'{value} ({len(of)})' for value, of in values.items())}")
