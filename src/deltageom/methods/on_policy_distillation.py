"""On-policy distillation (2306.13649): the teacher's distribution of every token, on the run's own samples.

The teacher is the study's generator (`rollouts.generator`). The loss is a divergence between the two distributions of
the next token, averaged over the step's completion tokens; rewards are recorded, and no part of it.
"""

from typing import Annotated, Any

from pydantic import Field

from deltageom.methods.interface import Online
from deltageom.methods.shared.online import SamplingOptions


class Options(SamplingOptions):
    beta: Annotated[float, Field(ge=0, le=1)]  # 0: KL(teacher || run); 1: KL(run || teacher); Jensen-Shannon between


def trainer_arguments(options: Options) -> dict[str, Any]:
    return {"beta": options.beta}


METHOD = Online(options=Options, trainer_arguments=trainer_arguments, teacher=True)
