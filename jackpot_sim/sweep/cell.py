"""One cell measured: the rows that it adds to the records. Pure but for the clock."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from jackpot_sim.estimators import Correction
from jackpot_sim.estimators.statistics import StateStatistics
from jackpot_sim.studies.estimator_spec import EstimatorSpec
from jackpot_sim.sweep.plan import Cell
from jackpot_sim.sweep.rows import Row
from jackpot_sim.sweep.spec import Method, Study
from jackpot_sim.sweep.subjects import subject_of

PARAMETERS = ("clip", "floor", "low", "high", "bound", "lam", "c1", "c2", "threshold", "delta")
"""Numbers among the parameters of estimators: each has a column of its own."""


@dataclass(frozen=True)
class Measured:
    """What a cell adds to the tables."""

    cell: Cell
    rows: list[Row]
    state_rows: dict[str, Any]
    """Columns of the per-state table."""
    tables: dict[str, list[Row]] = field(default_factory=dict)
    """Rows of the tables that are not about estimators."""


def measure(cell: Cell, study: Study) -> Measured:
    """Builds the cell's environment and measures every estimator on it, with one thread.

    Raises:
        ValueError: the environment cannot be built, a budget is not attainable, …; the message
            names the cell.
    """
    try:
        with threadpool_limits(limits=1):
            return _measure(cell, study)
    except ValueError as error:
        raise ValueError(f"cell {cell.id}: {error}") from error


def _measure(cell: Cell, study: Study) -> Measured:
    subject = subject_of(cell, study)
    asked = subject.asked()
    rows: list[Row] = []
    states: list[dict[str, Any]] = []
    for spec in study.estimators:
        correction = subject.correction(spec)
        for denominator in study.denominators:
            what = asked | _estimator_columns(spec, correction) | {"denominator": str(denominator)}
            for method in subject.methods():
                started = time.perf_counter()
                if method is Method.EXACT:
                    found, statistics = subject.exact(spec, correction, denominator)
                    states.append(_state_columns(what, statistics, subject.kl_of_states()))
                else:
                    found = subject.monte_carlo(spec, correction, denominator)
                seconds = time.perf_counter() - started
                rows.append(what | found | {"method": str(method), "n_samples": study.n_samples, "seconds": seconds})
    return Measured(cell, rows, _concatenated(states), subject.tables())


def _estimator_columns(spec: EstimatorSpec, correction: Correction) -> Row:
    parameters = {name: value for name, value in correction.parameters().items() if value is not None}
    scalars = {name: float(parameters[name]) for name in PARAMETERS if np.ndim(parameters.get(name, ())) == 0}
    return scalars | {
        "aggregate": None if "aggregate" not in parameters else str(parameters["aggregate"]),
        "inverted": parameters.get("inverted"),
        "estimator": spec.label,
        "estimator_kind": spec.kind,
        "level": str(correction.level),
        "rao_blackwell": spec.rao_blackwell,
        "batch_normalize": spec.batch_normalize,
        "masked_by": None if spec.masked_by is None else spec.masked_by.label,
        "target": str(spec.target),
        "acceptance_budget": spec.acceptance_rate,
        "budget_per_state": spec.per_state if spec.acceptance_rate is not None else None,
    }


def _state_columns(what: Row, statistics: StateStatistics, kl_policy_actor: Any) -> dict[str, Any]:
    count = len(kl_policy_actor)
    named = {f.name: getattr(statistics, f.name) for f in dataclasses.fields(StateStatistics)}
    labels = {name: [what[name]] * count for name in ("cell", "estimator", "denominator")}
    return labels | {"state": np.arange(count), "kl_policy_actor": kl_policy_actor} | named


def _concatenated(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
