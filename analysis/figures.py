"""Figures of a sweep: bias against variance in each environment, and what KL does to acceptance and corrections.

A point is a mean over seeds, with its interval where that is finite. Names, looks and order are those of the tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jackpot_sim.sweep.labels import kinds_of

from . import style
from .style import Look
from .training.curves import log_axis

_NAMES = ["environment", "estimator", "denominator"]
_PANELS, _ACROSS = 12, 3
"""The most environments with a panel, and the panels of a row."""
_HEIGHT, _LEGEND_ROW = 2.3, 0.17
_LEAST = 1e-9
"""The size below which a bias, a variance or a KL is 0 but for rounding."""


def draw(figures: pd.DataFrame) -> dict[str, tuple[Figure, str]]:
    """The figures of a sweep by name, each with what it leaves out, in words.

    Args:
        figures: the table `figures` of `tables.build` or of `sampled.build`.
    """
    wide = _wide(figures)
    names = list(dict.fromkeys(wide["name"]))
    looks = style.of_estimators(names)
    drawn = {"bias_variance": _bias_variance(wide, looks), "acceptance_kl": _acceptance_kl(wide, looks)}
    return {name: each for name, each in drawn.items() if each is not None}


def _wide(figures: pd.DataFrame) -> pd.DataFrame:
    """A row for each estimator in each environment, and columns such as `bias`, `bias_low`, `bias_high`."""
    several = [name for name in ("denominator", "method") if name in figures and figures[name].nunique() > 1]
    named = figures.assign(name=figures["estimator"])
    if "resolved" in figures:
        named["value"] = named["value"].where(named["resolved"])
    for column in several:
        named["name"] = named["name"] + " / " + named[column].str.replace("_", " ")
    keys = ["environment", "label", "env_kind", "base_kind", "name"]
    named["base_kind"] = named["base_kind"].fillna("")
    table = named.pivot_table(index=keys, columns="figure", values=["value", "low", "high"], sort=False, dropna=False)
    table.columns = [figure if part == "value" else f"{figure}_{part}" for part, figure in cast("Any", table.columns)]
    table = table.dropna(how="all").reset_index()
    return table.sort_values("kl_policy_actor", kind="stable")


def _bias_variance(wide: pd.DataFrame, looks: Mapping[str, Look]) -> tuple[Figure, str] | None:
    known = wide[np.isfinite(wide["bias"]) & np.isfinite(wide["variance"]) & (wide["variance"] > _LEAST)]
    environments = list(dict.fromkeys(known["environment"]))
    if not environments:
        return None
    chosen = [environments[at] for at in np.unique(np.linspace(0, len(environments) - 1, _PANELS).round().astype(int))]
    across = min(len(chosen), _ACROSS)
    figure, cells = _canvas(across, -(-len(chosen) // across), len(looks))
    for place, (cell, environment) in enumerate(zip(cells, chosen, strict=False)):
        rows = known[known["environment"] == environment]
        for row in rows.to_dict("records"):
            _point(cell, row, "bias", "variance", looks[row["name"]])
        cell.set_yscale("log")
        log_axis(cell.yaxis)
        cell.margins(x=0.1)
        cell.set_xlim(left=min(0.0, cell.get_xlim()[0]))
        kl = rows["kl_policy_actor"].iloc[0]
        cell.set_title(_title(rows.iloc[0], 100 // across), parse_math=False, fontsize=7.5)
        cell.annotate(
            f"KL {kl:.2g}", (1, 1), xycoords="axes fraction", ha="right", va="top", fontsize=7, color="#444444"
        )
        cell.set_xlabel("bias, share of the gradient" if place >= len(chosen) - across else "")
        cell.set_ylabel("variance of a proposal" if place % across == 0 else "")
    for unused in cells[len(chosen) :]:
        unused.set_visible(False)
    _legend(figure, looks)
    left = [f"{len(chosen)} of {len(environments)} environments"] if len(chosen) < len(environments) else []
    missing = len(wide) - len(known)
    left += [f"{missing} points without a finite, resolved bias and variance are not shown"] * (missing > 0)
    return figure, "; ".join(left)


def _title(row: pd.Series[Any], width: int) -> str:
    """The kinds of an environment, and below them what tells it from others."""
    kinds = kinds_of(row["env_kind"], row["base_kind"] or None)
    return "\n".join(style.plain(each, width) for each in (kinds, row["label"].removeprefix(kinds).strip()) if each)


def _acceptance_kl(wide: pd.DataFrame, looks: Mapping[str, Look]) -> tuple[Figure, str] | None:
    before = np.isfinite(wide["kl_policy_actor"]) & (wide["kl_policy_actor"] > _LEAST)
    known = wide[before]
    rejecting = known[known.groupby("name")["acceptance_rate"].transform("min") < 1 - _LEAST]
    after = known[np.isfinite(known["kl_effective"]) & (known["kl_effective"] > _LEAST)]
    if rejecting.empty and after.empty:
        return None
    figure, (left, right) = _canvas(2, 1, len(looks))
    _against_kl(left, rejecting, "acceptance_rate", looks)
    left.set(xlabel="KL(policy‖actor), nats", ylabel="acceptance rate", title="(a) Tokens kept")
    left.set_ylim(top=1.02)
    if rejecting.empty:
        left.annotate("no estimator rejects a token", (0.5, 0.5), xycoords="axes fraction", ha="center")
    _against_kl(right, after, "kl_effective", looks)
    right.set(xlabel="KL(policy‖actor), nats", ylabel="KL(policy‖·) of the update", title="(b) KL left")
    if len(after):  # an interval that holds 0 has no end on this axis
        right.set_ylim(bottom=after["kl_effective"].min() / 3)
    for axis in (left.xaxis, right.xaxis, right.yaxis):
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        log_axis(axis)
    if len(after):
        ends = [after["kl_policy_actor"].min(), after["kl_policy_actor"].max()]
        right.plot(ends, ends, color="#444444", linewidth=0.8, linestyle=":", zorder=1)
    _legend(figure, looks)
    missing = len(wide) - len(after)
    return figure, f"{missing} points with a KL that is 0, infinite or not defined are not in (b)" if missing else ""


def _against_kl(axes: Axes, rows: pd.DataFrame, column: str, looks: Mapping[str, Look]) -> None:
    """A line for each estimator in each family of environments; a single environment is a point."""
    for (name, *_), own in rows.groupby(["name", "env_kind", "base_kind"], sort=False):
        look = looks[str(name)]
        ordered = own.sort_values("kl_policy_actor")
        axes.plot(ordered["kl_policy_actor"], ordered[column], color=look.color, linewidth=0.9, alpha=0.7)
        for row in ordered.to_dict("records"):
            _point(axes, row, "kl_policy_actor", column, look)


def _point(axes: Axes, row: Mapping[Any, Any], x: str, y: str, look: Look) -> None:
    """A point with bars to the ends of its intervals, where these are finite."""
    bars: dict[str, Any] = {}
    for column, bar in ((x, "xerr"), (y, "yerr")):
        low, high = (row.get(f"{column}_{end}", math.nan) for end in ("low", "high"))
        if math.isfinite(low) and math.isfinite(high) and low <= row[column] <= high:
            floor = _LEAST if column in ("variance", "kl_effective", "kl_policy_actor") else -math.inf
            bars[bar] = [[row[column] - max(low, min(floor, row[column]))], [high - row[column]]]
    drawn: dict[str, Any] = {"color": look.color, "marker": look.marker, "markersize": 5, "elinewidth": 0.7}
    thin = look.marker in ("+", "x")  # which a marker with a face would hide
    axes.errorbar([row[x]], [row[y]], **bars, **drawn, zorder=3 + thin)


def _canvas(across: int, rows: int, names: int) -> tuple[Figure, Sequence[Axes]]:
    return style.canvas(across, rows * _HEIGHT + 0.3 + _LEGEND_ROW * -(-names // 4), rows=rows)


def _legend(figure: Figure, looks: Mapping[str, Look]) -> None:
    handles = [
        Line2D([], [], linestyle="none", color=look.color, marker=look.marker, label=style.plain(name))
        for name, look in looks.items()
    ]
    style.legend_below(figure, handles)
