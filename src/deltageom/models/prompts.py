"""Prompts and completions as token ids, by the base's own tokenizer and template."""

from typing import Any

from jinja2 import TemplateError

from deltageom.errors import UserError
from deltageom.jobs import still_true
from deltageom.study.schema import Prompt

Tokenizer = Any
_ANSWER = "ANSWER"  # a text that no template has
VOCABULARY = b"deltageom.vocabulary"  # where the rollouts' file says which tokenizer its ids are of


def end_tokens(tokenizer: Tokenizer, config: Any) -> list[int]:
    """The tokens that end a completion: the one that closes a turn, the tokenizer's, and the generation_config's.

    Qwen2.5's base closes a turn with <|im_end|>, but both of the others are <|endoftext|>.
    """
    ends = config.eos_token_id
    named = [*ends] if isinstance(ends, list) else [ends]
    return sorted({turn_end(tokenizer), tokenizer.eos_token_id, *named} - {None})


def turn_end(tokenizer: Tokenizer) -> int:
    """The special token with which the chat template closes an assistant's turn; the tokenizer's eos if it has none."""
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except TemplateError:  # a template of prompts alone
        return int(tokenizer.eos_token_id)
    after = tokenizer.encode(text.rpartition(_ANSWER)[2].lstrip(), add_special_tokens=False)
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return int(after[0] if after and after[0] in special else tokenizer.eos_token_id)


def opening(tokenizer: Tokenizer, prompt: Prompt, thinking: bool | None = None) -> str:
    """What every prompt begins with, up to the user's message: by the template, with a system message of its own."""
    text = tokenizer.decode(prompt_ids(tokenizer, prompt, _ANSWER, thinking))
    return str(text.partition(prompt.template.format(question=_ANSWER))[0])


def vocabulary_digest(tokenizer: Tokenizer) -> str:
    """SHA-256 of the tokens and their ids: equal where token ids mean the same."""
    return still_true.of_values(sorted(tokenizer.get_vocab().items()))


def conversation(prompt: Prompt, question: str) -> list[dict[str, str]]:
    """The messages that put a question to a model."""
    system = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
    return [*system, {"role": "user", "content": prompt.template.format(question=question)}]


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt, question: str, thinking: bool | None = None) -> list[int]:
    """Token ids of the question in the study's prompt and the chat template, up to where the assistant speaks.

    The template is told `thinking` as enable_thinking, unless it is None. Without a system message of the study's it
    may put in one of its own; an empty one is a message. Raises UserError if the template refuses them.
    """
    messages = conversation(prompt, question)
    told = {} if thinking is None else {"enable_thinking": thinking}
    try:
        encoded = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, **told
        )
    except TemplateError as error:  # Gemma's takes no system message
        fix = "" if prompt.system is None else ": set prompt.system: null, and put its words into prompt.template"
        raise UserError(f"the chat template of {tokenizer.name_or_path} refuses the prompt ({error}){fix}") from error
    return list(encoded["input_ids"])


def completion_ids(tokenizer: Tokenizer, text: str, end: int | None) -> list[int]:
    """Token ids of a completion's text, closed by `end`, which is `turn_end`'s; None if it is not finished."""
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    return ids if end is None else [*ids, end]
