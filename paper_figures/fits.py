"""Power laws fitted to records: least squares in logarithms, with standard errors by cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from jackpot_sim.core.arrays import Floats
from jackpot_sim.studies.errors import StudyError


class Fitted(NamedTuple):
    """A number with its standard error."""

    value: float
    se: float


def power_law(values: ArrayLike, factors: Mapping[str, ArrayLike], clusters: ArrayLike) -> dict[str, Fitted]:
    """The exponents of values = c · Π factor^exponent, by ordinary least squares in logarithms.

    Rows of one cluster share their models and so their errors. Standard errors are those of the jackknife over
    clusters (CR3), since the sandwich is too small where clusters are few.

    Args:
        values: the values to explain, > 0, shape (n,).
        factors: the factors by name, each > 0, shape (n,).
        clusters: the cluster of each row, shape (n,).

    Raises:
        StudyError: a value or a factor is not positive and finite, there are too few clusters, or the factors
            do not vary apart from each other.
        ValueError: a shape is not (n,).
    """
    columns = {name: _logs(name, each) for name, each in factors.items()}
    target = _logs("what is fitted", values)
    for name, each in (*columns.items(), ("clusters", np.asarray(clusters))):
        if target.ndim != 1 or each.shape != target.shape:
            raise ValueError(f"{name} has shape {each.shape}, values has shape {target.shape}: they must be (n,)")
    design = np.column_stack([np.ones(len(target)), *columns.values()])
    labels, codes = np.unique(np.asarray(clusters), return_inverse=True)
    count, groups = design.shape[1], len(labels)
    if groups <= count or np.linalg.matrix_rank(design) < count:
        raise StudyError(f"{groups} clusters cannot tell the exponents of {', '.join(columns)} apart: add seeds")
    coefficients = np.linalg.lstsq(design, target, rcond=None)[0]
    left_out = np.full((groups, count), np.nan)
    for group in range(groups):
        others = codes != group
        if np.linalg.matrix_rank(design[others]) == count:  # else the errors are not known: nan
            left_out[group] = np.linalg.lstsq(design[others], target[others], rcond=None)[0]
    errors = np.sqrt((groups - 1) / groups * np.sum((left_out - left_out.mean(axis=0)) ** 2, axis=0))
    pairs = zip(coefficients[1:].tolist(), errors[1:].tolist(), strict=True)
    return {name: Fitted(*pair) for name, pair in zip(columns, pairs, strict=True)}


def geometric(values: pd.Series[float]) -> Fitted:
    """The mean of the logarithms and its standard error; both nan where a value is not positive."""
    if not (values > 0).all():
        return Fitted(np.nan, np.nan)
    logs = np.log(values.to_numpy())
    return Fitted(float(logs.mean()), float(logs.std(ddof=1) / np.sqrt(len(logs))) if len(logs) > 1 else np.nan)


def jackknifed(numerators: ArrayLike, denominators: ArrayLike) -> Fitted:
    """Σ numerators / Σ denominators over independent draws, both of shape (n,), with its jackknife standard error.

    Raises:
        ValueError: a shape is not (n,).
    """
    above, below = (np.asarray(each, dtype=np.float64) for each in (numerators, denominators))
    if above.ndim != 1 or above.shape != below.shape:
        raise ValueError(f"numerators has shape {above.shape}, denominators has shape {below.shape}: they must be (n,)")
    left_out = (above.sum() - above) / (below.sum() - below)
    n = len(above)
    error = np.sqrt((n - 1) / n * np.sum((left_out - left_out.mean()) ** 2)) if n > 1 else np.nan
    return Fitted(float(above.sum() / below.sum()), float(error))


def _logs(name: str, values: ArrayLike) -> Floats:
    numbers = np.asarray(values, dtype=np.float64)
    if not np.all((numbers > 0) & np.isfinite(numbers)):
        raise StudyError(f"{name}: a power law needs positive numbers, and one of {len(numbers)} is not")
    return np.log(numbers)
