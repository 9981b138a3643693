"""What the paper found, beside which runs."""

import pandas as pd

from deltageom.report import paper


def test_the_papers_values_stand_beside_runs_on_rollouts_and_not_beside_replays() -> None:
    training = pd.DataFrame(
        {
            "run": ["sft", "rft", "other_rft", "online", "replay"],
            "method": ["sft", "rft", "rft", "online_grpo", "dft"],
            "rollouts_of": [None, None, None, None, "online"],
        }
    )
    assert paper.beside(training, "sft", "cosine") == {"rft": 0.977, "online": 0.025}
    assert paper.beside(training, "rft", "cosine") == {}
    assert paper.beside(training.drop(columns="rollouts_of"), "sft", "cosine")["replay"] == 0.572
