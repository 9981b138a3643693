"""A toy base and its rollouts, as a study would have left them, in seconds and without sampling.

The rollouts are the toy's world's own solutions: each problem once by a careful and once by a careless author.
"""

from pathlib import Path
from typing import Any

from benchmarks.contender import CONFIG

DOCUMENTS, PROBLEMS, LAYERS = 2400, 96, 4
OTHER_DOCUMENTS = 1  # the seed of the problems; the base is pre-trained on those of seed 0
PROMPT = {"template": "{question}", "system": None}


def make(folder: Path, dtypes: dict[str, str]) -> None:
    """Writes base/, rollouts.parquet, and for each dtype, on its device, <dtype>/log_probs.parquet."""
    from deltageom.models.load import load_tokenizer
    from deltageom.rollouts import reward, sample
    from deltageom.study.schema import Prompt, Toy
    from deltageom.study.settings import MismatchedSettings, ReferenceSettings, RewardSettings
    from deltageom.toy import pretraining
    from deltageom.training import reference

    base = str(folder / "base")
    sizes = Toy.model_validate(CONFIG["toy"] | {"documents": DOCUMENTS})
    pretraining.pretrain(sizes, Prompt.model_validate(PROMPT), folder / "base")
    shared = {"prompt": PROMPT, "base": base_settings("float32")}
    told = RewardSettings.model_validate(
        shared
        | {"study": "gpu", "problems": CONFIG["dataset"] | CONFIG["problems"], "rollouts": CONFIG["rollouts"]}
        | {"grader": CONFIG["grading"]["primary"]}
    )
    problems, texts = _problems()
    columns = _completions(base, told, problems, texts)
    sample.write(columns, load_tokenizer(base, told.base), folder / "completions.parquet")
    print(reward.reward(told, base, folder / "completions.parquet", problems, folder, workers=1))
    for dtype, device in dtypes.items():
        asked = {"reference": CONFIG["reference"] | {"benchmark": "none"}, "transformers": CONFIG["transformers"]}
        settings = ReferenceSettings.model_validate(
            {"prompt": PROMPT, "base": base_settings(dtype), "device": device} | asked
        )
        (folder / dtype).mkdir()
        reference.write(settings, base, folder / "rollouts.parquet", [], folder / dtype)
        scored = {"batch_size": settings.reference.batch_size, "base": settings.base, "device": settings.device}
        pairs = MismatchedSettings(seed=CONFIG["methods"]["kto"]["kl_seed"], max_length=256, **scored)
        made = folder / dtype / "mismatched.parquet"
        reference.write_mismatched(pairs, base, folder / "rollouts.parquet", made)


def base_settings(dtype: str) -> dict[str, Any]:
    settings: dict[str, Any] = CONFIG["base"] | {"layers": LAYERS, "dtype": dtype}
    return settings


def _problems() -> tuple[list[Any], list[list[str]]]:
    """The problems, gold and solution by the careful author, and the two solutions of each."""
    from deltageom.grading import answers
    from deltageom.problems.problem import Problem
    from deltageom.problems.world import documents

    pairs = zip(*(documents(PROBLEMS, OTHER_DOCUMENTS, careful) for careful in (True, False)), strict=True)
    of_question = {question: [careful, careless] for (question, careful), (_, careless) in pairs}
    problems = [
        Problem(f"p{number}", question, str(answers.extract(careful)), careful)
        for number, (question, (careful, _)) in enumerate(of_question.items())
    ]
    return problems, list(of_question.values())


def _completions(base: str, told: Any, problems: list[Any], texts: list[list[str]]) -> dict[str, Any]:
    from trl.trainer.utils import add_fused_lm_head

    from deltageom.models.load import load_model, load_tokenizer
    from deltageom.models.prompts import completion_ids, prompt_ids, turn_end
    from deltageom.training import scoring

    tokenizer, model = load_tokenizer(base, told.base), load_model(base, told.base, "cpu")
    add_fused_lm_head(model)
    prompts = [prompt_ids(tokenizer, told.prompt, problem.question) for problem in problems for _ in range(2)]
    both = [text for of_problem in texts for text in of_problem]
    end = turn_end(tokenizer)
    ids = [completion_ids(tokenizer, text, end) for text in both]
    scores = [score.tolist() for score in scoring.token_log_probs(model, prompts, ids, 32)]
    return {
        "problem_id": [problem.id for problem in problems for _ in range(2)],
        "sample": [0, 1] * len(problems),
        "text": both,
        "prompt_token_ids": prompts,
        "token_ids": ids,
        "log_prob": [sum(score) for score in scores],
        "token_log_probs": scores,
        "finish_reason": ["stop"] * len(both),
    }
