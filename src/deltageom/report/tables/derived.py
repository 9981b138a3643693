"""The table of derived runs: each beside the runs that it was made from."""

from collections.abc import Mapping

import pandas as pd

from deltageom.display.columns import Record, frame


def derived(selections: Mapping[str, Record], geometry: pd.DataFrame) -> pd.DataFrame:
    """One row per derived run and parent: its recipe in words, both norms, and the cosine of the two updates.

    `selections`: the selection.json of each run; those of derived runs have a recipe. `geometry` is geometry_global.
    The cosine is missing where one of the two updates is zero.
    """
    values = geometry.set_index(["a", "b"])
    norms = values.loc[values["measure"] == "norm", "value"].droplevel("b").to_dict()
    cosines = values.loc[values["measure"] == "cosine", "value"].to_dict()
    rows = [
        {"run": run, "recipe": made["recipe"], "norm": norms[run], "parent": parent, "parent_norm": norms[parent]}
        | {"cosine": cosines.get((run, parent), cosines.get((parent, run)))}
        for run, made in selections.items()
        if "recipe" in made
        for parent in made["parents"]
    ]
    return frame(rows, ["run", "recipe", "norm", "parent", "parent_norm", "cosine"])
