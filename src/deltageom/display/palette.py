"""One colour and marker for each run, the same in every figure.

Each known method has a fixed colour, far from the others also for readers with protan, deutan or tritan
vision. The run that bears its method's name (else the method's first in sorted order) gets that colour; the
method's further runs get shades of it and other markers, in sorted order. A method without a fixed colour
takes one of the spare colours, in sorted order of such methods. So a new run never recolours a run of
another known method.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle

COLOURS = {
    "base": "#222222",
    "sft": "#0072B2",
    "sft_solutions": "#33BBEE",
    "rft": "#009E73",
    "dft": "#CC79A7",
    "rift": "#E69F00",
    "rift_linear": "#661100",
    "offline_grpo": "#CC3311",
    "dpo": "#332288",
}
SPARE = ("#999933", "#44AA99", "#882255", "#80BA5A", "#6699CC", "#EE6677")
DARK, CONTRAST = "#1E2127", 4.5  # the surface of a dark page, and what text and lines need on it
SHADES = (0.0, 0.4, -0.35, 0.6, -0.6)  # above 0: that far towards white; below 0: towards black
MARKERS = (
    "o",
    "s",
    "D",
    "^",
    "v",
    "P",
    "X",
)  # as many as have no common factor with SHADES: 35 looks a method


@dataclass(frozen=True)
class Look:
    colour: str  # "#RRGGBB"
    marker: str  # matplotlib's


def looks(methods: Mapping[str, str]) -> dict[str, Look]:
    """The look of `base` and of every run, given each run's method."""
    unknown = sorted(set(methods.values()) - COLOURS.keys())
    colours = COLOURS | dict(zip(unknown, cycle(SPARE), strict=False))
    found = {"base": Look(COLOURS["base"], MARKERS[0])}
    for method in set(methods.values()):
        runs = sorted((run for run in methods if methods[run] == method), key=lambda run: (run != method, run))
        for position, run in enumerate(runs):
            colour = shade(colours[method], SHADES[position % len(SHADES)])
            found[run] = Look(colour, MARKERS[position % len(MARKERS)])
    return found


def on_dark(colour: str) -> str:
    """`colour` so light that it has a contrast of 4.5 to 1 (WCAG 2.2) on a dark page; the same if it has."""
    return next(lighter for step in range(21) if _contrast(lighter := shade(colour, step / 20)) >= CONTRAST)


def _contrast(colour: str) -> float:
    return (_luminance(colour) + 0.05) / (_luminance(DARK) + 0.05)


def _luminance(colour: str) -> float:
    """Relative luminance of sRGB, 0 to 1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def shade(colour: str, amount: float) -> str:
    """`colour` mixed with white (amount > 0) or black (amount < 0) by the share |amount|."""
    end = 255 if amount > 0 else 0
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(part + abs(amount) * (end - part)):02X}" for part in parts)
