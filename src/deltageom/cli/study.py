"""Check a study and print it resolved, or print the schema."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="the study's name; without it, the one config.yaml names")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of a resolved study instead")


def run(arguments: argparse.Namespace) -> None:
    import json
    import sys

    import yaml

    from deltageom.errors import UserError
    from deltageom.hardware import gpus
    from deltageom.study import resolved
    from deltageom.study.load import load_study

    if arguments.schema:
        print(json.dumps(resolved.Study.model_json_schema(), indent=2))
        return
    loaded = load_study({"study": arguments.name} if arguments.name else None)
    tree = loaded.model_dump(mode="json")
    for name in ("rollouts", "evaluation"):  # no job is told how many share its work
        tree[name]["jobs"] = getattr(loaded, name).jobs
    print(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), end="")
    try:
        gpus.check(loaded.gpus())
    except UserError as error:  # it may be meant for another machine
        print(f"warning: the study cannot run here: {error}", file=sys.stderr)
