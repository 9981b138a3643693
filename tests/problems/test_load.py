"""Problems from files and hub data sets in the shapes people publish, and every way such a source can be wrong."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from deltageom.errors import UserError
from deltageom.files import write_jsonl
from deltageom.grading import numbers
from deltageom.problems.load import load_problems
from deltageom.study.schema import Dataset
from tests.conftest import BIN, ROOT

CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())
DATA = ROOT.parent / "shared" / "data"


def dataset(path: Path | None = None, **keys: Any) -> Dataset:
    return Dataset(**{**CONFIG["dataset"], "path": str(path) if path else None, **keys})


def write(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "set.jsonl"
    write_lines(path, list(rows))
    return path


def write_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_array(path: Path, rows: list[Any]) -> None:
    path.write_text(json.dumps(rows, indent=1))


def write_parquet(path: Path, rows: list[Any]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)


WRITERS: dict[str, Callable[[Path, list[Any]], None]] = {
    ".jsonl": write_lines,
    ".json": write_array,
    ".parquet": write_parquet,
}


def documented() -> list[Any]:
    """Every data set in the YAML blocks of docs/data.md."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
    found = []
    for block in map(yaml.safe_load, blocks):
        sets = [block["problems"]] if "problems" in block else list(block.get("benchmarks", {}).values())
        found += [pytest.param(keys, id=f"{keys['source']}-{Path(keys['path']).name}") for keys in sets]
    return found


# Invented problems in the published shapes: the hub's files by their path in the repository, the card's configurations,
# and what must come out of them as (id, answer).
GSM8K = [
    {"question": "Ann has 1,000 pens and buys 42. How many?", "answer": "1000+42=<<1000+42=1042>>1042\n#### 1,042"},
    {"question": "Bo owes 3 dollars and has none. What is he worth?", "answer": "0-3=<<0-3=-3>>-3\n#### -3"},
]
DEEPSCALER = [
    {"problem": "What is one half?", "answer": "\\frac{1}{2}", "solution": "So \\boxed{\\frac{1}{2}}."},
    {"problem": "What is the root of two?", "answer": "\\sqrt{2}", "solution": ""},
    {"problem": "What is lost?", "answer": "", "solution": "None."},
    {"problem": "What is 2+2?", "answer": "4", "solution": ""},
]
AIME24 = [{"id": 60, "problem": "p", "solution": "\\boxed{204}", "url": "u"}]
AIME25 = [{"problem": "p", "answer": "70", "id": "0"}, {"problem": "q", "answer": "588", "id": "1"}]
AIME26 = [{"id": 1, "problem": "p", "answer": 277}, {"id": 2, "problem": "q", "answer": 0}]
MATH500 = [
    {
        "problem": "What is a third?",
        "solution": "It is $\\boxed{\\frac13}$.",
        "answer": "\\frac{1}{3}",
        "subject": "Algebra",
        "level": 2,
        "unique_id": "test/algebra/1.json",
    },
    {
        "problem": "What is i?",
        "solution": "It is $\\boxed{i}$.",
        "answer": "i",
        "subject": "Algebra",
        "level": 5,
        "unique_id": "test/algebra/2.json",
    },
]
HUB: dict[str, tuple[dict[str, list[Any]], str, list[tuple[str, str]]]] = {
    "agentica-org/DeepScaleR-Preview-Dataset": (
        {"deepscaler.json": DEEPSCALER},
        "",
        [("1", "\\frac{1}{2}"), ("4", "4")],
    ),
    "openai/gsm8k": (
        {
            "main/train-00000-of-00001.parquet": GSM8K,
            "main/test-00000-of-00001.parquet": GSM8K,
            "socratic/train-00000-of-00001.parquet": GSM8K[:1],
        },
        "configs:\n- config_name: main\n  data_files:\n  - {split: train, path: main/train-*}\n"
        "  - {split: test, path: main/test-*}\n"
        "- config_name: socratic\n  data_files:\n  - {split: train, path: socratic/train-*}\n",
        [("1", "1,042"), ("2", "-3")],
    ),
    "math-ai/aime24": ({"test-00000-of-00001.parquet": AIME24}, "", [("60", "204")]),
    "math-ai/aime25": ({"test.jsonl": AIME25}, "", [("0", "70"), ("1", "588")]),
    "math-ai/aime26": (
        {"aime2026.jsonl": AIME26},
        "configs:\n- config_name: default\n  data_files:\n  - {split: test, path: aime2026.jsonl}\n",
        [("1", "277"), ("2", "0")],
    ),
    "HuggingFaceH4/MATH-500": ({"test.jsonl": MATH500}, "", [("test/algebra/1.json", "\\frac{1}{3}")]),
}
FILES: dict[str, tuple[list[Any], list[tuple[str, str]]]] = {
    "deepscaler.json": (DEEPSCALER, [("1", "\\frac{1}{2}"), ("4", "4")]),
    "gsm8k_train.jsonl": (GSM8K, [("1", "1,042"), ("2", "-3")]),
    "gsm8k_test.jsonl": (GSM8K, [("1", "1,042"), ("2", "-3")]),
    "aime_2024.jsonl": ([{"id": "aime2024-01", "problem": "p", "answer": 204}], [("aime2024-01", "204")]),
    "aime_2025.jsonl": ([{"id": "aime2025-01", "problem": "p", "answer": 70}], [("aime2025-01", "70")]),
    "aime_2026.jsonl": ([{"id": "aime2026-01", "problem": "p", "answer": 277}], [("aime2026-01", "277")]),
    "test-00000-of-00001.parquet": (AIME24, [("60", "204")]),
    "math_500.jsonl": (MATH500, [("1", "\\frac{1}{3}")]),
}


@pytest.mark.parametrize("keys", [p for p in documented() if p.values[0]["source"] == "hub"])
def test_documented_hub_data_set_loads_in_its_published_shape(
    keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    files, configurations, expected = HUB[keys["path"]]
    folder = tmp_path / "repository"
    for name, rows in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        WRITERS[Path(name).suffix](folder / name, rows)
    if configurations:
        (folder / "README.md").write_text(f"---\n{configurations}---\n")
    given = dataset(**{**keys, "path": str(folder)})
    found = load_problems(given, seed=0)
    assert [(p.id, p.answer) for p in found] == expected
    rows = next(iter(files.values()))
    assert {p.question for p in found} <= {row[given.question_field] for row in rows}
    if given.solution_field:
        assert [p.solution for p in found] == [row[given.solution_field] for row in rows]


@pytest.mark.parametrize("keys", [p for p in documented() if p.values[0]["source"] == "file"])
def test_documented_file_loads_in_its_published_shape(keys: dict[str, Any], tmp_path: Path) -> None:
    name = Path(keys["path"]).name
    rows, expected = FILES[name]
    WRITERS[Path(name).suffix](tmp_path / name, rows)
    found = load_problems(dataset(**{**keys, "path": str(tmp_path / name)}), seed=0)
    assert [(p.id, p.answer) for p in found] == expected


SIZES = {"gsm8k_train": 7473, "gsm8k_test": 1319, "aime_2024": 30, "aime_2025": 30, "aime_2026": 30, "math_500": 400}


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data files are not beside this checkout")
@pytest.mark.parametrize("keys", [p for p in documented() if (DATA / Path(p.values[0]["path"]).name).is_file()])
def test_documented_file_loads_from_the_real_data(keys: dict[str, Any]) -> None:
    path = DATA / Path(keys["path"]).name
    found = load_problems(dataset(**{**keys, "path": str(path)}), seed=0)
    assert len(found) == SIZES[path.stem]  # what docs/data.md says; of MATH-500, what the strict grader reads
    if path.stem.startswith("aime"):
        assert all((answer := numbers.parse(p.answer)) is not None and 0 <= answer <= 999 for p in found)


@pytest.mark.parametrize("bad", ["error", "drop"])
def test_symbolic_answers_stay_where_math_verify_grades(tmp_path: Path, bad: str) -> None:
    rows = [row | {"question": row["problem"]} for row in DEEPSCALER]
    write_jsonl(tmp_path / "a.jsonl", rows if bad == "drop" else [row for row in rows if row["answer"]])
    given = dataset(**CONFIG["dataset"] | {"path": str(tmp_path / "a.jsonl"), "bad_answers": bad})
    kept = [problem.answer for problem in load_problems(given, seed=0, grader="math_verify")]
    assert kept == ["\\frac{1}{2}", "\\sqrt{2}", "4"]
    if bad == "error":
        with pytest.raises(UserError, match=r"'\\\\sqrt\{2\}' is no rational number.*or grading.primary: math_verify"):
            load_problems(given, seed=0)


@pytest.mark.parametrize("text", ["6xy", "10 squared", "0,125", "70, 110", "x = 5", "2 or 3", r"5\pi"])
def test_an_expression_is_no_gold_of_the_strict_grader(tmp_path: Path, text: str) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": text}, {"question": "r", "answer": "10^2"}])
    given = dataset(**CONFIG["dataset"] | {"path": str(tmp_path / "a.jsonl"), "bad_answers": "drop"})
    assert [problem.answer for problem in load_problems(given, seed=0)] == ["10^2"]


def test_every_documented_set_is_tested() -> None:
    named = [p.values[0] for p in documented()]
    assert {keys["path"] for keys in named if keys["source"] == "hub"} == set(HUB)
    assert {Path(keys["path"]).name for keys in named if keys["source"] == "file"} == set(FILES)


def test_a_hub_id_that_cannot_be_had_is_one_line_that_says_what_would_do(tmp_path: Path) -> None:
    hub = CONFIG["dataset"] | {"source": "hub", "path": "nobody/no-such-set"}
    settings = {"dataset": hub, "grader": None, "seed": 0, "world": CONFIG["toy"]["world"]}
    done = subprocess.run(
        [BIN / "deltageom", "problems", "--settings", json.dumps(settings), "--output", tmp_path / "out.jsonl"],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "'nobody/no-such-set'" in line
    assert "source: file" in line
    assert "path:" in line
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"config": "mian"}, "'mian' not found. Available: \\['main', 'socratic'\\]: correct config"),
        ({"config": None}, "Config name is missing"),
        ({"config": "main", "split": "dev"}, "Unknown split \"dev\". Should be one of \\['train', 'test'\\]"),
    ],
)
def test_a_wrong_configuration_or_split_lists_what_there_is(
    keys: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    files, configurations, _ = HUB["openai/gsm8k"]
    for name, rows in files.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        write_parquet(tmp_path / "set" / name, rows)
    (tmp_path / "set" / "README.md").write_text(f"---\n{configurations}---\n")
    with pytest.raises(UserError, match=says) as caught:
        load_problems(dataset(tmp_path / "set", source="hub", answer_after="####", **keys), seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", WRITERS)
def test_a_file_is_read_by_its_ending(tmp_path: Path, ending: str) -> None:
    rows = [{"question": f"{i} and {i}?", "answer": str(2 * i), "why": None if i else "because"} for i in range(7)]
    WRITERS[ending](tmp_path / f"set{ending}", rows)
    found = load_problems(dataset(tmp_path / f"set{ending}", solution_field="why"), seed=0)
    assert [(p.id, p.question, p.answer) for p in found] == [
        (str(i + 1), f"{i} and {i}?", str(2 * i)) for i in range(7)
    ]
    assert [p.solution for p in found] == ["because", *[None] * 6]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("set.csv", "question,answer\nq,1\n", "ends in .csv; rows are read from .jsonl, .json and .parquet"),
        ("set", "", "ends in nothing; rows are read from"),
        ("set.json", '{"question": "q"}\n{"question": "r"}\n', "not JSON .* name it .jsonl"),
        ("set.json", '{"question": "q"}', "not an array of objects but a dict"),
        ("set.json", '[{"question": "q", "answer": 1}, 2]', "entry 2: not an object but a int"),
        ("set.jsonl", '[{"question": "q"}]', "set.jsonl:1: not a JSON object but a list"),
        ("set.parquet", "version https://git-lfs.github.com/spec/v1\n", "not a parquet file"),
    ],
)
def test_a_file_that_is_not_what_its_ending_says(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=says):
        load_problems(dataset(tmp_path / name), seed=0)


def test_reading_problems_needs_no_pyarrow() -> None:
    """The Snakemake process imports this module, and reads the study's jsonl files, on every start."""
    code = (
        "import sys; from deltageom.problems import load; print(*{'pyarrow', 'pandas', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([BIN / "python", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_a_boxed_answer_is_what_its_box_holds(tmp_path: Path) -> None:
    rows = [
        {"question": "q", "answer": "\\boxed{\\frac{1}{2}}"},
        {"question": "q", "answer": "First \\boxed{3}, no: $\\boxed{ 1,234 }$."},
    ]
    assert [p.answer for p in load_problems(dataset(write(tmp_path, *rows)), seed=0)] == ["\\frac{1}{2}", "1,234"]


def test_limit_takes_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, *({"question": str(i), "answer": i} for i in range(9)))
    assert [p.question for p in load_problems(dataset(path, limit=3), seed=0)] == ["0", "1", "2"]


GOOD = {"question": "q", "answer": 1}


@pytest.mark.parametrize(
    ("rows", "keys", "says"),
    [
        ([GOOD, {"question": "q", "answer": None}], {}, "problem 2: there is no answer"),
        ([GOOD, {"question": "q", "answer": " "}], {}, "problem 2: there is no answer"),
        ([{"question": "q", "gold": 1}], {}, "problem 1: no field 'answer'; it has question, gold"),
        ([{"question": "q", "answer": "18"}], {"answer_after": "####"}, "problem 1: there is no answer"),
        ([{"question": "q", "answer": "many"}], {}, "'many' is no rational number"),
        ([{"question": "q", "answer": "\\boxed{7"}], {}, "there is no answer"),
        ([{"prompt": "q", "answer": 1}], {}, "no field 'question'; it has prompt, answer"),
        ([{"question": "", "answer": 1}], {}, "field 'question' is empty"),
        ([{"question": "half \ud835", "answer": 1}], {}, "field 'question' has half of a surrogate pair"),
        ([GOOD | {"id": 7}, GOOD | {"id": 7}], {"id_field": "id"}, "problem 2: id '7' was there before"),
        ([GOOD | {"id": None}], {"id_field": "id"}, "problem 1: field 'id' is empty"),
        ([], {}, "no problem is left"),
        (
            [{"question": "q", "answer": "x"}],
            {"bad_answers": "drop"},
            "1 without a usable answer in field 'answer' were dropped",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, rows: list[Any], keys: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        load_problems(dataset(write(tmp_path, *rows), **keys), seed=0)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.jsonl: no such file"):
        load_problems(dataset(tmp_path / "gone.jsonl"), seed=0)


def test_dropped_answers_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, GOOD, {"question": "q", "answer": "\\sqrt{2}"})
    assert len(load_problems(dataset(path, bad_answers="drop"), seed=0)) == 1
    assert "dropped 1 problems without a usable answer, kept 1" in capsys.readouterr().out


def test_toy_splits() -> None:
    found = load_problems(dataset(source="toy", split="hard", limit=5), seed=0)
    assert len(found) == 5
    assert all(problem.solution for problem in found)
