"""What the page is put together from beside data: its own files, and what the methods' files say of them.

The Snakefile asks for their digests, so this imports nothing heavier than pydantic.
"""

import hashlib
import json
from collections.abc import Iterable
from importlib.resources import files
from inspect import cleandoc

from deltageom.methods import interface as methods


def asset(name: str) -> str:
    return files("deltageom.report.page").joinpath("assets", name).read_text(encoding="utf-8")


def script() -> str:
    """All files of JavaScript, in the order of their names, as one function: they see each other, nobody else does."""
    parts = [asset(name) for name in _names() if name.endswith(".js")]
    return "(() => {\n'use strict';\n" + "\n".join(parts) + "})();"


def cards(names: Iterable[str]) -> list[dict[str, str]]:
    """What each method's own file says of it: name, its first sentence as title, a formula that follows, and all."""
    found = []
    for name in dict.fromkeys(names):
        if name in methods.names():
            text, title = cleandoc(methods.module(name).__doc__ or ""), methods.full_name(name)
            formula = " ".join(text.partition("\n\n")[0].split()).removeprefix(title).strip(" .")
            found.append({"name": name, "title": title, "formula": formula, "text": text})
    return found


def digests(methods_shown: Iterable[str]) -> list[str]:
    """A line per file and per method's card, with its digest: what the digest of the code does not see."""
    texts = {f"assets/{name}": asset(name) for name in _names()}
    texts |= {f"card of {card['name']}": json.dumps(card) for card in cards(sorted(methods_shown))}
    return [f"{name} {hashlib.sha256(text.encode()).hexdigest()[:12]}" for name, text in texts.items()]


def _names() -> list[str]:
    folder = files("deltageom.report.page").joinpath("assets")
    return sorted(one.name for one in folder.iterdir() if one.name.endswith((".js", ".css", ".jinja")))
