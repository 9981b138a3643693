"""The heat map of the cosines between updates."""

import math

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from deltageom.display import drawing


@drawing.styled
def heatmap(square: pd.DataFrame, title: str) -> Figure:
    """`square` (runs, runs): the cosine of every two, missing where it is undefined; index and columns are the runs."""
    names, n = [drawing.label(run) for run in square.index], len(square)
    cell = 0.56 if n <= 12 else 0.42
    figure = drawing.blank(3.1 + cell * n, 1.6 + cell * n)
    ax = figure.subplots()
    digits = 3 if n <= 12 else 2
    values = square.to_numpy(float)
    texts = [[_cosine(value, digits) for value in row] for row in values]
    sns.heatmap(
        np.where(np.isnan(values), 0.0, values), ax=ax, vmin=-1, vmax=1, cmap="vlag", square=True,
        annot=np.array(texts), fmt="", annot_kws={"fontsize": 7.5}, linewidths=0.5, mask=np.isnan(values),
        xticklabels=names, yticklabels=names, cbar_kws={"label": "cosine", "shrink": 0.7},
    )  # fmt: skip
    for text in ax.texts:
        text.set_in_layout(False)  # hundreds of them, all within the axes: the layout is much faster without
    ax.set_facecolor(drawing.FAINT)
    for row, column in np.argwhere(np.isnan(values)):  # seaborn leaves masked cells without their text
        ax.text(column + 0.5, row + 0.5, "–", ha="center", va="center", fontsize=7.5)
    ax.grid(visible=False)
    ax.tick_params(axis="x", rotation=45)
    for text in ax.get_xticklabels():
        text.set(ha="right", rotation_mode="anchor")
    ax.tick_params(axis="y", rotation=0)
    drawing.title(figure, title)
    if np.isnan(values).any():
        drawing.note(figure, "– : undefined (an update of norm zero).")
    return figure


def _cosine(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return "–" if math.isnan(value) else text.replace("-", "−") if float(text) else text.lstrip("-")
