"""One cell measured: the rows that it adds to the records. Pure but for the clock."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from jackpot_sim.core import divergences
from jackpot_sim.core.backend import row_blocks
from jackpot_sim.environments.base import PolicyPair, Realised, keyed_generator
from jackpot_sim.estimators import Correction, Denominator, moments, sampled
from jackpot_sim.estimators.moments import Moments, StateStatistics
from jackpot_sim.sweep.plan import Cell
from jackpot_sim.sweep.spec import EstimatorSpec, Method, Study

Row = dict[str, Any]

PARAMETERS = ("clip", "low", "high", "bound", "lam", "c1", "c2")
"""Parameters of estimators that have a column of their own."""

SAMPLED = (
    *("acceptance_rate", "kl_accepted", "kl_effective", "bias_sq", "bias", "direction_bias"),
    *("gain", "variance", "mse", "mse_rescaled", "ess_fraction"),
)
"""Measured figures that Monte Carlo gives too, with a standard error."""

_DIVERGENCES = {
    "kl_policy_actor": divergences.kl,
    "kl_actor_policy": lambda p, q: divergences.kl(q, p),
    "total_variation": divergences.total_variation,
    "chi_square": divergences.chi_square,
}


@dataclass(frozen=True)
class Measured:
    """What a cell adds to the two tables."""

    cell: Cell
    rows: list[Row]
    state_rows: dict[str, Any]
    """Columns of the per-state table."""


def measure(cell: Cell, study: Study) -> Measured:
    """Builds the cell's pair and measures every estimator on it, with one thread.

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
    realised = cell.env.build(cell.seed)
    per_state = _divergences(realised.pair)
    shared = _what_was_asked(cell, realised) | {name: float(values.mean()) for name, values in per_state.items()}
    rows: list[Row] = []
    states: list[dict[str, Any]] = []
    for spec in study.estimators:
        correction = spec.correction_for(realised.pair.policy_log_probs, realised.pair.actor_log_probs)
        for denominator in study.denominators:
            what = shared | _estimator_columns(spec, correction) | {"denominator": str(denominator)}
            for method in study.methods:
                started = time.perf_counter()
                if method is Method.EXACT:
                    found, statistics = _exact(realised.pair, correction, denominator, study)
                    states.append(_state_columns(what, statistics, per_state["kl_policy_actor"]))
                else:
                    generator = keyed_generator(
                        cell.seed, "monte-carlo", cell.environment, spec.label, str(denominator)
                    )
                    found = _monte_carlo(realised.pair, correction, denominator, study, generator)
                seconds = time.perf_counter() - started
                rows.append(what | found | {"method": str(method), "n_samples": study.n_samples, "seconds": seconds})
    return Measured(cell, rows, _concatenated(states))


def _divergences(pair: PolicyPair) -> dict[str, np.ndarray[Any, Any]]:
    """Each divergence of each state, in blocks so that memory does not grow with the states."""
    p, q = pair.policy_log_probs, pair.actor_log_probs
    blocks = list(row_blocks(*p.shape))
    return {name: np.concatenate([f(p[rows], q[rows]) for rows in blocks]) for name, f in _DIVERGENCES.items()}


def _what_was_asked(cell: Cell, realised: Realised) -> Row:
    states, vocab = realised.pair.advantage.shape
    return {
        "cell": cell.id,
        "environment": cell.environment,
        "env_kind": cell.env.kind,
        "base_kind": cell.env.base.kind,
        "knob_name": cell.env.knob_name,
        "knob": realised.knob,
        "target_divergence": cell.env.target_divergence,
        "target_kl": realised.target_kl,
        "achieved_kl": realised.achieved,
        "states": states,
        "vocab": vocab,
        "seed": cell.seed,
    }


def _estimator_columns(spec: EstimatorSpec, correction: Correction) -> Row:
    scalars = {
        name: float(value)
        for name, value in correction.parameters().items()
        if name in PARAMETERS and np.ndim(value) == 0
    }
    return scalars | {
        "estimator": spec.label,
        "estimator_kind": spec.kind,
        "rao_blackwell": spec.rao_blackwell,
        "acceptance_budget": spec.acceptance_rate,
        "budget_per_state": spec.per_state if spec.acceptance_rate is not None else None,
    }


def _exact(
    pair: PolicyPair, correction: Correction, denominator: Denominator, study: Study
) -> tuple[Row, StateStatistics]:
    found = moments.exact(
        pair.policy_log_probs,
        pair.actor_log_probs,
        pair.advantage,
        correction,
        denominator=denominator,
        n_samples=study.n_samples,
    )
    return _figures(found), found.per_state


def _figures(found: Moments) -> Row:
    skipped = ("per_state", "n_samples")
    named = {f.name: getattr(found, f.name) for f in dataclasses.fields(Moments) if f.name not in skipped}
    return named | {"bias_sq": found.bias**2}


def _monte_carlo(
    pair: PolicyPair, correction: Correction, denominator: Denominator, study: Study, generator: np.random.Generator
) -> Row:
    found = sampled.estimate(
        pair.policy_log_probs,
        pair.actor_log_probs,
        pair.advantage,
        correction,
        generator,
        n_samples=study.n_samples,
        replicates=study.replicates,
        denominator=denominator,
    )
    errors = {f"{name}_se": found.standard_error.get(name, math.nan) for name in SAMPLED}
    return {name: found.value[name] for name in SAMPLED} | errors | {"replicates": study.replicates}


def _state_columns(what: Row, statistics: StateStatistics, kl_policy_actor: Any) -> dict[str, Any]:
    count = len(kl_policy_actor)
    named = {f.name: getattr(statistics, f.name) for f in dataclasses.fields(StateStatistics)}
    labels = {name: [what[name]] * count for name in ("cell", "estimator", "denominator")}
    return labels | {"state": np.arange(count), "kl_policy_actor": kl_policy_actor} | named


def _concatenated(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
