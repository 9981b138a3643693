"""Tables of the runs themselves: how each was trained, or what it was derived from."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from deltageom.display.columns import TEXT, Record, typed

# what of a run's training settings can change its delta
SETTINGS = ["adapter", "learning_rate", "schedule", "warmup", "steps", "report_step", "batch_size", "reduction"]
SETTINGS += ["weight_decay", "max_grad_norm", "max_length", "match_norm", "order", "rollouts_of", "seed"]
DERIVED = "derived"  # stands for the method of a run that was not trained
LORA = ["rank", "alpha", "rslora", "dropout", "init_seed"]


def training(runs: Mapping[str, Record], selections: Mapping[str, Record]) -> pd.DataFrame:
    """One row per run: method, options and settings from the study; what its selection.json says of the run.

    The settings of LoRA are missing for a run without an adapter. A run of `selections` that is not among `runs` is a
    derived one: it stands below the others with its recipe, rank and norm, without settings of a training.
    """
    rows: list[dict[str, Any]] = []
    for name, run in runs.items():
        settings = run["training"]
        lora = settings["lora"] if settings["adapter"] == "lora" else dict.fromkeys(LORA)
        found = selections.get(name, {}).items()
        rows.append(
            {key: value for key, value in found if key in TEXT or value is None or type(value) in (int, float)}
            | {"run": name, "method": run["method"], "options": _options(run["options"])}
            | {key: settings[key] for key in SETTINGS}
            | {key: lora[key] for key in LORA}
            | {"match_norm": _match(settings["match_norm"])}
        )
    rows += [_derived(name, found) for name, found in selections.items() if name not in runs]
    known = ["run", "method", "options", *SETTINGS, *LORA]
    found_of_runs = list(dict.fromkeys(key for row in rows for key in row if key not in known))
    whole = [key for key in found_of_runs if all(type(row.get(key, 0)) is int for row in rows)]
    return typed(pd.DataFrame(rows, columns=[*known, *found_of_runs]), whole)


def trained(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `training` without those of derived runs."""
    return table[table["method"] != DERIVED]


def training_curves(metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per (run, step, metric). `metrics` holds runs/<run>/metrics.parquet by run: step, metric, value."""
    columns = ["run", "step", "metric", "value"]
    curves = [table.assign(run=run)[columns] for run, table in metrics.items()]
    return typed(pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=columns))


def _derived(name: str, found: Record) -> dict[str, Any]:
    return {
        **{"run": name, "method": DERIVED, "options": found["recipe"], "adapter": "lora"},
        **{key: found[key] for key in ("rank", "delta_norm", "scale")},
    }


def _options(options: Record) -> str | None:
    return ", ".join(f"{key}={value}" for key, value in options.items()) or None


def _match(match: Record | None) -> str | None:
    return f"{match['run']}, {match['how']}" if match else None
