"""The measures of pairs that the page shows in every view: their names in the tables, units and ranges."""

from dataclasses import asdict, dataclass
from typing import Any

ANGLE = (0.0, 90.0)


@dataclass(frozen=True)
class Shown:
    """of_module: its name in geometry_module; of_all: in geometry_layer and geometry_global.

    scale: how a heat map colours it, `both` around 0, `like` where more is more alike, `unlike` where it is less.
    chance: the baseline that is drawn beside it, of `own` A, of `fresh` factors, or the sd of `own` around 0 (`sd`).
    """

    key: str
    label: str
    unit: str
    of_module: str
    of_all: str
    range: tuple[float, float]
    scale: str
    chance: str
    says: str


MEASURES = (
    Shown(
        "cosine", "cosine", "", "cosine", "cosine", (-1.0, 1.0), "both", "sd",
        "1: the same direction; 0: unrelated; modules stacked into one vector.",
    ),
    Shown(
        "orthogonal", "orthogonal fraction", "", "orthogonal_fraction", "orthogonal_fraction_stacked", (0.0, 1.0),
        "unlike", "own", "What is left of one update after its projection on the other, as a share of its length.",
    ),
    Shown(
        "left_smallest", "left angle, smallest", "°", "left_smallest", "left_smallest_median", ANGLE, "unlike", "fresh",
        "Output side (B): between the closest directions of the two leading subspaces; over modules the median.",
    ),
    Shown(
        "left_largest", "left angle, largest", "°", "left_largest", "left_largest_median", ANGLE, "unlike", "fresh",
        "Output side (B): between the directions that are furthest apart; over modules the median.",
    ),
    Shown(
        "right_smallest", "right angle, smallest", "°", "right_smallest", "right_smallest_median", ANGLE, "unlike",
        "own", "Input side (A), which runs share from the start: compare it with chance only.",
    ),
    Shown(
        "right_largest", "right angle, largest", "°", "right_largest", "right_largest_median", ANGLE, "unlike", "own",
        "Input side (A), which runs share from the start: compare it with chance only.",
    ),
    Shown(
        "u1", "overlap of u1", "", "u1_overlap", "u1_overlap_mean", (0.0, 1.0), "like", "fresh",
        "|cosine| of the leading output directions; over modules the mean.",
    ),
    Shown(
        "v1", "overlap of v1", "", "v1_overlap", "v1_overlap_mean", (0.0, 1.0), "like", "own",
        "|cosine| of the leading input directions; over modules the mean. A is shared.",
    ),
)  # fmt: skip


def names_of_level(level: str) -> list[str]:
    return [*(one.of_module if level == "module" else one.of_all for one in MEASURES), "norm"]


def plain() -> list[dict[str, Any]]:
    return [asdict(one) for one in MEASURES]
