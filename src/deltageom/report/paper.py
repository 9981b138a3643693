"""What arXiv 2606.23740 found for each loss against SFT (Qwen3-4B, one seed): to stand beside a study's numbers."""

import pandas as pd

SOURCE = "arXiv 2606.23740, Qwen3-4B-Instruct-2507, one seed"

# by measure of the geometry's table, then by method; offline GRPO's and DPO's cosines are given as about .74 and .06
AGAINST_SFT: dict[str, dict[str, float]] = {
    "cosine": {"rft": 0.977, "rift_linear": 0.967, "offline_grpo": 0.74, "dft": 0.572, "dpo": 0.06}
    | {"online_grpo": 0.025},
    "orthogonal_fraction_stacked": {"offline_grpo": 0.67, "online_grpo": 0.998},
    "left_smallest_median": {"rft": 6.7, "rift_linear": 8.2, "offline_grpo": 18.5, "dft": 26.7, "dpo": 54.6},
    "left_largest_median": {"rft": 36, "rift_linear": 40, "offline_grpo": 76, "dft": 85, "dpo": 90},
}
NORM_OF_SFT_TO_DPO = 13.0


def beside(training: pd.DataFrame, reference: str, measure: str) -> dict[str, float]:
    """The paper's value of each run of the table `training` whose method it has; of runs of one method, the first.

    None but against SFT, and none for a run on another run's samples, which the paper has not.
    """
    if dict(zip(training["run"], training["method"], strict=True)).get(reference) != "sft":
        return {}
    values = AGAINST_SFT.get(measure, {})
    own = training[training["rollouts_of"].isna()] if "rollouts_of" in training else training
    first = own.drop_duplicates("method")
    return {run: values[method] for run, method in zip(first["run"], first["method"], strict=True) if method in values}
