"""Find the leading singular triplets of some modules of the base: once, for all runs."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", required=True, help="the base model: a folder or a hub id")
    parser.add_argument("--revision", help="the base's hub commit or tag")
    parser.add_argument("--module", action="append", required=True, help="layers.0.self_attn.q_proj; repeat")
    parser.add_argument("--rank", type=int, required=True, help="triplets of each module")
    parser.add_argument("--output", type=Path, required=True, help="folder for MODULE.safetensors")


def run(arguments: argparse.Namespace) -> None:
    from deltageom.deltas import hub
    from deltageom.geometry.base_weights import BaseWeights

    base = BaseWeights(hub.weights_folder(arguments.base, arguments.revision), arguments.output, arguments.rank)
    for module in arguments.module:
        spectrum = base.module(module).spectrum()
        how = "exact" if spectrum.exact else f"residual {spectrum.residual:.1e} of sigma 1"
        print(f"{module}: {spectrum.sigma.size} singular triplets, {how}", flush=True)
