"""The toy base: its tokenizer, Muon, the loss, and a whole pre-training too small to be any good."""

import math

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM

from deltageom.errors import UserError
from deltageom.models.prompts import conversation
from deltageom.problems.world import documents, problems
from deltageom.study.schema import Prompt, Toy
from deltageom.toy import pretraining
from deltageom.toy.muon import Muon
from deltageom.toy.tokenizer import END, train_tokenizer
from tests.conftest import ROOT

TOY = Toy.model_validate(yaml.safe_load((ROOT / "config.yaml").read_text())["toy"])
SETTINGS = TOY.model_copy(update={"documents": 160, "batch_size": 8, "learning_rate": 0.02})
PROMPT = Prompt(template="Q: {question}", system="Solve it.")
NORMS = {  # after the toy's first two steps
    "model.embed_tokens.weight": 12.584548737019226,
    "model.layers.0.self_attn.q_proj.weight": 6.440868963342839,
    "model.layers.3.mlp.down_proj.weight": 9.061919545640842,
    "model.norm.weight": 11.286077940919208,
}


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
    messages = conversation(Prompt(template="{question}\n", system=system), problem.question)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shapes", [[(8, 8)], [(6, 12), (12, 6), (6, 12)]])
def test_muon_agrees_with_torchs(shapes, dtype):
    """torch's computes in bfloat16: relative precision 2^-8."""
    ours, theirs = ([torch.nn.Parameter(torch.zeros(s)) for s in shapes] for _ in range(2))
    optimizers = Muon(ours, lr=0.1, dtype=dtype), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0, ns_steps=3)
    torch.manual_seed(0)
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        assert p.norm() > 0.1
        assert p.dtype == torch.float32
        assert (p - q).norm() < 0.03 * q.norm()


def test_muon_computes_in_the_dtype_it_is_told():
    orthogonal = []
    for dtype in (torch.float32, torch.bfloat16):
        p = torch.nn.Parameter(torch.zeros(16, 16))
        p.grad = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
        Muon([p], lr=1.0, dtype=dtype).step()
        orthogonal.append(p.detach())
    exact, rounded = orthogonal
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert 1e-4 < (exact - rounded).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_documents_are_encoded_as_the_chat_template_has_them(tokenizer, system, monkeypatch):
    monkeypatch.setattr(pretraining, "ENCODED", 7)
    prompt = Prompt(template="Q: {question}\n", system=system)
    texts = list(documents(40, 0, careful=False))
    rows = pretraining._encode(tokenizer, prompt, texts)
    assert len(rows) == 40
    for (ids, weights_), (question, solution) in zip(rows, texts, strict=True):
        messages = [*conversation(prompt, question), {"role": "assistant", "content": solution}]
        whole = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
        assert ids.tolist() == whole["input_ids"]
        assert (weights_ == 1).tolist() == [m == 1 for m in whole["assistant_masks"]]
        assert set(weights_.tolist()) == {1.0, torch.tensor(0.02).item()}


def test_the_loss_weighs_prompts_and_ignores_padding(tokenizer):
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(pretraining.configuration(SETTINGS, tokenizer)).double()
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


def test_two_steps_of_the_toy_are_what_they_were(tmp_path):
    """Recorded before its size was in the study. Bytes are of one machine; others round otherwise, here below 1e-6."""
    pretraining.pretrain(TOY.model_copy(update={"documents": 32}), Prompt(template="{question}", system=None), tmp_path)
    found = weights(tmp_path)
    assert {name: found[name].double().norm().item() for name in NORMS} == pytest.approx(NORMS, rel=1e-6)


def test_the_study_says_the_size(tmp_path):
    sizes = {"hidden": 32, "layers": 1, "heads": 3, "kv_heads": 1, "head_dim": 16, "intermediate": 40}
    small = SETTINGS.model_copy(update=sizes | {"documents": 16, "vocabulary": 300})
    pretraining.pretrain(small, PROMPT, tmp_path)
    shapes = {name.removeprefix("model."): tuple(w.shape) for name, w in weights(tmp_path).items()}
    assert shapes["embed_tokens.weight"] == (300, 32)
    assert shapes["layers.0.self_attn.q_proj.weight"] == (48, 32)
    assert shapes["layers.0.self_attn.k_proj.weight"] == (16, 32)
    assert shapes["layers.0.mlp.up_proj.weight"] == (40, 32)
    assert not any(name.startswith("layers.1.") for name in shapes)


def test_first_logits_are_as_wide_whatever_the_width(tokenizer):
    deviations = []
    for hidden in (128, 512):
        torch.manual_seed(0)
        settings_ = SETTINGS.model_copy(update={"hidden": hidden, "layers": 1})
        model = Qwen3ForCausalLM(pretraining.configuration(settings_, tokenizer))
        with torch.no_grad():
            deviations.append(model(torch.arange(100)[None]).logits.std().item())
    assert deviations[1] == pytest.approx(deviations[0], rel=0.15)


def test_bfloat16_is_of_products_and_of_what_is_saved_not_of_the_weights_in_training(base, tmp_path, monkeypatch):
    seen, loss = [], pretraining._loss

    def spied(model, batch):
        value = loss(model, batch)
        seen.append(({p.dtype for p in model.parameters()}, model(input_ids=batch[0][0][None]).logits.dtype))
        return value

    monkeypatch.setattr(pretraining, "_loss", spied)
    pretraining.pretrain(SETTINGS, PROMPT, tmp_path / "base", "cpu", "bfloat16")
    pretraining.train_teacher(tmp_path / "base", SETTINGS, 64, PROMPT, tmp_path / "teacher", "cpu", "bfloat16")
    assert len(seen) == 20 + 8
    assert all(of_weights == {torch.float32} and logits == torch.bfloat16 for of_weights, logits in seen)
    monkeypatch.undo()
    for folder in ("base", "teacher"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    rows = pretraining._encode(AutoTokenizer.from_pretrained(base), PROMPT, list(documents(32, 9, careful=True)))
    with torch.no_grad():
        exact, rounded = (
            pretraining._loss(AutoModelForCausalLM.from_pretrained(m, dtype=torch.float32), rows).item()
            for m in (base, tmp_path / "base")
        )
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.02)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA GPU is here: what happens without one cannot be seen")
def test_cuda_without_a_gpu_is_a_user_error_before_any_work(base, tmp_path):
    with pytest.raises(UserError, match="device is cuda, but no CUDA GPU"):
        pretraining.pretrain(SETTINGS, PROMPT, tmp_path / "base", "cuda")
    with pytest.raises(UserError, match="device is cuda, but no CUDA GPU"):
        pretraining.train_teacher(base, SETTINGS, 8, PROMPT, tmp_path / "teacher", "cuda")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kv_heads": 3}, "kv_heads 3 must divide heads 4"),
        ({"head_dim": 15}, "head_dim 15 must be even"),
        ({"vocabulary": 200}, "greater than or equal to 261"),
        ({"world": TOY.world.model_dump() | {"hard_events": [5, 4]}}, "hard_events"),
        ({"world": TOY.world.model_dump() | {"hard_events": [1, 4]}}, "hard_events"),
    ],
)
def test_sizes_that_make_no_model_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        Toy.model_validate(TOY.model_dump() | keys)


def test_a_diverging_loss_is_a_user_error_and_leaves_nothing(tmp_path):
    wild = SETTINGS.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(UserError, match=r"toy\.learning_rate"):
        pretraining.pretrain(wild, PROMPT, tmp_path / "base")
    assert not list(tmp_path.iterdir())
