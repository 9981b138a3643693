"""`deltageom compare` whole, against dense singular value decompositions and against the floor of the machine.

    python benchmarks/geometry.py                # six adapters in Qwen3-4B's shapes, rank 32, 36 layers; minutes
    python benchmarks/geometry.py --adapters 28 --mlp --rounds 3    # 252 modules, 7 GB of temporary files
    python benchmarks/geometry.py --adapters 100 --layers 2 --rounds 1
    python benchmarks/geometry.py --workflow     # the rule `geometry` through Snakemake, then again with one run more

The dense way is what a user's own script does: dW = scale * B @ A and torch.linalg.svd of it (float32, all cores), on
one module of each shape in every round, times the modules of that shape and the adapters; its pairs come for nothing.
The floor is the time to read the files (from memory, after a first read) and to do the arithmetic (`operations`) at the
rate that float64 products of 2000 x 2000 reach on all cores. Both are measured in the same round as `compare`, which
is a process of its own, from its start to its tables on disk. Weights are random: speed does not depend on them.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

RANK, TOP_K = 32, 10
LAUNCH = """
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
SHAPES = {"q_proj": (4096, 2560), "k_proj": (1024, 2560), "v_proj": (1024, 2560), "o_proj": (2560, 4096)}
MLP = {"gate_proj": (9728, 2560), "up_proj": (9728, 2560), "down_proj": (2560, 9728)}


@dataclass(frozen=True)
class Modules:
    """What each adapter covers: (outputs, inputs) of the matrices of one layer, by name."""

    layers: int
    shapes: dict[str, tuple[int, int]]


def parent(layer: int, name: str) -> str:
    return f"base_model.model.model.layers.{layer}.{'mlp' if name in MLP else 'self_attn'}"


def make(folder: Path, adapters: int, modules: Modules, dtype: str) -> list[Path]:
    """Adapters that share A but for 1 part in 100, and have B of their own."""
    import torch
    from safetensors.torch import save_file

    kind, paths = getattr(torch, dtype), []
    for adapter in range(adapters):
        tensors = {}
        for layer in range(modules.layers):
            for name, (d_out, d_in) in modules.shapes.items():
                shared = torch.Generator().manual_seed(100 * layer + len(name) + d_out)
                own = torch.Generator().manual_seed(1000 * adapter + 10 * layer + d_out % 7)
                a = torch.rand(RANK, d_in, generator=shared) * 2 - 1
                a += 0.01 * torch.randn(RANK, d_in, generator=own)
                key = f"{parent(layer, name)}.{name}.lora"
                tensors[f"{key}_A.weight"] = (a / d_in**0.5).to(kind)
                tensors[f"{key}_B.weight"] = (torch.randn(d_out, RANK, generator=own) * 1e-3).to(kind)
        paths.append(folder / f"run{adapter:02d}")
        paths[-1].mkdir()
        save_file(tensors, paths[-1] / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "base_model_name_or_path": "random"}
        (paths[-1] / "adapter_config.json").write_text(json.dumps(config | {"target_modules": list(modules.shapes)}))
    return paths


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(paths: list[Path], output: Path) -> tuple[float, float]:
    """Seconds and the peak MiB of the largest of its processes."""
    command = [sys.executable, "-m", "deltageom", "compare", *map(str, paths), "--output", str(output)]
    # from a small process: a child counts the memory of its parent as its own until it has begun
    done = subprocess.run([sys.executable, "-c", LAUNCH, *command], capture_output=True, text=True, check=True)
    wall, kib = done.stdout.split()[-2:]
    return float(wall), int(kib) / 1024


def dense(path: Path, adapters: int, modules: Modules) -> float:
    """Seconds for every module of every adapter, from one module of each shape of one adapter."""
    import torch
    from safetensors import safe_open

    total = 0.0
    with safe_open(path / "adapter_model.safetensors", "pt") as file:
        for name in modules.shapes:
            key = f"{parent(0, name)}.{name}.lora"
            a, b = (file.get_tensor(f"{key}_{factor}.weight").float() for factor in "AB")
            total += seconds(lambda a=a, b=b: torch.linalg.svd(2 * (b @ a), full_matrices=False))
    return total * modules.layers * adapters


def operations(n: int, modules: Modules) -> float:
    """Floating-point operations of all modules, multiplications and additions apart.

    A product of symmetric halves counts once. A singular value decomposition of r x r with vectors counts 22 r^3,
    without 3 r^3, eigenvectors 9 r^3 (Golub & Van Loan 2013); chance draws are counted as the rest is.
    """
    from deltageom.geometry.random_factors import few

    r, k, draws, pairs, total = RANK, TOP_K, few(RANK), n * (n - 1) // 2, 0.0
    for d_out, d_in in modules.shapes.values():
        gram = (d_out + d_in) * n * r * (n * r + 1)
        runs = n * (2 * r**3 + 22 * r**3 + 4 * r**3)  # Cholesky and inverses, core product, its decomposition
        cross = 2 * n * n * 4 * r**3
        angles = pairs * 2 * 3 * k**3
        chance = draws * (n * 13 * r**3 + pairs * (2 * r * r * k + 2 * r * k * k + 3 * k**3))
        total += gram + runs + cross + angles + chance
    return total * modules.layers


def rate() -> float:
    """Operations a second of float64 products, all cores."""
    import numpy as np

    a = np.random.default_rng(0).standard_normal((2000, 2000))
    a @ a
    return 2 * 2000**3 / min(seconds(lambda: a @ a) for _ in range(5))


def read(paths: list[Path]) -> int:
    return sum(len((path / "adapter_model.safetensors").read_bytes()) for path in paths)


STUDY = """
extends: toy
replicates: {{count: 1}}
toy: {{layers: {layers}}}
base: {{layers: {layers}, modules: {modules}}}
training: {{lora: {{rank: {rank}, alpha: {alpha}, target_modules: {modules}}}}}
runs: {{{nulls}, {runs}}}
measures: {{compare_with: run00, geometry: {{top_k: 10, base_rank: null}}}}
"""
TOY_RUNS = ("sft", "sft_seed7", "rft", "dft", "rift", "rift_linear", "offline_grpo", "dpo")


def workflow(adapters: int, modules: Modules, dtype: str) -> None:
    """Seconds of Snakemake as a whole, the rule `geometry` alone allowed, for all adapters but one and for all."""
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as name:
        project = Path(name) / "project"
        project.mkdir()
        for item in ("Snakefile", "config.yaml", "workflow", "envs", "src"):
            (project / item).symlink_to(root / item)
        shutil.copytree(root / "studies", project / "studies")
        runs = project / "results" / "speed" / "runs"
        runs.mkdir(parents=True)
        names = [path.name for path in make(runs, adapters, modules, dtype)]
        for count in (adapters - 1, adapters):
            study = STUDY.format(
                layers=modules.layers,
                modules=json.dumps([f"self_attn.{module}" for module in modules.shapes]),
                rank=RANK,
                alpha=2.0 * RANK,
                nulls=", ".join(f"{run}: null" for run in TOY_RUNS),
                runs=", ".join(f"{run}: {{method: sft}}" for run in names[:count]),
            )
            (project / "studies" / "speed.yaml").write_text(study)
            targets = [
                f"results/speed/geometry/layers.{layer}.self_attn.q_proj.json" for layer in range(modules.layers)
            ]
            command = [sys.executable, "-m", "snakemake", "--cores", str(os.cpu_count()), "--quiet", "all"]
            command += ["--config", "study=speed", "--allowed-rules", "geometry", "--", *targets]
            wall = seconds(lambda command=command: subprocess.run(command, cwd=project, check=True))
            logs = "".join(path.read_text() for path in sorted((project / "results/speed/logs/geometry").glob("*.log")))
            counts = re.findall(r": (\d+) pairs measured, (\d+) kept", logs)
            measured, kept = (sum(int(pair[which]) for pair in counts) for which in (0, 1))
            print(f"{count} runs, {len(counts)} modules: {wall:.1f} s; {measured} pairs measured, {kept} kept")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=6)
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--mlp", action="store_true", help="the modules of the MLP too: seven to a layer, not four")
    parser.add_argument("--tiny", action="store_true", help="2 layers, an eighth as wide: to try it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--workflow", action="store_true")
    arguments = parser.parse_args()
    n, modules = arguments.adapters, Modules(arguments.layers, SHAPES | (MLP if arguments.mlp else {}))
    if arguments.tiny:
        modules = Modules(2, {name: (outputs // 8, inputs // 8) for name, (outputs, inputs) in modules.shapes.items()})
    if arguments.workflow:
        workflow(n, modules, arguments.dtype)
        return
    with tempfile.TemporaryDirectory() as name:
        paths = make(Path(name), n, modules, arguments.dtype)
        size, rounds = read(paths), []
        for _ in range(arguments.rounds):
            ours, memory = compare(paths, Path(name) / "output")
            floor = seconds(lambda: read(paths)) + operations(n, modules) / rate()
            rounds.append({"compare": ours, "MiB": memory, "dense": dense(paths[0], n, modules), "floor": floor})
            print(json.dumps(rounds[-1]), flush=True)
    count = modules.layers * len(modules.shapes)
    print(f"{n} adapters of rank {RANK}, {count} modules, {arguments.dtype}, {size / 2**20:.0f} MiB; ", end="")
    print(f"{operations(n, modules) / 1e9:.0f} GFLOP; {os.cpu_count()} cores; {arguments.rounds} rounds")
    for title, values in {
        "compare (s)": [r["compare"] for r in rounds],
        "its largest process (MiB)": [r["MiB"] for r in rounds],
        "dense, scaled (s)": [r["dense"] for r in rounds],
        "floor (s)": [r["floor"] for r in rounds],
        "dense / compare": [r["dense"] / r["compare"] for r in rounds],
        "compare / floor": [r["compare"] / r["floor"] for r in rounds],
    }.items():
        print(f"{title}: {statistics.median(values):.4g} ({min(values):.4g}-{max(values):.4g})")


if __name__ == "__main__":
    main()
