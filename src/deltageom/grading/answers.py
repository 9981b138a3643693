r"""Find the final answer in a completion.

The rule: of what the model says after its thoughts, the last box that holds anything, else the rest of the line after
the last `####`; never the last number.
"""

import re

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*+")
_BRACE = re.compile(r"\\\\|\\[{}]|[{}]")  # `\\` is a line break: a brace after it is not escaped
# \boxed 5: without braces, a number that nothing follows but the end of its formula or of its sentence
_UNBRACED = re.compile(r"([+-]?\$?[0-9][0-9.,/]*+)[ \t]*+(?=\$|\\[)\]]|\*|[\r\n]|\Z)")
_EMPHASIS = " \t*_`"


def as_said(prompt: str, response: str, finish_reason: str | None) -> str:
    """A response as the grader reads it: behind the <think> that its prompt ends in, if it may be cut off in there.

    Templates of models that always think open the tag themselves (DeepSeek-R1's distills, QwQ, Qwen3 Thinking), so
    that a completion which meets the token limit has no tag at all. One that ended by itself without closing its
    thoughts has had none.
    """
    cut_off = finish_reason not in ("stop", "reference")
    return f"<think>{response}" if cut_off and opens_thoughts(prompt) else response


def opens_thoughts(prompt: str) -> bool:
    return prompt.rfind("<think>") > prompt.rfind("</think>")


def answer_part(text: str) -> str | None:
    """What stands after the last `</think>`, the whole text if there is none; None where a <think> is left open."""
    answer = text[text.rfind("</think>") + len("</think>") :] if "</think>" in text else text
    return None if "<think>" in answer else answer


def extract(text: str) -> str | None:
    r"""The final answer, or None: a think tag left open, neither box nor `####`, or nothing in it.

    Of nested boxes the innermost last one counts; a box that is never closed, or is empty, is skipped.
    """
    answer = answer_part(text)
    if answer is None:
        return None
    found = _last_box(answer)
    if found is None and "####" in answer:
        found = re.split(r"[\r\n]", answer[answer.rfind("####") + 4 :], maxsplit=1)[0].strip(_EMPHASIS)
    return (found or "").strip() or None


def _last_box(text: str) -> str | None:
    """Content of the last balanced box that has any. Linear: what is open where an open box starts stays open."""
    end = len(text)
    for box in reversed(list(_BOX.finditer(text))):
        if text[box.end() : box.end() + 1] != "{":
            if number := _UNBRACED.match(text, box.end()):
                return number[1]
            continue
        if box.end() >= end:
            continue
        depth = 0
        for brace in _BRACE.finditer(text, box.end(), end):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0:
                if text[box.end() + 1 : brace.start()].strip():
                    return text[box.end() + 1 : brace.start()]
                break
        else:
            end = box.start()
    return None
