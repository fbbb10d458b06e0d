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
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator

from .. import style
from ..style import Look
from .records import Trained
from .statistics import ROUNDING, courses, group, lost


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

_HEIGHT, _LEGEND, _LEGEND_ROW = 2.45, 0.5, 0.17
_MARKS = 6
"""The number of markers along a line."""


def name_of(method: str) -> str:
    """The name of a method in figures."""
    return NAMES.get(method) or style.plain(method)


_ACROSS = 4
"""The most settings side by side."""


def curves(
    trained: Trained, panels: Sequence[Panel] = (KL, ACCURACY), more: Sequence[Line2D] = ()
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """The figure, and its axes by setting and column.

    Args:
        trained: the records.
        panels: the panels of each setting.
        more: entries of the legend for what the caller draws.
    """
    settings = trained.settings
    several = len(settings) > 1
    across = min(len(panels), 2) if len(panels) != 3 else 3
    if several:
        across = -(-len(settings) // -(-len(settings) // _ACROSS))
    rows = len(panels) * -(-len(settings) // across) if several else -(-len(panels) // across)
    looks, axes, marked = style.of_methods(trained.methods), dict[tuple[str, str], Axes](), False
    legend_rows = -(-(len(looks) + len(more) + 1) // 4)
    figure, cells = style.canvas(across, rows * _HEIGHT + _LEGEND + max(0, legend_rows - 2) * _LEGEND_ROW, rows=rows)
    free = list(cells)
    for first in range(0, len(settings), across):
        for panel in panels:
            for setting in settings[first : first + across]:
                cell = cells[_place(panels.index(panel), settings.index(setting), len(panels), across, several)]
                free.remove(cell)
                axes[setting, panel.column] = cell
                marked |= _draw(cell, trained, setting, panel, looks)
                title = style.plain(setting, 80 // across) if several else panel.title
                cell.set_title(f"({_letter(len(axes))}) {title}", parse_math=False)
                begins = setting == settings[first]
                lowest = panel == panels[-1] if several else panels.index(panel) >= len(panels) - across
                cell.set(ylabel=panel.label if begins else "", xlabel="step" if lowest else "")
    for unused in free:
        unused.set_visible(False)
    handles = legend(trained.methods, looks)
    if marked:
        diverged = lost(trained.outcomes)["diverged"].any()
        label = "a run is lost (diverged: counts as 0)" if diverged else "a run is lost"
        handles.append(Line2D([], [], **_CROSS, color="black", label=label))
    style.legend_below(figure, [*handles, *more])
    return figure, axes


def _place(panel: int, setting: int, panels: int, across: int, several: bool) -> int:
    """The place of a panel among the cells: settings along a row, or the panels of a single one."""
    return ((setting // across) * panels + panel) * across + setting % across if several else panel


def _letter(number: int) -> str:
    return chr(ord("a") + number - 1) if number <= 26 else str(number)


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


def means_anything(trained: Trained, panel: Panel) -> bool:
    """True where some step has a figure that the panel can show."""
    values = trained.steps[panel.column].to_numpy(dtype=np.float64)
    return bool((np.isfinite(values) & (values > ROUNDING if panel.log else True)).any())


def _draw(axes: Axes, trained: Trained, setting: str, panel: Panel, looks: Mapping[str, Look]) -> bool:
    """Draws the lines of a setting; whether a run of it was lost."""
    wide = courses(trained, setting, panel.column, log=panel.log)
    outcomes = lost(trained.outcomes)
    methods = list(dict.fromkeys(wide.columns.get_level_values(0))) if len(wide.columns) else []
    crosses = 0
    if not means_anything(trained.of(setting), panel):
        axes.set(xticks=[], yticks=[])
        axes.annotate("0 or not measured", (0.5, 0.5), xycoords="axes fraction", ha="center", color="#777777")
        return False
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
    """Gives a logarithmic axis as many plain numbers as its range needs, three at least where there is data."""
    low, high = axis.get_view_interval()
    steps = (1,) if high > 100 * low else (1, 3) if high > 6 * low else (1, 2, 4, 7)
    locator: Locator = LogLocator(subs=steps)
    ticks = np.asarray(locator.tick_values(low, high))
    if np.count_nonzero((ticks >= low) & (ticks <= high)) < _TICKS:
        locator = MaxNLocator(4)
    axis.set_major_locator(locator)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


_TICKS = 3
"""The fewest ticks of powers and their multiples; a range that has fewer is short enough for even steps."""
