"""Every step against dense float64, on factors of all kinds; the laws of a projection."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltageom.deltas.delta import Factors as Thin
from deltageom.derived import combine
from deltageom.errors import UserError
from deltageom.geometry import factored
from tests.derived.adapters import SHAPES, assert_close, dense, dense_of, factors, inner, made, norm, save

PROJECT = pytest.mark.parametrize("project", ["global", "module"])


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Three runs of unlike ranks, scales and lengths."""
    return {
        "a": save(tmp_path / "a", factors(1, 3), alpha=2.0),
        "b": save(tmp_path / "b", factors(2, 2), alpha=7.0),
        "c": save(tmp_path / "c", factors(3, 4), alpha=0.01),
    }


@PROJECT
def test_both_parts_add_up_and_are_orthogonal(folders: dict[str, Path], project: str) -> None:
    a, b = dense_of(folders["a"]), dense_of(folders["b"])
    rest = dense(made(folders, of="a", remove="b", project=project))
    along = dense(made(folders, of="a", keep="b", project=project))
    assert_close({module: rest[module] + along[module] for module in a}, a)
    assert abs(inner(rest, b)) < 1e-12 * norm(a) * norm(b)
    if project == "module":
        for module in a:
            assert abs(np.sum(rest[module] * b[module])) < 1e-12 * norm(a) * norm(b)
            c = np.sum(a[module] * b[module]) / np.sum(b[module] ** 2)
            np.testing.assert_allclose(along[module], c * b[module], atol=1e-12 * norm(a))
    else:
        c = inner(a, b) / inner(b, b)
        assert_close(along, {module: c * b[module] for module in a})
        assert made(folders, of="a", keep="b").coefficient == pytest.approx(c, rel=1e-12)


def test_one_coefficient_for_all_modules_is_not_one_each(folders: dict[str, Path]) -> None:
    """And it is the default."""
    one, each = (dense(made(folders, of="a", remove="b", project=how)) for how in ("global", "module"))
    assert norm({module: one[module] - each[module] for module in one}) > 0.01 * norm(one)
    assert norm(each) < norm(one)
    assert_close(dense(made(folders, of="a", remove="b")), one)


def test_sums_and_means(folders: dict[str, Path]) -> None:
    a, b, c = (dense_of(folders[name]) for name in "abc")
    assert_close(dense(made(folders, sum={"a": 1.5, "b": -4.0})), {m: 1.5 * a[m] - 4 * b[m] for m in a})
    assert_close(dense(made(folders, mean=["c", "a", "b"])), {m: (a[m] + b[m] + c[m]) / 3 for m in a})
    found = made(folders, sum={"a": 1.0, "b": 1.0, "c": 1.0}).update
    assert {m: of.sigma.size for m, of in found.items()} == {m: min(9, *shape) for m, shape in SHAPES.items()}


def test_a_rank_is_the_truncated_svd(folders: dict[str, Path]) -> None:
    a = dense_of(folders["a"])
    expected = {}
    for module, weight in a.items():
        u, sigma, vt = np.linalg.svd(weight)
        expected[module] = (u[:, :2] * sigma[:2]) @ vt[:2]
    found = made(folders, of="a", rank=2)
    assert_close(dense(found), expected)
    assert {of.sigma.size for of in found.update.values()} == {2}


def test_layers_are_kept_and_the_others_zero(folders: dict[str, Path]) -> None:
    a = dense_of(folders["a"])
    found = dense(made(folders, of="a", layers=[2, 0]))
    assert_close(found, {m: np.zeros_like(a[m]) if m.startswith("layers.1.") else a[m] for m in a})
    assert not found["layers.1.q"].any()


def test_a_length_is_that_of_all_modules_together(folders: dict[str, Path]) -> None:
    a, c = dense_of(folders["a"]), dense_of(folders["c"])
    found = made(folders, of="a", norm_of="c")
    assert_close(dense(found), {m: a[m] * norm(c) / norm(a) for m in a})
    assert found.scale == pytest.approx(norm(c) / norm(a), rel=1e-12)


def test_steps_are_done_in_their_order(folders: dict[str, Path]) -> None:
    """Projection, layers, rank, length: another order gives another update."""
    a, b, c = (dense_of(folders[name]) for name in "abc")
    coefficient = inner(a, b) / inner(b, b)
    expected = {}
    for module in a:
        u, sigma, vt = np.linalg.svd(a[module] - coefficient * b[module])
        expected[module] = (u[:, :1] * sigma[:1]) @ vt[:1] * (not module.startswith("layers.0."))
    factor = norm(c) / norm(expected)
    found = dense(made(folders, norm_of="c", rank=1, layers=[1, 2], remove="b", of="a"))
    assert_close(found, {module: factor * of for module, of in expected.items()})


def test_what_is_left_of_an_update_without_itself_is_zero(folders: dict[str, Path]) -> None:
    found = made(folders, of="a", remove="a")
    assert all(of.sigma.size == 0 for of in found.update.values())
    assert all(of.sigma.size == 0 for of in made(folders, sum={"a": 0.0}).update.values())
    assert_close(dense(made(folders, of="a", keep="a")), dense_of(folders["a"]))


def test_almost_nothing_is_left_of_almost_the_same(tmp_path: Path) -> None:
    """The rest is far below the update itself, and is still orthogonal as far as float64 goes."""
    one = factors(5, 3)
    other = {m: (b + 1e-7 * np.random.default_rng(9).normal(size=b.shape), a) for m, (b, a) in one.items()}
    folders = {"a": save(tmp_path / "a", one), "b": save(tmp_path / "b", other)}
    a, b = dense_of(folders["a"]), dense_of(folders["b"])
    rest = dense(made(folders, of="a", remove="b"))
    c = inner(a, b) / inner(b, b)
    assert 1e-8 < norm(rest) / norm(a) < 1e-6
    assert_close(rest, {m: a[m] - c * b[m] for m in a}, 1e-7)
    assert abs(inner(rest, b)) < 1e-14 * norm(a) * norm(b)


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ({"of": "a", "norm_of": "zero"}, "norm_of 'zero': its update is zero"),
        ({"of": "zero", "norm_of": "a"}, "norm_of 'a': what is to be scaled is zero"),
        ({"of": "a", "remove": "zero"}, "remove 'zero': its update is zero, so it has no direction"),
        ({"of": "a", "keep": "zero", "project": "module"}, "keep 'zero': its update is zero"),
        ({"of": "a", "layers": [1, 7]}, "there is no layer 7; the runs adapt 0, 1, 2"),
        ({"of": "a", "rank": 10}, "rank 10 is more than any module can have, which is 9"),
        ({"of": "a", "remove": "fewer"}, "a and fewer adapt other modules: a has layers.2.down, which fewer lacks"),
        ({"sum": {"fewer": 1.0, "a": 1.0}}, "a and fewer adapt other modules: a has layers.2.down, which fewer lacks"),
        ({"of": "a", "remove": "wider"}, r"layers.0.down is \(7, 20\) in a, but \(8, 20\) in wider"),
    ],
)
def test_what_cannot_be_is_one_line(folders: dict[str, Path], tmp_path: Path, steps: dict[str, Any], says: str) -> None:
    nothing = {module: (np.zeros_like(b), a) for module, (b, a) in factors(4, 2).items()}
    folders["zero"] = save(tmp_path / "zero", nothing)
    folders["fewer"] = save(tmp_path / "fewer", dict(list(factors(4, 2).items())[:-1]))
    wider = {module: (d_out + module.endswith("down"), d_in) for module, (d_out, d_in) in SHAPES.items()}
    folders["wider"] = save(tmp_path / "wider", factors(4, 2, wider))
    with pytest.raises(UserError, match=says) as error:
        made(folders, **steps)
    assert "\n" not in str(error.value)


def test_a_module_that_is_zero_is_left_as_it_is(folders: dict[str, Path], tmp_path: Path) -> None:
    """Where the other has nothing, there is nothing to take away, nor to keep."""
    of_b = {m: (b * (m != "layers.1.q"), a) for m, (b, a) in factors(2, 2).items()}
    folders["b"] = save(tmp_path / "part", of_b)
    a = dense_of(folders["a"])
    rest = dense(made(folders, of="a", remove="b", project="module"))
    np.testing.assert_allclose(rest["layers.1.q"], a["layers.1.q"], atol=1e-13)
    assert not dense(made(folders, of="a", keep="b", project="module"))["layers.1.q"].any()


@st.composite
def updates(draw: st.DrawFn) -> tuple[Thin, Thin]:
    """Two of one shape: graded over ten orders, with columns that are equal or zero, with b and a of unlike sizes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    d_out, d_in = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    found = []
    for _ in range(2):
        rank = draw(st.integers(1, 6))
        b, a = rng.normal(size=(d_out, rank)), rng.normal(size=(rank, d_in))
        b *= 10.0 ** -rng.uniform(0, draw(st.sampled_from([0, 10])), rank)
        if draw(st.booleans()):
            b[:, -1] = b[:, 0] * draw(st.sampled_from([0.0, 1.0, -1.0]))
        if draw(st.booleans()):
            a[-1] = a[0]
        balance = 10.0 ** draw(st.integers(-6, 6))
        found.append(Thin(b * balance, a / balance, draw(st.sampled_from([1.0, -0.5, 1e-9, 1e9]))))
    return found[0], found[1]


@settings(max_examples=300, deadline=None)
@given(updates())
def test_laws_of_a_projection_hold_for_any_factors(drawn: tuple[Thin, Thin]) -> None:
    """a = rest + along, rest is orthogonal to b, Pythagoras holds, and so does the rank.

    Sizes are of the factors: where these cancel, the digits of b @ a are as good as they are, and no better.
    """
    a, b = (of.dense() for of in drawn)
    thin = [factored.thin_svd(of) for of in drawn]
    size_a, size_b = (abs(of.scale) * np.linalg.norm(of.b) * np.linalg.norm(of.a) for of in drawn)
    c = combine.coefficients({"m": thin[0]}, lambda _: thin[1], by_module=False)["m"]
    along, rest = combine.scaled(thin[1], c), combine.summed([(1.0, thin[0]), (-c, thin[1])])
    full = [(of.u * of.sigma) @ of.v.T for of in (along, rest)]
    assert np.linalg.norm(full[0] + full[1] - a) <= 1e-9 * size_a
    assert abs(np.sum(full[1] * b)) <= 1e-9 * size_a * size_b
    assert abs(np.sum(full[0] ** 2) + np.sum(full[1] ** 2) - np.sum(a**2)) <= 1e-9 * size_a**2
    assert rest.sigma.size <= min(*a.shape, drawn[0].b.shape[1] + drawn[1].b.shape[1])
    for side in (rest.u, rest.v):
        np.testing.assert_allclose(side.T @ side, np.eye(side.shape[1]), atol=1e-12)
    twice = combine.summed([(1.0, rest), (-combine.coefficients({"m": rest}, lambda _: thin[1], True)["m"], thin[1])])
    assert abs(factored.norm(twice) - factored.norm(rest)) <= 1e-9 * size_a
