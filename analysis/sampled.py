"""Tables of a sweep's figures without a per-state table: Monte Carlo, small language models, real models, rollouts.

The interval of a figure is Student's over seeds where there are two at least, which holds all noise. Of a single seed
it is that of a normal estimate with the standard error of the records; exact figures of a single seed have none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from scipy import stats

from jackpot_sim.core import intervals
from jackpot_sim.core.arrays import Floats
from jackpot_sim.sweep.resolved import OF_GRADIENT, lost, thin

from . import show
from .bootstrap import FIGURES
from .tables import describe

_NAMES = ["environment", "estimator", "denominator", "method"]
_SHOWN = {
    "mse": "MSE of the update over the squared gradient (1: no update at all)",
    "bias": "Bias, as a share of the gradient",
    "variance": "Variance of one proposal, over that of one of the policy's own",
    "acceptance_rate": "Acceptance rate",
    "kl_effective": "KL(policy‖·) before, and of the weighted update (nats)",
}
_LEGEND = "0.97(3): ± 0.03, one standard error{}; ?: too few effective rollouts; nan: not defined."


def build(rows: pd.DataFrame, level: float, more: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables: `figures` as `tables.build` has them, and those of diagnostics, of ways to Z and of thresholds.

    Args:
        rows: the records to summarise.
        level: the coverage of intervals.
        more: further tables of the run by name; those without a row are left out.
    """
    about = describe(rows)
    tables = {"sampled_figures": about.merge(_figures(rows, level), on="environment", how="right")}
    for name, table in more.items():
        if len(table):
            tables[name] = about[["environment", "label"]].merge(table, on="environment", how="right")
    return tables


def _figures(rows: pd.DataFrame, level: float) -> pd.DataFrame:
    out: list[dict[str, Any]] = []
    for key, mine in rows.groupby(_NAMES, sort=False):
        named = dict(zip(_NAMES, map(str, key), strict=True))
        for figure in FIGURES:
            values = mine[figure].to_numpy(dtype=np.float64)
            errors = (
                mine[f"{figure}_se"].to_numpy(dtype=np.float64) if f"{figure}_se" in mine else np.zeros(len(values))
            )
            out.append({**named, "figure": figure, **_interval(values, errors, level)})
    few, without = _unresolved(rows)
    for row in out:
        is_lost = row["figure"] in OF_GRADIENT and row["environment"] in without
        is_thin = row["figure"] in (*OF_GRADIENT, "variance") and tuple(row[name] for name in _NAMES) in few
        row["resolved"] = not (is_lost or is_thin)
    return pd.DataFrame(out)


def _interval(values: Floats, errors: Floats, level: float) -> dict[str, float]:
    """The mean over seeds with its standard error and interval, see the module."""
    value = float(np.mean(values))
    if not math.isfinite(value):
        return {"value": value, "se": abs(value), "low": value, "high": value}
    if len(values) > 1:
        found = intervals.student(values, level)
        return {"value": value, "se": found.se, "low": found.low, "high": found.high}
    error = float(errors[0])
    reach = float(stats.norm.ppf(0.5 + level / 2)) * error
    return {"value": value, "se": error, "low": value - reach, "high": value + reach}


def _unresolved(rows: pd.DataFrame) -> tuple[set[tuple[str, ...]], set[str]]:
    """The estimators with too few effective rollouts, by `_NAMES`, and the environments whose gradient is lost."""
    by_environment = [(str(environment), own) for environment, own in rows.groupby("environment")]
    few = {(environment, *key) for environment, own in by_environment for key in thin(own)}
    return few, {environment for environment, own in by_environment if lost(own)}


def print_tables(tables: Mapping[str, pd.DataFrame], rows: pd.DataFrame, console: Console) -> None:
    """Prints a table for each of the most important figures: a row per estimator, a column per environment."""
    figures = tables["sampled_figures"]
    before = figures[figures["figure"] == "kl_policy_actor"].set_index("environment")["value"]
    before = before[~before.index.duplicated()]
    unresolved, without = _unresolved(rows)
    several = figures["denominator"].nunique() > 1 or figures["method"].nunique() > 1
    for figure, title in _SHOWN.items():
        own = figures[(figures["figure"] == figure) & figures["value"].notna()]
        if figure in OF_GRADIENT:
            own = own[~own["environment"].isin(without)]
        if figure == "acceptance_rate":
            own = own[own.groupby(_NAMES[1:])["value"].transform("min") < 1 - 1e-9]
        if own.empty:
            continue
        texts = []
        for row in own.to_dict("records"):
            hazy = figure in (*OF_GRADIENT, "variance") and tuple(row[name] for name in _NAMES) in unresolved
            texts.append(show.with_error(row["value"], row["se"]) + "?" * hazy)
        shown = own.assign(kl_before=own["environment"].map(before))
        if several:
            shown["estimator"] = [_full_name(row, figures) for row in own.to_dict("records")]
        show.print_texts(title, shown, texts, console)
    if without:
        console.print(f"In {len(without)} environments the gradient is lost in its noise: no MSE and no bias.")
    over = " over seeds" if rows["seed"].nunique() > 1 else ", of the records"
    console.print(_LEGEND.format(over))


def _full_name(row: Mapping[Any, Any], figures: pd.DataFrame) -> str:
    """An estimator with its denominator and its method, where there are several of either."""
    parts = [str(row["estimator"])]
    parts += [str(row[name]).replace("_", " ") for name in _NAMES[2:] if figures[name].nunique() > 1]
    return " / ".join(parts)
