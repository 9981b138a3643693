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
from typing import Any, NoReturn

from deltageom import __version__, cli
from deltageom.cli import jobs
from deltageom.errors import UserError
from deltageom.jobs import warm, watch

NEARLY_FULL = 2**28  # bytes
NO_COMMAND = "main"


def main(argv: list[str] | None = None) -> NoReturn:
    """Runs one command and exits: 0, 1 for any failure, 2 for wrong arguments."""
    # MKL may else take fewer threads than it is given, and so round otherwise from one run to the next (its developer
    # guide, "Reproducibility Conditions"); before torch is imported, and unless the user has said it
    os.environ.setdefault("MKL_DYNAMIC", "FALSE")
    if argv is None and (status := warm.run(sys.argv)) is not None:
        sys.exit(status)
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
    except ModuleNotFoundError as error:
        with suppress(OSError):
            traceback.print_exc()
        message = f"deltageom {arguments.command}: error: {_missing(error)}"
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

    from deltageom import files
    from deltageom.jobs import provenance

    if arguments.gpus:
        from deltageom.hardware import gpus

        gpus.take(arguments.gpus)  # before the command imports torch; until this process ends
    stopwatch = provenance.Stopwatch()
    found_by_name = command.run(arguments) or []
    if arguments.provenance:
        settings = json.loads(arguments.settings) if "settings" in arguments else {}
        modules = [command.__name__.removeprefix("deltageom."), *found_by_name]
        record = stopwatch.record(arguments.command, settings, modules)
        if "processes" in arguments:  # the order of a sum, and so its last digits, depends on them
            record["machine"]["processes"] = arguments.processes
        if getattr(arguments, "parts", 1) > 1 and not arguments.part:
            from deltageom.generation import parts

            record = parts.with_parts(record, arguments.scratch, arguments.parts)
        files.write_json(arguments.provenance, record)


def _missing(error: ModuleNotFoundError) -> str:
    """`pip install .` alone brings what `compare` needs; the extra `study` brings the rest."""
    return f"this command needs the package {error.name}, which is not installed: pip install 'deltageom[study]'"


def _full_disk(arguments: argparse.Namespace) -> str:
    """What libraries that write by themselves say of a full disk is anything but that."""
    folder = arguments.provenance.parent if arguments.provenance else Path()
    free = shutil.disk_usage(folder).free if folder.is_dir() else NEARLY_FULL
    return f" (only {free / 2**20:.1f} MiB are free on the disk of {folder}: is it full?)" if free < NEARLY_FULL else ""


def _commands() -> dict[str, ModuleType]:
    """The files of cli/, for people, and of cli/jobs/, which the rules call, by the command's name."""
    found = [
        (module, f"{package.__name__}.{module.name}")
        for package in (cli, jobs)
        for module in pkgutil.iter_modules(package.__path__)
    ]
    return {
        module.name.replace("_", "-"): importlib.import_module(path)
        for module, path in sorted(found, key=lambda item: item[0].name)
        if not module.ispkg and module.name != NO_COMMAND
    }


def _parser(commands: dict[str, ModuleType]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deltageom",
        description="Do different offline reasoning losses make the same weight update? "
        "The Snakemake workflow calls these commands, one a rule; each also runs by hand.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"deltageom {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in commands.items():
        summary = (module.__doc__ or "").strip()
        # without abbreviations: `plan --gpu` would be `--gpus`, which rules alone use
        sub = subparsers.add_parser(name, help=summary.splitlines()[0], description=summary, allow_abbrev=False)
        module.add_arguments(sub)
        _add_of_jobs(sub, shown=module.__name__.startswith(jobs.__name__))
    return parser


def _add_of_jobs(parser: argparse.ArgumentParser, shown: bool) -> None:
    """What a rule asks of every command: of the commands for people, too, but their help does not say so."""
    options: dict[str, tuple[str, dict[str, Any]]] = {
        "--log": ("write all output here; the terminal gets only errors", {"type": Path}),
        "--provenance": ("write versions, settings, time and memory here (JSON)", {"type": Path}),
        "--gpus": (
            "take N free GPUs before anything else, waiting for them if need be; sets CUDA_VISIBLE_DEVICES (0)",
            {"type": int, "default": 0, "metavar": "N"},
        ),
    }
    for option, (text, kind) in options.items():
        parser.add_argument(option, help=text if shown else argparse.SUPPRESS, **kind)


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
