"""The base's weights and the file of their leading singular triplets."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from deltageom.errors import UserError
from deltageom.geometry import base_weights
from deltageom.geometry.base_weights import BaseWeights

Array = NDArray[np.float64]
MODULE = "layers.0.self_attn.v_proj"  # 16 x 32
OTHER = "layers.1.mlp.down_proj"


def write(folder: Path, tensors: dict[str, Array]) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def copied(tiny_model: Path, tmp_path: Path) -> Path:
    """The model's weights, to be changed."""
    return write(tmp_path / "base", load_file(tiny_model / "model.safetensors"))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ranks that spectra were asked for, once each time that one was found."""
    ranks: list[int] = []
    found = base_weights.base_spectrum
    monkeypatch.setattr(
        base_weights, "base_spectrum", lambda weight, rank: (ranks.append(rank), found(weight, rank))[1]
    )
    return ranks


def spectrum(folder: Path, spectra: Path, rank: int = 4, module: str = MODULE) -> base_weights.BaseSpectrum:
    return BaseWeights(folder, spectra, rank).module(module).spectrum()


def check(found: base_weights.BaseSpectrum, weight: Array) -> None:
    assert weight.dtype == np.float64
    np.testing.assert_allclose(found.sigma, np.linalg.svd(weight, compute_uv=False)[: found.sigma.size], rtol=1e-12)
    np.testing.assert_allclose(weight @ found.v, found.u * found.sigma, atol=1e-12)
    assert found.frobenius == pytest.approx(np.linalg.norm(weight), rel=1e-12)


def test_a_weight_is_read_as_it_is_stored(tiny_model: Path, tmp_path: Path) -> None:
    weights = BaseWeights(tiny_model, tmp_path, 4)
    for module in (MODULE, OTHER):
        stored = load_file(tiny_model / "model.safetensors")[f"model.{module}.weight"]
        assert np.array_equal(weights.module(module).weight, stored.astype(float))


def test_a_spectrum_is_found_once_and_kept_to_the_last_bit(copied: Path, tmp_path: Path, made: list[int]) -> None:
    spectra = tmp_path / "deep" / "spectra"
    first = spectrum(copied, spectra)
    check(first, BaseWeights(copied, spectra, 4).module(MODULE).weight)
    path = spectra / f"{MODULE}.safetensors"
    assert list(spectra.iterdir()) == [path]
    written = path.stat().st_mtime_ns
    again = spectrum(copied, spectra)
    assert (made, path.stat().st_mtime_ns) == ([4], written)
    for name in ("u", "sigma", "v"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
        assert getattr(again, name).dtype == np.float64
    facts = [(one.residual, one.frobenius, one.exact) for one in (first, again)]
    assert facts[0] == facts[1]
    assert again.exact is True
    bytes_of_first = path.read_bytes()
    for _ in range(5):  # the order of several entries of metadata would be another one in some of these
        path.unlink()
        spectrum(copied, spectra)
        assert path.read_bytes() == bytes_of_first


def test_a_spectrum_that_is_not_exact_is_kept_as_such(tmp_path: Path) -> None:
    wide = base_weights.BaseModule(
        np.random.default_rng(0).standard_normal((600, 520)), tmp_path / "wide.safetensors", 3
    )
    kept = [wide.spectrum() for _ in range(2)]
    assert [one.exact for one in kept] == [False, False]
    assert kept[0].residual == kept[1].residual > 0
    assert kept[1].u.shape == (600, 3)
    assert kept[1].v.shape == (520, 3)


def other_weight(folder: Path, module: str, change: Callable[[Array], Array]) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = f"model.{module}.weight"
    write(folder, tensors | {name: change(tensors[name].copy())})


def nudged(weight: Array) -> Array:
    weight[-1, -1] = np.nextafter(weight[-1, -1], np.inf)
    return weight


def test_another_weight_or_rank_makes_it_anew(copied: Path, tmp_path: Path, made: list[int]) -> None:
    spectra = tmp_path / "spectra"
    before = spectrum(copied, spectra)
    other_weight(copied, OTHER, nudged)
    spectrum(copied, spectra)
    assert len(made) == 1  # another module's weight is not its own
    other_weight(copied, MODULE, nudged)
    check(spectrum(copied, spectra), BaseWeights(copied, spectra, 4).module(MODULE).weight)
    assert len(made) == 2  # one unit in the last place of one number
    other_weight(copied, MODULE, lambda weight: 2 * weight)
    doubled = spectrum(copied, spectra)
    np.testing.assert_allclose(doubled.sigma, 2 * before.sigma, rtol=1e-6)
    spectrum(copied, spectra, rank=5)
    spectrum(copied, spectra, rank=5)
    assert made == [4, 4, 4, 5]


def test_the_digest_tells_weights_and_ranks_apart(copied: Path, tmp_path: Path) -> None:
    found = {
        BaseWeights(copied, tmp_path, 4).module(MODULE).identity,
        BaseWeights(copied, tmp_path, 5).module(MODULE).identity,
    }
    assert BaseWeights(copied, tmp_path / "elsewhere", 4).module(MODULE).identity in found
    found.add(BaseWeights(copied, tmp_path, 4).module(OTHER).identity)
    other_weight(copied, MODULE, nudged)
    found.add(BaseWeights(copied, tmp_path, 4).module(MODULE).identity)
    assert len(found) == 4


def foreign(path: Path) -> None:
    save_file({"u": np.ones((2, 2))}, path)


def incomplete(path: Path) -> None:
    """Of this weight, but not as this version writes it."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        facts, u = file.metadata(), file.get_tensor("u")
    save_file({"u": u}, path, facts)


def without_facts(path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        identity, tensors = (
            json.loads(file.metadata()["facts"])["identity"],
            {name: file.get_tensor(name) for name in ("u", "sigma", "v")},
        )
    save_file(tensors, path, {"facts": json.dumps({"identity": identity})})


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-8]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not one of ours"),
    "foreign": foreign,
    "incomplete": incomplete,
    "without facts": without_facts,
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_made_anew(copied: Path, tmp_path: Path, made: list[int], kind: str) -> None:
    spectra = tmp_path / "spectra"
    spectrum(copied, spectra)
    DAMAGE[kind](spectra / f"{MODULE}.safetensors")
    check(spectrum(copied, spectra), BaseWeights(copied, spectra, 4).module(MODULE).weight)
    spectrum(copied, spectra)
    assert made == [4, 4]


def test_a_module_that_is_not_there_or_twice(copied: Path, tmp_path: Path) -> None:
    weights = BaseWeights(copied, tmp_path, 4)
    for module in ("layers.2.self_attn.v_proj", "v_proj.weight", "ayers.0.self_attn.v_proj"):
        with pytest.raises(UserError, match=rf"base: no weight of {module}; there is "):
            weights.module(module)
    tensors = load_file(copied / "model.safetensors")
    name = f"model.{MODULE}.weight"
    write(copied, tensors | {f"draft.{MODULE}.weight": 0 * tensors[name]})  # another module, if of the same ending
    assert BaseWeights(copied, tmp_path, 4).module(MODULE).weight.any()
    write(copied, tensors | {f"model.language_model.{MODULE}.weight": tensors[name]})
    with pytest.raises(UserError, match=rf"would both be {MODULE}\.weight"):
        BaseWeights(copied, tmp_path, 4)
    with pytest.raises(UserError, match="no model's folder"):
        BaseWeights(tmp_path / "gone", tmp_path, 4)


def test_a_base_in_shards_is_read_as_one_file_is(copied: Path, tmp_path: Path, made: list[int]) -> None:
    tensors = load_file(copied / "model.safetensors")
    shards = tmp_path / "shards"
    shards.mkdir()
    index = {}
    for number in range(2):
        part = {name: tensor for i, (name, tensor) in enumerate(sorted(tensors.items())) if i % 2 == number}
        save_file(part, shards / f"{number}.safetensors")
        index |= dict.fromkeys(part, f"{number}.safetensors")
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert len({index[f"model.{module}.weight"] for module in (MODULE, "layers.0.self_attn.q_proj")}) == 2
    for module in (MODULE, "layers.0.self_attn.q_proj"):
        whole = spectrum(copied, tmp_path / "spectra", module=module)
        assert np.array_equal(spectrum(shards, tmp_path / "spectra", module=module).u, whole.u)
    assert made == [4, 4]  # the same weights, so the same files
    check(spectrum(shards, tmp_path / "others"), BaseWeights(shards, tmp_path, 4).module(MODULE).weight)
