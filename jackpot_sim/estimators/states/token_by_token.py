"""The statistics of a correction at a block of states, from its weights token by token.

This is the way that keeps its digits everywhere, and the only one for centred corrections and where a trainer believes
in other laws; `summed` is the faster one where its sums serve.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import namespace, overflow_to_inf
from jackpot_sim.core.policy_gradient import gradient_under, score_dot
from jackpot_sim.core.weighted_laws import kl_to_weighted, over_divisor, weighted_less_policy
from jackpot_sim.estimators import statistics
from jackpot_sim.estimators.states.blocks import Block, Columns, expect
from jackpot_sim.estimators.states.centring import Centring, UpdateLaw
from jackpot_sim.estimators.statistics import Denominator, of_single_tokens


class TokenByToken:
    """One correction at a block of states; what is named a law has shape (states, vocab), all else (states,)."""

    def __init__(self, block: Block, index: int, advantage: Array | None = None) -> None:
        self._block, self._index, self._correction = block, index, block.corrections[index]
        with overflow_to_inf():
            self.accept, self.weight = block.weigh(index, advantage)
        self.accepted = block.proposed(self.accept)
        self.rate = expect(self.accepted)

    @cached_property
    def _without_divisor(self) -> dict[str, Array]:
        """The columns that are the same for each denominator."""
        block, accept, weight = self._block, self.accept, self.weight
        kl_accepted = kl_to_weighted(block.log_p, block.log_q, accept)
        weighs_none = bool(namespace(weight).all(weight == 1.0))
        return {
            "acceptance_rate": self.rate,
            "weight_mean": self._weight_mean,
            "weight_square": expect(self._squared),
            "kl_accepted": kl_accepted,
            "kl_effective": (
                kl_accepted if weighs_none else kl_to_weighted(block.log_p, block.log_q, accept, self._reachable)
            ),
        }

    @cached_property
    def _law(self) -> Array:
        """q·a·w."""
        return self.accepted * namespace(self.weight).where(self._block.live, self.weight, 0.0)

    @cached_property
    def _weight_mean(self) -> Array:
        return expect(self._law)

    @cached_property
    def _squared(self) -> Array:
        """q·a·w², (states, vocab)."""
        return self._law * namespace(self.weight).where(self._block.live, self.weight, 0.0)

    @cached_property
    def _reachable(self) -> Array:
        """w, (states, vocab), finite: only a token that is never proposed has an infinite one, which has no effect."""
        return namespace(self.weight).where(self.weight < math.inf, self.weight, 0.0)

    @cached_property
    def _excess(self) -> Array:
        """The law less p."""
        block = self._block
        near = weighted_less_policy(block.q, block.p, self.accept * self._reachable, block.pair.log_ratio)
        return namespace(near).where(block.live, near, -block.p)

    def statistics(self, denominator: Denominator, batch_rate: float | None) -> Columns:
        """The columns of `StateStatistics`."""
        block = self._block
        p, told_p, advantage, gradient = block.p, block.told_p, block.advantage, block.gradient
        xp = namespace(p)
        rate = xp.ones_like(self.rate) * batch_rate if batch_rate is not None else self.rate
        divisor = statistics.divisor(denominator, rate, self._weight_mean)
        own = denominator is Denominator.SELF_NORMALIZED
        divisor_less_one = expect(self._excess) / expect(p) if own else divisor - 1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            error_law = over_divisor(self._law, self._excess, p, divisor[:, None], divisor_less_one[:, None])
            error = gradient_under(error_law, p, advantage)
            estimate = gradient_under(self._law / divisor[:, None], told_p, advantage)
            if told_p is not p:  # every token's ∇log p̂ differs from ∇log p by p − p̂
                error = error + expect(self._law * advantage / divisor[:, None])[:, None] * (p - told_p)
        spread = block.told_feature_sq
        if own:
            spread = spread - 2 * advantage * score_dot(told_p, estimate) + xp.sum(estimate**2, axis=-1, keepdims=True)
        columns = self._without_divisor | {
            "divisor": divisor,
            "error_sq": expect(error**2),
            "error_dot": expect(error * gradient),
            "estimate_sq": expect(estimate**2),
            "estimate_dot": expect(estimate * gradient),
            "second_moment": expect(self._squared * spread),
            **of_single_tokens(self.rate, expect(estimate**2) * divisor**2),
        }
        if self._centring is None:
            return columns
        return columns | self._centring.columns(gradient, divisor, divisor_less_one, own)

    @cached_property
    def _centring(self) -> Centring | None:
        """The columns that differ in the centred form; None for a correction that subtracts no mean."""
        block, correction = self._block, self._correction
        if not correction.subtracts_mean:
            return None
        own, of_sign = UpdateLaw(self._law, self._excess), None
        if "advantages" in correction.needs:
            ones = namespace(block.p).ones_like(block.p)
            above, below = (TokenByToken(block, self._index, sign * ones) for sign in (1.0, -1.0))
            of_sign = UpdateLaw(above._law, above._excess), UpdateLaw(below._law, below._excess)
        q = block.proposed(namespace(block.p).ones_like(block.p))
        return Centring(block.p, q, block.advantage, self.accepted, self._squared, own, of_sign)
