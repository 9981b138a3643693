"""Write graded records (results/<study>/graded/<model>/<benchmark>.jsonl) as lm-evaluation-harness's sample logs."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("records", type=Path, nargs="+", metavar="RECORDS.jsonl", help="what `deltageom grade` wrote")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="for MODEL/samples_TASK_DATE.jsonl, MODEL by the folder",
    )
    parser.add_argument("--task", metavar="NAME", help="name of the task; default: the file's name without its ending")


def run(arguments: argparse.Namespace) -> None:
    from datetime import datetime

    from deltageom import files
    from deltageom.errors import UserError
    from deltageom.evaluation import lm_eval

    if arguments.output.exists() and not arguments.output.is_dir():
        raise UserError(f"--output {arguments.output} is a file: give a folder")
    now = datetime.now()
    written: dict[Path, Path] = {}
    for path in arguments.records:
        model = lm_eval.sanitised_model(path.resolve().parent.name)
        target = arguments.output / model / lm_eval.file_name(arguments.task or path.stem, now)
        if target in written:
            raise UserError(f"{written[target]} and {path} would both be {target}: export them apart")
        written[target] = path
    lines = {target: lm_eval.samples(lm_eval.read(path)) for target, path in written.items()}
    for target, samples in lines.items():
        files.write_jsonl(target, samples)
        print(f"{target}: {len(samples)} problems")
