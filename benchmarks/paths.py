"""A point of a path between two updates: the model weighed in place, against a model that is merged for each point.

    python -m benchmarks.paths --size 2m 100m --rounds 5

What a user would do is to load the base, add both adapters by their weights, merge them and take the loss. Both take
the loss of the same texts, and their losses have to agree. Every round takes the same points with both in turn.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import shapes
from benchmarks.tables import markdown, ratio

TEXTS, PROMPT, ANSWER, BATCH = 16, 24, 40, 16
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
OURS, MERGED = "weighed in place", "merged for each point"


def contenders(folder: Path, size: str, device: str) -> dict[str, Callable[[float], float]]:
    """By name the loss at a point, the weight of the first of two random adapters."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from deltageom.measures.shared.losses.loss_paths import losses_by_problem
    from deltageom.measures.shared.losses.own_answers import Text
    from deltageom.measures.shared.losses.weighted_deltas import WeightedDeltas
    from deltageom.study.schema import Base

    shapes.save(folder / "base", size, device)
    for name, rank in (("a", 32), ("b", 16)):  # of another rank, so that they are not the same
        shapes.save_adapter(folder / name, size, rank)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, shapes.vocabulary(size), (TEXTS, PROMPT + ANSWER), generator=generator).tolist()
    texts = [Text(str(i), row[:PROMPT], row[PROMPT:]) for i, row in enumerate(ids)]
    modules = [f"self_attn.{name}_proj" for name in "qkvo"]
    settings = Base(
        model="random", revision=None, layers=shapes.layers(size), modules=modules, dtype=shapes.dtype(device),
        attention="sdpa", trust_remote_code=False,
    )  # fmt: skip
    deltas = WeightedDeltas(str(folder / "base"), settings, device)
    for name in ("a", "b"):
        deltas.add(name, folder / name)

    def loss(model: object) -> float:
        return sum(nll for nll, _ in losses_by_problem(model, texts, BATCH).values())

    def ours(alpha: float) -> float:
        return loss(deltas.weigh({"a": alpha, "b": 1.0 - alpha}))

    def merged(alpha: float) -> float:
        base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=getattr(torch, shapes.dtype(device)))
        model = PeftModel.from_pretrained(base.to(device), folder / "a", adapter_name="a")
        model.load_adapter(folder / "b", "b")
        model.add_weighted_adapter(["a", "b"], [alpha, 1.0 - alpha], "point", combination_type="cat")
        model.set_adapter("point")
        return loss(model.merge_and_unload().eval())

    return {OURS: ours, MERGED: merged}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=shapes.SIZES, default=["2m"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    rows = [("size", "a point is", "points / s", "ratio (range)")]
    for size in given.size:
        with tempfile.TemporaryDirectory() as folder:
            found = contenders(Path(folder), size, given.device)
            losses = {name: [at(alpha) for alpha in ALPHAS] for name, at in found.items()}  # and warm
            for one, other in zip(*losses.values(), strict=True):
                assert abs(one - other) < 1e-3 * abs(other), losses
            speeds: dict[str, list[float]] = {name: [] for name in found}
            for _ in range(given.rounds):
                for name, at in found.items():
                    started = time.perf_counter()
                    for alpha in ALPHAS:
                        at(alpha)
                    speeds[name].append(len(ALPHAS) / (time.perf_counter() - started))
        for name, values in speeds.items():
            against = "1" if name == MERGED else ratio(values, speeds[MERGED])
            rows.append((size, name, f"{statistics.median(values):.2f}", against))
    print(markdown(rows))


if __name__ == "__main__":
    main()
