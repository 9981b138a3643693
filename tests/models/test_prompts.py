"""Prompts by the chat template, and the tokens that end a completion: one set for everything that asks."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer, GenerationConfig

from deltageom.errors import UserError
from deltageom.generation.engine import Setup
from deltageom.generation.engines import transformers as engine
from deltageom.models.prompts import completion_ids, end_tokens, opening, prompt_ids, turn_end
from deltageom.planning import doctor
from deltageom.problems.problem import Problem
from deltageom.rollouts import reward
from deltageom.rollouts.completions import SCHEMA
from deltageom.rollouts.sample import write
from deltageom.study.load import load_study
from deltageom.study.running import Vllm
from deltageom.study.schema import Base, Dataset, Prompt, Rollouts
from deltageom.study.settings import RewardSettings
from tests.conftest import ROOT
from tests.training.tiny_runs import CONFIG

# As Qwen2.5's: a default system message, and turns that end with <|im_end|>.
DEFAULTING = """{% if messages[0]['role'] != 'system' %}<|system|>You are Q.<|im_end|>{% endif %}
{%- for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
OPENING = DEFAULTING.replace("<|assistant|>{% endif", "<|assistant|><think>{% endif")


def with_template(tiny_model: Path, folder: Path, template: str, eos: str | None = None) -> Path:
    shutil.copytree(tiny_model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    if eos:
        tokenizer.eos_token = eos
        GenerationConfig(eos_token_id=tokenizer.convert_tokens_to_ids(eos)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def qwen(tiny_model: Path, tmp_path: Path) -> Path:
    """As Qwen2.5's base: its eos, by tokenizer and generation config, is another token than its template's."""
    return with_template(tiny_model, tmp_path / "qwen", DEFAULTING, eos="<|endoftext|>")


def test_the_toys_template_closes_with_its_eos(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert turn_end(tokenizer) == tokenizer.eos_token_id
    assert end_tokens(tokenizer, GenerationConfig()) == [tokenizer.eos_token_id]


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'] + '\\n\\n' }}{% endfor %}",  # closes with a text
        "{% for m in messages %}{{ m['content'] }}{% endfor %}",
        "{% for m in messages %}{{ raise_exception('a user speaks alone') if m['role'] == 'assistant' }}{% endfor %}",
    ],
)
def test_a_template_without_a_closing_token_leaves_the_eos(tiny_model: Path, template: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = template
    assert turn_end(tokenizer) == tokenizer.eos_token_id


def test_generation_references_and_doctor_agree_on_what_ends_a_completion(
    qwen: Path, base_settings: Base, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(qwen)
    text, turn = (tokenizer.convert_tokens_to_ids(token) for token in ("<|endoftext|>", "<|im_end|>"))
    ends = end_tokens(tokenizer, GenerationConfig.from_pretrained(qwen))
    assert (tokenizer.eos_token_id, turn_end(tokenizer), ends) == (text, turn, sorted([text, turn]))
    assert completion_ids(tokenizer, "7", turn_end(tokenizer))[-1] == turn
    vllm = Vllm(dtype=None, max_model_length=None, eager=True)
    loaded = engine.load(Setup(str(qwen), base_settings, "cpu", None, 2, 64, vllm))
    assert loaded.ends == ends
    assert [loaded._completion([5, end, 9], [0.0] * 3).finish_reason for end in (*ends, 6)] == [
        "stop",
        "stop",
        "length",
    ]
    (row,) = graded(qwen, base_settings, tmp_path, [])
    assert row["token_ids"][-1] == turn  # the reference solution
    study = load_study({"study": "toy"}, ROOT)
    base = study.base.model_copy(update={"model": str(qwen), "layers": 2})
    (line,) = doctor.chat(study.model_copy(update={"base": base}), ROOT)
    assert line.says.endswith("a completion ends with " + " or ".join(tokenizer.convert_ids_to_tokens(ends)))
    assert "You are Q." in line.says


def test_the_templates_own_system_message_is_shown_and_an_empty_one_takes_its_place(qwen: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(qwen)
    template = "Solve: {question}"

    def begins(system: str | None) -> str:
        return opening(tokenizer, Prompt(template=template, system=system))

    assert begins(None) == "<|system|>You are Q.<|im_end|><|user|>"
    assert begins("") == "<|system|><|im_end|>\n<|user|>"
    assert begins("Be brief.") == "<|system|>Be brief.<|im_end|>\n<|user|>"


def test_a_template_that_takes_no_system_message_is_one_line(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    )
    with pytest.raises(UserError, match=r"refuses the prompt \(no system role\): set prompt\.system: null"):
        prompt_ids(tokenizer, Prompt(template="{question}", system=""), "Q")


def test_a_completion_cut_off_in_thoughts_that_the_template_opened_has_no_reward(
    tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    base = with_template(tiny_model, tmp_path / "thinks", OPENING)
    texts = [
        (r"Perhaps \boxed{7}? Let me check", "length"),
        (r"It is </think> \boxed{7}", "stop"),
        (r"It is </think> \boxed{7} since", "length"),
        (r"<think> Perhaps \boxed{7}? Let me", "length"),
        (r"\boxed{7}", "stop"),  # another model's, without its thoughts
    ]
    rows = graded(base, base_settings, tmp_path, texts)
    assert [row["reward"] for row in rows] == [0, 1, 1, 0, 1, 1]  # the last is the reference solution's
    assert [row["extracted"] for row in rows] == [None, "7", "7", None, "7", "7"]
    assert [row["math_verify"] for row in rows] == [False, True, True, False, True, True]


@pytest.mark.parametrize(("grader", "rewards"), [("math_verify", [1, 0])])
def test_symbolic_golds_are_rewarded_by_math_verify(
    tiny_model: Path, base_settings: Base, tmp_path: Path, grader: Any, rewards: list[int]
) -> None:
    texts = [(r"\boxed{\frac{\pi}{2}}", "stop"), (r"\boxed{\pi}", "stop")]
    rows = graded(tiny_model, base_settings, tmp_path, texts, gold=r"\frac{1}{2}\pi", grader=grader)
    assert [row["reward"] for row in rows[:2]] == rewards
    assert [row["strict"] for row in rows[:2]] == [None, None]
    card = (tmp_path / "graded" / "README.md").read_text()
    assert "| problems whose gold answer the strict grader does not read | 1 |" in card
    assert "| problems whose gold answer neither grader reads | 0 |" in card


def graded(
    model: Path,
    base: Base,
    folder: Path,
    texts: list[tuple[str, str]],
    gold: str = "7",
    grader: Any = "strict",
) -> list[dict[str, Any]]:
    """The rollouts of one problem, given as (text, finish reason), and its reference solution."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    prompt = Prompt(template="{question}", system=None)
    problem = Problem("a", "What is it?", gold, f"\\boxed{{{gold}}}")
    rows = [
        {"problem_id": "a", "sample": number, "text": text, "finish_reason": finish}
        | {"prompt_token_ids": prompt_ids(tokenizer, prompt, problem.question)}
        | {"token_ids": completion_ids(tokenizer, text, None), "log_prob": None, "token_log_probs": None}
        for number, (text, finish) in enumerate(texts)
    ]
    write({name: [row[name] for row in rows] for name in SCHEMA.names}, tokenizer, folder / "completions.parquet")
    settings = RewardSettings(
        study="tried",
        problems=Dataset.model_validate(CONFIG["dataset"] | {"path": "problems.jsonl"}),
        rollouts=Rollouts.model_validate(CONFIG["rollouts"]),
        prompt=prompt,
        base=base,
        grader=grader,
    )
    reward.reward(settings, str(model), folder / "completions.parquet", [problem], folder / "graded", workers=1)
    found: list[dict[str, Any]] = pq.read_table(folder / "graded" / "rollouts.parquet").to_pylist()
    return found
