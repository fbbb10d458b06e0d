"""Tables of a study of training with any settings and methods: its runs, its cells, and their differences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.tables import FittedTable, print_table

from .records import Trained
from .statistics import CONFIDENCE, Difference, difference, geometric, group, interval, per_run

FIGURES = ("accuracy", "best_accuracy", "mean_accuracy", "mean_at_k", "pass_at_k")
"""The figures of runs that get a mean over seeds and differences, see `statistics.per_run`."""

_ON_CELLS = "{over}; KL(p‖q): geometric mean at the end; lost: collapsed or diverged."
_ON_DIFFERENCES = "Paired by seed{ends}; KL: as a multiple{stars}."


def build(trained: Trained, base: str | None = None, level: float = CONFIDENCE) -> dict[str, pd.DataFrame]:
    """The tables `runs`, `cells`, and `differences` if there is a second method.

    Args:
        trained: the records.
        base: the method that others are compared with; None: see `base_of`.
        level: the coverage of intervals.

    Raises:
        StudyError: there is no method `base`.
    """
    runs = per_run(trained)
    chosen = base_of(trained, base)
    ended = trained.outcomes.set_index(["setting", "method", "seed"])["ended"]
    tables = {
        "runs": runs.assign(ended=ended.reindex(runs.index)).reset_index(),
        "cells": _cells(trained, runs, level),
        "differences": _differences(trained, runs, chosen, level),
    }
    return {name: table for name, table in tables.items() if len(table)}


def base_of(trained: Trained, asked: str | None = None) -> str:
    """The method that others are compared with: the one asked for, else `none` if there is such, else the first.

    Raises:
        StudyError: there is no such method.
    """
    if asked is None:
        return "none" if "none" in trained.methods else trained.methods[0]
    if asked not in trained.methods:
        raise StudyError(f"there is no method {asked} in {trained.root} (it has {', '.join(trained.methods)})")
    return asked


def _cells(trained: Trained, runs: pd.DataFrame, level: float) -> pd.DataFrame:
    rows = []
    for setting, method in _keys(trained):
        mine = group(runs, setting, method)
        row: dict[str, object] = {"setting": setting, "method": method, "seeds": len(mine)}
        for figure in FIGURES:
            row |= _with_ends(figure, interval(mine[figure].dropna(), level))
        lost = mine["lost_at"].dropna()
        row |= _with_ends("kl", _geometric(mine["kl"], level))
        row |= {"lost": len(lost), "diverged": int(mine["diverged"].sum()), "lost_at_median": lost.median()}
        rows.append(row)
    return pd.DataFrame(rows)


def _differences(trained: Trained, runs: pd.DataFrame, base: str, level: float) -> pd.DataFrame:
    """A row for each setting, other method and figure; `kl_ratio` is the geometric mean of the ratios of the KLs."""
    keys, rows = list(_keys(trained)), []
    for setting, method in keys:
        if method == base or (setting, base) not in keys:
            continue
        own, other = group(runs, setting, method), group(runs, setting, base)
        named = {"setting": setting, "method": method, "base": base}
        for figure in FIGURES:
            found = difference(own[figure], other[figure], level)
            rows.append({**named, "figure": figure, **_parts(found)})
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = (own["kl"] / other["kl"]).replace(0.0, math.nan).dropna()
        rows.append({**named, "figure": "kl_ratio", **_parts(_geometric(ratios, level))})
    return pd.DataFrame(rows)


def _keys(trained: Trained) -> list[tuple[str, str]]:
    """The settings and methods that have a run, in the order of the study."""
    there = {*zip(trained.outcomes["setting"], trained.outcomes["method"], strict=True)}
    return [
        key for key in ((setting, method) for setting in trained.settings for method in trained.methods) if key in there
    ]


def _geometric(values: pd.Series[float], level: float) -> Difference:
    """The geometric mean over seeds with the interval of the logarithms' mean."""
    known = values.dropna()
    if not len(known) or not np.isfinite(known).all() or (known <= 0).any():
        return Difference(geometric(known), 0.0, math.inf, len(known))
    found = interval(pd.Series(np.log(known.to_numpy(dtype=np.float64)), index=known.index), level)
    mean, low, high = np.exp(found[:3]).tolist()
    return Difference(mean, low, high, found.pairs)


def _with_ends(name: str, found: Difference) -> dict[str, float]:
    low, high = _ends(found)
    return {name: found.mean, f"{name}_low": low, f"{name}_high": high}


def _parts(found: Difference) -> dict[str, float]:
    low, high = _ends(found)
    return {"value": found.mean, "low": low, "high": high, "pairs": found.pairs}


def _ends(found: Difference) -> tuple[float, float]:
    """The ends of an interval; nan without two seeds, where there is none."""
    return (found.low, found.high) if found.pairs > 1 else (math.nan, math.nan)


def show(trained: Trained, tables: dict[str, pd.DataFrame], console: Console, level: float, *, wide: bool) -> None:
    """Prints the cells and the differences."""
    for table in fitted(trained, tables, level):
        print_table(console, table, wide=wide)


def fitted(trained: Trained, tables: dict[str, pd.DataFrame], level: float = CONFIDENCE) -> list[FittedTable]:
    """The cells and, if there are any, the differences, as tables for reading."""
    names = ["setting", "method"] if len(trained.settings) > 1 else ["method"]
    headings = {"last accuracy": 0, "best accuracy": 3, "last KL": 2, "lost": 1}
    known = trained.seeds > 1
    over = f"Means [{100 * level:g} %]" if known else "1 seed"
    cells_table = FittedTable("Accuracy and KL", names, headings, caption=_ON_CELLS.format(over=over))
    for row in tables["cells"].to_dict("records"):
        cells = [_ranged(row["accuracy"], row["accuracy_low"], row["accuracy_high"])]
        cells += [_ranged(row["best_accuracy"], row["best_accuracy_low"], row["best_accuracy_high"])]
        diverged = f" ({row['diverged']} div.)" if row["diverged"] else ""
        cells += [_number(row["kl"], "{:.2g}"), f"{row['lost']} of {row['seeds']}{diverged}"]
        cells_table.add_row([str(row[name]) for name in names], cells)
    if "differences" not in tables:
        return [cells_table]
    changes = tables["differences"]
    base = str(changes["base"].iloc[0])
    shown = {"accuracy": "last accuracy", "best_accuracy": "best accuracy", "kl_ratio": "KL"}
    table = FittedTable(
        f"Difference to {base}",
        names,
        {heading: rank for rank, heading in enumerate(shown.values())},
        caption=_ON_DIFFERENCES.format(
            ends=f" [{100 * level:g} %]" if known else ", of which there is one",
            stars="; *: the interval excludes none" if known else "",
        ),
    )
    for key, rows in changes.groupby(["setting", "method"], sort=False):
        by_figure = {row["figure"]: row for row in rows.to_dict("records")}
        cells = [_changed(by_figure[figure], figure == "kl_ratio") for figure in shown]
        table.add_row([str(each) for each in key[-len(names) :]], cells)
    return [cells_table, table]


def _changed(row: Mapping[Any, Any], is_ratio: bool) -> str:
    none = 1.0 if is_ratio else 0.0
    sure = "*" if row["low"] > none or row["high"] < none else ""
    form = "{:.2g}" if is_ratio else "{:+.3f}"
    return f"{_ranged(row['value'], row['low'], row['high'], form)}{sure}"


def _ranged(value: float, low: float, high: float, form: str = "{:.3f}") -> str:
    ends = "" if math.isnan(low) else f" [{_number(low, form)}, {_number(high, form)}]"
    return f"{_number(value, form)}{ends}"


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else form.format(value).replace("-0.000", "0.000")
