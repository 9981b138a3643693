"""Text from models and from data, made fit for a line of a table or a terminal."""


def plain(text: str, longest: int) -> str:
    """On one line, at most `longest` characters, none of them invisible: for text from models, in any medium.

    Control characters (a terminal obeys them), lone surrogates and marks of direction become U+FFFD.
    """
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text[: 4 * longest].split()))
    return line if len(line) <= longest and len(text) <= 4 * longest else line[: longest - 1] + "…"
