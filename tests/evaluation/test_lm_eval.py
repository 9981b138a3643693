"""Graded records in lm-evaluation-harness's sample-log shape."""

import hashlib
import json
import subprocess
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from deltageom.errors import UserError
from deltageom.evaluation import lm_eval
from deltageom.files import write_jsonl
from tests.conftest import BIN

# What lm-eval 0.4.13 itself wrote (EvaluationTracker.save_results_samples, hashes by its hash_string and its
# handle_non_serializable) for samples of these texts, once with one response a request and once with two.
WRITTEN_ONE = (
    '{"doc_id": 0, "doc": {"problem_id": "a", "question": "q", "answer": "1/2"}, "target": "1'
    '/2", "arguments": {"gen_args_0": {"arg_0": "p", "arg_1": {"until": []}}}, "resps": [["##'
    '## 1/2"]], "filtered_resps": ["1/2"], "filter": "strict", "metrics": ["exact_match"], "d'
    'oc_hash": "4eb0e2689db57ab1ea39d0c3ebd9b97ee44990480922d1967ecb9c06068fd090", "prompt_ha'
    'sh": "148de9c5a7a44d19e56cd9ae1a554bf67847afb0c58f6e12fa29ac7ddfca9940", "target_hash": '
    '"d939926f05444b0f4495fb9629ecbfa80d99a8ec1a20d06800ca5a3d5f4fd276", "exact_match": 1.0}\n'
    '{"doc_id": 1, "doc": {"problem_id": "b", "question": "r", "answer": "2"}, "target": "2",'
    ' "arguments": {"gen_args_0": {"arg_0": "s", "arg_1": {"until": []}}}, "resps": [["?"]], '
    '"filtered_resps": ["[invalid]"], "filter": "strict", "metrics": ["exact_match"], "doc_ha'
    'sh": "7a3debf01cbfc8b3cfe2431e73c4ec85b1f25a333a17502632275a10ebf46335", "prompt_hash": '
    '"043a718774c572bd8a25adbeb1bfcd5c0256ae11cecf9f9c3f925d0e52beaf89", "target_hash": "d473'
    '5e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35", "exact_match": 0.0}\n'
)
WRITTEN_TWO = (
    '{"doc_id": 0, "doc": {"problem_id": "é1", "question": "Wie viel ist 3 + 4?\\nSag \\"x\\".",'
    ' "answer": "7"}, "target": "7", "arguments": {"gen_args_0": {"arg_0": "<user>Wie viel?\\n'
    '<assistant>", "arg_1": {"until": []}}}, "resps": [["So \\\\boxed{7}", "Nichts."]], "filter'
    'ed_resps": [["7", "[invalid]"]], "filter": "strict", "metrics": ["exact_match"], "doc_ha'
    'sh": "3afa9bb5bf9e5fef60dbd86e44c95430c77b05bf54f04dc01fa5be622ca30235", "prompt_hash": '
    '"c097e58399ae30566202953deb2c3cd1e1e486c2adcc75907ee8eef7bfcb2972", "target_hash": "7902'
    '699be42c8a8e46fbbb4501726517e86b22c56a189f7625a6da49081b2451", "exact_match": 0.5}\n'
)


def record(problem: str = "a", sample: int = 0, **fields: Any) -> dict[str, Any]:
    defaults = {
        "question": "q",
        "prompt": "p",
        "response": "#### 1/2",
        "gold": "1/2",
        "finish_reason": "stop",
        "length": 4,
        "log_prob": -1.5,
        "extracted": "1/2",
        "correct": True,
        "reason": "correct",
        "math_verify": None,
        "math_verify_failure": "timeout",
    }
    return {"problem_id": problem, "sample": sample, **defaults, **fields}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


UNANSWERED = {"extracted": None, "correct": False, "reason": "no answer"}
ONE = [record(), record("b", question="r", prompt="s", response="?", gold="2", **UNANSWERED)]
ODD = {"question": 'Wie viel ist 3 + 4?\nSag "x".', "prompt": "<user>Wie viel?\n<assistant>", "gold": "7"}
TWO = [
    record("é1", 1, response="Nichts.", **ODD, **UNANSWERED),
    record("é1", 0, response="So \\boxed{7}", extracted="7", **ODD),
]


@pytest.mark.parametrize(("records", "written"), [(ONE, WRITTEN_ONE), (TWO, WRITTEN_TWO)])
def test_the_bytes_are_those_of_lm_evals_own_writer(tmp_path: Path, records: list[Any], written: str) -> None:
    write_jsonl(tmp_path / "samples.jsonl", lm_eval.samples(records))
    assert (tmp_path / "samples.jsonl").read_text(encoding="utf-8") == written


def test_samples_of_a_problem_are_one_line_with_their_mean() -> None:
    right = [[True, False, False, True], [False] * 4, [True] * 4]
    records = [
        record(str(problem), sample, response=f"{problem}.{sample}", correct=right[problem][sample])
        for sample in (2, 0, 3, 1)  # in whatever order they stand
        for problem in range(3)
    ]
    found = lm_eval.samples(records)
    assert [line["doc_id"] for line in found] == [0, 1, 2]
    assert [line["resps"] for line in found] == [[[f"{p}.{s}" for s in range(4)]] for p in range(3)]
    assert [line["filtered_resps"] for line in found] == [[["1/2"] * 4]] * 3
    assert [line["exact_match"] for line in found] == [0.5, 0.0, 1.0]


def test_hashes_tell_documents_apart() -> None:
    a, b = lm_eval.samples([record("a"), record("b", question="other")])
    assert a["doc_hash"] != b["doc_hash"]
    assert a["prompt_hash"] == b["prompt_hash"] == hashlib.sha256(b"p").hexdigest()
    assert a["target_hash"] == hashlib.sha256(b"1/2").hexdigest()
    shown = '{\n  "problem_id": "a",\n  "question": "q",\n  "answer": "1/2"\n}'
    assert a["doc_hash"] == hashlib.sha256(shown.encode()).hexdigest()


def test_datasets_loads_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_jsonl(tmp_path / "samples.jsonl", lm_eval.samples(TWO))
    (row,) = datasets.load_dataset("json", data_files=str(tmp_path / "samples.jsonl"), split="train")
    assert row["arguments"]["gen_args_0"]["arg_0"] == ODD["prompt"]
    assert row["resps"] == [["So \\boxed{7}", "Nichts."]]


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([record(), record()], "problem 'a', sample 0: two records"),
        ([record(), record(sample=1, gold="3")], "problem 'a', sample 1: another gold than"),
        ([record(), record(sample=1, prompt="P")], "problem 'a', sample 1: another prompt than"),
        ([record(), record(sample=1, question="Q")], "problem 'a', sample 1: another question than"),
    ],
)
def test_records_of_several_evaluations_are_an_error(records: Iterable[dict[str, Any]], says: str) -> None:
    with pytest.raises(UserError, match=says):
        lm_eval.samples(records)


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([], "holds no records"),
        ([record(), {"problem_id": "b"}], "record 2: sample is missing or of a wrong type: give the graded records"),
        ([{k: v for k, v in record().items() if k != "correct"}], "record 1: correct is missing"),
        ([record(extracted=7)], "record 1: extracted is missing or of a wrong type"),
        ([record(response=None)], "record 1: response is missing or of a wrong type"),
    ],
)
def test_a_record_that_is_not_graded_is_named(tmp_path: Path, records: list[Any], says: str) -> None:
    write_jsonl(tmp_path / "easy.jsonl", records)
    with pytest.raises(UserError, match=says):
        lm_eval.read(tmp_path / "easy.jsonl")


def export(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "deltageom", "export-samples", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_the_command_writes_a_folder_a_model_and_a_file_a_task(tmp_path: Path) -> None:
    for model in ("base", "sft-lr0.1"):
        write_jsonl(tmp_path / "graded" / model / "aime.26.jsonl", ONE)
    before = datetime.now()
    done = export("graded/base/aime.26.jsonl", "graded/sft-lr0.1/aime.26.jsonl", "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    paths = sorted((tmp_path / "out").glob("*/*"))
    assert [path.parent.name for path in paths] == ["base", "sft-lr0.1"]
    for path in paths:
        # as lm-eval's get_file_task_name and get_file_datetime take such a name apart
        name = path.name
        assert name.startswith("samples_")
        assert ":" not in name
        assert name[name.find("_") + 1 : name.rfind("_")] == "aime_26"
        date, clock = name[name.rfind("_") + 1 :].removesuffix(".jsonl").split("T")
        assert before <= datetime.fromisoformat(f"{date}T{clock.replace('-', ':')}") <= datetime.now()
        assert path.read_text() == WRITTEN_ONE


def test_the_command_in_one_models_folder_names_the_task(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_jsonl(tmp_path / "m" / f"{name}.jsonl", ONE)
    done = export("x.jsonl", "--task", "my task", "--output", "out", cwd=tmp_path / "m")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "m" / "out" / "m").glob("samples_my_task_*.jsonl")
    assert lines(path)[1]["doc"] == {"problem_id": "b", "question": "r", "answer": "2"}
    done = export("x.jsonl", "y.jsonl", "--task", "t", "--output", "both", cwd=tmp_path / "m")
    assert done.returncode == 1
    assert "x.jsonl and y.jsonl would both be" in done.stderr
    (tmp_path / "file").write_text("")
    done = export("m/x.jsonl", "--output", "file", cwd=tmp_path)
    assert "--output file is a file: give a folder" in done.stderr
