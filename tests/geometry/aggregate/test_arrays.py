"""Modules that are collected apart and put together are those that are collected together."""

import pickle
import tracemalloc
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from deltageom.geometry.aggregate.arrays import collect, joined
from deltageom.geometry.aggregate.table import numbers
from tests.geometry.aggregate.test_table import deltas_of, record, records_of, rows_of


def same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b)
    elif hasattr(one, "__dataclass_fields__"):
        for field in fields(one):
            same(getattr(one, field.name), getattr(other, field.name))
    else:
        assert one == other


@pytest.mark.parametrize("base", [False, True])
def test_parts_put_together_are_the_whole(base: bool) -> None:
    records = records_of(deltas_of(), ks=(1, 2), base=base)
    same(joined([collect([one]) for one in records]), collect(records))
    same(joined([collect(records[:2]), collect(records[2:])]), collect(records))


def test_a_part_without_any_angle_has_nan_in_the_whole() -> None:
    """Of one module every run is zero, so no pair of it has angles."""
    of_module = next(iter(deltas_of(zero=set()).values()))
    records = [record("m", 0, of_module), record("n", 1, {run: 0 * delta for run, delta in of_module.items()})]
    for order in (records, records[::-1]):
        same(joined([collect([one]) for one in order]), collect(order))


@pytest.mark.parametrize("level", ["module", "layer"])
def test_rows_of_runs_and_of_pairs_are_those_of_both(level: Any) -> None:
    modules = collect(records_of(deltas_of(), ks=(1, 2)))
    both = rows_of(numbers(modules, level, {}))
    apart = [rows_of(numbers(modules, level, {}, of=[of])) for of in ("runs", "pairs")]  # type: ignore[list-item]
    np.testing.assert_equal([*apart[0], *apart[1]], both)
    assert [row["b"] is None for row in both] == [True] * len(apart[0]) + [False] * len(apart[1])


def arrays_in(found: Any) -> list[Any]:
    if isinstance(found, np.ndarray):
        return [found]
    if hasattr(found, "__dataclass_fields__"):
        found = [getattr(found, field.name) for field in fields(found)]
    elif isinstance(found, dict):
        found = list(found.values())
    return [array for part in found for array in arrays_in(part)] if isinstance(found, list | tuple) else []


def test_modules_take_the_memory_of_their_numbers() -> None:
    """As they are sent between processes, and when they are put together."""
    of_module = next(iter(deltas_of(zero=set()).values()))
    one = collect([record("m", 0, {f"{run}{i}": delta for i in range(8) for run, delta in of_module.items()})])
    of_one = sum(array.nbytes for array in arrays_in(one))
    assert {array.dtype for array in arrays_in(one)} == {np.dtype(np.float64)}
    assert len(pickle.dumps(one)) < 1.1 * of_one
    tracemalloc.start()
    try:
        whole = joined([one] * 50)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(array.nbytes for array in arrays_in(whole)) == 50 * of_one
    assert 50 * of_one <= held < 1.1 * 50 * of_one
    assert peak < 2 * 50 * of_one
