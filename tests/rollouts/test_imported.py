"""Rollouts from a file: what comes out is what stands in it, in the base's tokens; everything wrong is named."""

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deltageom.errors import UserError
from deltageom.models.load import load_tokenizer
from deltageom.models.prompts import VOCABULARY, Tokenizer, vocabulary_digest
from deltageom.problems.problem import Problem, write_problems
from deltageom.rollouts import completions, imported
from deltageom.study.schema import Base, Prompt, Rollouts
from deltageom.study.settings import ImportSettings
from tests.conftest import BIN

PROBLEMS = [
    Problem("b", "Ana has 12 pens.", "12", None),
    Problem("a", "Tom has 3 apples and buys 4.", "7", None),
]
ROLLOUTS = Rollouts(
    generator="base",
    file="rollouts.jsonl",
    engine="transformers",
    samples=3,
    temperature=1.0,
    top_p=1.0,
    top_k=0,
    max_tokens=12,
    thinking=None,
    batch_size=4,
    seed=1,
)


@pytest.fixture(scope="module")
def settings(base_settings: Base, prompt: Prompt) -> ImportSettings:
    return ImportSettings(rollouts=ROLLOUTS, prompt=prompt, base=base_settings)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path, base_settings: Base) -> Tokenizer:
    return load_tokenizer(str(tiny_model), base_settings)


def row(problem: Any, response: Any = "So \\boxed{7}", **fields: Any) -> dict[str, Any]:
    return {"problem_id": problem, "response": response, **fields}


def file(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "rollouts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, samples: int = 3) -> list[tuple[str, str]]:
    return [(rollout.problem_id, rollout.response) for rollout in imported.read(path, PROBLEMS, samples)]


def written(
    path: Path, tokenizer: Tokenizer, settings: ImportSettings, ends: tuple[int, ...] = ()
) -> list[dict[str, Any]]:
    output = path.parent / "completions.parquet"
    imported.write(
        imported.read(path, PROBLEMS, 3), PROBLEMS, tokenizer, (tokenizer.eos_token_id, *ends), settings, output
    )
    rows: list[dict[str, Any]] = pq.read_table(output).to_pylist()
    return rows


def test_rows_stand_by_problem_then_by_sample(tmp_path: Path) -> None:
    path = file(tmp_path, row("a", "x", sample=7), row("b", "y"), row("a", "z", sample=2), row("b", "w"))
    assert read(path) == [("b", "y"), ("b", "w"), ("a", "z"), ("a", "x")]


def test_ids_may_be_numbers_and_parquet_holds_the_same(tmp_path: Path) -> None:
    rows = [row(2, "two", finish_reason="length"), row(1, "one"), row(1, "uno")]
    problems = [Problem("1", "q", "1", None), Problem("2", "q", "1", None)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rollouts.parquet")
    found = imported.read(file(tmp_path, *rows), problems, 2)
    assert [(r.problem_id, r.response, r.finish_reason) for r in found] == [
        ("1", "one", "stop"),
        ("1", "uno", "stop"),
        ("2", "two", "length"),
    ]
    again = imported.read(tmp_path / "rollouts.parquet", problems, 2)
    assert [vars(r) | {"place": ""} for r in again] == [vars(r) | {"place": ""} for r in found]


def test_what_is_fewer_or_not_used_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file(tmp_path, row("a"), row("a"), row("b", finish_reasons="length", z=1), row("a"))
    read(path)
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: 1 of 2 problems have fewer than 3 rollouts",
        f"{path}: fields that are not used: 'finish_reasons', 'z'",
    ]


def test_rollouts_of_dropped_problems_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file(tmp_path, row("a"), row("gone"), row("b"), row("gone"))
    made = imported.read(path, PROBLEMS, 3, {"gone"})
    assert [rollout.problem_id for rollout in made] == ["b", "a"]
    assert "2 rollouts of problems that decontamination dropped are left out" in capsys.readouterr().out
    with pytest.raises(UserError, match="1 problem ids are none of the 2 training problems', the first 'gone'"):
        imported.read(path, PROBLEMS, 3, {"other"})


def test_text_is_encoded_and_closed_if_it_finished(
    tmp_path: Path, tokenizer: Tokenizer, settings: ImportSettings
) -> None:
    path = file(
        tmp_path, row("a", "First 3+4=7."), row("a", "First 3+", finish_reason="length"), row("b", "12", sample=5)
    )
    rows = written(path, tokenizer, settings)
    encoded = [tokenizer.encode(text, add_special_tokens=False) for text in ("12", "First 3+4=7.", "First 3+")]
    eos = [tokenizer.eos_token_id]
    assert [row["token_ids"] for row in rows] == [encoded[0] + eos, encoded[1] + eos, encoded[2]]
    assert [(row["problem_id"], row["sample"], row["text"], row["finish_reason"]) for row in rows] == [
        ("b", 0, "12", "stop"),
        ("a", 0, "First 3+4=7.", "stop"),
        ("a", 1, "First 3+", "length"),
    ]
    assert {(row["log_prob"], row["token_log_probs"]) for row in rows} == {(None, None)}


def test_the_table_is_the_one_that_sampled_completions_have(
    tmp_path: Path, tokenizer: Tokenizer, settings: ImportSettings
) -> None:
    written(file(tmp_path, row("a"), row("b")), tokenizer, settings)
    schema = pq.read_schema(tmp_path / "completions.parquet")
    assert schema.equals(completions.SCHEMA)
    assert schema.metadata[VOCABULARY].decode() == vocabulary_digest(tokenizer)


def test_prompts_are_the_studys(tmp_path: Path, tokenizer: Tokenizer, settings: ImportSettings) -> None:
    other = settings.model_copy(update={"prompt": Prompt(template="Think. {question}", system=None)})
    rows = written(file(tmp_path, row("a"), row("b"), row("a")), tokenizer, other)
    for line, problem in zip(rows, [PROBLEMS[0], PROBLEMS[1], PROBLEMS[1]], strict=True):
        messages = [{"role": "user", "content": f"Think. {problem.question}"}]
        shown = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert tokenizer.decode(line["prompt_token_ids"]) == shown


def test_thinking_is_told_to_the_chat_template(
    tmp_path: Path, tiny_model: Path, base_settings: Base, settings: ImportSettings
) -> None:
    tokenizer = load_tokenizer(str(tiny_model), base_settings)
    tokenizer.chat_template = "{{ 'Off' if enable_thinking is false else 'On' }}{{ messages[0].content }}"
    told = settings.model_copy(update={"rollouts": ROLLOUTS.model_copy(update={"thinking": False})})
    path = file(tmp_path, row("a"), row("b"))
    for given, word in [(settings, "On"), (told, "Off")]:
        (line, _) = written(path, tokenizer, given)
        assert tokenizer.decode(line["prompt_token_ids"]) == word + PROBLEMS[0].question


def test_given_tokens_and_their_log_probs_are_kept(
    tmp_path: Path, tokenizer: Tokenizer, settings: ImportSettings
) -> None:
    ids = [*tokenizer.encode("So \\boxed{7}", add_special_tokens=False), tokenizer.eos_token_id]
    scores = [-0.125 * i for i in range(len(ids))]
    cut = {"token_ids": ids[:2], "token_log_probs": [-1, -2.5], "finish_reason": "length"}
    rows = written(
        file(tmp_path, row("a", token_ids=ids, token_log_probs=scores), row("b", tokenizer.decode(ids[:2]), **cut)),
        tokenizer,
        settings,
    )
    assert [row["token_ids"] for row in rows] == [ids[:2], ids]
    assert [row["token_log_probs"] for row in rows] == [[-1.0, -2.5], scores]
    assert [row["log_prob"] for row in rows] == [-3.5, -0.125 * sum(range(len(ids)))]


def test_another_end_token_of_the_model_closes_a_completion(
    tmp_path: Path, tokenizer: Tokenizer, settings: ImportSettings
) -> None:
    ids = tokenizer.encode("So \\boxed{7}", add_special_tokens=False)
    path = file(tmp_path, row("a", token_ids=ids, token_log_probs=[-1.0] * len(ids)), row("b"))
    with pytest.raises(
        UserError, match=f"rollout 1: finish_reason is stop, but the last token id is {ids[-1]} and not"
    ):
        written(path, tokenizer, settings)
    assert written(path, tokenizer, settings, ends=(ids[-1],))[1]["token_ids"] == ids


def test_many_rows_are_written_in_parts(
    tmp_path: Path, tokenizer: Tokenizer, settings: ImportSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imported, "ROWS", 2)
    path = file(tmp_path, *(row(key, f"{key}{i}") for i in range(3) for key in ("a", "b")))
    assert [line["text"] for line in written(path, tokenizer, settings)] == ["b0", "b1", "b2", "a0", "a1", "a2"]
    assert pq.ParquetFile(tmp_path / "completions.parquet").num_row_groups == 3


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (row(None), "rollout 3: problem_id is None; problem_id must be a problem's id"),
        (row(True), "rollout 3: problem_id is True"),
        (row(1.0), "rollout 3: problem_id is 1.0"),
        ({"response": "x"}, "rollout 3: problem_id is None"),
        (row("b", ""), "rollout 3: response is ''; response must be the completion's text"),
        (row("b", " \n"), "rollout 3: response is ' \\n'"),
        (row("b", 7), "rollout 3: response is 7"),
        ({"problem_id": "b", "text": "x"}, "rollout 3: response is None"),
        (
            row("b", "half \ud835"),
            "rollout 3: response is 'half \\ud835'; response must be the completion's text, in Unicode",
        ),
        (row("b", sample=-1), "rollout 3: sample is -1; sample must be 0, 1, 2, ..."),
        (row("b", sample=True), "rollout 3: sample is True"),
        (row("b", sample="0"), "rollout 3: sample is '0'"),
        (
            row("b", finish_reason="eos"),
            "rollout 3: finish_reason is 'eos'; finish_reason must be stop,",
        ),
        (row("b", token_ids=[1]), "rollout 3: token_ids and token_log_probs must be two lists, or both be left out"),
        (row("b", token_log_probs=[-1.0]), "rollout 3: token_ids and token_log_probs must be two lists"),
        (row("b", token_ids=1, token_log_probs=[-1.0]), "rollout 3: token_ids is 1; token_ids must be a list of"),
        (row("b", token_ids=[1, 2], token_log_probs=[-1.0]), "rollout 3: 2 token_ids and 1 token_log_probs"),
        (row("b", token_ids=[], token_log_probs=[]), "rollout 3: 0 token_ids and 0 token_log_probs"),
        (
            row("b", token_ids=[1.0], token_log_probs=[-1.0]),
            "rollout 3: token_ids[0] is 1.0; token_ids must be",
        ),
        (row("b", token_ids=[None], token_log_probs=[-1.0]), "rollout 3: token_ids[0] is None; token_ids must be"),
        (
            row("b", token_ids=[1], token_log_probs=[float("nan")]),
            "rollout 3: token_log_probs[0] is nan; ",
        ),
        (row("b", token_ids=[1], token_log_probs=[float("-inf")]), "rollout 3: token_log_probs[0] is -inf"),
        (row("b", token_ids=[1, 1], token_log_probs=[-1, 1e-9]), "rollout 3: token_log_probs[1] is 1e-09"),
        (row("b", token_ids=[1], token_log_probs=[None]), "rollout 3: token_log_probs[0] is None"),
    ],
)
def test_a_row_that_is_wrong_is_named(tmp_path: Path, bad: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        read(file(tmp_path, row("a"), row("b"), bad))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            [row("a"), row("b"), row("c"), row("c"), row("d"), row("e"), row("f")],
            "4 problem ids are none of the 2 training problems', the first 'c' (rollout 3), 'd' (rollout 5), 'e' (",
        ),
        ([row("b")], "1 of 2 problems have no rollout, the first 'a'"),
        ([], "2 of 2 problems have no rollout, the first 'b', 'a'"),
        ([row("b")] + [row("a")] * 4, "problem 'a' has 4 rollouts, more than rollouts.samples: 3 (see "),
        (
            [row("b"), row("a", sample=1), row("a", sample=0), row("a", sample=1)],
            "rollout 4: problem 'a' has sample 1 already (",
        ),
        (
            [row("b"), row("a", sample=0), row("a")],
            "rollout 3: some rollouts of problem 'a' have a sample, others none",
        ),
    ],
)
def test_rows_that_do_not_fit_the_problems_are_named(tmp_path: Path, rows: list[Any], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        read(file(tmp_path, *rows))


def test_tokens_that_are_not_the_bases_are_named(
    tmp_path: Path, tokenizer: Tokenizer, settings: ImportSettings
) -> None:
    ids = tokenizer.encode("So \\boxed{8}", add_special_tokens=False)
    eos = tokenizer.eos_token
    for fields, says in [
        (
            {"token_ids": ids},
            "rollout 2: token_ids decode to 'So \\\\boxed{8}' in the base's tokenizer, but response is",
        ),
        ({"token_ids": [len(tokenizer)]}, f"rollout 2: token id {len(tokenizer)} is none of the {len(tokenizer)} of"),
        ({"token_ids": [-1, 3]}, "rollout 2: token id -1 is none of the"),
        ({"token_ids": [2**70]}, f"rollout 2: token id {2**70} is none of the"),
        ({"response": f"So \\boxed{{7}}{eos}"}, f"rollout 2: response holds the tokenizer's special token {eos!r}"),
        (
            {"response": f"a{eos}b", "finish_reason": "length"},
            "rollout 2: response holds the tokenizer's special token",
        ),
    ]:
        if "token_ids" in fields:
            fields["token_log_probs"] = [-1.0] * len(fields["token_ids"])
        with pytest.raises(UserError, match=re.escape(says)):
            written(file(tmp_path, row("b"), row("a") | fields), tokenizer, settings)
        assert not (tmp_path / "completions.parquet").exists()


def test_the_command(tmp_path: Path, tiny_model: Path, settings: ImportSettings) -> None:
    write_problems(tmp_path / "problems.jsonl", PROBLEMS)
    path = file(tmp_path, row("a"), row("b"), row("b", "It is 12."))
    output = tmp_path / "completions.parquet"

    done = subprocess.run(
        [
            *(BIN / "deltageom", "import-rollouts", "--settings", settings.model_dump_json(), "--base", tiny_model),
            *("--file", path, "--problems", tmp_path / "problems.jsonl", "--output", output),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{output}: 3 rollouts of 2 problems"
    assert pq.read_table(output)["text"].to_pylist() == ["So \\boxed{7}", "It is 12.", "So \\boxed{7}"]


def test_a_response_that_may_be_cut_off_in_its_thoughts_says_so(
    tmp_path: Path, tokenizer: Tokenizer, settings: ImportSettings
) -> None:
    """Where the template opens them: whether a box in there is an answer, nobody can tell from the text."""
    thinks = copy.deepcopy(tokenizer)
    thinks.chat_template += "{% if add_generation_prompt %}<think>{% endif %}"
    said = [row("b", "12", finish_reason="stop"), row("a", "7?", finish_reason="length"), row("a", "So </think> 7")]
    rows = written(file(tmp_path, *said), thinks, settings)
    assert [row["finish_reason"] for row in rows] == ["stop", "length", "stop"]
    path = file(tmp_path, *said, row("a", "Perhaps 7?"))
    with pytest.raises(UserError, match=r"rollout 4: the base's prompt opens <think>, and response does not close it"):
        written(path, thinks, settings)
    assert len(written(path, tokenizer, settings)) == 4
