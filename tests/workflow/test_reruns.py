"""What an edit reruns: exactly what follows from it, and nothing once it is taken back. The real Snakemake, dry."""

import ast
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file, save_file

from deltageom.study.layers import merge
from tests.conftest import FULL, SMOKE, copy_project, planned, snakemake

RUNS = ["dpo", "dpo_as_long", "offline_grpo", "rft", "rift", "sft", "whole"]
LAST = {"tables": 1, "figures": 1, "summary": 1, "provenance": 1, "page": 1}
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
    """Appends to a file, a comment if not told otherwise; it is made if there is none."""

    def edit(project: Path) -> None:
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((path.read_bytes() if path.exists() else b"") + text.encode())

    return edit


def source(name: str) -> Edit:
    """A file of the package does something else."""

    def edit(project: Path) -> None:
        assert (project / "src" / "deltageom" / name).is_file()
        in_file(f"src/deltageom/{name}", "\nEDITED = 1\n")(project)

    return edit


def sources(project: Path) -> list[Path]:
    return sorted((project / "src" / "deltageom").rglob("*.py"))


def commented(project: Path) -> None:
    """A comment in every file of the package."""
    for path in sources(project):
        path.write_text(f"# edited\n{path.read_text()}\n# edited\n")


def reworded(project: Path) -> None:
    """Another docstring in every module, class and function that has one, but the methods' own, which a page quotes."""
    for path in sources(project):
        lines = path.read_text().splitlines()
        found = [node for node in ast.walk(ast.parse("\n".join(lines))) if has_docstring(node)]
        for node in sorted(found, key=lambda node: -node.body[0].lineno):
            if path.parent.name == "methods" and isinstance(node, ast.Module):
                continue
            first = node.body[0]
            lines[first.lineno - 1 : first.end_lineno] = [" " * first.col_offset + '"""Other words."""']
        path.write_text("\n".join(lines))


def has_docstring(node: ast.AST) -> bool:
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None


def reimported(project: Path) -> None:
    """Every module's leading imports in the opposite order, each name by a statement of its own."""
    for path in sources(project):
        text = path.read_text()
        body = [node for node in ast.parse(text).body if getattr(node, "module", "") != "__future__"]
        body = body[1:] if isinstance(body[0], ast.Expr) else body
        imports = body[: next((i for i, node in enumerate(body) if not is_import(node)), len(body))]
        if imports:
            lines = text.splitlines()
            turned = [line for node in reversed(imports) for line in singly(node)]
            lines[imports[0].lineno - 1 : imports[-1].end_lineno] = turned
            path.write_text("\n".join(lines))


def is_import(node: ast.AST) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def singly(node: Any) -> list[str]:
    names = [f"{name.name} as {name.asname}" if name.asname else name.name for name in reversed(node.names)]
    return [
        f"from {node.module} import {name}" if isinstance(node, ast.ImportFrom) else f"import {name}" for name in names
    ]


def reordered(project: Path) -> None:
    path = project / "studies" / "smoke.yaml"
    path.write_text(yaml.safe_dump(dict(reversed(yaml.safe_load(SMOKE).items())), sort_keys=False))


def renamed(project: Path) -> None:
    tree = yaml.safe_load(SMOKE)
    tree["runs"] |= {"rift": None, "zrift": {"method": "rift"}}
    (project / "studies" / "smoke.yaml").write_text(yaml.safe_dump(tree))


def with_another_name(project: Path) -> None:
    path = project / "src" / "deltageom" / "methods" / "dpo.py"
    path.write_text(path.read_text().replace('"""DPO', '"""The well-known DPO', 1))


def with_another_reference(project: Path) -> None:
    path = project / "src" / "deltageom" / "methods" / "dpo.py"
    path.write_text(path.read_text().replace("The reference is the base.", "The base is the reference.", 1))


def touched(project: Path) -> None:
    for folder in ("src", "workflow", "studies", "envs", "results"):
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
    "a comment in every source": (commented, {}),
    "every docstring of the sources": (reworded, {}),
    "the order of all imports": (reimported, {}),
    "the first sentence of a method, by which the summary calls it": (
        with_another_name,
        {"summary": 1, "provenance": 1, "page": 1},
    ),
    "the rest of a method's docstring, which the page shows": (with_another_reference, {"page": 1}),
    "the reduction, which every trainer uses": (source("training/reduction.py"), EVERY_RUN),
    "methods/dpo.py": (source("methods/dpo.py"), {**of_runs(["dpo", "dpo_as_long"])}),
    "methods/dft.py, which no run uses": (source("methods/dft.py"), {}),
    "grading/strict.py": (source("grading/strict.py"), {**NEW_DATA, "grade": 8}),
    "grading/second_opinion.py": (source("grading/second_opinion.py"), {**NEW_DATA, "grade": 8}),
    "geometry/module_numbers.py": (source("geometry/module_numbers.py"), HOLD_ALL_RUNS),
    "measures/shared/losses/barriers.py": (source("measures/shared/losses/barriers.py"), {"connectivity": 6, **LAST}),
    "measures/shared/linear_cka.py": (source("measures/shared/linear_cka.py"), {"cka": 6, **LAST}),
    "evaluation/answer.py": (source("evaluation/answer.py"), {"evaluate": 8, "grade": 8, **LAST}),
    "engines/vllm.py, which the study does not use": (source("generation/engines/vllm.py"), {}),
    "display/drawing.py, which the measures' files import": (source("display/drawing.py"), LAST),
    "report/figures.py": (source("report/figures.py"), {"figures": 1, "summary": 1, "provenance": 1, "page": 1}),
    "report/summary.py": (source("report/summary.py"), {"summary": 1, "provenance": 1, "page": 1}),
    "a style of the page": (in_file("src/deltageom/report/page/assets/page.css", "/* edited */\n"), {"page": 1}),
    "report/page/samples.py": (source("report/page/samples.py"), {"page": 1}),
    "README": (in_file("README.md"), {}),
    "a comment in the defaults": (in_file("config.yaml"), {}),
    "a comment in the study": (in_file("studies/smoke.yaml"), {}),
    "a touch of every source and every result, of whatever size": (touched, {}),
    "reordered keys": (reordered, {}),
    "another study": (in_file("studies/other.yaml", "extends: toy\n"), {}),
    "the lock file": (in_file("envs/cpu.txt"), {}),
    "a new file that no measure uses": (in_file("src/deltageom/measures/shared/new.py", "NUMBER = 1\n"), {}),
    "a new method that no run uses": (in_file("src/deltageom/methods/new_one.py", "FAMILY = 'likelihood'\n"), {}),
    "the grader of the scores": (
        in_study(grading={"primary": "math_verify", "rewards": "strict"}),
        {"grade": 8, **LAST},
    ),
    "the grader of scores and rewards": (in_study(grading={"primary": "math_verify"}), {**NEW_DATA, "grade": 8}),
    "K of the rollouts": (in_study(rollouts={"samples": 6}), {"rollouts": 1, **NEW_DATA}),
    "K of the rollouts, which three jobs share": (
        in_study(rollouts={"samples": 6, "jobs": 3}),
        {"rollouts_part": 3, "rollouts": 1, **NEW_DATA},
    ),
    "the teacher": (in_study(teacher={"documents": 900}), {"teacher": 1, "rollouts": 1, **NEW_DATA}),
    "a benchmark added": (
        in_study(benchmarks={"more": {"source": "toy", "split": "easy", "limit": 4}}),
        {"problems": 1, "decontaminate": 1, "evaluate": 8, "grade": 8, **LAST},
    ),
    "a benchmark added, which two jobs answer for each model": (
        in_study(benchmarks={"more": {"source": "toy", "split": "easy", "limit": 4}}, evaluation={"jobs": 2}),
        {"problems": 1, "decontaminate": 1, "evaluate_part": 16, "evaluate": 8, "grade": 8, **LAST},
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
    "the reference run": (in_study(measures={"compare_with": "rft"}), LAST),
    "held-out prompts": (in_study(reference={"prompts": 5}), {"reference": 1, **EVERY_RUN}),
    "how jobs run": (in_study(execution={"checkpoint_every": 2, "processes": 2, "shard_size": 5}), {}),
    "jobs that share a generation": (in_study(rollouts={"jobs": 3}, evaluation={"jobs": 2}), {}),
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
    try:
        yield
    finally:
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


def test_a_dry_run_names_the_source_that_has_changed(finished: Path) -> None:
    with put_back(finished):
        source("training/reduction.py")(finished)
        done = snakemake(finished, "--dry-run", FULL, "--config", "study=smoke")
        short = snakemake(finished, "--dry-run", "--config", "study=smoke").stdout
    reasons = [line for line in done.stdout.splitlines() if "Params have changed" in line]
    assert len(reasons) == 6  # of the seventh run it says only that it waits for another's norm
    for reason in reasons:
        assert re.findall(r"'(deltageom/.+?) [0-9a-f]{12}'", reason) == ["deltageom/training/reduction.py"] * 2
    (line,) = re.findall(r"^ +5  train  .*$", short, flags=re.MULTILINE)
    assert line.endswith("edited deltageom/training/reduction.py")


def test_a_copy_of_the_project_has_nothing_to_do(finished: Path, tmp_path: Path) -> None:
    """As `cp -r` makes it: all files are new, in no order of their making."""
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy, symlinks=True, copy_function=shutil.copyfile)
    assert (copy / "results/smoke/base/model.safetensors").stat().st_size > 1_000_000
    assert planned(copy) == Counter()


def test_results_moved_into_a_fresh_checkout_are_done(finished: Path, tmp_path: Path) -> None:
    checkout = copy_project(tmp_path / "checkout")
    for path in checkout.rglob("*"):
        if path.is_file():
            path.touch()
    (checkout / "studies" / "smoke.yaml").write_text(SMOKE)
    for name in ("results", ".snakemake"):
        shutil.copytree(finished / name, checkout / name)
    assert planned(checkout) == Counter()


def test_with_every_edit_taken_back_nothing_is_to_be_done(finished: Path) -> None:
    """After all edits above, of which each was undone by writing the old text again."""
    assert planned(finished) == Counter()
