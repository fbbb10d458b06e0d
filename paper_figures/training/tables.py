"""The parts that figures of the paper's tables share: our scores beside the paper's, with other tasks and models.

So the comparison is of the share of the on-policy result that a method keeps, and of the order of methods. A point of
the paper is the mean over its benchmarks, and a small dot one benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from jackpot_sim.training.summary import mean_and_error, over_seeds

from .. import style
from ..command import report_table
from ..style import Look
from .curves import legend, name_of
from .records import Trained
from .statistics import ON_POLICY, group, of, on_policy

LABELS = ("setting", "model", "method")
"""The columns of a published table that hold no scores."""

Spread = dict[str, dict[str, "pd.Series[float]"]]
"""The values whose mean is a point, by place along the axis and method."""


def scores(paper: pd.DataFrame, passes: bool = False) -> pd.DataFrame:
    """The benchmarks of a published table, indexed by its labels: Mean@k, or Pass@k."""
    wide = paper.set_index(list(LABELS))
    return wide[[column for column in wide if ("_pass" in str(column)) == passes]]


def paper_shares(paper: pd.DataFrame) -> pd.DataFrame:
    """The share of the on-policy row of its model that each row keeps, by benchmark; indexed by setting and method."""
    means = scores(paper)
    base = means.xs(ON_POLICY, level="method").groupby(level="model").first()
    bases = base.reindex(means.index.get_level_values("model")).set_axis(means.index)
    return means.div(bases).droplevel("model")


def shares(runs: pd.DataFrame, figure: str) -> pd.Series[float]:
    """The share of the on-policy figure that each run keeps, paired by seed; by setting, method and seed."""
    bases = [
        on_policy(runs, str(setting), figure).reindex(mine.index.get_level_values("seed")).set_axis(mine.index)
        for setting, mine in runs.groupby(level="setting", sort=False)
    ]
    return cast("pd.Series[float]", runs[figure] / pd.concat(bases))


def spread_of_runs(trained: Trained, of_place: Sequence[tuple[str, str, pd.Series[float]]]) -> Spread:
    """The spread of our values.

    Args:
        trained: the records.
        of_place: place, setting, and values by setting, method and seed.
    """
    return {
        place: {
            method: values.xs((setting, method), level=("setting", "method")).dropna()
            for method in trained.grid[setting]
        }
        for place, setting, values in of_place
    }


def spread_of_paper(values: pd.DataFrame, leave_out: Sequence[str] = ()) -> Spread:
    """The spread over benchmarks of values by setting and method."""
    out: Spread = {}
    for label, row in values.iterrows():
        setting, method = cast("tuple[str, str]", label)
        if method not in leave_out:
            out.setdefault(setting, {})[method] = row.dropna()
    return out


def draw(
    panels: Sequence[tuple[str, Spread]],
    label: str,
    methods: Sequence[str],
    line: float,
    bars: Callable[[pd.Series[float]], tuple[float, float]] | None = None,
) -> tuple[Figure, list[Axes]]:
    """A figure of ours beside the paper's, on one scale.

    Args:
        panels: ours and the paper's, with titles.
        label: the label of the vertical axis.
        methods: the methods, in their order within a place and in the legend.
        line: a level for comparison.
        bars: the low and the high end of our bars; None: ± one standard error.
    """
    figure, cells = style.canvas(2, 3.3, [1.0, 1.1])
    looks = style.of_methods(methods)
    for cell, (title, spread), ours in zip(cells, panels, (True, False), strict=True):
        for place, values in enumerate(spread.values()):
            shown = [method for method in methods if method in values]
            for number, method in enumerate(shown):
                at = place + (number - (len(shown) - 1) / 2) * min(0.17, 0.8 / len(shown))
                _point(cell, at, values[method], looks[method], ours, bars or _standard_error)
        cell.axhline(line, color="#444444", linewidth=0.7, linestyle=":")
        cell.set_xticks(range(len(spread)), [place.replace("->", "\n→ ") for place in spread])
        cell.set_xlim(-0.5, len(spread) - 0.5)
        cell.grid(visible=False, axis="x")
        cell.set_title(title)
    cells[0].set_ylabel(label)
    limits = [cell.get_ylim() for cell in cells]
    for cell in cells:
        cell.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    handles = legend(methods, looks)
    for handle in handles:
        handle.set_linestyle("none")
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))
    return figure, cells


def _point(
    axes: Axes,
    at: float,
    values: pd.Series[float],
    look: Look,
    ours: bool,
    bars: Callable[[pd.Series[float]], tuple[float, float]],
) -> None:
    if not len(values):
        return
    mean = float(values.mean())
    axes.plot(np.full(len(values), at), values, marker=".", markersize=3, linestyle="none", color=look.color, alpha=0.5)
    low, high = bars(values) if ours else (mean, mean)
    axes.errorbar(
        [at], [mean], [[mean - low], [high - mean]], color=look.color, marker=look.marker, markersize=5.5, capsize=2
    )


def _standard_error(values: pd.Series[float]) -> tuple[float, float]:
    error = float(np.std(values.to_numpy(), ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return float(values.mean()) - error, float(values.mean()) + error


def our_table(trained: Trained, runs: pd.DataFrame, title: str, with_shares: bool = True) -> Table:
    """A table of our last scores: a row for each setting and method."""
    scored = runs[["accuracy", "mean_at_k", "pass_at_k"]]
    if with_shares:
        scored = scored.assign(share=shares(runs, "mean_at_k"))
    columns = ("accuracy", "Mean@k", "Pass@k", *(["of on-policy"] if with_shares else []), "lost")
    several = len(trained.settings) > 1
    table = report_table(f"{title}: {over_seeds(trained.seeds)}", *(["setting"] if several else []), "method", *columns)
    table.columns[int(several)].justify = "left"
    for setting in trained.settings:
        for method in trained.grid[setting]:
            cells = [mean_and_error(values) for _, values in group(scored, setting, method).items()]
            at = group(runs, setting, method)["lost_at"]
            lost = f"{at.notna().sum()} of {len(at)}"
            table.add_row(*([setting] if several else []), name_of(method), *cells, lost)
        table.add_section()
    return table


def paper_table(paper: pd.DataFrame, unit: float, with_shares: bool = True) -> Table:
    """A table of the paper's scores, means over its benchmarks, and of the share of on-policy, with its range."""
    table = report_table(
        "The paper's, means over its benchmarks",
        *("setting", "method", "Mean@k", "Pass@k", *(["of on-policy", "over benchmarks"] if with_shares else [])),
    )
    table.columns[1].justify = "left"
    shown = pd.DataFrame({"mean": scores(paper).mean(axis=1), "pass": scores(paper, passes=True).mean(axis=1)}) * unit
    if with_shares:
        share = paper_shares(paper)
        shown[["kept", "least", "most"]] = np.stack([share.mean(axis=1), share.min(axis=1), share.max(axis=1)], axis=1)
    for setting, rows in shown.groupby(level="setting", sort=False):
        for (_, _, method), row in zip(rows.index, rows.to_dict("records"), strict=True):
            cells = [
                f"{row[each]:.3f}" if np.isfinite(row[each]) else "-" for each in row if each not in ("least", "most")
            ]
            if with_shares:
                cells.append("-" if np.isnan(row["kept"]) else f"{row['least']:.2f} to {row['most']:.2f}")
            table.add_row(str(setting), name_of(method), *cells)
        table.add_section()
    return table


def in_order(paper: pd.DataFrame, first: str, second: str) -> str:
    """The number of the paper's settings in which the first method is above the second, by the mean over benchmarks."""
    means = scores(paper).mean(axis=1).droplevel("model")
    both = of(means.to_frame("mean"), first, "mean") - of(means.to_frame("mean"), second, "mean")
    return f"paper: {int((both > 0).sum())} of {both.notna().sum()} settings"
