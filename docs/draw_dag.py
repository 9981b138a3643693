"""Draws docs/dag.svg, the rules of the toy study and what each reads: `python docs/draw_dag.py`."""

import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import networkx as nx
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

MEASURES = "measures"
COLOURS = {
    "data": "#8CCBF0",
    "training": "#F0C25A",
    "scores": "#66C5A8",
    MEASURES: "#E0AECA",
    "report": "#CCCCCC",
}
STAGES = {  # any other rule is a measure
    "data": ("problems", "decontaminate", "pretrain", "teacher", "rollouts", "reward"),
    "training": ("reference", "train"),
    "scores": ("evaluate", "grade"),
    "report": ("tables", "replicates", "figures", "summary"),
}
MIDDLE = ("teacher", "rollouts", "reward", "reference", "train", "connectivity")
MIDDLE += ("tables", "replicates", "figures", "summary")
LANES: dict[str, float] = {  # heights in the picture, chosen so that no arrow crosses a box
    "decontaminate": 2,
    **dict.fromkeys(("problems", "evaluate", "grade"), 1),
    **dict.fromkeys(MIDDLE, 0),
    **dict.fromkeys(("pretrain", "base_spectrum", "geometry"), -1),
    **dict.fromkeys(("hidden_states", "cka"), -2.25),
}
JOBS = {  # how many jobs, where it is not one
    "problems": "per problem set",
    "train": "per run",
    "evaluate": "per model",
    "grade": "per model",
    "hidden_states": "per run",
    "connectivity": "per run: its pairs",
    "cka": "per run: its pairs",
    "base_spectrum": "per layer",
    "geometry": "per layer",
    "tables": "per replicate",
}


def read_rules() -> nx.DiGraph:
    """Snakemake's graph of rules, without `provenance`, which reads every job's record, and without implied arrows."""
    command = [str(Path(sys.executable).with_name("snakemake")), "--rulegraph", "dot", "--", "results/toy/summary.md"]
    dot = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', dot))
    graph = nx.DiGraph((names[a], names[b]) for a, b in re.findall(r"(\d+) -> (\d+)", dot))
    graph.remove_node("replicate_tables")  # as `tables`, of a further replicate
    return nx.transitive_reduction(graph)


def place(graph: nx.DiGraph) -> dict[str, tuple[int, float]]:
    """Column, as late as its readers allow, and lane; a rule that is not in LANES gets a lane below the others."""
    columns: dict[str, int] = {}
    for rule in reversed(list(nx.topological_sort(graph))):
        columns[rule] = min((columns[reader] - 1 for reader in graph.successors(rule)), default=0)
    lanes = LANES | {rule: min(LANES.values()) - 1 - i for i, rule in enumerate(sorted(set(graph) - set(LANES)))}
    return {rule: (columns[rule] - min(columns.values()), lanes[rule]) for rule in sorted(graph)}


def draw_rule(ax: Axes, rule: str, place: tuple[int, float]) -> Text:
    stage = next((stage for stage, rules in STAGES.items() if rule in rules), MEASURES)
    box = {"boxstyle": "round,pad=0.4", "facecolor": COLOURS[stage], "edgecolor": "none"}
    name = rule.replace("_", " ")
    text = f"{name}\n{JOBS[rule]}" if rule in JOBS else name
    return ax.text(*place, text, ha="center", va="center", fontsize=8, bbox=box)


def draw(graph: nx.DiGraph, path: Path) -> None:
    places = place(graph)
    columns, heights = zip(*places.values(), strict=True)
    figure = Figure(figsize=(1.65 * (max(columns) + 1), 0.75 * (max(heights) - min(heights) + 2)), facecolor="white")
    ax = figure.subplots()
    ax.set_xlim(-0.6, max(columns) + 0.6)
    ax.set_ylim(min(heights) - 0.6, max(heights) + 0.6)
    ax.axis("off")
    boxes = {rule: draw_rule(ax, rule, where) for rule, where in places.items()}
    figure.canvas.draw()  # gives the boxes their sizes, at which the arrows end
    for a, b in sorted(graph.edges):
        ends = {"patchA": boxes[a].get_bbox_patch(), "patchB": boxes[b].get_bbox_patch(), "shrinkA": 0, "shrinkB": 1}
        ax.annotate("", places[b], places[a], arrowprops={"arrowstyle": "-|>", "color": "#666666", **ends})
    for stage, colour in COLOURS.items():
        ax.plot([], [], "s", markersize=8, color=colour, label=stage)
    figure.legend(loc="lower center", ncols=len(COLOURS), frameon=False, fontsize=8)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    mpl.rc("svg", hashsalt="deltageom")
    draw(read_rules(), Path(__file__).with_name("dag.svg"))
