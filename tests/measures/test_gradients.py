"""First steps beside trained updates against dense vectors, and the laws of cosines."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from deltageom import files
from deltageom.deltas.adapter import Adapter
from deltageom.errors import UserError
from deltageom.measures import gradients
from deltageom.measures.shared import first_steps
from deltageom.measures.shared.first_steps import EPS

KINDS = ("gradient", "sign", "delta")


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a.ravel() @ b.ravel() / np.linalg.norm(a) / np.linalg.norm(b))


def scaled(adapter: Path, folder: Path, factor: float) -> Path:
    """The adapter with `factor` times its B."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: value * np.float32(factor if "lora_B" in name else 1) for name, value in weights.items()},
        folder / "adapter_model.safetensors",
    )
    return folder


@pytest.fixture
def steps(tiny_adapters: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """The gradients of two runs, which the two adapters stand for; a third has a tenth of the first's."""
    return {
        "x": tiny_adapters["first"],
        "y": tiny_adapters["second"],
        "z": scaled(tiny_adapters["first"], tmp_path / "tenth", 0.1),
    }


@pytest.fixture
def deltas(tiny_adapters: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    return {
        "x": tiny_adapters["second"],
        "y": tiny_adapters["first"],
        "z": scaled(tiny_adapters["second"], tmp_path / "back", -2.0),
    }


def dense(folder: Path, modules: list[str], sign: bool = False) -> np.ndarray:
    """The modules' deltas as one vector."""
    found = [Adapter(folder).read(module) for module in modules]
    vectors = [f.scale * (f.b / (abs(f.b) + EPS) if sign else f.b) @ f.a for f in found]
    return np.concatenate([vector.ravel() for vector in vectors])


def test_every_level_is_that_of_dense_vectors(steps: dict[str, Path], deltas: dict[str, Path]) -> None:
    modules = Adapter(steps["x"]).modules
    table = pd.DataFrame(first_steps.compare(steps, deltas))
    assert len(table) == 3 * (len(modules) + 2 + 1)  # two layers
    for row in table.to_dict("records"):
        module, layer = row["module"], row["layer"]
        chosen = (
            [module]
            if isinstance(module, str)
            else [m for m in modules if pd.isna(layer) or m.startswith(f"layers.{layer:g}.")]
        )
        mine = [dense(steps["x"], chosen), dense(steps["x"], chosen, sign=True), dense(deltas["x"], chosen)]
        if row["b"]:
            other, delta = steps[row["b"]], deltas[row["b"]]
            others = [dense(other, chosen), dense(other, chosen, sign=True), dense(delta, chosen)]
            for kind, a, b in zip(KINDS, mine, others, strict=True):
                assert row[kind] == pytest.approx(cosine(a, b), abs=1e-9)
        else:
            b = np.concatenate([Adapter(steps["x"]).read(m).b.ravel() for m in chosen])
            assert row["norm"] == pytest.approx(np.linalg.norm(mine[0]), rel=1e-9)
            assert row["gradient_norm"] == pytest.approx(np.linalg.norm(b), rel=1e-9)
            assert row["gradient_delta"] == pytest.approx(cosine(mine[0], mine[2]), abs=1e-9)
            assert row["sign_delta"] == pytest.approx(cosine(mine[1], mine[2]), abs=1e-9)


def test_a_scale_leaves_every_cosine_and_a_negative_one_turns_it(
    steps: dict[str, Path], deltas: dict[str, Path]
) -> None:
    """A tenth of a gradient is the same direction; the delta of z is that of x, twice as long and turned round."""
    table = pd.DataFrame(first_steps.compare(steps, deltas))
    z = table[table["b"] == "z"]
    np.testing.assert_allclose(z["gradient"], 1.0, atol=1e-6)
    np.testing.assert_allclose(z["sign"], 1.0, atol=1e-3)
    np.testing.assert_allclose(z["delta"], -1.0, atol=1e-6)
    assert (table[table["b"] == "y"]["gradient"].abs() < 0.9).all()
    turned = pd.DataFrame(first_steps.compare({r: steps[r] for r in "zxy"}, {r: deltas[r] for r in "zxy"}))
    back = turned[turned["b"] == "x"]
    np.testing.assert_allclose(back[list(KINDS)].astype(float), z[list(KINDS)].astype(float), atol=1e-9)


def test_adamws_first_step_is_the_sign_but_near_eps() -> None:
    found = first_steps.adamw_step(np.array([[3.0, -1e-3, 0.0, EPS, 1e-12]]))
    np.testing.assert_allclose(found, [[1.0, -1.0, 0.0, 0.5, 1e-4]], rtol=1e-3)


def test_a_zero_gradient_has_no_cosine(tiny_adapters: dict[str, Path], deltas: dict[str, Path], tmp_path: Path) -> None:
    zero = scaled(tiny_adapters["first"], tmp_path / "zero", 0.0)
    table = pd.DataFrame(first_steps.compare({"x": zero, "y": tiny_adapters["first"]}, {r: deltas[r] for r in "xy"}))
    assert (table[table["b"] == ""]["norm"] == 0).all()
    assert table[["gradient", "sign", "gradient_delta", "sign_delta"]].isna().all(axis=None)
    assert table[table["b"] == "y"]["delta"].notna().all()


def test_other_modules_are_an_error(steps: dict[str, Path], deltas: dict[str, Path], tmp_path: Path) -> None:
    fewer = scaled(steps["y"], tmp_path / "fewer", 1.0)
    weights = load_file(fewer / "adapter_model.safetensors")
    save_file(
        {n: v for n, v in weights.items() if "layers.1.self_attn.o" not in n}, fewer / "adapter_model.safetensors"
    )
    with pytest.raises(UserError, match="fewer: has other modules than"):
        first_steps.compare({"x": steps["x"], "y": fewer}, {run: deltas[run] for run in "xy"})


def test_tables_have_runs_in_the_studys_order_and_pairs_by_name(
    steps: dict[str, Path], deltas: dict[str, Path], tmp_path: Path
) -> None:
    for i, run in enumerate("xyz"):
        chosen = "xyz"[i:]
        made = first_steps.compare({r: steps[r] for r in chosen}, {r: deltas[r] for r in chosen})
        files.write_csv(tmp_path / "gradients" / f"{run}.csv", made)
    tables = gradients.build(tmp_path, ["z", "x", "y"])
    own, pairs = (gradients.over_all(tables[name]) for name in ("gradients", "gradients_pairs"))
    assert list(own["run"]) == ["z", "x", "y"]
    assert list(zip(pairs["a"], pairs["b"], strict=True)) == [("x", "y"), ("x", "z"), ("y", "z")]
    assert own.notna().all(axis=None)
    assert pairs.notna().all(axis=None)
    assert set(gradients.of_pairs(tables["gradients_pairs"])["measure"]) == set(KINDS)
    alone = gradients.build(tmp_path, ["z"])
    assert len(alone["gradients"]) == len(tables["gradients"]) / 3
    assert alone["gradients_pairs"].empty
