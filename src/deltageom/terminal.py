"""A console that prints tables as wide where the output goes to a file as on a terminal."""

from rich.console import Console

WIDTH = 120  # where the output goes to no terminal


def console(stderr: bool = False) -> Console:
    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=WIDTH)


def duration(seconds: float) -> str:
    """Two or three digits: 0.5 s, 14 s, 3.2 min, 2.1 h, 5.3 d."""
    for unit, length, most in (("s", 1, 100), ("min", 60, 6000), ("h", 3600, 48 * 3600)):
        if seconds < most:
            return f"{_digits(seconds / length)} {unit}"
    return f"{_digits(seconds / 86400)} d"


def size(count: float) -> str:
    """Bytes, in powers of a thousand."""
    for unit, length in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if count < 999.5 * length:
            return f"{_digits(count / length)} {unit}"
    return f"{_digits(count / 1e12)} TB"


def _digits(value: float) -> str:
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
