"""Tables as files: csv for programs, md for people."""

from pathlib import Path

import pandas as pd

from deltageom.display.columns import MATRIX_KEY, read_types
from deltageom.display.markdown import markdown
from deltageom.files import write_text
from deltageom.text import escape

MARKDOWN_ROWS = 500  # a longer table is for a program to read: its .md shows the first so many


def write_table(frame: pd.DataFrame, folder: Path, name: str) -> None:
    """folder/name.csv in full precision and folder/name.md for reading."""
    write_text(folder / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n"))
    text = markdown(frame.head(MARKDOWN_ROWS))
    if len(frame) > MARKDOWN_ROWS:
        text += f"\n\nThe first {MARKDOWN_ROWS} of {len(frame)} rows; all are in {escape(name)}.csv."
    write_text(folder / f"{name}.md", text + "\n")


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Every table that `write` saved in `folder`, by name."""
    return {path.stem: read_table(folder, path.stem) for path in folder.glob("*.csv")}


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """What `write` saved: the same numbers to the last bit; a run called `NA` or `1` keeps its name."""
    path = folder / f"{name}.csv"
    header = pd.read_csv(path, nrows=0).columns
    dtype = read_types([MATRIX_KEY] if MATRIX_KEY in header else header)
    return pd.read_csv(path, dtype=dtype, keep_default_na=False, na_values=[""])
