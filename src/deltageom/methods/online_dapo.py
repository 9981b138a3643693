"""Online DAPO (2503.14476, eq. 8): online GRPO with a higher upper clip and the loss of all tokens of a step together.

Without DAPO's dynamic sampling: a group whose rewards are all equal gives no gradient, and none is drawn in its place.
"""

from deltageom.methods.interface import Online
from deltageom.methods.shared.online import GroupOptions, group_arguments


class Options(GroupOptions):
    """In config.yaml: loss_type dapo, clip_high 0.28; completions that were cut off are left out."""


METHOD = Online(options=Options, trainer_arguments=group_arguments)
