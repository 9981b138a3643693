"""What an edit reruns: exactly what follows from it, and nothing once it is taken back. The real Snakemake, dry."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file, save_file

from deltageom.study import merge
from tests.conftest import SMOKE, planned

RUNS = ["dpo", "dpo_as_long", "offline_grpo", "rft", "rift", "sft", "whole"]
LAST = {"tables": 1, "figures": 1, "summary": 1, "provenance": 1}
HOLD_ALL_RUNS = {"geometry": 4, **LAST}


def of_runs(runs: list[str], whole: bool = False) -> dict[str, int]:
    """What follows where these runs' adapters are others; `whole`: and the run without one."""
    changed = {*runs, *(["whole"] if whole else [])}
    pairs = [(a, b) for i, a in enumerate(RUNS) for b in RUNS[i + 1 :] if {a, b} & changed]
    counts = {
        "evaluate": len(changed),
        "grade": len(changed),
        "hidden_states": len(changed),
        **dict.fromkeys(("connectivity", "cka"), len({a for a, _ in pairs})),
        **HOLD_ALL_RUNS,
    }
    return counts | ({"train": len(runs)} if runs else {}) | ({"train_whole": 1} if whole else {})


EVERY_RUN = of_runs(["dpo", "dpo_as_long", "offline_grpo", "rft", "rift", "sft"], whole=True)
NEW_DATA = {"reward": 1, "reference": 1, **EVERY_RUN}

Edit = Callable[[Path], None]


def in_study(**changed: Any) -> Edit:
    def edit(project: Path) -> None:
        path = project / "studies" / "smoke.yaml"
        path.write_text(yaml.safe_dump(merge(yaml.safe_load(SMOKE), changed)))

    return edit


def in_file(name: str, text: str = "\n# edited\n") -> Edit:
    """Appends to a file, which is made if there is none."""

    def edit(project: Path) -> None:
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((path.read_bytes() if path.exists() else b"") + text.encode())

    return edit


def source(name: str) -> Edit:
    return in_file(f"src/deltageom/{name}")


def reordered(project: Path) -> None:
    path = project / "studies" / "smoke.yaml"
    path.write_text(yaml.safe_dump(dict(reversed(yaml.safe_load(SMOKE).items())), sort_keys=False))


def renamed(project: Path) -> None:
    tree = yaml.safe_load(SMOKE)
    tree["runs"] |= {"rift": None, "zrift": {"method": "rift"}}
    (project / "studies" / "smoke.yaml").write_text(yaml.safe_dump(tree))


def touched(project: Path) -> None:
    for folder in ("src", "workflow", "studies", "envs"):
        for path in (project / folder).rglob("*"):
            if path.is_file():
                path.touch()


def by_hand(project: Path) -> None:
    """An adapter with another number in it."""
    path = project / "results" / "smoke" / "runs" / "rft" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + 0.01
    save_file(tensors, path, metadata={"format": "pt"})


def without_a_module(project: Path) -> None:
    (project / "results" / "smoke" / "geometry" / "layers.1.self_attn.q_proj.json").unlink()


def without_a_table(project: Path) -> None:
    (project / "results" / "smoke" / "tables" / "cka.csv").unlink()


MATRIX: dict[str, tuple[Edit, dict[str, int]]] = {
    "one run's learning rate": (in_study(runs={"rift": {"learning_rate": 1e-3}}), of_runs(["rift"])),
    "an option of one run's method": (in_study(runs={"rift": {"reward_wrong": -0.1}}), of_runs(["rift"])),
    "a run that another is matched to": (
        in_study(runs={"sft": {"learning_rate": 1e-3}}),
        of_runs(["sft", "dpo_as_long"]),
    ),
    "a new run": (
        in_study(runs={"sft_again": {"method": "sft", "seed": 7}}),
        {"train": 1, "evaluate": 1, "grade": 1, "hidden_states": 1, "connectivity": 7, "cka": 7, **HOLD_ALL_RUNS},
    ),
    "a new seed of A": (
        in_study(runs={"dpo2": {"method": "dpo", "lora": {"init_seed": 7}}}),
        {"train": 1, "evaluate": 1, "grade": 1, "hidden_states": 1, "connectivity": 2, "cka": 2, **HOLD_ALL_RUNS},
    ),
    # the four runs before it by name hold their pair with it in one file with those with the others
    "a removed run": (in_study(runs={"rift": None}), {"connectivity": 4, "cka": 4, **HOLD_ALL_RUNS}),
    # trained again under its new name, and last by name: all six others have their pair with it
    "a renamed run": (
        renamed,
        {"train": 1, "evaluate": 1, "grade": 1, "hidden_states": 1, "connectivity": 6, "cka": 6, **HOLD_ALL_RUNS},
    ),
    "a setting of every run": (in_study(training={"weight_decay": 0.1}), EVERY_RUN),
    "the learning rates' schedule of the study": (in_study(training={"schedule": "linear"}), EVERY_RUN),
    "losses.py, whose reduction every trainer uses": (source("losses.py"), EVERY_RUN),
    "methods/dpo.py": (source("methods/dpo.py"), {**of_runs(["dpo", "dpo_as_long"])}),
    "methods/dft.py, which no run uses": (source("methods/dft.py"), {}),
    "grading.py": (source("grading.py"), {**NEW_DATA, "grade": 8}),
    "second_opinion.py": (source("second_opinion.py"), {**NEW_DATA, "grade": 8}),
    "geometry/measures.py": (source("geometry/measures.py"), HOLD_ALL_RUNS),
    "connectivity.py": (source("connectivity.py"), {"connectivity": 6, **LAST}),
    "representations.py": (source("representations.py"), {"cka": 6, **LAST}),
    "evaluation.py": (source("evaluation.py"), {"evaluate": 8, "grade": 8, **LAST}),
    "engines/vllm.py, which the study does not use": (source("engines/vllm.py"), {}),
    "drawing.py": (source("drawing.py"), {"figures": 1, "summary": 1, "provenance": 1}),
    "figures.py": (source("figures.py"), {"figures": 1, "summary": 1, "provenance": 1}),
    "summary.py": (source("summary.py"), {"summary": 1, "provenance": 1}),
    "README": (in_file("README.md"), {}),
    "a comment in the defaults": (in_file("config.yaml"), {}),
    "a comment in the study": (in_file("studies/smoke.yaml"), {}),
    "a touch of every source": (touched, {}),
    "reordered keys": (reordered, {}),
    "another study": (in_file("studies/other.yaml", "extends: toy\n"), {}),
    "the lock file": (in_file("envs/cpu.txt"), {}),
    "a new measure that no rule uses": (in_file("src/deltageom/measures/new.py", "NUMBER = 1\n"), {}),
    "a new method that no run uses": (in_file("src/deltageom/methods/new_one.py", "FAMILY = 'likelihood'\n"), {}),
    "K of the rollouts": (in_study(rollouts={"samples": 6}), {"rollouts": 1, **NEW_DATA}),
    "the teacher": (in_study(teacher={"documents": 900}), {"teacher": 1, "rollouts": 1, **NEW_DATA}),
    "a benchmark added": (
        in_study(benchmarks={"more": {"source": "embedded", "split": "easy", "limit": 4}}),
        {"problems": 1, "decontaminate": 1, "evaluate": 8, "grade": 8, **LAST},
    ),
    "a benchmark's decoding": (
        in_study(benchmarks={"hard_sampled": {"temperature": 0.9}}),
        {"evaluate": 8, "grade": 8, **LAST},
    ),
    "the overlap of problems": (in_study(decontamination={"words": 8}), {"decontaminate": 1, **LAST}),
    "the declared family": (in_study(statistics={"family": "all"}), LAST),
    "the grid of alpha": (in_study(measures={"connectivity": {"points": 5}}), {"connectivity": 6, **LAST}),
    "top-k": (in_study(measures={"geometry": {"top_k": [2, 3]}}), HOLD_ALL_RUNS),
    "the base's spectrum": (in_study(measures={"geometry": {"base_rank": 48}}), {"base_spectrum": 4, **HOLD_ALL_RUNS}),
    "prompts of CKA": (in_study(measures={"cka": {"prompts": 7}}), {"hidden_states": 7, "cka": 6, **LAST}),
    "the reference run": (in_study(measures={"reference": "rft"}), LAST),
    "held-out prompts": (in_study(reference={"prompts": 5}), {"reference": 1, **EVERY_RUN}),
    "how jobs run": (in_study(execution={"checkpoint_every": 2, "processes": 2, "shard_size": 5}), {}),
    "jobs that share a GPU": (in_study(execution={"jobs_per_gpu": 2}), {}),
    "an adapter edited by hand": (by_hand, {key: n for key, n in of_runs(["rft"]).items() if key != "train"}),
    # what was made of it stands: Snakemake makes a file in between again once a job needs it
    "a module file deleted": (without_a_module, {}),
    "a table deleted": (without_a_table, LAST),
}


@contextmanager
def put_back(project: Path) -> Iterator[None]:
    """Everything as it was, contents and times: as a checkout of the old commit beside untouched results."""
    before = {
        path: (path.read_bytes(), path.stat())
        for folder in (
            "src",
            "workflow",
            "studies",
            "envs",
            "results/smoke/runs",
            "results/smoke/geometry",
            "results/smoke/tables",
        )
        for path in (project / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    } | {project / name: ((project / name).read_bytes(), (project / name).stat()) for name in ("config.yaml",)}
    yield
    for folder in ("src", "studies"):
        for path in (project / folder).rglob("*"):
            if path.is_file() and path not in before and "__pycache__" not in path.parts:
                path.unlink()
    for path, (content, stamp) in before.items():
        results = "results" in path.parts
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)  # a source gets a new time, as an editor's undo gives it
            if results:
                os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


@pytest.mark.parametrize("name", MATRIX)
def test_an_edit_reruns_what_follows_from_it(finished: Path, name: str) -> None:
    edit, expected = MATRIX[name]
    with put_back(finished):
        edit(finished)
        jobs = planned(finished)
    assert jobs == Counter(expected)


def test_with_every_edit_taken_back_nothing_is_to_be_done(finished: Path) -> None:
    """After all edits above, of which each was undone by writing the old text again."""
    assert planned(finished) == Counter()
