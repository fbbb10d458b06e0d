"""Cells of a study side by side: runs as dots, each cell's mean with its interval, and differences of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ..style import Look
from . import curves
from .statistics import Difference, group, interval

ROOM = 0.8
"""The share of a setting's place that its methods take."""

_LEVEL: dict[str, Any] = {"color": "#444444", "linewidth": 0.7, "linestyle": ":"}


def draw_cells(
    axes: Axes, runs: pd.DataFrame, column: str, looks: Mapping[str, Look], settings: Mapping[str, str], log: bool
) -> None:
    """Draws a figure of every run, by setting and method, and its mean over seeds with Student's 95 % interval.

    Args:
        axes: where settings stand along x.
        runs: the figures of each run, by setting, method and seed.
        column: the figure.
        looks: the look of each method, in order; those that a setting lacks leave no gap.
        settings: the label of each setting, in order.
        log: whether means are geometric.
    """
    for place, setting in enumerate(settings):
        there = set(runs.loc[[setting]].index.get_level_values("method"))
        shown = [method for method in looks if method in there]
        for number, method in enumerate(shown):
            values = group(runs, setting, method)[column].dropna()
            values = values[np.isfinite(values)]
            mean, low, high = _ends(values.map(np.log) if log else values)
            mean, low, high = np.exp([mean, low, high]) if log else (mean, low, high)
            at, look = place + (number - (len(shown) - 1) / 2) * ROOM / len(looks), looks[method]
            axes.plot(np.full(len(values), at), values, ".", markersize=2.5, color=look.color, alpha=0.4)
            bars = [[mean - low], [high - mean]]
            axes.errorbar([at], [mean], bars, color=look.color, marker=look.marker, markersize=5, capsize=2)
    axes.set_xticks(range(len(settings)), [*settings.values()], fontsize=7)
    axes.set_xlim(-0.5, len(settings) - 0.5)
    axes.grid(visible=False, axis="x")


def draw_level(axes: Axes, value: float) -> None:
    """Draws a dotted line at the figure of training that needs no correction."""
    axes.axhline(value, **_LEVEL)


def legend(methods: Sequence[str], looks: Mapping[str, Look], level: str = "on-policy") -> list[Line2D]:
    """The entries of a legend: a mark for each method, and the dotted line of `draw_level`."""
    marks = curves.legend(methods, looks)
    for mark in marks:
        mark.set_linestyle("none")
    return [*marks, Line2D([], [], label=level, **_LEVEL)]


def _ends(values: pd.Series[float]) -> tuple[float, float, float]:
    """The mean and the ends of its interval, which is the mean itself where there is one seed."""
    return interval(values)[:3] if len(values) > 1 else (float(values.mean()),) * 3


def draw_differences(
    axes: Axes, rows: Mapping[str, Mapping[str, Difference]], colors: Mapping[str, str] | None = None
) -> None:
    """Draws differences with their intervals, one line below the other, around 0.

    Args:
        axes: where differences lie along x.
        rows: the differences of each line, by series.
        colors: the colour of each series; None for one series.
    """
    for place, differences in enumerate(rows.values()):
        for number, (series, each) in enumerate(differences.items()):
            error = None if each.pairs < 2 else [[each.mean - each.low], [each.high - each.mean]]
            color = "#0072B2" if colors is None else colors[series]
            at = place + (number - (len(differences) - 1) / 2) * min(0.3, ROOM / len(differences))
            axes.errorbar([each.mean], [at], xerr=error, color=color, marker="o", markersize=4, capsize=2)
    axes.axvline(0, color="#444444", linewidth=0.7)
    axes.set_yticks(range(len(rows)), [*rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
