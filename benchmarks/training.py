"""Tokens a second and peak memory of every method, against TRL's own trainers on the same rows and the same model.

    python -m benchmarks.training                                     # CPU, minutes

Likelihood and KTO rows are compared with stock SFTTrainer (nll), pairs with stock DPOTrainer. Each contender runs in a
process of its own, in rounds of all of them: a ratio is taken within a round, and given as median and range over the
rounds. Weights are random and rows are random ids of realistic lengths: speed depends on neither. Tokens are those of
prompt and completion, without padding; a pair has two completions. Memory is the peak above what the loaded model
needs: allocated on a GPU, resident on a CPU. A GPU's own benchmark is `python -m benchmarks.gpu --parts train`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import contender, rows, shapes, tables
from deltageom.methods import interface

BATCH, MICRO = 16, 4


def contenders() -> list[str]:
    return [contender.SFT, contender.DPO, *(name for name in interface.offline_names() if name != "sft_solutions")]


def measure(name: str, folder: Path, size: str, device: str, steps: int) -> dict[str, float]:
    setting = contender.Setting(folder, size, device, steps, BATCH, MICRO)
    found = contender.measure(contender.build(name, setting), device)
    return {key: found[key] for key in ("tokens_a_second", "peak_mib")}


def table(found: dict[str, list[dict[str, float]]], size: str, peak_tflops: float | None) -> str:
    head = ["contender", "against", "tokens / s", "ratio (range)", "peak MiB", "ratio (range)"]
    lines = [head + (["of peak"] if peak_tflops else [])]
    for name, rounds in found.items():
        against = contender.baseline(name)
        cells = [name, against if against != name else ""]
        for key in ("tokens_a_second", "peak_mib"):
            values, others = ([one[key] for one in found[which]] for which in (name, against))
            cells.append(f"{statistics.median(values):,.0f}")
            cells.append("1" if against == name else tables.ratio(values, others))
        if peak_tflops:
            rate = statistics.median(one["tokens_a_second"] for one in rounds) * shapes.flops_a_token(size)
            cells.append(f"{rate / peak_tflops / 1e12:.1%}")
        lines.append(cells)
    return tables.markdown(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", choices=list(shapes.SIZES), default="2m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help=f"measured, after {contender.WARM_UP} of warm-up")
    parser.add_argument("--only", nargs="*", help="contenders; their baselines are added")
    parser.add_argument("--peak-tflops", type=float, help="bf16 peak of the GPU, to give the achieved fraction of it")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        found = measure(given.contender, given.folder, given.size, given.device, given.steps)
        print("\n" + json.dumps(found))
        return
    names = contenders()
    if given.only:
        names = [one for one in names if one in given.only or one in {contender.baseline(only) for only in given.only}]
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as name:
        prompt, completion = (rows.lognormal(mean) for mean in shapes.SIZES[given.size][1])
        tokenizer = shapes.save_tokenizer(Path(name), given.size)
        rows.write(Path(name), shapes.vocabulary(given.size), tokenizer, prompt, completion)
        shared = ["--folder", name, "--device", given.device, "--size", given.size, "--steps", str(given.steps)]
        for round_ in range(given.rounds):
            for one in names[round_ % len(names) :] + names[: round_ % len(names)]:
                command = [sys.executable, "-m", "benchmarks.training", "--contender", one, *shared]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(f"{one} failed:\n{done.stderr}")
                results[one].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"round {round_ + 1}, {one}: {results[one][-1]}", file=sys.stderr)
    print(table(results, given.size, given.peak_tflops))


if __name__ == "__main__":
    main()
