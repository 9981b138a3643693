"""The summary's part on the weight updates: every number of the geometry with its baselines."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from deltageom.display.against import against
from deltageom.display.columns import MATRIX_KEY
from deltageom.display.markdown import cell, markdown, readable
from deltageom.report.tables.geometry import chance_mean, count_modules, of_measure, of_pairs, of_runs
from deltageom.text import escape

Tables = Mapping[str, pd.DataFrame]

PAIR = ["run", "cosine", "orthogonal_fraction_stacked", "orthogonal_fraction_by_module_b_outside_a"]
PAIR += ["u1_overlap_mean", "v1_overlap_mean", "k", "n_defined", "reason"]
SHORT = {"orthogonal_fraction_by_module_b_outside_a": "orthogonal fraction by module"}
AGAINST_BASE = ["output_energy", "input_energy", "spectral_drift_mean", "intruders_sum", "unchanged_bf16"]


def geometry(study: Mapping[str, Any], tables: Tables) -> str:
    """Markdown: every update's norm and ranks, and its cosine, angles and projections with the reference's."""
    reference, square = study["measures"]["compare_with"], tables["cosine_matrix"]
    runs = tables["training"][["run"]].merge(of_runs(tables["geometry_global"]), on="run")
    pairs = against(of_pairs(tables["geometry_global"]), reference, list(tables["training"]["run"]))
    text = [
        f"Global means all {count_modules(tables)} modules stacked into one vector, not a mean over modules: so "
        "the norms, cosines and orthogonal fractions. Angles (degrees) are medians, overlaps and effective "
        "ranks means, over the modules where they are defined.",
        "Cosine of every two weight updates, global:",
        markdown(square.rename(columns={MATRIX_KEY: ""})),
        "Norm and ranks of each update (effective rank: exp of the entropy of the normalised singular "
        "values, and of their squares):",
        markdown(readable(runs[[c for c in runs if c not in AGAINST_BASE and c != "k"]])),
        *_against_base(study, runs),
        f"Each update against {escape(reference)}'s; the orthogonal fraction is what a projection on it "
        "leaves, with one coefficient for all modules (stacked) or one a module:",
        markdown(readable(pairs.reindex(columns=PAIR).rename(columns=SHORT))),
        f"The cosine with {escape(reference)} beside what chance gives, its mean being 0: chance sd with random B and "
        "each run's own A, and with both random; beside it the pairs of runs that differ only in seeds, of the "
        "settings of either, with one A from the start where these two have one. z: distance in standard deviations.",
        markdown(_baselines(study, tables)),
        f"Principal angles with {escape(reference)}: median over modules with its 95 % bootstrap interval over them, "
        "then what chance gives: on the left (output) side random subspaces, on the right (input) side random B with "
        "the runs' own A (where one has none, random subspaces too).",
        markdown(_angles(study, tables)),
    ]
    return "\n\n".join(text)


def _against_base(study: Mapping[str, Any], runs: pd.DataFrame) -> list[str]:
    """What each update does to the base's own spectrum, if that was asked for."""
    if "output_energy" not in runs:
        return []
    k = study["measures"]["geometry"]["top_k"][-1]
    text = (
        f"Against the base's weights W, k = {k}: share of the update's energy in the leading output and input "
        "directions of W; drift of the leading singular values, relative; intruder dimensions, leading left singular "
        "vectors of W + dW that are none of W's, summed over modules; share of weights that bfloat16 leaves unchanged:"
    )
    return [text, markdown(readable(runs[["run", *AGAINST_BASE]]))]


def _baselines(study: Mapping[str, Any], tables: Tables) -> pd.DataFrame:
    columns = {"value": "cosine", "chance_own_sd": "chance sd, own A", "chance_own_z": "z, own A"}
    columns |= {"chance_fresh_sd": "chance sd, both random", "chance_fresh_z": "z, both random"}
    columns |= {"seed_n": "seed pairs", "seed_mean": "their mean", "seed_sd": "sd", "seed_z": "z, seeds"}
    rows = _measure(study, tables, "cosine")
    return rows[["run", *columns]].rename(columns=columns)


def _angles(study: Mapping[str, Any], tables: Tables) -> pd.DataFrame:
    columns: dict[str, pd.Series] = {}
    for side in ("left", "right"):
        for which in ("smallest", "largest"):
            rows = _measure(study, tables, f"{side}_{which}_median")
            columns["run"] = rows["run"]
            columns[f"{side} {which}"] = pd.Series(
                [
                    f"{cell(value)} [{cell(low)}, {cell(high)}]" if pd.notna(value) else "–"
                    for value, low, high in zip(rows["value"], rows["low"], rows["high"], strict=True)
                ],
                dtype=str,
            )
            columns[f"chance, {side} {which}"] = chance_mean(rows)
    return pd.DataFrame(columns)


def _measure(study: Mapping[str, Any], tables: Tables, measure: str) -> pd.DataFrame:
    """The rows of one measure with the reference."""
    rows = of_measure(tables["geometry_global"], measure)
    return against(rows, study["measures"]["compare_with"], list(tables["training"]["run"]))
