"""States of which whole laws are known, read in cache-sized blocks, with what no correction changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TypeAlias

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import namespace, overflow_to_inf, row_blocks
from jackpot_sim.core.checks import check_advantage, check_alike, check_pair
from jackpot_sim.core.policy_gradient import feature_norm_sq, policy_gradient
from jackpot_sim.core.support import BelievedLaws
from jackpot_sim.core.two_laws import TwoLaws
from jackpot_sim.estimators.corrections.composed import require_known_laws
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.corrections.inputs import TokenWeights
from jackpot_sim.estimators.states.summed import Shared, Summed, summed
from jackpot_sim.estimators.states.tokens import StateTokens, check_parameters

Columns: TypeAlias = dict[str, Array]
"""Columns of `StateStatistics` of a block, each (states,)."""


class Block:
    """A few states, with the arrays that no correction changes, each of shape (states, vocab) unless it says more."""

    def __init__(
        self,
        log_p: Array,
        log_q: Array,
        advantage: Array,
        corrections: Sequence[Correction],
        told: tuple[Array, Array] | None,
    ) -> None:
        self.pair, self.advantage, self.corrections = TwoLaws(log_p, log_q), advantage, corrections
        self.log_p, self.log_q, self.p, self.q = log_p, log_q, self.pair.p, self.pair.q
        self.told = self.pair if told is None else TwoLaws(*told)
        """The laws p̂ and q̂ of which ratios are taken, and ∇log p̂."""

    @cached_property
    def live(self) -> Array:
        """True at tokens that are proposed."""
        normal: float = namespace(self.q).finfo(self.q.dtype).smallest_normal
        return self.q >= normal

    def proposed(self, values: Array) -> Array:
        """q·values; 0 outside the actor's support, where values may be infinite."""
        xp = namespace(self.q)
        return xp.where(self.live, self.q * xp.where(self.live, values, 0.0), 0.0)

    def weigh(self, index: int, advantage: Array | None = None) -> TokenWeights:
        """The weights of a correction, at the advantages of the states or at others."""
        tokens = self._tokens if advantage is None else StateTokens(self.told, advantage)
        return self.corrections[index].weights(tokens.of(self.corrections[index]))

    @cached_property
    def _tokens(self) -> StateTokens:
        return StateTokens(self.told, self.advantage)

    def summed(self, index: int) -> Summed | None:
        """The sums of a correction, if they serve."""
        if self.told is not self.pair or not self.pair.is_plain or self.corrections[index].subtracts_mean:
            return None
        return summed(self._shared, self.weigh(index))

    @cached_property
    def _shared(self) -> Shared:
        return Shared(self.pair, self.advantage, self.gradient, self.feature_sq)

    @cached_property
    def truth(self) -> Columns:
        """The columns that no correction changes."""
        return {"grad_norm_sq": self.grad_norm_sq, "on_policy_variance": self.on_policy_variance}

    @property
    def told_p(self) -> Array:
        """p̂; p itself, the same array, where the trainer knows it."""
        return self.told.p

    @cached_property
    def gradient(self) -> Array:
        """g."""
        return policy_gradient(self.p, self.advantage)

    @cached_property
    def grad_norm_sq(self) -> Array:
        """‖g‖², (states,)."""
        return expect(self.gradient**2)

    @cached_property
    def feature_sq(self) -> Array:
        """‖f(x)‖²."""
        return feature_norm_sq(self.p, self.advantage)

    @cached_property
    def told_feature_sq(self) -> Array:
        """‖f̂(x)‖² of the update's features f̂(x) = A(x)(e_x − p̂)."""
        return self.feature_sq if self.told_p is self.p else feature_norm_sq(self.told_p, self.advantage)

    @cached_property
    def on_policy_variance(self) -> Array:
        """The variance of one token of the policy, (states,)."""
        return expect(self.p * self.feature_sq) - self.grad_norm_sq


class Blocks:
    """Cache-sized blocks of states, checked as they are read."""

    def __init__(
        self,
        log_p: Array,
        log_q: Array,
        advantage: Array,
        corrections: Sequence[Correction],
        believed: BelievedLaws | None,
    ) -> None:
        xp = namespace(log_p, log_q, advantage)
        if log_p.ndim == 0 or log_p.shape[-1] == 0 or math.prod(log_p.shape) == 0:
            check_pair(log_p, log_q)
            raise ValueError(f"policy_log_probs has shape {tuple(log_p.shape)}: it holds no state")
        flat = (math.prod(log_p.shape[:-1]), log_p.shape[-1])
        for correction in corrections:
            check_parameters(correction, flat[0])
            require_known_laws(correction, believed)
        self._rows = list(row_blocks(*flat))
        self._laws = tuple(xp.reshape(x, flat) for x in (log_p, log_q, advantage))
        self._corrections = corrections
        self._told: tuple[Array, Array] | None = None
        if believed is not None:
            told = check_alike(log_p=log_p, p=believed.policy_log_probs, q=believed.actor_log_probs)[1:]
            self._told = (xp.reshape(told[0], flat), xp.reshape(told[1], flat))

    def __iter__(self) -> Iterator[Block]:
        return map(self.at, range(len(self._rows)))

    def at(self, place: int) -> Block:
        """One block, by its place among them."""
        rows = self._rows[place]
        log_p, log_q, advantage = (each[rows, :] for each in self._laws)
        with overflow_to_inf():
            pair = check_pair(log_p, log_q)
            told = None if self._told is None else (self._told[0][rows, :], self._told[1][rows, :])
            own = [each.at(rows) for each in self._corrections]
            return Block(*pair, check_advantage(advantage), own, told)


def expect(terms: Array) -> Array:
    """The sum over the vocabulary of terms (states, vocab); (states,)."""
    return namespace(terms).sum(terms, axis=-1)
