"""Sequences of tiny language models: enumerated where they fit in memory, and drawn beyond."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from jackpot_sim.core import sequence_divergences
from jackpot_sim.core.sequences import Enumeration, SampledSequences
from jackpot_sim.environments.prefix_tree import prefix_shift
from jackpot_sim.environments.sequences.small_lm import RealisedSequences, SmallLM
from jackpot_sim.estimators import Correction, Denominator
from jackpot_sim.estimators.sequences import sampled
from jackpot_sim.estimators.sequences.enumerated import Referee, Weighed
from jackpot_sim.studies.estimator_spec import EstimatorSpec
from jackpot_sim.sweep.estimates import Estimate, Measured, measured, state_columns
from jackpot_sim.sweep.plan import Cell
from jackpot_sim.sweep.rows import Row, environment_columns, exact_columns, mask_generator, sampled_columns
from jackpot_sim.sweep.spec import Method, Study


def measure(cell: Cell, study: Study, env: SmallLM) -> Measured:
    """The estimators of the study on the sequences of one cell.

    Raises:
        ValueError: the environment cannot be built.
    """
    realised = env.build(cell.seed)
    header = environment_columns(cell, realised) | {
        "states": len(realised.prompts),
        "vocab": realised.tree.vocab,
        "length": realised.tree.length,
        "space": env.space,
    }
    if realised.enumerations is None:
        drawn = _Drawn(cell, study, realised, None)
        return measured(cell, study, header | drawn.divergences(), {Method.MONTE_CARLO: drawn.estimate})
    enumerated = _Enumerated(study, realised, realised.enumerations)
    drawn = _Drawn(cell, study, realised, enumerated.referee)
    every = {Method.EXACT: enumerated.estimate, Method.MONTE_CARLO: drawn.estimate}
    return measured(cell, study, header | enumerated.divergences(), {method: every[method] for method in study.methods})


class _Enumerated:
    """The referee over the enumerated sequences of every prompt."""

    def __init__(self, study: Study, realised: RealisedSequences, enumerations: Sequence[Enumeration]) -> None:
        self._study, self._tree, self._enumerations = study, realised.tree, enumerations
        self._by_prompt = [sequence_divergences.exact(each) for each in enumerations]
        self._last: tuple[Correction, Weighed] | None = None
        self.referee = Referee(enumerations, realised.features)

    def divergences(self) -> Row:
        """Means over prompts."""
        laws = [each.laws for each in self._enumerations]
        shifts = [prefix_shift(self._tree, each.policy_log_probs, each.actor_log_probs) for each in laws]
        means: Row = {
            name: float(np.mean([each[name] for each in self._by_prompt])) for name in sequence_divergences.NAMES
        }
        return means | {"prefix_total_variation": float(np.mean([shift.total_variation[-1] for shift in shifts]))}

    def estimate(self, spec: EstimatorSpec, correction: Correction, denominator: Denominator) -> Estimate:
        """Exact figures of one estimator."""
        weighed = self._weighed(spec, correction)
        figures, shares = weighed.moments(denominator, self._study.n_samples), weighed.bias_shares(denominator)
        parts = {} if shares is None else {f"bias_share_{k}": v for k, v in dataclasses.asdict(shares).items()}
        kl = np.array([each["kl_policy_actor"] for each in self._by_prompt])
        return Estimate(exact_columns(figures) | parts, state_columns(figures.per_state, kl))

    def _weighed(self, spec: EstimatorSpec, correction: Correction) -> Weighed:
        """The weights of all sequences; they are the same for every denominator, so that the last are held."""
        if self._last is None or self._last[0] is not correction:
            self._last = correction, self.referee.weigh(correction, spec.target)
        return self._last[1]


class _Drawn:
    """Sequences that the actor and the policy wrote, the same for every estimator."""

    def __init__(self, cell: Cell, study: Study, realised: RealisedSequences, referee: Referee | None) -> None:
        self._cell, self._study, self._realised, self._referee = cell, study, realised, referee

    @cached_property
    def _rollouts(self) -> tuple[SampledSequences, ...]:
        return self._realised.rollouts(self._cell.seed, self._study.n_samples, self._study.replicates)

    def divergences(self) -> Row:
        """Means over prompts, with standard errors."""
        values, errors = sequence_divergences.sampled(self._rollouts)
        achieved: Row = {"achieved_kl_se": self._realised.achieved_se}
        return achieved | values | {f"{name}_se": error for name, error in errors.items()}

    def estimate(self, spec: EstimatorSpec, correction: Correction, denominator: Denominator) -> Estimate:
        """Monte Carlo figures of one estimator, against the exact gradient where there is one."""
        figures = sampled.estimate(
            self._rollouts,
            correction,
            mask_generator(self._cell, spec, denominator),
            replicates=self._study.replicates,
            denominator=denominator,
            target=spec.target,
            truth=None if self._referee is None else self._referee.truth(),
            features=self._realised.features,
        )
        return Estimate(sampled_columns(figures))
