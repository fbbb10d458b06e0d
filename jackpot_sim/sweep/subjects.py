"""What a cell measures estimators on: independent states, sequences of small language models, or rollouts of real ones.

All answer the same questions, so that a cell need not know which it has. What a subject cannot say is
absent from its rows, and empty in the records.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from jackpot_sim.core import divergences, sequence_divergences
from jackpot_sim.core.backend import row_blocks
from jackpot_sim.core.sampling import categorical
from jackpot_sim.core.sequences import SampledSequences
from jackpot_sim.environments.policy_pair import Realised
from jackpot_sim.environments.prefix_tree import prefix_shift
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.rollouts.hf import HuggingFace
from jackpot_sim.environments.sequences.small_lm import RealisedSequences, SmallLM
from jackpot_sim.estimators import Correction, Denominator
from jackpot_sim.estimators.mismatch.overlap_estimates import LawBlock, compare
from jackpot_sim.estimators.replicates import Sampled
from jackpot_sim.estimators.sequences import sampled as rollouts
from jackpot_sim.estimators.sequences.enumerated import Referee, Weighed
from jackpot_sim.estimators.states import moments, sampled
from jackpot_sim.estimators.statistics import Moments, StateStatistics
from jackpot_sim.studies.estimator_spec import EstimatorSpec
from jackpot_sim.sweep.plan import Cell
from jackpot_sim.sweep.real_models import RolloutSubject
from jackpot_sim.sweep.rows import SAMPLED, Row, asked_of, generator_of, normalizer_rows
from jackpot_sim.sweep.spec import Method, Study


class Subject(Protocol):
    """A realised environment, with what the study asks of it."""

    def asked(self) -> Row:
        """What was asked, and how far apart the two policies are."""
        ...

    def methods(self) -> tuple[Method, ...]:
        """How it can be measured, of what the study asks."""
        ...

    def correction(self, spec: EstimatorSpec) -> Correction:
        """The estimator, with λ solved for where a budget was given."""
        ...

    def exact(
        self, spec: EstimatorSpec, correction: Correction, denominator: Denominator
    ) -> tuple[Row, StateStatistics]:
        """The exact figures, and what each state contributes."""
        ...

    def kl_of_states(self) -> Any:
        """KL(policy‖actor) of each state, shape (states,)."""
        ...

    def monte_carlo(self, spec: EstimatorSpec, correction: Correction, denominator: Denominator) -> Row:
        """The sampled figures, with their standard errors."""
        ...

    def tables(self) -> dict[str, list[Row]]:
        """What it adds to the tables that are not about estimators, by their names."""
        ...


def subject_of(cell: Cell, study: Study) -> Subject:
    """The cell's environment, built.

    Raises:
        ValueError: it cannot be built.
    """
    if isinstance(cell.env, HuggingFace):
        return RolloutSubject(cell, study, cell.env, cell.env.build(cell.seed))
    if isinstance(cell.env, SmallLM):
        return SequenceSubject(cell, study, cell.env.build(cell.seed))
    return StateSubject(cell, study, cell.env.build(cell.seed))


class StateSubject:
    """Independent states, with laws over a vocabulary."""

    def __init__(self, cell: Cell, study: Study, realised: Realised) -> None:
        self._cell, self._study, self._realised = cell, study, realised
        self._pair = realised.pair

    @cached_property
    def _divergences(self) -> dict[str, Any]:
        """Each divergence of each state, in blocks so that memory does not grow with the states."""
        p, q = self._pair.policy_log_probs, self._pair.actor_log_probs
        blocks = list(row_blocks(*p.shape))
        return {
            name: np.concatenate([f(p[rows], q[rows]) for rows in blocks]) for name, f in divergences.BY_NAME.items()
        }

    def asked(self) -> Row:
        """See `Subject`."""
        states, vocab = self._pair.advantage.shape
        means = {name: float(values.mean()) for name, values in self._divergences.items()}
        return asked_of(self._cell, self._realised) | {"states": states, "vocab": vocab} | means

    def methods(self) -> tuple[Method, ...]:
        """All."""
        return self._study.methods

    def correction(self, spec: EstimatorSpec) -> Correction:
        """See `Subject`."""
        return spec.correction_for(self._pair.policy_log_probs, self._pair.actor_log_probs)

    def exact(
        self, spec: EstimatorSpec, correction: Correction, denominator: Denominator
    ) -> tuple[Row, StateStatistics]:
        """See `Subject`."""
        found = moments.exact(*self._laws, correction, denominator=denominator, n_samples=self._study.n_samples)
        return _figures(found), found.per_state

    def kl_of_states(self) -> Any:
        """See `Subject`."""
        return self._divergences["kl_policy_actor"]

    def monte_carlo(self, spec: EstimatorSpec, correction: Correction, denominator: Denominator) -> Row:
        """See `Subject`."""
        found = sampled.estimate(
            *self._laws,
            correction,
            generator_of(self._cell, spec, denominator),
            n_samples=self._study.n_samples,
            replicates=self._study.replicates,
            denominator=denominator,
        )
        return _with_errors(found)

    def tables(self) -> dict[str, list[Row]]:
        """The ways to estimate Z, if the study compares them: one token of the actor at every state."""
        wanted = self._study.normalizers
        if wanted is None:
            return {}
        p, q, _ = self._laws
        generator = keyed_generator(self._cell.seed, "normalizers", self._cell.environment)
        uniforms, masks = generator.random((2, len(p)))
        index = np.arange(len(p))
        blocks = (
            LawBlock(p[rows], q[rows], categorical(q[rows], uniforms[rows, None])[:, 0], masks[rows], index[rows])
            for rows in row_blocks(*p.shape)
        )
        found = compare(blocks, wanted.k, wanted.lam, wanted.batch, generator)
        return {"normalizers": normalizer_rows(self._cell, found)}

    @property
    def _laws(self) -> tuple[Any, Any, Any]:
        return self._pair.policy_log_probs, self._pair.actor_log_probs, self._pair.advantage


class SequenceSubject:
    """Sequences after a few prompts: enumerated where they fit in memory, and drawn beyond."""

    def __init__(self, cell: Cell, study: Study, realised: RealisedSequences) -> None:
        self._cell, self._study, self._realised = cell, study, realised
        self._last: tuple[Any, Weighed] | None = None

    @cached_property
    def _referee(self) -> Referee | None:
        enumerations = self._realised.enumerations
        return None if enumerations is None else Referee(enumerations, self._realised.features)

    @cached_property
    def _rollouts(self) -> tuple[SampledSequences, ...]:
        # The same for every estimator: they are compared on equal rollouts.
        return self._realised.rollouts(self._cell.seed, self._study.n_samples, self._study.replicates)

    def asked(self) -> Row:
        """See `Subject`; where sequences are drawn, divergences carry standard errors."""
        env, tree = self._cell.env, self._realised.tree
        assert isinstance(env, SmallLM)
        row = asked_of(self._cell, self._realised) | {
            "states": len(self._realised.prompts),
            "vocab": tree.vocab,
            "length": tree.length,
            "space": env.space,
        }
        if self._realised.enumerations is None:
            values, errors = sequence_divergences.sampled(self._rollouts)
            row |= {"achieved_kl_se": self._realised.achieved_se}
            return row | values | {f"{name}_se": error for name, error in errors.items()}
        shifts = [
            prefix_shift(tree, each.laws.policy_log_probs, each.laws.actor_log_probs)
            for each in self._realised.enumerations
        ]
        means = {name: float(np.mean([each[name] for each in self._exact])) for name in sequence_divergences.NAMES}
        return row | means | {"prefix_total_variation": float(np.mean([shift.total_variation[-1] for shift in shifts]))}

    @cached_property
    def _exact(self) -> list[dict[str, float]]:
        return [sequence_divergences.exact(each) for each in self._realised.enumerations or ()]

    def methods(self) -> tuple[Method, ...]:
        """Those asked for, and where sequences cannot be enumerated Monte Carlo alone."""
        return self._study.methods if self._realised.enumerations is not None else (Method.MONTE_CARLO,)

    def correction(self, spec: EstimatorSpec) -> Correction:
        """See `Subject`; a budget is one of sequences no more than of states, so there is none."""
        return spec.correction()

    def exact(
        self, spec: EstimatorSpec, correction: Correction, denominator: Denominator
    ) -> tuple[Row, StateStatistics]:
        """See `Subject`."""
        weighed = self._weighed(spec, correction)
        found = weighed.moments(denominator, self._study.n_samples)
        shares = weighed.bias_shares(denominator)
        told = {} if shares is None else {f"bias_share_{k}": v for k, v in dataclasses.asdict(shares).items()}
        return _figures(found) | told, found.per_state

    def _weighed(self, spec: EstimatorSpec, correction: Correction) -> Weighed:
        """Weights are the same for every denominator: those of the last estimator are kept."""
        assert self._referee is not None
        if self._last is None or self._last[0] is not correction:
            self._last = correction, self._referee.weigh(correction, spec.target)
        return self._last[1]

    def kl_of_states(self) -> Any:
        """Per token, of each prompt."""
        return np.array([each["kl_policy_actor"] for each in self._exact])

    def monte_carlo(self, spec: EstimatorSpec, correction: Correction, denominator: Denominator) -> Row:
        """See `Subject`; against the exact gradient where there is one."""
        found = rollouts.estimate(
            self._rollouts,
            correction,
            generator_of(self._cell, spec, denominator),
            replicates=self._study.replicates,
            denominator=denominator,
            target=spec.target,
            truth=None if self._referee is None else self._referee.truth(),
            features=self._realised.features,
        )
        return _with_errors(found)

    def tables(self) -> dict[str, list[Row]]:
        """None."""
        return {}


def _figures(found: Moments) -> Row:
    skipped = ("per_state", "n_samples")
    named = {f.name: getattr(found, f.name) for f in dataclasses.fields(Moments) if f.name not in skipped}
    return named | {"bias_sq": found.bias**2}


def _with_errors(found: Sampled) -> Row:
    errors = {f"{name}_se": found.standard_error.get(name, math.nan) for name in SAMPLED}
    return {name: found.value[name] for name in SAMPLED} | errors | {"replicates": found.replicates}
