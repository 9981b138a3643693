"""Tables as LaTeX for a paper: booktabs, four significant digits as in the Markdown, names escaped."""

from typing import Any

import pandas as pd

from deltageom.display.markdown import number

NEEDS = "% \\usepackage{booktabs}\n"


def latex(frame: pd.DataFrame) -> str:
    """A tabular with the columns' names as its heading, numbers on the right; an en dash for what is missing.

    Names and text are escaped: `a_b & 5 %` is `a\\_b \\& 5 \\%`.
    """
    align = "".join("r" if pd.api.types.is_numeric_dtype(dtype) else "l" for dtype in frame.dtypes)
    shown = frame.map(_cell).rename(columns=str)
    styled = shown.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
    text = str(styled.to_latex(hrules=True, column_format=align))
    for sign, spelt in SPELT.items():
        text = text.replace(sign, spelt)
    return NEEDS + text


# of the private use area: what LaTeX spells, written after the escaping
MISSING, MINUS, TIMES, CLOSE = "\ue000", "\ue001", "\ue002", "\ue003"
SPELT = {MISSING: "--", MINUS: "$-$", TIMES: "$\\times10^{", CLOSE: "}$"}


def _cell(value: Any) -> str:
    if pd.isna(value):
        return MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    text = f"{value:.0f}" if isinstance(value, int) else number(value)
    mantissa, e, exponent = text.partition("e")
    return mantissa.replace("-", MINUS) + (f"{TIMES}{int(exponent)}{CLOSE}" if e else "")
