"""The pairs of one run with each of the others, from its side."""

import re
from collections.abc import Sequence

import pandas as pd


def against(pairs: pd.DataFrame, reference: str, order: Sequence[str]) -> pd.DataFrame:
    """The pairs that hold `reference`, with column `run` for the other one, sorted by `order` (others last).

    Whatever has a direction is turned so that the reference is `a`: columns that differ by an `a` and a `b`
    change places (loss_a and loss_b, ..._b_outside_a and ..._a_outside_b), alphas (shares of a) become 1 - alpha, and a
    `difference` (a minus b) changes its sign, with its interval.
    """
    first, second = pairs[pairs["a"] == reference], pairs[pairs["b"] == reference]
    turned = second.rename(columns=lambda column: re.sub("(?<![^_])[ab](?![^_])", _other, column))[pairs.columns]
    for alpha in {"alpha", "worst_alpha"}.intersection(turned.columns):
        turned = turned.assign(**{alpha: 1 - turned[alpha]})
    if "difference" in turned.columns:
        turned = turned.assign(difference=-turned["difference"], low=-turned["high"], high=-turned["low"])
    both = pd.concat([first, turned]).rename(columns={"b": "run"}).drop(columns="a")
    rank = {run: position for position, run in enumerate(order)}
    return both.sort_values("run", key=lambda runs: runs.map(rank), kind="stable").reset_index(drop=True)


def _other(letter: re.Match[str]) -> str:
    return "b" if letter[0] == "a" else "a"
