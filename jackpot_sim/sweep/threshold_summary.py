"""The best thresholds of a run by environment and estimator, with their intervals over seeds, and as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from jackpot_sim.core import intervals
from jackpot_sim.studies.tables import FittedTable
from jackpot_sim.sweep import records
from jackpot_sim.sweep.labels import labels

_DETAILED = 6
"""The most environments that get a table each; of more, each gets a line."""

KEYS = ["environment", "estimator", "denominator"]

_ON_BEST = (
    "best: the threshold with the least MSE at {n} samples, the geometric mean over seeds [95 % interval]. saved: the "
    "share of the MSE at the threshold given that the best one saves, paired by seeds; where its interval reaches 0, "
    "the two tie. Each seed has the best one of its own states: a threshold chosen beforehand saves at most as much."
    "{searched}"
)
_BRIEF = "best: least MSE at {n} samples. saved: share of the MSE{searched}. --wide explains."
_ON_SEARCHED = " ~: the best point of a refined grid, not exact."


def summarised(rows: pd.DataFrame, level: float = intervals.LEVEL) -> pd.DataFrame:
    """A row for each environment, estimator and denominator, from the rows of the table `thresholds`.

    `best` is the geometric mean over seeds of the best thresholds, and `saved` is 1 less that of mse_best/mse; the
    ends are those of Student's interval of the logs, nan for a single seed and where a threshold is 0.
    """
    out = []
    for key, group in rows.groupby(KEYS, sort=False):
        best = _geometric(group["best"], level)
        left = _geometric(group["mse_best"] / group["mse"], level)
        out.append(
            dict(zip(KEYS, key, strict=True))
            | {"parameter": group["parameter"].iloc[0], "n_samples": int(group["n_samples"].iloc[0])}
            | {"seeds": len(group), "given": group["given"].mean()}
            | dict(zip(("best", "best_low", "best_high"), best, strict=True))
            | {"mse": group["mse"].mean(), "mse_best": group["mse_best"].mean()}
            | {"saved": 1 - left[0], "saved_low": 1 - left[2], "saved_high": 1 - left[1]}
            | {"is_exact": bool(group["is_exact"].all())}
        )
    return pd.DataFrame(out)


def _geometric(values: pd.Series[float], level: float) -> tuple[float, float, float]:
    """The geometric mean with the ends of its interval."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(values.to_numpy(dtype=np.float64))
        if not np.isfinite(logs).all():
            return float(np.exp(np.mean(logs))), math.nan, math.nan
        _, low, high = intervals.student(logs, level)
        return float(np.exp(np.mean(logs))), float(np.exp(low)), float(np.exp(high))


def threshold_tables(root: Path) -> list[FittedTable]:
    """The tables of best thresholds of a run, if it has any."""
    rows = records.load(root, "thresholds")
    if rows.empty:
        return []
    found, by_name = summarised(rows), labels(list(rows["environment"].unique()))
    found["label"] = [by_name[str(each)] for each in found["environment"]]
    searched = "" if found["is_exact"].all() else _ON_SEARCHED
    n = found["n_samples"].iloc[0]
    told = {
        "caption": _ON_BEST.format(n=n, searched=searched),
        "brief": _BRIEF.format(n=n, searched="; ~: from a grid" if searched else ""),
    }
    if found["environment"].nunique() > _DETAILED:
        return [_overview(found, told)]
    return [_detail(str(label), group, told) for label, group in found.groupby("label", sort=False)]


_COLUMNS = {"best": 0, "interval": 1, "given": 2, "MSE at best": 4, "at given": 5, "saved": 0, "its interval": 3}


def _detail(label: str, found: pd.DataFrame, told: Mapping[str, str]) -> FittedTable:
    names = ["estimator", *(["denominator"] if found["denominator"].nunique() > 1 else []), "parameter"]
    table = FittedTable(f"Best thresholds: {label}", names, _COLUMNS, caption=told["caption"], brief=told["brief"])
    for row in found.to_dict("records"):
        cells = (
            f"{row['best']:.3g}{'' if row['is_exact'] else '~'}",
            _between(f"{row['best_low']:.3g}", f"{row['best_high']:.3g}"),
            f"{row['given']:g}",
            f"{row['mse_best']:.3g}",
            f"{row['mse']:.3g}",
            f"{row['saved']:.1%}",
            _between(f"{row['saved_low']:.1%}", f"{row['saved_high']:.1%}"),
        )
        table.add_row([str(row[name]) for name in names], cells)
    return table


def _between(low: str, high: str) -> str:
    return "" if "nan" in low else f"[{low}, {high}]"


def _overview(found: pd.DataFrame, told: Mapping[str, str]) -> FittedTable:
    """A line for each environment, and in it the best threshold of each estimator with what it saves."""
    several = found["denominator"].nunique() > 1
    found = found.assign(
        name=[
            f"{row['estimator']}{' / ' + row['denominator'] if several else ''}: {row['parameter']}"
            for row in found.to_dict("records")
        ]
    )
    # Estimators that differ in the threshold alone have the same best one.
    names = list(dict.fromkeys(found["name"]))
    table = FittedTable(
        "Best thresholds, and the share of the MSE that each saves",
        ["environment"],
        {name: rank for rank, name in enumerate(names)},
        caption=told["caption"],
        brief=told["brief"],
    )
    for label, group in found.groupby("label", sort=False):
        row = {each["name"]: each for each in group.to_dict("records")}
        cells = [f"{row[name]['best']:.3g} ({row[name]['saved']:.0%})" if name in row else "" for name in names]
        table.add_row([str(label)], cells)
    return table
