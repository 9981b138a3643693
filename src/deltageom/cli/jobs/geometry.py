"""Measure the weight geometry of some modules, all runs and pairs; pairs measured before are kept."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_earlier, add_named_paths, by_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_named_paths(parser, "--run", "NAME=FOLDER", "a run; repeat")
    parser.add_argument("--module", action="append", required=True, help="layers.0.self_attn.q_proj; repeat")
    parser.add_argument(
        "--top-k", type=int, action="append", required=True, help="singular directions in the principal angles; repeat"
    )
    parser.add_argument("--base", help="the base model, a folder or a hub id, where it is needed")
    parser.add_argument("--revision", help="the base's hub commit or tag")
    parser.add_argument("--spectra", type=Path, help="base-spectrum's folder: hold the runs against the base's weights")
    parser.add_argument("--base-rank", type=int, help="base-spectrum's rank")
    parser.add_argument("--output", type=Path, required=True, help="folder for MODULE.json")
    add_earlier(parser)


def run(arguments: argparse.Namespace) -> None:
    from deltageom.deltas import hub
    from deltageom.deltas.open import open_run
    from deltageom.errors import UserError
    from deltageom.geometry import record
    from deltageom.geometry.base_weights import BaseWeights
    from deltageom.jobs import still_true

    if arguments.spectra and not (arguments.base and arguments.base_rank):
        raise UserError("--spectra needs --base and --base-rank, the model and the triplets that are meant")
    weights = hub.weights_folder(arguments.base, arguments.revision) if arguments.base else None
    runs = {name: open_run(path, weights) for name, path in by_name("--run", arguments.run).items()}
    base = BaseWeights(weights, arguments.spectra, arguments.base_rank) if weights and arguments.spectra else None
    made_by = still_true.of_code("cli.jobs.geometry")
    for module in arguments.module:
        path, *earlier = (folder / f"{module}.json" for folder in (arguments.output, *arguments.earlier))
        measured, kept = record.update(
            path, module, runs, arguments.top_k, made_by, base.module(module) if base else None, earlier
        )
        print(f"{module}: {measured} pairs measured, {kept} kept", flush=True)
