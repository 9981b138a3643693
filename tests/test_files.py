"""Files appear whole or not at all."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deltageom.errors import UserError
from deltageom.files import read_jsonl, whole_file, write_columns, write_csv, write_json, write_jsonl
from deltageom.problems.problem import read_problems


def test_a_failed_write_leaves_the_old_file_and_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_half_way() -> None:
        with whole_file(path) as aside:
            aside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_new_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_json(tmp_path / "ours.json", {})
    assert (tmp_path / "ours.json").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_jsonl_round_trip_keeps_odd_text(tmp_path: Path) -> None:
    rows = [{"text": 'line\nbreak "quoted" \u2028 ünïcode \x00'}, {"text": ""}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert read_jsonl(tmp_path / "a.jsonl") == rows


@pytest.mark.parametrize("bad", [b'{"a": 1', b"[1]", b'"a"', b'\xff{"a": 1}'])
def test_malformed_line_is_named_by_its_number(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + bad + b"\n")
    with pytest.raises(UserError, match=r"a\.jsonl:3: not a JSON object"):
        read_jsonl(path)


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_csv_keeps_every_digit(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"x": 0.1 + 0.2, "y": "a,b"}])
    assert (tmp_path / "a.csv").read_text() == 'x,y\n0.30000000000000004,"a,b"\n'
    assert json.loads("0.30000000000000004") == 0.1 + 0.2


def test_columns_in_pieces_are_one_csv_that_reads_back(tmp_path: Path) -> None:
    floats = np.array([0.1 + 0.2, np.nan, -1e-300, 5.0, 1 / 3, np.inf, -0.0, 5e-324, 1e23, np.nan])
    texts = ['a,"b"', None, "", "line\nbreak", "ünï", None, "a", "b", "c", "d"]
    whole = {"x,y": texts, "count": np.array([1, np.nan, 3, 2**40, 0, -1, 2, 3, 4, 5]), "f": floats}
    parts = (slice(0, 0), slice(0, 9, 2), slice(1, 2), slice(3, 10, 2), slice(10, 10))
    pieces = [{key: values[part] for key, values in whole.items()} for part in parts]
    order = [place for part in parts for place in range(10)[part]]
    write_columns(tmp_path / "a.csv", pieces, counts=["count"])
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["x,y"] for row in rows] == [texts[place] or "" for place in order]
    counts = ["1", "", "3", str(2**40), "0", "-1", "2", "3", "4", "5"]
    assert [row["count"] for row in rows] == [counts[place] for place in order]
    read_back = np.array([float(row["f"] or "nan") for row in rows])
    np.testing.assert_array_equal(read_back, floats[order])
    np.testing.assert_array_equal(np.signbit(read_back), np.signbit(floats[order]))
    with_pandas = pd.read_csv(tmp_path / "a.csv", float_precision="round_trip", keep_default_na=False, na_values=[""])
    np.testing.assert_array_equal(with_pandas["f"], floats[order])


def test_columns_are_written_without_pandas(tmp_path: Path) -> None:
    """Each process of `compare` that writes tables would import it, which takes longer than most of them."""
    code = """
import sys
from pathlib import Path
import numpy as np
from deltageom.files import write_columns
write_columns(Path(sys.argv[1]), [{"a": ["b", None], "c": np.array([1.5, np.nan])}])
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.csv"], check=True)
    assert (tmp_path / "a.csv").read_text() == '"a","c"\n"b",1.5\n,\n'


def test_a_file_of_something_else_is_no_list_of_problems(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": "1"}])
    with pytest.raises(
        UserError, match=r"a\.jsonl: is no list of problems: each line has id, question, answer, solution"
    ):
        read_problems(tmp_path / "a.jsonl")
