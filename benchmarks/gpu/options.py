"""The command line of `python -m benchmarks.gpu`."""

import argparse
from pathlib import Path

from benchmarks import shapes

PARTS = ("versions", "parity", "train", "generate", "geometry", "dag", "processes")
H100_TFLOPS = 989.0  # dense bfloat16, of the H100 SXM's and the H200's data sheets


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, with defaults that depend on the device filled in."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="Measure this project on a GPU; see docs/gpu.md."
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is measured (everything)")
    add("--device", choices=["cuda", "cpu"], help="cuda if torch sees a GPU, else cpu")
    add("--size", choices=list(shapes.SIZES), help="of the random models: 4b on a GPU, tiny on a CPU")
    add("--length", type=_count, default=2048, help="tokens of a row of `train`, prompt and completion (%(default)s)")
    add("--batch", type=_count, default=8, help="rows or pairs a step (%(default)s)")
    add("--micro", type=_count, default=4, help="rows or pairs at once (%(default)s)")
    add("--steps", type=_count, default=3, help="measured steps of `train`, after the warm-up (%(default)s)")
    add("--rounds", type=_count, default=1, help="of `train` and `geometry` (%(default)s)")
    add("--checkpointing", choices=["on", "off", "both"], default="both", help="gradient checkpointing of `train`")
    add("--parity-steps", type=_count, default=16, help="steps of `parity` (%(default)s)")
    add("--peak-tflops", type=float, help=f"the card's bfloat16 peak ({H100_TFLOPS:.0f} on a GPU, none on a CPU)")
    add("--seconds", type=float, default=600.0, help="time limit of each part (%(default).0f)")
    add("--output", type=Path, default=Path("results/gpu-benchmark"), help="folder of what is found (%(default)s)")
    add("--table", action="store_true", help="measure nothing: print the table of a folder that has been filled")
    add("--inside", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.batch % given.micro:
        parser.error(f"--batch {given.batch} is no multiple of --micro {given.micro}")
    if given.length < 8:
        parser.error(f"--length {given.length}: a row needs 8 tokens at least")
    if not given.table:
        _fill(given, parser)
    return given


def _fill(given: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    import torch

    if given.device is None:
        given.device = "cuda" if torch.cuda.is_available() else "cpu"
    elif given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda, but torch sees no GPU here: run on a GPU node, or say --device cpu")
    given.size = given.size or ("4b" if given.device == "cuda" else "tiny")
    if given.peak_tflops is None and given.device == "cuda":
        given.peak_tflops = H100_TFLOPS


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number
