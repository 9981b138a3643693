"""What each measure's jobs are told: the study's sections that they use, as JSON (`--settings`).

Apart from study/settings.py, so that another measure is no reason to train again.
"""

from deltageom.fields import Count, Section
from deltageom.study.measured import (
    Attribution,
    Behaviour,
    Cka,
    Connectivity,
    HeldOutAccuracy,
    HeldOutPath,
    LogitLens,
    LossPlane,
    Representations,
)
from deltageom.study.running import Grader, Transformers
from deltageom.study.schema import Base, Device, Prompt


class ConnectivitySettings(Section):
    """What `deltageom measure connectivity` is told."""

    connectivity: Connectivity
    prompt: Prompt
    base: Base
    device: Device


class HeldOutPathsSettings(Section):
    """What `deltageom measure held_out_paths` and `held_out_from_base` are told."""

    held_out_paths: HeldOutPath
    prompt: Prompt
    base: Base
    device: Device


class HeldOutAccuracySettings(Section):
    """What `deltageom measure held_out_accuracy` is told."""

    held_out_accuracy: HeldOutAccuracy
    max_tokens: Count
    thinking: bool | None
    grader: Grader
    prompt: Prompt
    base: Base
    device: Device
    transformers: Transformers


class AttributionSettings(Section):
    """What `deltageom measure attribution` is told."""

    attribution: Attribution
    base: Base
    device: Device


class LogitLensSettings(Section):
    """What `deltageom measure logit_lens` is told."""

    logit_lens: LogitLens
    base: Base
    device: Device


class LossPlaneSettings(Section):
    """What `deltageom measure loss_plane` is told."""

    loss_plane: LossPlane
    base: Base
    device: Device


class TrajectorySettings(Section):
    """What `deltageom measure trajectory` is told."""

    snapshots: list[Count]


class HiddenSettings(Section):
    """What `deltageom hidden-states` is told."""

    cka: Cka
    prompt: Prompt
    base: Base
    device: Device


class BehaviourSettings(Section):
    """What `deltageom measure behaviour` is told."""

    behaviour: Behaviour
    prompt: Prompt
    base: Base
    device: Device
    transformers: Transformers


class RepresentationSettings(Section):
    """What `deltageom measure representations` is told."""

    representations: Representations
