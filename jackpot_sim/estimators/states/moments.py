"""Exact bias, variance, MSE and ESS of a correction, in closed form over the vocabulary.

At each state s the policy gradient in logits is g_s = E_p[f] with f(x) = A(x)(e_x − p), so that
‖f(x)‖² = A(x)²(1 − 2p_x + ‖p‖²). A correction (a, w) estimates it by ĝ_s, whose numerator is
g_w = E_q[a·w·f]; the denominator is an explicit option, because frameworks disagree and offer none.

States are read in cache-sized blocks, or one by one where a state is larger. On each block all corrections are measured
with all denominators, so that they share what depends on the laws alone. A state gives a row of `StateStatistics`, and
`combine` turns the rows into the moments of a cell.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TypeAlias

import numpy as np

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import namespace, overflow_to_inf, row_blocks, stop_gradient, to_numpy
from jackpot_sim.core.checks import check_advantage, check_alike, check_pair
from jackpot_sim.core.policy_gradient import feature_norm_sq, gradient_under, policy_gradient, score_dot
from jackpot_sim.core.support import BelievedLaws
from jackpot_sim.core.two_laws import TwoLaws
from jackpot_sim.core.weighted_laws import kl_to_weighted, over_divisor, weighted_less_policy
from jackpot_sim.estimators import statistics
from jackpot_sim.estimators.corrections.composed import require_known_laws
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.corrections.inputs import TokenWeights
from jackpot_sim.estimators.states.centring import Centring, UpdateLaw
from jackpot_sim.estimators.states.summed import Shared, Summed, summed
from jackpot_sim.estimators.states.tokens import StateTokens, check_parameters
from jackpot_sim.estimators.statistics import Denominator, Moments, StateStatistics, combine_cell, of_single_tokens

__all__ = ["Denominator", "Moments", "StateStatistics", "exact", "measure"]


def exact(
    policy_log_probs: Array,
    actor_log_probs: Array,
    advantage: Array,
    correction: Correction,
    *,
    denominator: Denominator | str = Denominator.PROPOSED,
    n_samples: int | None = None,
    believed: BelievedLaws | None = None,
) -> Moments:
    """The exact moments of `correction` over the given states.

    >>> import numpy as np
    >>> from jackpot_sim import estimators
    >>> p, q = np.log([0.5, 0.3, 0.2]), np.log([0.2, 0.3, 0.5])
    >>> m = exact(p, q, np.array([1.0, -1.0, 0.5]), estimators.get("is"), n_samples=100)
    >>> round(m.bias, 12), round(m.variance, 3)
    (0.0, 2.299)

    A token to which the actor gives less than the smallest normal number is never proposed here, though
    the KLs still count it. Acceptance rate, KLs and ESS of a centred correction are those of the correction inside.

    Between near-equal laws, bias, direction_bias and the KLs have as many digits as the weights: all digits where
    a·w is 1 or r, as for none, is, masks, and obrs and tis at a threshold of 1. Any other a·w near 1 is rounded
    to 1e-16, which is a relative 1e-16/s of a bias or a log-ratio of size s. A bias is that of the log-probs as
    given, not normalised again; `self_normalized` takes E[mw] relative to Σp where both are near 1.

    Args:
        policy_log_probs: log p, shape (..., vocab), nats.
        actor_log_probs: log q, the same shape.
        advantage: A(x), the same shape.
        correction: a correction of single tokens.
        denominator: a `Denominator` or its name.
        n_samples: proposals per state, for `mse`, which is nan without it.
        believed: the laws of the ratios, and of the update's ∇log p̂, where a trainer has others than p and q; the
            same shape. The wanted gradient and the KLs are those of p and q.

    Raises:
        ValueError: a law is not normalised, the shapes differ, an advantage is not finite, a parameter
            is neither a number nor one per state, the denominator is unknown, or n_samples < 1.
    """
    denominator = Denominator(denominator)
    laws = policy_log_probs, actor_log_probs, advantage
    (found,) = measure(*laws, [correction], denominators=[denominator], n_samples=n_samples, believed=believed)
    return found[denominator]


def measure(
    policy_log_probs: Array,
    actor_log_probs: Array,
    advantage: Array,
    corrections: Sequence[Correction],
    *,
    denominators: Sequence[Denominator | str] = tuple(Denominator),
    n_samples: int | None = None,
    believed: BelievedLaws | None = None,
) -> list[dict[Denominator, Moments]]:
    """The exact moments of many corrections, by denominator, in the order of the corrections: `exact` of each.

    The states are read once for all of them; those at which sums would lose digits are read twice where `accepted` is
    among the denominators. Arguments and errors are those of `exact`.
    """
    wanted = [Denominator(each) for each in denominators]
    arrays = check_alike(policy_log_probs=policy_log_probs, actor_log_probs=actor_log_probs, advantage=advantage)
    log_p, log_q, values = (stop_gradient(x) for x in arrays)
    blocks = _Blocks(log_p, log_q, values, corrections, believed)
    measured = [_Measured(index, wanted) for index in range(len(corrections))]
    for block in blocks:
        for each in measured:
            each.add(block)
    for place in sorted({place for each in measured for place in each.lacking()}):
        block = blocks.at(place)
        for each in measured:
            each.complete(place, block)
    return [each.moments(n_samples) for each in measured]


Columns: TypeAlias = dict[str, Array]
"""Columns of `StateStatistics` of a block, each (states,)."""


class _Measured:
    """One correction at all states, block by block; only numbers of each state are held."""

    def __init__(self, index: int, wanted: Sequence[Denominator]) -> None:
        self._index = index
        self._columns: dict[Denominator, list[Columns | None]] = {each: [] for each in wanted}
        self._rates: list[Array] = []
        self._sums: list[Summed | None] = []
        self._truth: list[Columns] = []

    def add(self, block: _Block) -> None:
        """Adds the next block."""
        sums, weighed = block.summed(self._index), None
        for denominator, parts in self._columns.items():
            if denominator is not Denominator.ACCEPTED:  # whose divisor is known after the last block alone
                columns = None if sums is None else sums.statistics(denominator)
                if columns is None:
                    weighed = weighed or _Weighed(block, self._index)
                    columns = weighed.statistics(denominator, None)
                parts.append(block.truth | columns)
        if Denominator.ACCEPTED in self._columns:
            self._sums.append(sums)
            self._truth.append(block.truth)
            self._rates.append((weighed or _Weighed(block, self._index)).rate if sums is None else sums.rate)

    def lacking(self) -> list[int]:
        """The places of the blocks from whose sums the update of `accepted` does not follow."""
        if Denominator.ACCEPTED not in self._columns:
            return []
        for sums, truth in zip(self._sums, self._truth, strict=True):
            columns = None if sums is None else sums.statistics(Denominator.ACCEPTED, self._batch_rate)
            self._columns[Denominator.ACCEPTED].append(None if columns is None else truth | columns)
        return [place for place, columns in enumerate(self._columns[Denominator.ACCEPTED]) if columns is None]

    @cached_property
    def _batch_rate(self) -> float:
        """The share of tokens that is kept, over all states."""
        return float(np.mean(np.concatenate([to_numpy(rate) for rate in self._rates])))

    def complete(self, place: int, block: _Block) -> None:
        """Adds what the block at a place lacks."""
        parts = self._columns.get(Denominator.ACCEPTED, [])
        if parts and parts[place] is None:
            weighed = _Weighed(block, self._index)
            parts[place] = block.truth | weighed.statistics(Denominator.ACCEPTED, self._batch_rate)

    def moments(self, n_samples: int | None) -> dict[Denominator, Moments]:
        """The moments by denominator."""
        return {
            denominator: combine_cell(
                StateStatistics(
                    **{
                        field.name: np.concatenate(
                            [to_numpy(part[field.name]) for part in parts if part is not None], dtype=np.float64
                        )
                        for field in dataclasses.fields(StateStatistics)
                    }
                ),
                denominator,
                n_samples,
            )
            for denominator, parts in self._columns.items()
        }


class _Block:
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
        return _expect(self.gradient**2)

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
        return _expect(self.p * self.feature_sq) - self.grad_norm_sq


class _Blocks:
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

    def __iter__(self) -> Iterator[_Block]:
        return map(self.at, range(len(self._rows)))

    def at(self, place: int) -> _Block:
        """One block, by its place among them."""
        rows = self._rows[place]
        log_p, log_q, advantage = (each[rows, :] for each in self._laws)
        with overflow_to_inf():
            pair = check_pair(log_p, log_q)
            told = None if self._told is None else (self._told[0][rows, :], self._told[1][rows, :])
            own = [each.at(rows) for each in self._corrections]
            return _Block(*pair, check_advantage(advantage), own, told)


class _Weighed:
    """One correction at a block of states; what is named a law has shape (states, vocab), all else (states,)."""

    def __init__(self, block: _Block, index: int, advantage: Array | None = None) -> None:
        self._block, self._index, self._correction = block, index, block.corrections[index]
        with overflow_to_inf():
            self.accept, self.weight = block.weigh(index, advantage)
        self.accepted = block.proposed(self.accept)
        self.rate = _expect(self.accepted)

    @cached_property
    def _without_divisor(self) -> dict[str, Array]:
        """The columns that are the same for each denominator."""
        block, accept, weight = self._block, self.accept, self.weight
        kl_accepted = kl_to_weighted(block.log_p, block.log_q, accept)
        weighs_none = bool(namespace(weight).all(weight == 1.0))
        return {
            "acceptance_rate": self.rate,
            "weight_mean": self._weight_mean,
            "weight_square": _expect(self._squared),
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
        return _expect(self._law)

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
        divisor_less_one = _expect(self._excess) / _expect(p) if own else divisor - 1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            error_law = over_divisor(self._law, self._excess, p, divisor[:, None], divisor_less_one[:, None])
            error = gradient_under(error_law, p, advantage)
            estimate = gradient_under(self._law / divisor[:, None], told_p, advantage)
            if told_p is not p:  # every token's ∇log p̂ differs from ∇log p by p − p̂
                error = error + _expect(self._law * advantage / divisor[:, None])[:, None] * (p - told_p)
        spread = block.told_feature_sq
        if own:
            spread = spread - 2 * advantage * score_dot(told_p, estimate) + xp.sum(estimate**2, axis=-1, keepdims=True)
        columns = self._without_divisor | {
            "divisor": divisor,
            "error_sq": _expect(error**2),
            "error_dot": _expect(error * gradient),
            "estimate_sq": _expect(estimate**2),
            "estimate_dot": _expect(estimate * gradient),
            "second_moment": _expect(self._squared * spread),
            **of_single_tokens(self.rate, _expect(estimate**2) * divisor**2),
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
            above, below = (_Weighed(block, self._index, sign * ones) for sign in (1.0, -1.0))
            of_sign = UpdateLaw(above._law, above._excess), UpdateLaw(below._law, below._excess)
        q = block.proposed(namespace(block.p).ones_like(block.p))
        return Centring(block.p, q, block.advantage, self.accepted, self._squared, own, of_sign)


def _expect(terms: Array) -> Array:
    return namespace(terms).sum(terms, axis=-1)
