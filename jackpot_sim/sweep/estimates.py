"""The estimators of a study, measured one after the other on the same realised environment."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jackpot_sim.core.arrays import Floats
from jackpot_sim.estimators import Correction, Denominator
from jackpot_sim.estimators.statistics import StateStatistics
from jackpot_sim.studies.estimator_spec import EstimatorSpec
from jackpot_sim.sweep.plan import Cell
from jackpot_sim.sweep.rows import Row, estimator_columns
from jackpot_sim.sweep.spec import Method, Study

Columns: TypeAlias = dict[str, NDArray[np.generic]]
"""Columns of the per-state table, each of shape (rows,)."""


class Estimate(NamedTuple):
    """The figures of one estimator with one denominator, by one method."""

    row: Row
    states: Columns | None = None
    """The exact figures of each state or prompt by column, (states,)."""
    seconds: float | None = None
    """Its share of a measurement of several estimators at once; None: the call took all of its time."""


Estimator: TypeAlias = Callable[[EstimatorSpec, Correction, Denominator], Estimate]
"""A method of measurement."""


@dataclass(frozen=True)
class Measured:
    """The rows that a cell adds to the tables."""

    cell: Cell
    rows: list[Row]
    state_rows: Columns
    """Columns of the per-state table; none where nothing is exact."""
    tables: Mapping[str, list[Row]] = field(default_factory=dict)
    """Rows of the tables that are not about estimators, by table."""


def measured(
    cell: Cell,
    study: Study,
    environment: Row,
    methods: Mapping[Method, Estimator],
    *,
    correction: Callable[[EstimatorSpec], Correction] = EstimatorSpec.correction,
    tables: Mapping[str, list[Row]] | None = None,
) -> Measured:
    """A row for every estimator, denominator and method.

    Args:
        cell: the cell of the rows.
        study: gives the estimators and denominators.
        environment: the columns that describe the environment, the same in every row.
        methods: the measurement of each method.
        correction: an estimator's correction, with λ solved for where a budget was given.
        tables: rows of other tables.
    """
    rows: list[Row] = []
    states: list[Columns] = []
    for spec in study.estimators:
        chosen = correction(spec)
        for denominator in study.denominators_of(spec):
            labels = environment | estimator_columns(spec, chosen) | {"denominator": str(denominator)}
            for method, estimator in methods.items():
                started = time.perf_counter()
                estimate = estimator(spec, chosen, denominator)
                seconds = time.perf_counter() - started if estimate.seconds is None else estimate.seconds
                how = {"method": str(method), "n_samples": study.n_samples, "seconds": seconds}
                rows.append(labels | estimate.row | how)
                if estimate.states is not None:
                    states.append(_labelled(labels, estimate.states))
    table = {name: np.concatenate([part[name] for part in states]) for name in states[0]} if states else {}
    return Measured(cell, rows, table, tables or {})


def state_columns(statistics: StateStatistics, kl_policy_actor: Floats) -> Columns:
    """The columns of exact figures of each state or prompt.

    Args:
        statistics: the contribution of each.
        kl_policy_actor: KL(policy‖actor) of each, (states,), nats.
    """
    figures = {field.name: getattr(statistics, field.name) for field in dataclasses.fields(StateStatistics)}
    return {"state": np.arange(len(kl_policy_actor)), "kl_policy_actor": kl_policy_actor} | figures


def _labelled(labels: Row, columns: Columns) -> Columns:
    count = len(columns["state"])
    return {name: np.full(count, str(labels[name])) for name in ("cell", "estimator", "denominator")} | columns
