"""`deltageom COMMAND`: finds the command's file, keeps its log, explains its failure, records its provenance."""

import argparse
import importlib
import os
import pkgutil
import shutil
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from deltageom import __version__, cli, watch
from deltageom.errors import UserError

NEARLY_FULL = 2**28  # bytes


def main(argv: list[str] | None = None) -> NoReturn:
    """Runs one command and exits: 0, 1 for any failure, 2 for wrong arguments."""
    commands = _commands()
    arguments = _parser(commands).parse_args(argv)
    watch.end_with_starter()
    terminal = os.fdopen(os.dup(2), "w")
    if arguments.log:
        _redirect(arguments.log)
    try:
        _run(commands[arguments.command], arguments)
    except UserError as error:
        message = f"deltageom {arguments.command}: error: {error}"
    except Exception as error:
        with suppress(OSError):  # the log's own disk may be the one that is full
            traceback.print_exc()
        message = f"deltageom {arguments.command}: {type(error).__name__}: {error}{_full_disk(arguments)}"
    else:
        sys.exit(0)
    if arguments.log:
        with suppress(OSError):
            print(message, file=sys.stderr)
        message += f"\n(log: {arguments.log})"
    print(message, file=terminal, flush=True)
    sys.exit(1)


def _run(command: ModuleType, arguments: argparse.Namespace) -> None:
    import json

    from deltageom import provenance, records

    if arguments.gpus:
        from deltageom import devices

        devices.take(arguments.gpus)  # before the command imports torch; until this process ends
    stopwatch = provenance.Stopwatch()
    found_by_name = command.run(arguments) or []
    if arguments.provenance:
        settings = json.loads(arguments.settings) if "settings" in arguments else {}
        modules = [command.__name__.removeprefix("deltageom."), *found_by_name]
        record = stopwatch.record(arguments.command, settings, modules)
        if "processes" in arguments:  # the order of a sum, and so its last digits, depends on them
            record["machine"]["processes"] = arguments.processes
        records.write_json(arguments.provenance, record)


def _full_disk(arguments: argparse.Namespace) -> str:
    """What libraries that write by themselves say of a full disk is anything but that."""
    folder = arguments.provenance.parent if arguments.provenance else Path()
    free = shutil.disk_usage(folder).free if folder.is_dir() else NEARLY_FULL
    return f" (only {free / 2**20:.1f} MiB are free on the disk of {folder}: is it full?)" if free < NEARLY_FULL else ""


def _commands() -> dict[str, ModuleType]:
    names = [module.name for module in pkgutil.iter_modules(cli.__path__) if module.name != "main"]
    return {name.replace("_", "-"): importlib.import_module(f"deltageom.cli.{name}") for name in names}


def _parser(commands: dict[str, ModuleType]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deltageom",
        description="Do different offline reasoning losses make the same weight update? "
        "The Snakemake workflow calls these commands, one a rule; each also runs by hand.",
    )
    parser.add_argument("--version", action="version", version=f"deltageom {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in commands.items():
        summary = (module.__doc__ or "").strip()
        sub = subparsers.add_parser(name, help=summary.splitlines()[0], description=summary)
        module.add_arguments(sub)
        sub.add_argument("--log", type=Path, help="write all output here; the terminal gets errors alone")
        sub.add_argument("--provenance", type=Path, help="write versions, settings, time and memory here (JSON)")
        sub.add_argument(
            "--gpus",
            type=int,
            default=0,
            metavar="N",
            help="take N free GPUs before anything else, waiting for them if need be; sets CUDA_VISIBLE_DEVICES (0)",
        )
    return parser


def _redirect(log: Path) -> None:
    """Everything printed from here on goes to the log, output of compiled libraries too."""
    log.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TQDM_MININTERVAL", "5")
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
