"""The parts of an update against models with that part alone written into dense float64 weights."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from deltageom.deltas.open import open_run
from deltageom.files import write_csv, write_jsonl
from deltageom.measures import attribution
from deltageom.measures.shared.losses import parts
from deltageom.measures.shared.losses.own_answers import Text
from deltageom.measures.shared.settings import AttributionSettings
from deltageom.study.measured import Attribution
from deltageom.study.schema import Base
from tests.deltas import tiny_checkpoints

TEXTS = [Text("1", [5, 6, 7], [8, 9]), Text("1", [5, 6, 7], [10]), Text("2", [11, 12], [13, 14, 15, 16])]


def dense_losses(base: Path, run: Path, inside: object) -> dict[str, float]:
    """By problem the summed nll of the base with those modules of the delta that `inside` names."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    delta = open_run(run, base)
    for module in delta.modules:
        if inside(module):  # type: ignore[operator]
            model.get_submodule(f"model.{module}").weight.data += torch.from_numpy(delta.read(module).dense())
    found: dict[str, float] = {}
    for text in TEXTS:
        with torch.no_grad():
            log_probs = model(torch.tensor([text.prompt + text.answer])).logits[0].log_softmax(-1)
        own = log_probs[len(text.prompt) - 1 : -1].gather(1, torch.tensor(text.answer)[:, None])
        found[text.problem_id] = found.get(text.problem_id, 0.0) - float(own.sum())
    return found


def test_each_part_is_its_modules_alone(tiny_model: Path, tiny_adapters: dict[str, Path], base_settings: Base) -> None:
    run = tiny_adapters["first"]
    delta = open_run(run)
    rows = list(parts.losses_of_parts(str(tiny_model), base_settings, "cpu", run, TEXTS, 2))
    moved = {parts.part(row["layer"], row["module"]) for row in rows if row["way"] == "only"}
    assert moved == {name for m in delta.modules for name in (".".join(m.split(".")[:2]), m.split(".", 2)[2])}
    seen = set()
    for row in rows:
        name, way = parts.part(row["layer"], row["module"]) if row["way"] in ("only", "without") else None, row["way"]
        inside = {
            "none": lambda _: False,
            "all": lambda _: True,
            "only": lambda m, name=name: f"{name}." in f"{m}.",
            "without": lambda m, name=name: f"{name}." not in f"{m}.",
        }[way]
        expected = dense_losses(tiny_model, run, inside) if (name, way) not in seen else expected  # noqa: F821
        seen.add((name, way))
        assert row["nll"] == pytest.approx(expected[row["problem_id"]], abs=1e-4)
        assert row["tokens"] == {"1": 3, "2": 4}[row["problem_id"]]
        squares = [np.square(delta.read(m).dense()).sum() for m in delta.modules if way in ("none", "all") or name in m]
        assert row["squared_norm"] == pytest.approx(sum(squares), rel=1e-6)


def test_the_parts_of_a_whole_model(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    run = tiny_checkpoints.perturbed(tiny_model, tmp_path / "whole", seed=1)
    rows = {
        (row["layer"], row["module"], row["way"], row["problem_id"]): row["nll"]
        for row in parts.losses_of_parts(str(tiny_model), base_settings, "cpu", run, TEXTS, 2)
    }
    base = dense_losses(tiny_model, run, lambda _: False)
    assert [rows[None, None, "none", p] for p in base] == pytest.approx(list(base.values()), abs=1e-4)
    # all that a whole model's layer holds is in its part: matrices and norms
    layers = len({layer for layer, *_ in rows if layer is not None})
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    moved = AutoModelForCausalLM.from_pretrained(run, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".layers.0." in name:
                parameter.copy_(moved.get_parameter(name))
        logits = model(torch.tensor([TEXTS[2].prompt + TEXTS[2].answer])).logits[0].double().log_softmax(-1)
    own = logits[len(TEXTS[2].prompt) - 1 : -1].gather(1, torch.tensor(TEXTS[2].answer)[:, None])
    assert layers == base_settings.layers
    assert rows[0, None, "only", "2"] == pytest.approx(-float(own.sum()), abs=1e-4)


def test_shares_of_a_fall() -> None:
    none, whole, only, without = 3.0, 1.0, 2.5, 1.2
    alone, lost = parts.shares(*map(np.asarray, (none, whole, only, without)))
    assert (float(alone), float(lost)) == pytest.approx((0.25, 0.1))
    # the whole alone brings all, and without it all is lost; without a fall there is no share
    assert [float(x) for x in parts.shares(*map(np.asarray, (none, whole, whole, none)))] == [1.0, 1.0]
    assert np.isnan(parts.shares(*map(np.asarray, (1.0, 1.0, 2.5, 1.2)))).all()


def test_the_table_from_the_rows_of_a_run(
    tiny_model: Path, tiny_adapters: dict[str, Path], base_settings: Base, tmp_path: Path
) -> None:
    answers = [
        {"problem_id": str(i), "prompt": "Tom has 3.", "response": f" {i} and 4", "finish_reason": "length"}
        | {"correct": i != 2}
        for i in range(5)
    ]
    write_jsonl(tmp_path / "answers.jsonl", answers)
    settings = AttributionSettings(
        attribution=Attribution(benchmark="easy", problems=4, batch_size=2), base=base_settings, device="cpu"
    )
    inputs = {"base": tiny_model, "run": tiny_adapters["first"], "answers": tmp_path / "answers.jsonl"}
    rows = attribution.MEASURE.rows(settings, inputs, {})
    (tmp_path / "attribution").mkdir()
    write_csv(tmp_path / "attribution" / "sft.csv", rows)
    write_jsonl(tmp_path / "none.jsonl", [answer | {"correct": False} for answer in answers])
    nothing = attribution.MEASURE.rows(settings, inputs | {"answers": tmp_path / "none.jsonl"}, {})
    write_csv(tmp_path / "attribution" / "none.csv", nothing)
    table = attribution.MEASURE.build(tmp_path, ["none", "sft"])["attribution"]
    assert set(table["run"]) == {"sft"}
    assert set(table["n"]) == {3}  # of the first four problems one is wrong

    def loss(way: str, layer: int | None = None) -> float:
        chosen = [row for row in rows if row["way"] == way and row["layer"] == layer and row["module"] is None]
        assert len(chosen) == 3
        return sum(row["nll"] for row in chosen) / sum(row["tokens"] for row in chosen)

    assert table["layer"].notna().tolist() == sorted(table["layer"].notna(), reverse=True)  # layers first
    first = table[table["layer"] == 0].iloc[0]
    fall = loss("none") - loss("all")
    expected = ((loss("none") - loss("only", 0)) / fall, (loss("without", 0) - loss("all")) / fall)
    if fall > 0:
        assert (first["alone"], first["lost"]) == pytest.approx(expected)
    else:
        assert np.isnan([first["alone"], first["lost"]]).all()
    assert first["loss_base"] == pytest.approx(loss("none"))
    for kind in (table["layer"].notna(), table["module_name"].notna()):
        assert table[kind]["norm_share"].sum() == pytest.approx(1.0)


def test_interval_holds_the_share_of_all_problems_and_narrows_with_more(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def table(problems: int) -> pd.Series:
        rows = []
        for number in range(problems):
            fall, part = rng.uniform(0.5, 1.5), rng.uniform(0.2, 0.6)
            losses = {"none": 3.0, "all": 3.0 - fall, "only": 3.0 - fall * part, "without": 3.0 - fall * (1 - part)}
            for way, nll in losses.items():
                layer = 0 if way in ("only", "without") else None
                rows.append({"layer": layer, "module": None, "way": way, "problem_id": f"p{number}", "nll": nll})
                rows[-1] |= {"tokens": 1, "squared_norm": 1.0}
        (tmp_path / "attribution").mkdir(exist_ok=True)
        with (tmp_path / "attribution" / "sft.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return attribution.MEASURE.build(tmp_path, ["sft"])["attribution"].iloc[0]

    few, many = table(10), table(400)
    for row in (few, many):
        assert row["alone_low"] < row["alone"] < row["alone_high"]
        assert row["lost"] == pytest.approx(row["alone"])  # the parts add up here
    assert many["alone"] == pytest.approx(0.4, abs=0.02)
    assert many["alone_high"] - many["alone_low"] < (few["alone_high"] - few["alone_low"]) / 3


def test_each_number_over_replicates_is_named_by_its_part() -> None:
    table = pd.DataFrame(
        [("sft", 0, None, 0.5, 0.1, 0.2), ("sft", None, "self_attn.q_proj", 0.7, 0.3, 0.4)],
        columns=["run", "layer", "module_name", "alone", "lost", "norm_share"],
    )
    found = attribution.numbers(table)
    assert {(row.a, row.measure, row.value) for row in found.itertuples()} == {
        *(("sft", name, value) for name, value in (("alone", 0.5), ("lost", 0.1), ("norm_share", 0.2))),
        *(("sft", f"{name}_self_attn.q_proj", v) for name, v in (("alone", 0.7), ("lost", 0.3), ("norm_share", 0.4))),
    }
    assert found["layer"].tolist() == pytest.approx([0.0, np.nan] * 3, nan_ok=True)
