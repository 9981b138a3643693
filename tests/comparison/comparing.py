"""What the tests of `deltageom compare` share: the command, edited adapters, dense algebra on the stored tensors."""

import csv
import json
import math
import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.linalg import subspace_angles

from deltageom.cli import main
from tests.conftest import BIN

Array = NDArray[np.float64]
Deltas = dict[str, dict[str, Array]]  # by run, then module
Key = tuple[str, str, str, str, str]  # module, layer or ""; a, b, measure, k as the csv has them
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ANGLES = {"smallest": np.min, "median": np.median, "largest": np.max}


@dataclass(frozen=True)
class Done:
    code: Any
    out: str
    err: str


Compare = Callable[..., Done]


def in_process(capfd: pytest.CaptureFixture[str]) -> Compare:
    """The command in this process, which has torch loaded already; on one process of its own unless told."""

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        given = ["compare", *map(str, arguments)]
        with pytest.raises(SystemExit) as end:
            main.main(given if "--processes" in given else [*given, "--processes", "1"])
        return Done(end.value.code, *capfd.readouterr())

    return run


def command(*arguments: object, **environment: str) -> Done:
    """The command as a user calls it."""
    done = subprocess.run(
        [BIN / "deltageom", "compare", *map(str, arguments)],
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def named(runs: dict[str, Path]) -> list[str]:
    return [f"{name}={folder}" for name, folder in runs.items()]


def edited(
    adapter: Path, folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None, **config: object
) -> Path:
    """A copy of the adapter with its tensors and its configuration changed."""
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(json.loads((adapter / CONFIG).read_text()) | config))
    tensors = load_file(adapter / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    return folder


def modules_of(tensors: Iterable[str]) -> list[str]:
    """What stands before .lora_A.weight."""
    return sorted(name.removesuffix(".lora_A.weight") for name in tensors if ".lora_A" in name)


def each_b(change: Callable[[Array], Array]) -> Callable[[dict[str, Any]], None]:
    def apply(tensors: dict[str, Any]) -> None:
        for module in modules_of(tensors):
            tensors[f"{module}.lora_B.weight"] = change(tensors[f"{module}.lora_B.weight"])

    return apply


def dense(folder: Path, base: Path) -> dict[str, Array]:
    """Each module's delta, from the stored tensors and nothing else."""
    if not (folder / CONFIG).exists():
        run, start = (load_file(of / "model.safetensors") for of in (folder, base))
        names = [name for name in run if ".layers." in name and run[name].ndim == 2]
        return {name[len("model.") : -len(".weight")]: run[name].astype(float) - start[name] for name in names}
    config, tensors = json.loads((folder / CONFIG).read_text()), load_file(folder / WEIGHTS)
    return {
        module.removeprefix("base_model.model.model."): config["lora_alpha"]
        / config["r"]
        * (tensors[f"{module}.lora_B.weight"].astype(float) @ tensors[f"{module}.lora_A.weight"].astype(float))
        for module in modules_of(tensors)
    }


def of_run(delta: Array) -> dict[tuple[str, str], float]:
    """By measure and k."""
    rank = np.linalg.matrix_rank(delta)
    sigma = np.linalg.svd(delta, compute_uv=False)[:rank]
    p, p2 = sigma / sigma.sum(), sigma**2 / (sigma**2).sum()
    found = {
        "norm": np.sqrt((delta**2).sum()),
        "spectral_norm": sigma[0],
        "stable_rank": (delta**2).sum() / sigma[0] ** 2,
        "effective_rank_sigma": np.exp(-(p * np.log(p)).sum()),
        "effective_rank_sigma2": np.exp(-(p2 * np.log(p2)).sum()),
        "rank": rank,
    }
    return {(measure, ""): float(value) for measure, value in found.items()}


def of_pair(one: Array, two: Array, ks: list[int]) -> dict[tuple[str, str], float]:
    inner, norms = (one * two).sum(), (np.linalg.norm(one), np.linalg.norm(two))
    cosine = inner / norms[0] / norms[1]
    (u, _, vt), (u_, _, vt_) = np.linalg.svd(one), np.linalg.svd(two)
    found = {
        ("inner", ""): inner,
        ("cosine", ""): cosine,
        ("coefficient_a_on_b", ""): inner / norms[1] ** 2,
        ("coefficient_b_on_a", ""): inner / norms[0] ** 2,
        ("orthogonal_fraction", ""): np.linalg.norm(two / norms[1] - cosine * one / norms[0]),
        ("u1_overlap", ""): abs(u[:, 0] @ u_[:, 0]),
        ("v1_overlap", ""): abs(vt[0] @ vt_[0]),
    }
    most = min(np.linalg.matrix_rank(one), np.linalg.matrix_rank(two))
    for k in sorted({min(asked, int(most)) for asked in ks}):
        for side, x, y in (("left", u, u_), ("right", vt.T, vt_.T)):
            angles = np.degrees(subspace_angles(x[:, :k], y[:, :k]))
            found |= {(f"{side}_{which}", str(k)): summary(angles) for which, summary in ANGLES.items()}
            found[f"{side}_overlap", str(k)] = np.mean(np.cos(np.radians(angles)) ** 2)
    return {key: float(value) for key, value in found.items()}


def in_modules(deltas: Deltas, modules: list[str], ks: list[int]) -> dict[Key, float]:
    found = {}
    names = sorted(deltas)
    for module in modules:
        for i, a in enumerate(names):
            found |= {(module, a, "", *key): value for key, value in of_run(deltas[a][module]).items()}
            for b in names[i + 1 :]:
                pair = of_pair(deltas[a][module], deltas[b][module], ks)
                found |= {(module, a, b, *key): value for key, value in pair.items()}
    return found


def over_modules(single: dict[Key, float], deltas: Deltas, modules: list[str], place: str) -> dict[Key, float]:
    """Of the deltas stacked to one vector; medians of angles and means of the rest over the modules."""
    groups: dict[tuple[str, str, str, str], list[float]] = {}
    for (module, *key), value in single.items():
        if module in modules:
            groups.setdefault(tuple(key), []).append(value)  # type: ignore[arg-type]
    found: dict[Key, float] = {}
    for (a, b, measure, k), values in groups.items():
        if measure == "cosine" or measure.endswith(("smallest", "median", "largest")):
            found[place, a, b, f"{measure}_median", k] = float(np.median(values))
        elif measure.endswith("overlap") or measure.startswith(("stable", "effective")):
            found[place, a, b, f"{measure}_mean", k] = float(np.mean(values))
    stacked = {run: np.concatenate([deltas[run][module].ravel() for module in modules]) for run in deltas}
    for a in deltas:
        found[place, a, "", "norm", ""] = float(np.linalg.norm(stacked[a]))
    for a, b in {(a, b) for a, b, *_ in groups if b}:
        for (measure, _), value in of_pair_stacked(stacked[a], stacked[b]).items():
            found[place, a, b, measure, ""] = value
        for x, y, name in ((a, b, "b_outside_a"), (b, a, "a_outside_b")):
            rest = [residual(deltas[x][module], deltas[y][module]) for module in modules]
            value = math.hypot(*rest) / float(np.linalg.norm(stacked[y]))
            found[place, a, b, f"orthogonal_fraction_by_module_{name}", ""] = value
    return found


def of_pair_stacked(one: Array, two: Array) -> dict[tuple[str, str], float]:
    inner, norms = one @ two, (np.linalg.norm(one), np.linalg.norm(two))
    return {
        ("inner", ""): float(inner),
        ("cosine", ""): float(inner / norms[0] / norms[1]),
        ("coefficient_a_on_b", ""): float(inner / norms[1] ** 2),
        ("coefficient_b_on_a", ""): float(inner / norms[0] ** 2),
        ("orthogonal_fraction_stacked", ""): residual(one, two) / float(norms[1]),
    }


def residual(x: Array, y: Array) -> float:
    """|y - its projection on x|."""
    return float(np.linalg.norm(y - (x * y).sum() / (x * x).sum() * x))


def read(folder: Path, table: str) -> list[dict[str, str]]:
    with (folder / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def by_key(rows: list[dict[str, str]], place: str = "") -> dict[Key, dict[str, str]]:
    return {(row[place] if place else "", row["a"], row["b"], row["measure"], row["k"]): row for row in rows}


def cells(page: str, first: str) -> list[list[str]]:
    """The cells of the printed rows that begin with `first`."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in page.splitlines() if line.startswith("│")]
    return [row[1:] for row in rows if row[0] == first]


def check(found: dict[Key, dict[str, str]], expected: dict[Key, float]) -> None:
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert float(found[key]["value"]) == pytest.approx(value, rel=1e-9, abs=1e-9), key
        assert found[key]["reason"] == ""
