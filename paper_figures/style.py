"""The look of the paper's figures beside that of all figures: sources, levels, the paper's own points and its KLs."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from . import analysed

LOOKS = analysed.style.LOOKS
METHODS = analysed.style.METHODS
STYLE = analysed.style.STYLE
WIDTH = analysed.style.WIDTH
Look = analysed.style.Look
canvas = analysed.style.canvas
context = analysed.style.context
foot = analysed.style.foot
of_methods = analysed.style.of_methods
save = analysed.style.save

SOURCES = {
    "quantized-weights": Look("#0072B2", "s"),
    "quantized-kv": Look("#56B4E9", "o"),
    "sliding-window": Look("#CC79A7", "v"),
    "stale": Look("#009E73", "P"),
    "distilled": Look("#E69F00", "D"),
    "separate": Look("#D55E00", "^"),
    "llama-cpp": Look("#000000", "*"),
    "precision": Look("#882255", "h"),
    "temperature": Look("#8C510A", "X"),
    "top-p": Look("#999999", "d"),
    "fewer-layers": Look("#D55E00", "<"),
}
"""The look of each kind of source of a language-model actor."""

LEVELS = ("#92C5DE", "#4393C3", "#2166AC", "#053061")
"""Colours for a few values of a number, from light for the smallest to dark."""

NOISES = {"dirichlet-mixture": Look("#0072B2", "o"), "logit-noise": Look("#882255", "d")}
"""The look of each kind of environment, where one estimator, OBRS, is shown under several."""

POLICY, ACTOR = "#333333", "#BBBBBB"
PUBLISHED: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 6.5,
    "markerfacecolor": "none",
    "markeredgecolor": "#000000",
    "markeredgewidth": 0.9,
    "zorder": 5,
}
"""The look of the paper's points: open circles, so that ours show inside them."""
CLOSED_FORM: dict[str, Any] = {"color": "#000000", "linestyle": (0, (4, 2)), "linewidth": 1.0, "zorder": 4}
"""The look of formulas: dashed black lines."""


def draw_papers_kls(axes: Axes, paper: pd.DataFrame, *, named: bool = False) -> None:
    """A dotted line at each KL that the paper reports, with its cause along the line where they are named.

    Args:
        axes: with the KL along x.
        paper: rows of `kl`, nats, and `cause`.
        named: whether the causes are written.
    """
    for _, row in paper.iterrows():
        axes.axvline(row["kl"], color="#777777", linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=1)
        if named:
            axes.annotate(
                row["cause"],
                (row["kl"], 0.015),
                xycoords=axes.get_xaxis_transform(),
                xytext=(-1.5, 0),
                textcoords="offset points",
                rotation=90,
                ha="right",
                va="bottom",
                fontsize=7.5,
                color="#444444",
            )
