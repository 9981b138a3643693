"""The plane through three models: its coordinates against dense weights, its losses against models that are built."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from deltageom.deltas.open import open_run
from deltageom.errors import UserError
from deltageom.files import write_csv, write_jsonl
from deltageom.measures import loss_plane
from deltageom.measures.shared.losses import planes
from deltageom.measures.shared.losses.own_answers import Text
from deltageom.measures.shared.settings import LossPlaneSettings
from deltageom.study.measured import LossPlane
from deltageom.study.schema import Base
from tests.deltas import tiny_checkpoints

TEXTS = [Text("1", [5, 6, 7], [8, 9]), Text("2", [11, 12], [13, 14, 15, 16])]


def flat(base: Path, run: Path | None) -> np.ndarray:
    """The whole update as one vector."""
    names = [m for m in open_run(tiny_modules(base), base).modules if m.startswith("layers.")]
    delta = open_run(run, base) if run else None
    shapes = {m: open_run(tiny_modules(base), base).shape(m) for m in names}
    zero = {m: np.zeros(shape) for m, shape in shapes.items()}
    return np.concatenate([(delta.read(m).dense() if delta and delta.has(m) else zero[m]).ravel() for m in names])


def tiny_modules(base: Path) -> Path:
    """A checkpoint has every module: the base against itself."""
    return base


def test_corners_keep_all_distances_and_points_are_weighted_sums(
    tiny_model: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    # no whole model that moves embeddings, which are no layers: its vector here would lack them
    merged = tiny_checkpoints.merged(tiny_model, tiny_adapters["first"], tmp_path / "merged")
    for models in (
        [None, tiny_adapters["first"], tiny_adapters["second"]],
        [tiny_adapters["second"], merged, None],
    ):
        vectors = [flat(tiny_model, folder) for folder in models]
        inner = planes.gram([open_run(folder, tiny_model) if folder else None for folder in models])
        np.testing.assert_allclose(inner, [[a @ b for b in vectors] for a in vectors], rtol=1e-6, atol=1e-9)
        at = planes.corners(inner)
        for i in range(3):
            for j in range(3):
                distance = np.linalg.norm(vectors[i] - vectors[j])
                assert np.linalg.norm(at[i] - at[j]) == pytest.approx(distance, rel=1e-6, abs=1e-9)
        assert at[0].tolist() == [0, 0]
        assert at[1, 1] == 0
        assert at[2, 1] > 0
        point = np.array([0.3, -0.7])
        weights = planes.weights(at, point)
        assert weights.sum() == pytest.approx(1)
        there = sum(w * v for w, v in zip(weights, vectors, strict=True))
        for i in range(3):
            assert np.linalg.norm(there - vectors[i]) == pytest.approx(np.linalg.norm(point - at[i]), rel=1e-6)


def test_the_grid_surrounds_the_corners() -> None:
    corners = np.array([[0.0, 0.0], [2.0, 0.0], [0.5, 1.0]])
    grid = planes.grid(corners, 5, 0.25)
    assert grid.shape == (25, 2)
    assert sorted(set(grid[:, 0])) == pytest.approx([-0.5, 0.25, 1.0, 1.75, 2.5])
    assert sorted(set(grid[:, 1])) == pytest.approx([-0.25, 0.125, 0.5, 0.875, 1.25])


@pytest.mark.parametrize("third", [0.0, 1.0, 2.5])
def test_points_on_a_line_have_no_plane(third: float) -> None:
    values = np.array([0.0, 1.0, third])
    with pytest.raises(ValueError, match="on one line"):
        planes.corners(np.outer(values, values))


def test_losses_are_those_of_the_weighted_sum(
    tiny_model: Path, tiny_adapters: dict[str, Path], base_settings: Base
) -> None:
    models = {"base": None, "a": tiny_adapters["first"], "b": tiny_adapters["second"]}
    rows = list(planes.losses_on_plane(str(tiny_model), base_settings, "cpu", models, TEXTS, 3, 0.1, 2))
    assert [row["model"] for row in rows] == ["base", "a", "b", *[None] * 9]
    corners = planes.corners(planes.gram([None, *(open_run(f) for f in list(models.values())[1:] if f)]))
    assert [(row["along"], row["across"]) for row in rows[:3]] == [tuple(c) for c in corners]
    for row in rows:
        _, a, b = planes.weights(corners, np.array([row["along"], row["across"]]))
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)
        for weight, folder in ((a, tiny_adapters["first"]), (b, tiny_adapters["second"])):
            for module in open_run(folder).modules:
                delta = torch.from_numpy(weight * open_run(folder).read(module).dense())
                model.get_submodule(f"model.{module}").weight.data += delta
        total = 0.0
        for text in TEXTS:
            with torch.no_grad():
                log_probs = model(torch.tensor([text.prompt + text.answer])).logits[0].log_softmax(-1)
            own = log_probs[len(text.prompt) - 1 : -1].gather(1, torch.tensor(text.answer)[:, None])
            total -= float(own.sum())
        assert row["loss"] == pytest.approx(total / 6, abs=1e-4)
        assert row["n"] == 2


def test_the_table_of_a_study_and_what_it_says_of_three_on_a_line(
    tiny_model: Path, tiny_adapters: dict[str, Path], base_settings: Base, tmp_path: Path
) -> None:
    record = {"problem_id": "1", "prompt": "Tom has 3.", "response": " 4", "finish_reason": "stop", "correct": True}
    write_jsonl(tmp_path / "right.jsonl", [record])
    write_jsonl(tmp_path / "wrong.jsonl", [record | {"correct": False}])
    wanted = LossPlane(models=["base", "sft", "dpo"], benchmark="easy", problems=4, points=3, margin=0.2, batch_size=2)
    settings = LossPlaneSettings(loss_plane=wanted, base=base_settings, device="cpu")
    runs = {"sft": tiny_adapters["first"], "dpo": tiny_adapters["second"]}
    wrong = {f"answers_of_{name}": tmp_path / "wrong.jsonl" for name in wanted.models}
    (tmp_path / "loss_plane").mkdir()

    def table(**answers: Path) -> list[str | None]:
        rows = loss_plane.MEASURE.rows(settings, {"base": tiny_model, **wrong, **answers}, runs)
        write_csv(tmp_path / "loss_plane" / "points.csv", rows)
        built = loss_plane.build(tmp_path, [])["loss_plane"]
        assert {str(built[column].dtype) for column in ("along", "across", "loss")} == {"float64"}
        return [None if name != name else name for name in built["model"]]

    assert table() == []
    assert table(answers_of_dpo=tmp_path / "right.jsonl") == ["base", "sft", "dpo", *[None] * 9]
    runs["dpo"] = tiny_adapters["first"]
    with pytest.raises(UserError, match=r"measures\.loss_plane\.models: base, sft, dpo are on one line"):
        table(answers_of_dpo=tmp_path / "right.jsonl")
