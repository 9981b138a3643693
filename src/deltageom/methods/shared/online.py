"""Options of the methods that sample while they train."""

from typing import Annotated, Any, Literal

from pydantic import Field

from deltageom.fields import Count, NonNegative, Positive
from deltageom.methods.interface import MethodOptions


class SamplingOptions(MethodOptions):
    """How the run is sampled in every step: training.batch_size completions, `group` for each of its problems."""

    group: Count
    temperature: Positive  # of the sampling, and of the softmax that the loss is of
    max_tokens: Count


class GroupOptions(SamplingOptions):
    """GRPO and its kin, in trl.GRPOConfig's terms."""

    group: Annotated[int, Field(ge=2)]  # the advantage is over the mean of the group
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"]
    scale_rewards: Literal["group", "batch", "none"]
    importance: Literal["token", "sequence"]
    clip: Positive
    clip_high: Positive | None
    beta: NonNegative
    iterations: Count
    mask_truncated: bool


def group_arguments(options: GroupOptions) -> dict[str, Any]:
    """For trl.GRPOConfig."""
    return {
        "loss_type": options.loss_type,
        "scale_rewards": options.scale_rewards,
        "importance_sampling_level": options.importance,
        "epsilon": options.clip,
        "epsilon_high": options.clip_high,
        "beta": options.beta,
        "use_bias_correction_kl": True,  # the penalty's gradient is that of the KL (2512.02556)
        "num_iterations": options.iterations,
        "num_generations": options.group,
        "mask_truncated_completions": options.mask_truncated,
    }
