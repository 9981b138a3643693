"""The embedded base: its tokenizer, Muon, the loss, and a whole pre-training too small to be any good."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM

from deltageom import models
from deltageom.embedded import pretraining
from deltageom.embedded.muon import Muon
from deltageom.embedded.tokenizer import END, train_tokenizer
from deltageom.embedded.world import documents, problems
from deltageom.errors import UserError
from deltageom.schema import Embedded, Prompt

SETTINGS = Embedded(
    seed=0,
    documents=160,
    batch_size=8,
    learning_rate=0.02,
)
PROMPT = Prompt(template="Q: {question}", system="Solve it.")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(p for text in documents(1000, 0, careful=False) for p in text).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    output = tmp_path_factory.mktemp("study") / "base"
    pretraining.pretrain(SETTINGS, PROMPT, output)
    return output


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a.keys() | b.keys())


# ---- tokenizer


@settings(max_examples=50)
@given(text=st.text())
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_digits_stand_alone_and_words_and_the_box_are_tokens(tokenizer):
    pieces = [tokenizer.decode(i) for i in tokenizer("First 123 + 45 = 168. So \\boxed{168}")["input_ids"]]
    assert "".join(pieces) == "First 123 + 45 = 168. So \\boxed{168}"
    assert all(len(piece.strip()) == 1 for piece in pieces if any(c.isdigit() for c in piece))
    assert " \\boxed{" in pieces
    assert " Then" in [tokenizer.decode(i) for i in tokenizer(" Then")["input_ids"]]
    assert len(tokenizer) <= 512


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_the_generation_mask_is_the_completion_and_its_end(tokenizer, system):
    problem = problems("train", 1, 0)[0]
    messages = models.conversation(Prompt(template="{question}\n", system=system), problem.question)
    full = tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": problem.solution}],
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    ids, mask = full["input_ids"], full["assistant_masks"]
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ids[: len(asked)] == asked
    assert mask == [0] * len(asked) + [1] * (len(ids) - len(asked))
    assert tokenizer.decode(ids[len(asked) :]) == problem.solution + END
    assert ids[-1] == tokenizer.eos_token_id != tokenizer.pad_token_id


# ---- optimiser and loss


@pytest.mark.parametrize("shapes", [[(8, 8)], [(6, 12), (12, 6), (6, 12)]])
def test_muon_agrees_with_torchs(shapes):
    """torch's computes in bfloat16: relative precision 2^-8."""
    ours, theirs = ([torch.nn.Parameter(torch.zeros(s)) for s in shapes] for _ in range(2))
    optimizers = Muon(ours, lr=0.1), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0, ns_steps=3)
    torch.manual_seed(0)
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        assert p.norm() > 0.1
        assert (p - q).norm() < 0.03 * q.norm()


def test_the_loss_weighs_prompts_and_ignores_padding(tokenizer):
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(pretraining._configuration(tokenizer)).double()
    rows = pretraining._encode(tokenizer, PROMPT, list(documents(3, 0, careful=False)))
    assert len({len(ids) for ids, _ in rows}) > 1
    total = weight = 0.0
    for ids, row in rows:
        assistant = tokenizer.convert_tokens_to_ids("<|assistant|>")
        start = ids.tolist().index(assistant) + 1
        expected = torch.tensor([0.02] * start + [1.0] * (len(ids) - start))
        assert torch.equal(row, expected)
        log_probs = model(ids[None]).logits[0].log_softmax(-1)
        for t in range(1, len(ids)):
            total -= expected[t].double() * log_probs[t - 1, ids[t]]
            weight += expected[t].double()
    torch.testing.assert_close(pretraining._loss(model, rows).double(), total / weight, rtol=1e-6, atol=0)


def test_batches_hold_every_document_once(tokenizer):
    rows = pretraining._encode(tokenizer, PROMPT, list(documents(70, 0, careful=False)))
    batches = pretraining._batches(rows, 32, pretraining.Random(0))
    assert sorted(map(len, batches)) == [6, 32, 32]
    assert {id(row[0]) for batch in batches for row in batch} == {id(row[0]) for row in rows}


# ---- pre-training


def test_the_base_loads_and_has_learned_something(base):
    model = AutoModelForCausalLM.from_pretrained(base)
    loaded = AutoTokenizer.from_pretrained(base)
    assert isinstance(model, Qwen3ForCausalLM)
    assert loaded.padding_side == "left"
    assert model.generation_config.eos_token_id == loaded.eos_token_id
    assert model.generation_config.pad_token_id == loaded.pad_token_id
    assert [p.name for p in base.parent.iterdir()] == ["base"]
    rows = pretraining._encode(loaded, PROMPT, list(documents(32, 9, careful=True)))
    with torch.no_grad():
        assert pretraining._loss(model, rows) < 0.6 * math.log(512)


def test_equal_settings_give_equal_weights(base, tmp_path):
    pretraining.pretrain(SETTINGS, PROMPT, tmp_path / "again")
    assert same(weights(base), weights(tmp_path / "again"))
    other = SETTINGS.model_copy(update={"seed": 1, "documents": 32})
    pretraining.pretrain(other, PROMPT, tmp_path / "other")
    assert not same(weights(base), weights(tmp_path / "other"))


def test_the_teacher_is_the_base_trained_on_careful_documents(base, tmp_path):
    pretraining.train_teacher(base, SETTINGS, 96, PROMPT, tmp_path / "teacher")
    rows = pretraining._encode(
        AutoTokenizer.from_pretrained(tmp_path / "teacher"), PROMPT, list(documents(64, 9, careful=True))
    )
    with torch.no_grad():
        losses = [
            pretraining._loss(AutoModelForCausalLM.from_pretrained(m), rows) for m in (base, tmp_path / "teacher")
        ]
    assert losses[1] < losses[0] - 0.02


def test_a_diverging_loss_is_a_user_error_and_leaves_nothing(tmp_path):
    wild = SETTINGS.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(UserError, match=r"embedded\.learning_rate"):
        pretraining.pretrain(wild, PROMPT, tmp_path / "base")
    assert not list(tmp_path.iterdir())
