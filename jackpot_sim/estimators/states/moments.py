"""Exact bias, variance, MSE and ESS of a correction, in closed form over the vocabulary.

At each state s the policy gradient in logits is g_s = E_p[f] with f(x) = A(x)(e_x − p), so that
‖f(x)‖² = A(x)²(1 − 2p_x + ‖p‖²). A correction (a, w) estimates it by ĝ_s, whose numerator is
g_w = E_q[a·w·f]; the denominator is an explicit option, because frameworks disagree and offer none.

States are read in cache-sized blocks, or one by one where a state is larger. Each gives a row of
`StateStatistics`, and `combine` turns the rows into the moments of a cell.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

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
from jackpot_sim.estimators.corrections.inputs import TokenWeights
from jackpot_sim.estimators.states.tokens import check_parameters, tokens_of_states
from jackpot_sim.estimators.statistics import Denominator, Moments, StateStatistics, combine_cell, of_single_tokens

__all__ = ["Denominator", "Moments", "StateStatistics", "exact"]


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
    arrays = check_alike(policy_log_probs=policy_log_probs, actor_log_probs=actor_log_probs, advantage=advantage)
    log_p, log_q, values = (stop_gradient(x) for x in arrays)
    blocks = _Blocks(log_p, log_q, values, correction, believed)
    batch_rate = None
    if denominator is Denominator.ACCEPTED:
        rates = [_expect(block.proposed(block.weigh().accept)) for block in blocks]
        batch_rate = float(np.mean(np.concatenate([to_numpy(rate) for rate in rates])))
    rows = [_statistics(block, denominator, batch_rate) for block in blocks]
    columns = {
        field.name: np.concatenate([to_numpy(row[field.name]) for row in rows], dtype=np.float64)
        for field in dataclasses.fields(StateStatistics)
    }
    return combine_cell(StateStatistics(**columns), denominator, n_samples)


@dataclass(frozen=True)
class _Block:
    """A few states, with the arrays that every formula needs, each of shape (states, vocab)."""

    log_p: Array
    log_q: Array
    advantage: Array
    correction: Correction
    told: tuple[Array, Array]
    """log p̂ and log q̂, of which ratios are taken, and ∇log p̂."""

    def __post_init__(self) -> None:
        xp = namespace(self.log_p)
        p, q = xp.exp(self.log_p), xp.exp(self.log_q)
        live = q >= xp.finfo(q.dtype).smallest_normal
        object.__setattr__(self, "p", p)
        object.__setattr__(self, "q", q)
        object.__setattr__(self, "live", live)

    p: Array = dataclasses.field(init=False)
    q: Array = dataclasses.field(init=False)
    live: Array = dataclasses.field(init=False)

    def weigh(self) -> TokenWeights:
        tokens = tokens_of_states(*self.told, self.correction, self.advantage)
        return self.correction.weights(tokens)

    @property
    def told_p(self) -> Array:
        """p̂; p itself, the same array, where the trainer knows it."""
        return self.p if self.told[0] is self.log_p else namespace(self.p).exp(self.told[0])

    def proposed(self, values: Array) -> Array:
        """q·values; 0 outside the actor's support, where values may be infinite."""
        xp = namespace(self.q)
        return xp.where(self.live, self.q * xp.where(self.live, values, 0.0), 0.0)


class _Blocks:
    """Cache-sized blocks of states, checked as they are read; an iterable for several passes."""

    def __init__(
        self, log_p: Array, log_q: Array, advantage: Array, correction: Correction, believed: BelievedLaws | None
    ) -> None:
        xp = namespace(log_p, log_q, advantage)
        if log_p.ndim == 0 or log_p.shape[-1] == 0 or math.prod(log_p.shape) == 0:
            check_pair(log_p, log_q)
            raise ValueError(f"policy_log_probs has shape {tuple(log_p.shape)}: it holds no state")
        flat = (math.prod(log_p.shape[:-1]), log_p.shape[-1])
        check_parameters(correction, flat[0])
        self._laws = tuple(xp.reshape(x, flat) for x in (log_p, log_q, advantage))
        self._correction = correction
        self._told: tuple[Array, Array] | None = None
        if believed is not None:
            told = check_alike(log_p=log_p, p=believed.policy_log_probs, q=believed.actor_log_probs)[1:]
            self._told = (xp.reshape(told[0], flat), xp.reshape(told[1], flat))

    def __iter__(self) -> Iterator[_Block]:
        log_p, log_q, advantage = self._laws
        for rows in row_blocks(*log_p.shape):
            with overflow_to_inf():
                pair = check_pair(log_p[rows, :], log_q[rows, :])
                told = pair if self._told is None else (self._told[0][rows, :], self._told[1][rows, :])
                yield _Block(*pair, check_advantage(advantage[rows, :]), self._correction.at(rows), told)


def _statistics(block: _Block, denominator: Denominator, batch_rate: float | None) -> dict[str, Array]:
    """The columns of `StateStatistics`, each (states,)."""
    p, advantage, told_p = block.p, block.advantage, block.told_p
    xp = namespace(p)
    accept, weight = block.weigh()
    accepted = block.proposed(accept)
    law = accepted * xp.where(block.live, weight, 0.0)
    rate, weight_mean = _expect(accepted), _expect(law)
    divisor = statistics.divisor(
        denominator, rate if batch_rate is None else xp.ones_like(rate) * batch_rate, weight_mean
    )

    # Only a token that is never proposed has an infinite weight, which has no effect.
    reachable = xp.where(weight < math.inf, weight, 0.0)
    gradient = policy_gradient(p, advantage)
    ratio = log_ratio(block.log_p, block.log_q)
    excess = xp.where(block.live, weighted_less_policy(block.q, p, accept * reachable, ratio), -p)
    own = denominator is Denominator.SELF_NORMALIZED
    divisor_less_one = _expect(excess) / _expect(p) if own else divisor - 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        error_law = over_divisor(law, excess, p, divisor[:, None], divisor_less_one[:, None])
        error = gradient_under(error_law, p, advantage)
        estimate = gradient_under(law / divisor[:, None], told_p, advantage)
        if told_p is not p:  # every token's ∇log p̂ differs from ∇log p by p − p̂
            error = error + _expect(law * advantage / divisor[:, None])[:, None] * (p - told_p)
    own_sq = feature_norm_sq(p, advantage)
    feature_sq = own_sq if told_p is p else feature_norm_sq(told_p, advantage)
    squared = law * xp.where(block.live, weight, 0.0)
    if denominator is Denominator.SELF_NORMALIZED:
        inner = advantage * (estimate - xp.sum(told_p * estimate, axis=-1, keepdims=True))
        spread = feature_sq - 2 * inner + xp.sum(estimate**2, axis=-1, keepdims=True)
    else:
        spread = feature_sq
    kl_accepted = kl_to_weighted(block.log_p, block.log_q, accept)
    weighs_none = bool(xp.all(weight == 1.0))
    return dict(
        acceptance_rate=rate,
        weight_mean=weight_mean,
        weight_square=_expect(squared),
        grad_norm_sq=_expect(gradient**2),
        on_policy_variance=_expect(p * own_sq) - _expect(gradient**2),
        divisor=divisor,
        error_sq=_expect(error**2),
        error_dot=_expect(error * gradient),
        estimate_sq=_expect(estimate**2),
        estimate_dot=_expect(estimate * gradient),
        second_moment=_expect(squared * spread),
        kl_accepted=kl_accepted,
        kl_effective=kl_accepted if weighs_none else kl_to_weighted(block.log_p, block.log_q, accept, reachable),
        **of_single_tokens(rate, _expect(estimate**2) * divisor**2),
    )


def _expect(terms: Array) -> Array:
    return namespace(terms).sum(terms, axis=-1)
