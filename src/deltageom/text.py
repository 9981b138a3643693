"""Text from models and from data, made fit for a line of a table or a terminal."""

import html
import re


def plain(text: str, longest: int) -> str:
    """On one line, at most `longest` characters, none of them invisible: for text from models, in any medium.

    Control characters (a terminal obeys them), lone surrogates and marks of direction become U+FFFD.
    """
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text[: 4 * longest].split()))
    return line if len(line) <= longest and len(text) <= 4 * longest else line[: longest - 1] + "…"


def escape(text: str) -> str:
    """Text that Markdown shows as it is: no HTML, no table cell's end, no emphasis, no link, on one line."""
    text = html.escape(" ".join(text.split()), quote=False)
    text = re.sub(r"([\\`*\[\]|~$])", r"\\\1", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)  # within a word it is plain
