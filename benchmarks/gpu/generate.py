"""Generation: the rollouts job, and an engine with a LoRA, against the bare engine on the same prompts."""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import engines, shapes, tables
from benchmarks.gpu.record import Line, Record, cells

SAMPLES = 4


def run(given: argparse.Namespace, record: Record) -> None:
    record.plan(engines.CONTENDERS)
    small = given.size in ("tiny", "2m")
    prompts, tokens, batch = (8, 16, 32) if small else (32, 256, 128)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shapes.save(folder / "base", given.size, given.device)  # both engines read a folder
        engines.write_prompts(folder, given.size, prompts)
        command = [sys.executable, "-m", "benchmarks.engines", "--folder", name, "--device", given.device]
        command += ["--size", given.size, "--prompts", str(prompts), "--samples", str(SAMPLES)]
        command += ["--tokens", str(tokens), "--batch-size", str(batch), *(["--eager"] if small else [])]
        for contender in engines.CONTENDERS:
            if contender.startswith("vllm") and importlib.util.find_spec("vllm") is None:
                record.write(cell=contender, reason="skipped: vLLM is not installed")
                continue
            record.attempt(contender, lambda one=contender: _measure([*command, "--contender", one]))


def _measure(command: list[str]) -> Line:
    import torch

    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, flush=True)
    if "OutOfMemoryError" in done.stderr:
        raise torch.OutOfMemoryError
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or "it said nothing").splitlines()[-1])
    found: Line = json.loads(done.stdout.splitlines()[-1])
    return found


def table(lines: list[Line], _given: argparse.Namespace) -> str:
    found, against = cells(lines), dict(reversed(engines.RATIOS))
    out = [["contender", "tokens / s", "tokens", "start, s", "reserved GiB", "to", "ratio of tokens / s"]]
    for cell, rounds in found.items():
        if "reason" in rounds[0]:
            out.append([cell, rounds[0]["reason"], *[""] * 5])
            continue
        middle = {key: statistics.median(line[key] for line in rounds) for key in ("tokens", "start_seconds")}
        rates = [line["tokens_a_second"] for line in rounds]
        reserved = [line["reserved_mib"] for line in rounds if "reserved_mib" in line]
        row = [cell, f"{statistics.median(rates):,.0f}", f"{middle['tokens']:,.0f}", f"{middle['start_seconds']:.1f}"]
        row.append(f"{statistics.median(reserved) / 1024:.1f}" if reserved else "–")
        other = against.get(cell, "")
        stock = [line["tokens_a_second"] for line in found.get(other, []) if "tokens_a_second" in line]
        out.append([*row, other, tables.ratio(rates, stock) if len(stock) == len(rates) else ""])
    return tables.markdown(out)
