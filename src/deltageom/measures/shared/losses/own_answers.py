"""What models have answered, as texts that models can read again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deltageom.files import read_jsonl
from deltageom.models.prompts import Tokenizer, completion_ids, turn_end


@dataclass(frozen=True)
class Text:
    """The tokens of `answer` after those of `prompt`. A problem may have several."""

    problem_id: str
    prompt: list[int]
    answer: list[int]


def correct(tokenizer: Tokenizer, graded: Sequence[Path], problems: int, wrong_too: bool = False) -> list[Text]:
    """The correct answers in files of graded records, to the first so many problems of each, each text once.

    The tokens are the tokenizer's of the record's prompt and response, closed where the model had finished. Sorted by
    problem as the files have them.
    """
    end, found = turn_end(tokenizer), {}
    for path in graded:
        records = read_jsonl(path)
        first = list(dict.fromkeys(record["problem_id"] for record in records))[:problems]
        place = {problem_id: number for number, problem_id in enumerate(first)}
        for record in records:
            if (wrong_too or record["correct"]) and (problem_id := record["problem_id"]) in place:
                finished = record["finish_reason"] == "stop"
                found[problem_id, record["prompt"], record["response"], finished] = place[problem_id]
    return [
        Text(
            problem_id,
            list(tokenizer.encode(prompt, add_special_tokens=False)),
            completion_ids(tokenizer, response, end if finished else None),
        )
        for (problem_id, prompt, response, finished), _ in sorted(found.items(), key=lambda one: (one[1], one[0]))
    ]
