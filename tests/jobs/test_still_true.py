"""Digests of what decides whether a kept file is still true."""

import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from deltageom.jobs import code, still_true

DAY = 86_400 * 10**9


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(still_true, "_read", {})


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all files had been written a day ago."""
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + DAY)


def test_values_do_not_depend_on_the_order_of_keys() -> None:
    assert still_true.of_values({"a": 1, "b": [1, 2]}) == still_true.of_values({"b": [1, 2], "a": 1})
    assert still_true.of_values({"a": [1, 2]}) != still_true.of_values({"a": [2, 1]})


def test_arrays_differ_by_shape_and_by_value() -> None:
    a = np.arange(6.0)
    assert still_true.of_arrays(a) == still_true.of_arrays(a.copy())
    assert still_true.of_arrays(a) != still_true.of_arrays(a.reshape(2, 3))
    assert still_true.of_arrays(a) != still_true.of_arrays(a + 1e-15)


def test_code_is_told_by_what_any_of_its_files_does(monkeypatch: pytest.MonkeyPatch) -> None:
    before = still_true.of_code("cli.jobs.geometry")
    assert before != still_true.of_code("cli.jobs.tables")
    found = code.digests("cli.jobs.geometry")
    monkeypatch.setattr(code, "digests", lambda *_: found | {"deltageom/geometry/stack.py": "another"})
    assert still_true.of_code("cli.jobs.geometry") != before


def test_files_differ_by_name_and_by_content_but_not_by_folder_or_time(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            (tmp_path / folder / name).write_text(name)
    os.utime(tmp_path / "two" / "a", ns=(0, 0))

    def of(folder: str) -> str:
        return still_true.of_files((tmp_path / folder).iterdir())

    assert of("one") == of("two")
    (tmp_path / "two" / "a").rename(tmp_path / "two" / "c")
    assert of("one") != of("two")
    (tmp_path / "two" / "c").rename(tmp_path / "two" / "a")
    (tmp_path / "two" / "a").write_text("A")
    assert of("one") != of("two")


def test_a_file_is_read_again_only_where_it_may_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch)
    path, reads, digest = tmp_path / "a", [], hashlib.file_digest
    path.write_text("first")
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: reads.append(given) or digest(*given))
    first = still_true.of_file(path)
    assert still_true.of_file(path) == first
    assert len(reads) == 1
    stat = path.stat()
    path.write_text("other")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as long, at the same time: ctime tells
    assert still_true.of_file(path) != first


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("first")
    still_true.of_file(path)
    assert still_true._read == {}


def test_large_files_are_remembered_by_the_next_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch)
    monkeypatch.setattr(still_true, "LARGE", 4)
    kept, large, small = tmp_path / "kept.json", tmp_path / "large", tmp_path / "small"
    large.write_text("large")
    small.write_text("s")
    for path in (large, small):
        still_true.of_file(path, kept)
    assert list(json.loads(kept.read_text())) == [str(large)]
    still_true._read.clear()
    stamp, _ = json.loads(kept.read_text())[str(large)]
    kept.write_text(json.dumps({str(large): [stamp, "as kept"]}))
    assert still_true.of_file(large, kept) == "as kept"
    for damaged in ("{", "[]", '{"a": 1}'):
        still_true._read.clear()
        kept.write_text(damaged)
        assert len(still_true.of_file(large, kept)) == 64
