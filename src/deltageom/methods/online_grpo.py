"""Online GRPO (2402.03300, eq. 3): the run samples while it trains, and its own groups give the advantages.

A = (r - mean of the group) / (deviation of the group + 1e-4), unless `scale_rewards` says otherwise; the ratio to the
policy that drew the completion is clipped. With one iteration per batch of samples that ratio is 1.
"""

from deltageom.methods.interface import Online
from deltageom.methods.shared.online import GroupOptions, group_arguments


class Options(GroupOptions):
    """In config.yaml: 8 completions per problem, loss_type grpo, no KL."""


METHOD = Online(options=Options, trainer_arguments=group_arguments)
