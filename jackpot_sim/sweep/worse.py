"""The MSE of each estimator of a table over the least one, or `tie` where the two cannot be told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jackpot_sim.core import intervals

APART = 2.0
"""The standard errors of a difference by which a figure must be less than another to be called the least."""
_SHOWN = 1.005
"""The least ratio that three digits tell from 1."""


def worse(rows: pd.DataFrame, means: pd.DataFrame, keys: Sequence[str], figure: str = "mse") -> list[str]:
    """The cells of a column, one for each row of `means`: the figure over the least one of the same method.

    Figures with standard errors must differ by more than two of them. Exact figures of several seeds must differ by
    more than their environments do: the 95 % interval of the paired differences lies above 0.

    Args:
        rows: the records of one environment, one for each seed, with the columns `keys`, seed and the figure.
        means: their means over seeds, with the columns `keys`, the figure and its `_se`.
        keys: the columns that name an estimator; `method` is one of them.
        figure: mse or mse_rescaled.
    """
    by_seed = {key: group.set_index("seed")[figure] for key, group in rows.groupby(list(keys))}
    least: dict[object, Mapping[Any, Any]] = {}
    for row in means.dropna(subset=[figure]).to_dict("records"):
        if row["method"] not in least or row[figure] < least[row["method"]][figure]:
            least[row["method"]] = row

    def cell(row: Mapping[Any, Any]) -> str:
        if math.isnan(row[figure]):
            return "nan"
        best = least[row["method"]]
        own, other = (tuple(each[key] for key in keys) for each in (row, best))
        if own == other:
            return "least"
        ratio = row[figure] / best[figure] if best[figure] > 0 else math.inf
        return f"{ratio:.3g}" if ratio >= _SHOWN and _differ(figure, row, best, by_seed[own], by_seed[other]) else "tie"

    return [cell(row) for row in means.to_dict("records")]


def _differ(
    figure: str, row: Mapping[Any, Any], best: Mapping[Any, Any], own: pd.Series[float], other: pd.Series[float]
) -> bool:
    """True where the noise of the figures, or that of exact ones over seeds, does not explain the difference."""
    noise = math.hypot(*(0.0 if math.isnan(each[f"{figure}_se"]) else each[f"{figure}_se"] for each in (row, best)))
    if noise > 0 or len(own) < 2:
        return bool(row[figure] - best[figure] > APART * noise)
    _, low, _ = intervals.student(np.asarray(own - other, dtype=np.float64), intervals.LEVEL)
    return bool(low > 0)
