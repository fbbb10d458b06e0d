"""Independent states with laws over a vocabulary."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from jackpot_sim.core import divergences
from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.backend import row_blocks, to_numpy
from jackpot_sim.core.sampling import categorical
from jackpot_sim.environments.policy_pair import PolicyPair
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.states.families import Mismatch
from jackpot_sim.estimators import Correction, Denominator
from jackpot_sim.estimators.mismatch.overlap_estimates import LawBlock, compare
from jackpot_sim.estimators.states import moments, optimum, sampled
from jackpot_sim.estimators.statistics import Moments
from jackpot_sim.studies.estimator_spec import EstimatorSpec
from jackpot_sim.sweep.estimates import Estimate, Measured, measured, state_columns
from jackpot_sim.sweep.plan import Cell, estimates
from jackpot_sim.sweep.rows import (
    Row,
    environment_columns,
    exact_columns,
    mask_generator,
    normalizer_rows,
    sampled_columns,
)
from jackpot_sim.sweep.spec import Method, Study
from jackpot_sim.sweep.thresholds import Finder, Found, with_thresholds


def measure(cell: Cell, study: Study, env: Mismatch) -> Measured:
    """The estimators of the study on the states of one cell.

    Raises:
        ValueError: the environment cannot be built, or an acceptance rate is not attainable.
    """
    realised = env.build(cell.seed)
    pair = realised.pair
    laws = pair.policy_log_probs, pair.actor_log_probs, pair.advantage
    by_state = _divergences(pair)
    corrections = {spec.label: spec.correction_for(*pair.told) for spec in study.estimators}
    exact = _Exact(study, pair, corrections, by_state["kl_policy_actor"])

    def monte_carlo(spec: EstimatorSpec, correction: Correction, denominator: Denominator) -> Estimate:
        figures = sampled.estimate(
            *laws,
            correction,
            mask_generator(cell, spec, denominator),
            n_samples=study.n_samples,
            replicates=study.replicates,
            denominator=denominator,
            believed=pair.believed,
        )
        return Estimate(sampled_columns(figures))

    states, vocab = pair.advantage.shape
    means = {name: float(values.mean()) for name, values in by_state.items()}
    every = {Method.EXACT: exact.estimate, Method.MONTE_CARLO: monte_carlo}
    rows = measured(
        cell,
        study,
        environment_columns(cell, realised) | {"states": states, "vocab": vocab} | means,
        {method: every[method] for method in study.methods},
        correction=lambda spec: corrections[spec.label],
        tables={"normalizers": _normalizers(cell, study, pair)},
    )
    return with_thresholds(rows, study, best_of(pair, study.n_samples))


def best_of(pair: PolicyPair, n_samples: int) -> Finder:
    """The search for best thresholds, which sorts the states once."""
    laws = pair.policy_log_probs, pair.actor_log_probs, pair.advantage
    states = optimum.SortedCell(*laws, pair.believed)

    def find(spec: EstimatorSpec, correction: Correction, denominator: Denominator) -> Found:
        best = states.best(correction, n_samples=n_samples, denominator=denominator)
        mse, rescaled = float(best.moments.mse[0]), float(best.moments.mse_rescaled[0])
        return Found(best.threshold, mse, rescaled, best.is_exact)

    return find


class _Exact:
    """The exact figures of all estimators, measured together when the first is asked for."""

    def __init__(self, study: Study, pair: PolicyPair, corrections: Mapping[str, Correction], kl: Floats) -> None:
        self._study, self._pair, self._corrections, self._kl = study, pair, corrections, kl

    @cached_property
    def _moments(self) -> tuple[dict[str, dict[Denominator, Moments]], float]:
        """The moments by label and denominator, and the seconds that a row took."""
        study, pair, started = self._study, self._pair, time.perf_counter()
        together: dict[tuple[Denominator, ...], list[str]] = {}
        for spec in study.estimators:
            together.setdefault(study.denominators_of(spec), []).append(spec.label)
        found: dict[str, dict[Denominator, Moments]] = {}
        for denominators, labels in together.items():
            measured_together = moments.measure(
                pair.policy_log_probs,
                pair.actor_log_probs,
                pair.advantage,
                [self._corrections[label] for label in labels],
                denominators=denominators,
                n_samples=study.n_samples,
                believed=pair.believed,
            )
            found |= dict(zip(labels, measured_together, strict=True))
        return found, (time.perf_counter() - started) / estimates(study)

    def estimate(self, spec: EstimatorSpec, correction: Correction, denominator: Denominator) -> Estimate:
        """Exact figures of one estimator."""
        found, seconds = self._moments
        figures = found[spec.label][denominator]
        return Estimate(exact_columns(figures), state_columns(figures.per_state, self._kl), seconds)


def _divergences(pair: PolicyPair) -> dict[str, Floats]:
    """The divergences of each state by name, (states,), in blocks so that memory does not grow with the states."""
    p, q = pair.policy_log_probs, pair.actor_log_probs
    blocks = list(row_blocks(*p.shape))
    return {
        name: np.concatenate([to_numpy(f(p[rows], q[rows])) for rows in blocks])
        for name, f in divergences.BY_NAME.items()
    }


def _normalizers(cell: Cell, study: Study, pair: PolicyPair) -> list[Row]:
    """The ways to estimate Z, if the study compares them, from one token of the actor at every state."""
    comparison = study.normalizers
    if comparison is None:
        return []
    p, q = pair.told
    generator = keyed_generator(cell.seed, "normalizers", cell.environment)
    uniforms, masks = generator.random((2, len(p)))
    index = np.arange(len(p))
    drawn = np.concatenate(
        [categorical(pair.actor_log_probs[rows], uniforms[rows, None])[:, 0] for rows in row_blocks(*p.shape)]
    )
    blocks = (LawBlock(p[rows], q[rows], drawn[rows], masks[rows], index[rows]) for rows in row_blocks(*p.shape))
    return normalizer_rows(cell, compare(blocks, comparison.k, comparison.lam, comparison.batch, generator))
