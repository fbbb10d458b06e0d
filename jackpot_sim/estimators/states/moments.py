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
from jackpot_sim.core.numerics import log_ratio
from jackpot_sim.core.policy_gradient import feature_norm_sq, gradient_under, policy_gradient
from jackpot_sim.core.support import BelievedLaws
from jackpot_sim.core.weighted_laws import kl_to_weighted, over_divisor, weighted_less_policy
from jackpot_sim.estimators import statistics
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.states.tokens import check_parameters, tokens_of_states
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
    the KLs still count it.

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

    The states are read once for all of them, and twice where `accepted` is among the denominators. Arguments and
    errors are those of `exact`.
    """
    wanted = [Denominator(each) for each in denominators]
    arrays = check_alike(policy_log_probs=policy_log_probs, actor_log_probs=actor_log_probs, advantage=advantage)
    log_p, log_q, values = (stop_gradient(x) for x in arrays)
    blocks = _Blocks(log_p, log_q, values, corrections, believed)
    rates = _acceptance_rates(blocks) if Denominator.ACCEPTED in wanted else None
    rows: list[dict[Denominator, list[Columns]]] = [{each: [] for each in wanted} for _ in corrections]
    for block in blocks:
        for index, of_one in enumerate(rows):
            weighed = _Weighed(block, index)
            for denominator, parts in of_one.items():
                parts.append(weighed.statistics(denominator, None if rates is None else rates[index]))
    return [{each: _combined(parts, each, n_samples) for each, parts in of_one.items()} for of_one in rows]


Columns: TypeAlias = dict[str, Array]
"""Columns of `StateStatistics` of a block, each (states,)."""


def _combined(parts: list[Columns], denominator: Denominator, n_samples: int | None) -> Moments:
    columns = {
        field.name: np.concatenate([to_numpy(part[field.name]) for part in parts], dtype=np.float64)
        for field in dataclasses.fields(StateStatistics)
    }
    return combine_cell(StateStatistics(**columns), denominator, n_samples)


def _acceptance_rates(blocks: _Blocks) -> list[float]:
    """The share of tokens that each correction keeps, over all states."""
    parts = [[to_numpy(_Weighed(block, index).rate) for index in range(blocks.corrections)] for block in blocks]
    return [float(np.mean(np.concatenate(of_one))) for of_one in zip(*parts, strict=True)]


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
        xp = namespace(log_p)
        self.log_p, self.log_q, self.advantage, self.corrections = log_p, log_q, advantage, corrections
        self.told = (log_p, log_q) if told is None else told
        """log p̂ and log q̂, of which ratios are taken, and ∇log p̂."""
        self.p, self.q = xp.exp(log_p), xp.exp(log_q)
        self.live = self.q >= xp.finfo(self.q.dtype).smallest_normal

    def proposed(self, values: Array) -> Array:
        """q·values; 0 outside the actor's support, where values may be infinite."""
        xp = namespace(self.q)
        return xp.where(self.live, self.q * xp.where(self.live, values, 0.0), 0.0)

    @cached_property
    def told_p(self) -> Array:
        """p̂; p itself, the same array, where the trainer knows it."""
        return self.p if self.told[0] is self.log_p else namespace(self.p).exp(self.told[0])

    @cached_property
    def log_ratio(self) -> Array:
        """ℓ."""
        return log_ratio(self.log_p, self.log_q)

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
    """Cache-sized blocks of states, checked as they are read; an iterable for several passes."""

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
        self.corrections = len(corrections)
        self._laws = tuple(xp.reshape(x, flat) for x in (log_p, log_q, advantage))
        self._corrections = corrections
        self._told: tuple[Array, Array] | None = None
        if believed is not None:
            told = check_alike(log_p=log_p, p=believed.policy_log_probs, q=believed.actor_log_probs)[1:]
            self._told = (xp.reshape(told[0], flat), xp.reshape(told[1], flat))

    def __iter__(self) -> Iterator[_Block]:
        log_p, log_q, advantage = self._laws
        for rows in row_blocks(*log_p.shape):
            with overflow_to_inf():
                pair = check_pair(log_p[rows, :], log_q[rows, :])
                told = None if self._told is None else (self._told[0][rows, :], self._told[1][rows, :])
                own = [each.at(rows) for each in self._corrections]
                yield _Block(*pair, check_advantage(advantage[rows, :]), own, told)


class _Weighed:
    """One correction at a block of states; what is named a law has shape (states, vocab), all else (states,)."""

    def __init__(self, block: _Block, index: int) -> None:
        correction = block.corrections[index]
        self._block = block
        tokens = tokens_of_states(*block.told, correction, block.advantage)
        self.accept, self.weight = correction.weights(tokens)
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
            "grad_norm_sq": block.grad_norm_sq,
            "on_policy_variance": block.on_policy_variance,
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
        near = weighted_less_policy(block.q, block.p, self.accept * self._reachable, block.log_ratio)
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
            inner = advantage * (estimate - xp.sum(told_p * estimate, axis=-1, keepdims=True))
            spread = spread - 2 * inner + xp.sum(estimate**2, axis=-1, keepdims=True)
        return self._without_divisor | {
            "divisor": divisor,
            "error_sq": _expect(error**2),
            "error_dot": _expect(error * gradient),
            "estimate_sq": _expect(estimate**2),
            "estimate_dot": _expect(estimate * gradient),
            "second_moment": _expect(self._squared * spread),
            **of_single_tokens(self.rate, _expect(estimate**2) * divisor**2),
        }


def _expect(terms: Array) -> Array:
    return namespace(terms).sum(terms, axis=-1)
