"""Figures over the steps of training: a panel for each figure and setting, a line for each method.

Lines are means over seeds of running means, over 20 steps or a tenth of the run where that is less. Thin lines
are single seeds, and bands ± one standard error. KLs are on a logarithmic axis, and their means are geometric; a line
ends where its KL is infinite. A cross marks the step at which a run was lost: a run that collapsed and was stopped
keeps its last value in the mean, and one that diverged counts with accuracy 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis import style
from analysis.style import Look
from analysis.training.records import Trained
from analysis.training.statistics import courses, group, lost


class Panel(NamedTuple):
    """A panel: the column that it shows, and its labels."""

    column: str
    """The column of the steps."""
    label: str
    """The label of the vertical axis."""
    log: bool = False
    """True for a logarithmic vertical axis."""
    title: str = ""
    """The title where there is one setting, which does not name the panels."""


KL = Panel("kl_policy_actor", "KL(p‖q), nats per token", log=True, title="Distance of policy and actor")
ACCURACY = Panel("accuracy", "accuracy on held-out problems", title="What the policy has learnt")

NAMES = {
    "on-policy": "on-policy",
    "none": "no correction",
    "off-policy": "off-policy",
    "distillation": "distillation",
    "no-clip": "no clip",
    "tis": "TIS",
    "mis": "MIS",
    "sequence-mis": "sequence MIS",
    "sequence-tis": "sequence TIS",
    "centred-none": "centred, no correction",
    "centred-tis": "centred TIS",
    "obrs": "OBRS (mask alone)",
    "jackpot": "Jackpot",
    "jackpot-lab": "Jackpot, lab's form",
    "rao-blackwell": "RB-Jackpot",
    "cispo": "CISPO",
    "sapo": "SAPO",
    "p-ref": "Jackpot to p_ref",
    "rao-blackwell-p-ref": "RB-Jackpot to p_ref",
    "no-c1": "Jackpot, no c1",
    "no-c2": "Jackpot, no c2",
}
"""The names of methods in figures; other methods keep the names that their study gives them."""

_HEIGHT, _LEGEND = 2.45, 0.5
_MARKS = 6
"""The number of markers along a line."""


def name_of(method: str) -> str:
    """The name of a method in figures."""
    return NAMES.get(method, method)


def curves(
    trained: Trained, panels: Sequence[Panel] = (KL, ACCURACY), more: Sequence[Line2D] = ()
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """The figure, and its axes by setting and column.

    Args:
        trained: the records; several settings stand side by side, or the panels of a single setting.
        panels: the panels of each setting.
        more: entries of the legend for what the caller draws.
    """
    settings = trained.settings
    several = len(settings) > 1
    across = len(settings) if several else min(len(panels), 2) if len(panels) != 3 else 3
    rows = len(panels) if several else -(-len(panels) // across)
    figure, cells = style.canvas(across, rows * _HEIGHT + _LEGEND, rows=rows)
    looks, axes, marked = style.of_methods(trained.methods), {}, False
    for row, panel in enumerate(panels):
        for column, setting in enumerate(settings):
            cell = cells[row * across + column] if several else cells[row]
            axes[setting, panel.column] = cell
            marked |= _draw(cell, trained, setting, panel, looks)
            title = f"({chr(ord('a') + len(axes) - 1)})"
            cell.set_title(f"{title} {setting if several else panel.title}")
            cell.set(ylabel=panel.label if column == 0 else "", xlabel="step" if row >= len(panels) - across else "")
    for unused in cells[len(axes) :]:
        unused.set_visible(False)
    handles = legend(trained.methods, looks)
    if marked:
        diverged = lost(trained.outcomes)["diverged"].any()
        label = "a run is lost (diverged: counts as 0)" if diverged else "a run is lost"
        handles.append(Line2D([], [], **_CROSS, color="black", label=label))
    handles += more
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))
    return figure, axes


_CROSS: dict[str, Any] = {
    "linestyle": "none",
    "marker": "X",
    "markersize": 6,
    "markeredgecolor": "white",
    "markeredgewidth": 0.6,
}


def legend(methods: Sequence[str], looks: Mapping[str, Look]) -> list[Line2D]:
    """The entries of a legend: a line for each method."""
    return [Line2D([], [], color=looks[each].color, marker=looks[each].marker, label=name_of(each)) for each in methods]


def _draw(axes: Axes, trained: Trained, setting: str, panel: Panel, looks: Mapping[str, Look]) -> bool:
    """Draws the lines of a setting; whether a run of it was lost."""
    wide = courses(trained, setting, panel.column, log=panel.log)
    outcomes = lost(trained.outcomes)
    methods = list(dict.fromkeys(wide.columns.get_level_values(0))) if len(wide.columns) else []
    crosses = 0
    for place, method in enumerate(methods):
        means: pd.DataFrame = wide[method]
        values = (means.transform(np.log) if panel.log else means).dropna(how="all")
        ended = group(outcomes, setting, method)
        mean, error = values.mean(axis=1), values.where(np.isfinite(values)).sem(axis=1)
        mean = mean.where(np.isfinite(mean))
        shown = np.exp if panel.log else np.asarray
        look = looks[method]
        if values.shape[1] > 1:
            axes.fill_between(
                values.index, shown(mean - error), shown(mean + error), color=look.color, alpha=0.2, linewidth=0
            )
            for seed, line in values.items():
                own = line[(line.index <= cast("Any", ended["steps"])[seed]) & np.isfinite(line)]
                axes.plot(own.index, shown(own), color=look.color, linewidth=0.5, alpha=0.45)
        every = max(1, len(mean) // _MARKS)
        marks = (place * every // len(methods), every)  # so that markers of coinciding lines do not coincide
        axes.plot(mean.index, shown(mean), color=look.color, marker=look.marker, markevery=marks)
        for seed, step in ended["lost_at"].dropna().items():
            line = values[[seed]].iloc[:, 0].dropna()
            line = line[(line.index <= cast("Any", ended["steps"])[seed]) & np.isfinite(line)]
            if len(line):
                height = np.interp(step, line.index.to_numpy(dtype=float), line.to_numpy())
                axes.plot([step], [shown(height)], **_CROSS, color=look.color, zorder=6)
                crosses += 1
    if panel.log:
        axes.set_yscale("log")
        log_axis(axes.yaxis)
    else:
        axes.set_ylim(bottom=0)
    return crosses > 0


def log_axis(axis: XAxis | YAxis) -> None:
    """Gives a logarithmic axis as many plain numbers as its range needs."""
    low, high = axis.get_view_interval()
    steps = (1,) if high > 100 * low else (1, 3) if high > 6 * low else (1, 2, 4, 7)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
