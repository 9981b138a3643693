"""Answer a finished study's benchmarks with another engine: which verdicts differ from the study's own?

    .venv-vllm/bin/python benchmarks/verdicts.py results/toy --engine vllm

Greedy and sampled answers alike, since both engines draw the same tokens from the same log-probs. Each model is
answered by `deltageom evaluate`, as the workflow does, from the settings in its provenance, and graded by the strict
grader. A differing answer is shown from the first character that differs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from deltageom.files import read_jsonl
from deltageom.grading import strict


def answered(results: Path, model: str, engine: str, folder: Path) -> list[str]:
    """Writes `folder`/<model>/<benchmark>.jsonl and returns the benchmarks' names."""
    settings = json.loads((results / "provenance" / "evaluate" / f"{model}.json").read_text())["settings"]
    settings["evaluation"]["engine"] = engine
    settings["vllm"]["eager"] = True
    command = [sys.executable, "-m", "deltageom", "evaluate", "--settings", json.dumps(settings)]
    command += ["--base", str(results / "base"), "--output", folder / model, "--scratch", folder / "scratch"]
    if model != "base":
        command += ["--adapter", results / "runs" / model]
    for name in settings["decodings"]:
        command += ["--benchmark", f"{name}={results / 'problems' / name}.jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return list(settings["decodings"])


def shown(one: str, other: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    start = max(0, at - 20)
    return f"{one[start : at + 30]!r} against {other[start : at + 30]!r}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results/<study> of a study with the toy base")
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="vllm")
    given = parser.parse_args()
    models = sorted(path.stem for path in (given.results / "provenance" / "evaluate").glob("*.json"))
    items, other_text, other_verdict = 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        for model in models:
            for benchmark in answered(given.results, model, given.engine, Path(name)):
                theirs: list[dict[str, Any]] = read_jsonl(given.results / "graded" / model / f"{benchmark}.jsonl")
                ours = read_jsonl(Path(name) / model / f"{benchmark}.jsonl")
                for one, other in zip(theirs, ours, strict=True):
                    assert one["prompt"] == other["prompt"]
                    items += 1
                    if one["response"] == other["response"]:
                        continue
                    other_text += 1
                    verdict = strict.grade(other["response"], other["gold"]).correct
                    other_verdict += verdict != one["correct"]
                    say = "other verdict" if verdict != one["correct"] else "same verdict"
                    print(
                        f"{model}, {benchmark}, {one['problem_id']}: {say}: {shown(one['response'], other['response'])}"
                    )
    print(
        f"{len(models)} models, {items} answers, {given.engine} against the study's engine: {other_text} other "
        f"texts, {other_verdict} other verdicts"
    )


if __name__ == "__main__":
    main()
