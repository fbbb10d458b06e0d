"""Rollouts of an actor that shows its likeliest tokens alone, as a server does, read by the policy's own model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from jackpot_sim.core.arrays import Array, Floats, Ints
from jackpot_sim.core.obrs import acceptance_probability
from jackpot_sim.core.scored import ScoredRollouts
from jackpot_sim.environments.language_models.generation import Written
from jackpot_sim.environments.language_models.streaming import StreamedLaws
from jackpot_sim.environments.recorded import LogProbs
from jackpot_sim.environments.rollouts.built import RealisedRollouts
from jackpot_sim.estimators import Correction
from jackpot_sim.estimators.rollouts.at_states import AtState
from jackpot_sim.estimators.rollouts.at_topk import VisitedTopK, sampled_divergences

LAWS = "top-k"
"""The name in records of what is known of such an actor's laws."""


@dataclass(frozen=True, eq=False)
class Served:
    """The figures at every token of the actor's rollouts, in the form of `at_states.Visited`.

    Attributes:
        visited: the policy there, and the brackets of Z.
        divergences: samples of divergences, by name, (n, length).
        overlap: Ẑ(λ), by λ, (n, length): in the bracket, and calibrated on the tokens of each update.
        at: None for each correction: what it does to laws is not known.
    """

    visited: VisitedTopK
    divergences: dict[str, Floats]
    overlap: dict[float | Array, Floats]
    at: list[AtState | None]

    @property
    def told_log_probs(self) -> Floats:
        """Log p of the tokens as corrections see it, (n, length), nats."""
        return self.visited.policy_log_probs

    @property
    def policy_log_probs(self) -> Floats:
        """Log p of the tokens, (n, length), nats."""
        return self.visited.policy_log_probs

    def states(self, lam: float, log_ratio: Floats) -> dict[str, Floats]:
        """The figures of the states that diagnostics tell, (n, length): the bracket of Z(λ), and samples of it.

        Args:
            lam: λ.
            log_ratio: log p − log q at the tokens as corrections see it, (n, length), nats.
        """
        sampled = {"overlap_sampled": np.asarray(acceptance_probability(log_ratio, lam))}
        if lam not in self.visited.low:
            return sampled
        return {"overlap_low": self.visited.low[lam], "overlap_high": self.visited.high[lam]} | sampled


def visit(
    realised: RealisedRollouts, written: Written, corrections: list[Correction], lam: float, replicate: Ints
) -> Served:
    """The figures at the states of the actor's rollouts.

    Args:
        realised: the environment.
        written: the actor's rollouts.
        corrections: the corrections, of which those that need Z get it calibrated.
        lam: the λ of the overlap that is reported.
        replicate: the update of each sequence, (n,).

    Raises:
        ValueError: a correction needs what the actor does not show.
    """
    setup = realised.setup
    if setup.log_probs is LogProbs.SUPPORT and setup.actor_law.cuts:
        raise ValueError("log_probs support needs whole laws, which the actor does not show: give processed or raw")
    told = written.raw_log_probs if setup.log_probs is LogProbs.RAW else written.log_probs
    # A bracket is of the law whose top-k was returned, and so of ratios only where corrections see that law.
    seen = written.topk if setup.log_probs is not LogProbs.RAW or setup.actor_law.is_plain else None
    _check(corrections, None if seen is None else written)
    lams = dict.fromkeys([lam, *(x for each in corrections for x in _lams(each))])
    visited = VisitedTopK(written.tokens, seen, lams)
    for law in policy_laws(realised, written):
        visited.add(law.sequence, law.step, law.log_probs)
    ratio = np.where(written.mask, visited.policy_log_probs - written.log_probs, 0.0)
    of_told = np.where(written.mask, visited.policy_log_probs - told, 0.0)
    return Served(
        visited,
        sampled_divergences(ratio, written.mask, cuts=setup.actor_law.cuts),
        {x: visited.calibrated(x, of_told, written.mask, replicate) for x in visited.low},
        [None for _ in corrections],
    )


def policy_laws(realised: RealisedRollouts, written: Written) -> Iterator[StreamedLaws]:
    """The policy's law at every token, a few rows at a time."""
    setup = realised.setup
    laws = realised.policy_engine.laws(
        setup.prompts, written, sampling=setup.policy_law, batch_size=setup.batch_size, rows=setup.rows
    )
    return setup.reported(laws, len(written.tokens))


def acceptance(served: Served, correction: Correction, accept: Floats, rollouts: ScoredRollouts) -> dict[str, Floats]:
    """The acceptance rate of a correction at the states, by column, (n, length): sampled, and the ends of its bracket.

    Args:
        served: the figures at the states.
        correction: the correction.
        accept: its accept probability at each token, (n, length).
        rollouts: the rollouts as corrections see them.
    """
    if not correction.fits_a_table:
        return {}
    columns, live = {"acceptance_rate": accept}, rollouts.mask
    for lam in _lams(correction):
        # A rejection accepts with min(1, r/λ); another correction that has a λ need not.
        rejection = np.asarray(acceptance_probability(rollouts.log_ratio[live], lam))
        if lam in served.visited.low and np.allclose(accept[live], rejection, rtol=1e-9):
            columns |= {"acceptance_low": served.visited.low[lam], "acceptance_high": served.visited.high[lam]}
    return columns


def _lams(correction: Correction) -> Iterable[float]:
    """The λ of the overlap that a correction needs, and that of its rejection."""
    named = (correction.overlap_lam, getattr(correction, "lam", None))
    return dict.fromkeys(float(each) for each in named if isinstance(each, int | float))


def _check(corrections: Iterable[Correction], shown: Written | None) -> None:
    """Refuses corrections that look at other tokens than the one drawn, where the actor shows none."""
    for each in corrections:
        if shown is None and (each.overlap_lam is not None or each.subtracts_mean):
            raise ValueError(
                f"{each.name} looks at the actor's likeliest tokens, and the actor returns none of the law that "
                "log_probs names: leave it out, or give an actor that returns top-k log-probs of that law"
            )
