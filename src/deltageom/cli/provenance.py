"""Merge the provenance of a study's jobs into one file, with its results' digests; or verify results against it."""

import argparse
from pathlib import Path

from deltageom.arguments import parse_settings
from deltageom.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", metavar="JSON", help="the resolved study")
    parser.add_argument("--records", type=Path, metavar="DIR", help="folder of the jobs' provenance")
    parser.add_argument("--results", type=Path, nargs="+", metavar="FILE", help="results to digest, beside --output")
    parser.add_argument("--output", type=Path, metavar="FILE", help="provenance.json of the study, in its folder")
    parser.add_argument(
        "--verify",
        type=Path,
        metavar="FILE",
        help="alone: are the results beside this provenance.json those it saw?",
    )


def run(arguments: argparse.Namespace) -> None:
    from deltageom import provenance_summary as summary
    from deltageom import records
    from deltageom.resolved import Study

    merging = [arguments.settings, arguments.records, arguments.results, arguments.output]
    if arguments.verify:
        if any(merging):
            raise UserError("--verify stands alone: it reads one file and the results beside it")
        print(f"{arguments.verify}: {summary.verify(arguments.verify)} results are as they were recorded")
        return
    if not all(merging):
        raise UserError("give --settings, --records, --results and --output, or --verify alone")
    study = parse_settings(Study, arguments.settings)
    jobs = summary.read(arguments.records, summary.job_names(study))
    results = summary.digests(arguments.results, arguments.output.parent)
    merged = summary.merge(study, jobs, results, summary.checkout(Path()))
    records.write_json(arguments.output, merged)
    print(f"{len(jobs)} jobs, {len(results)} results")
    for what, values in merged["mixed"].items():
        print(f"Not the same in all jobs: {what}: {', '.join(f'{value} ({len(of)})' for value, of in values.items())}")
