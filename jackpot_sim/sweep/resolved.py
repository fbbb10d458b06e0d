"""The figures of real models that their rollouts resolve, and the number of rollouts that would resolve the others."""

from __future__ import annotations

import math

import pandas as pd

from jackpot_sim.environments.worlds import World
from jackpot_sim.sweep.worlds import world_of

KEYS = ["estimator", "denominator", "method"]
"""The columns that name an estimator in an environment."""
OF_GRADIENT = ("bias", "gain", "mse", "mse_rescaled")
"""Figures in units of the true gradient."""
FEW = 100
"""The number of effective rollouts or tokens below which a standard error cannot be trusted."""
CLEAR = 3.0
"""The standard errors by which ‖g‖² must exceed 0 for figures in units of it to mean something."""


def of(records: pd.DataFrame, world: World) -> pd.DataFrame:
    """The rows of one world."""
    return records[[world_of(kind) is world for kind in records["base_kind"]]]


def thin(records: pd.DataFrame) -> set[tuple[str, ...]]:
    """The estimators of real models, by `KEYS`, whose weights leave too few effective rollouts or tokens."""
    real = of(records, World.ROLLOUTS)
    units = real["n_samples"] * real["replicates"] * real["states"]
    units = units * real["mean_length"].where(real["level"] == "token", 1.0)
    few = real[real["ess_fraction"] * units < FEW]
    return {tuple(row) for row in few[KEYS].itertuples(index=False)}


def lost(records: pd.DataFrame) -> list[str]:
    """A clause for each cell of real models whose true gradient does not stand out from its noise, with the cure."""
    measured = of(records, World.ROLLOUTS).dropna(subset=["grad_norm_sq"]).drop_duplicates("cell")
    weak = measured[~(measured["grad_norm_sq"] > CLEAR * measured["grad_norm_sq_se"])]
    return [_told(**{str(name): value for name, value in row.items()}) for row in weak[_TOLD].to_dict("records")]


_TOLD = ["grad_norm_sq", "grad_norm_sq_se", "n_samples", "replicates", "states"]


def _told(grad_norm_sq: float, grad_norm_sq_se: float, n_samples: int, replicates: int, states: int) -> str:
    if math.isnan(grad_norm_sq_se):
        return f"‖g‖² = {grad_norm_sq:.2g}, with no standard error: its figures say nothing"
    if grad_norm_sq_se == 0:
        return f"‖g‖² = {grad_norm_sq:.2g}: all rollouts earn the same, and only another reward or prompts change that"
    found = f"‖g‖² = {grad_norm_sq:.2g} ± {grad_norm_sq_se:.1g}"
    least, most = more(grad_norm_sq, grad_norm_sq_se)
    rollouts = n_samples * replicates * states
    if math.isinf(most):
        return f"{found}: more than {least:.2g} times the {rollouts:,.0f} rollouts of each model would resolve it"
    return (
        f"{found}: {least:.2g} to {most:.2g} times the {rollouts:,.0f} rollouts of each model would resolve one of "
        f"that size, {least * rollouts:,.0f} to {most * rollouts:,.0f}"
    )


def more(value: float, se: float) -> tuple[float, float]:
    """The least and the most times as many rollouts that would resolve a squared gradient of this size.

    The standard error of its unbiased estimate falls as 1/n of the rollouts where their noise is larger than the
    gradient, and as 1/√n where it is smaller; a gradient that is resolved exceeds it `CLEAR` times. An estimate below
    its own standard error tells of no size: then there is no upper bound, and the lower one is that of an estimate of
    one standard error.

    >>> more(2.0, 1.0)
    (1.5, 2.25)
    >>> more(-1.0, 1.0)
    (3.0, inf)
    """
    lacking = CLEAR / max(value / se, 1.0)
    return lacking, math.inf if value <= se else lacking**2
