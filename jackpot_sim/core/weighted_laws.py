"""Laws of the actor under a weight, next to the policy: their differences keep their digits where the laws are near.

A correction turns the actor q into a measure q·v, for instance with v = a·w. Both the bias and the KL are small
differences between that measure and the policy p, taken here from the log-ratio and not from the two measures.
"""

from __future__ import annotations

import math

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import namespace
from jackpot_sim.core.divergences import kl_to_measure
from jackpot_sim.core.numerics import log_ratio


def weighted_less_policy(q: Array, p: Array, weight: Array, ratio: Array) -> Array:
    """q·v − p, elementwise, for a finite weight v and ℓ = log p/q: near-equal laws keep their digits."""
    xp = namespace(q, p)
    near = xp.abs(ratio) < 1
    small = xp.where(near, ratio, 0.0)
    # A weight that is r but for its rounding leaves nothing, and one that is 1 leaves q − p.
    close = xp.where(weight == xp.exp(small), 0.0, (weight - 1) - xp.expm1(small))
    return xp.where(near, q * close, q * weight - p)


def over_divisor(law: Array, excess: Array, p: Array, divisor: Array, divisor_less_one: Array) -> Array:
    """law/D − p, elementwise, from law − p and, where it is small, D − 1."""
    xp = namespace(law)
    close = (excess - divisor_less_one * p) / divisor
    return xp.where(xp.abs(divisor_less_one) < 0.5, close, law / divisor - p)


def kl_to_weighted(log_p: Array, log_q: Array, *factors: Array) -> Array:
    """KL(p‖q·v/Σqv) for a weight v ≥ 0, the product of `factors`, finite each; nan where nothing has mass.

    Args:
        log_p: shape (..., vocab), nats.
        log_q: the same shape.
        factors: the same shape.
    """
    xp = namespace(log_p, log_q)
    ratio = log_ratio(log_p, log_q)
    near = xp.abs(ratio) < 1
    log_weight, weight = xp.zeros_like(ratio), xp.ones_like(ratio)
    for factor in factors:
        log_weight, weight = log_weight + log_mass(factor), weight * factor
    # Where v is r, log v is ℓ but for the rounding of v, and what it leaves is nothing.
    is_ratio = near & (weight == xp.exp(xp.where(near, ratio, 0.0)))
    dead = log_p == -math.inf
    to_weighted = xp.where(is_ratio, 0.0, xp.where(dead, 0.0, ratio) - xp.where(dead, 0.0, log_weight))
    return kl_to_measure(log_p, xp.where(dead, -math.inf, to_weighted), log_q + log_weight)


def log_mass(values: Array) -> Array:
    """log, elementwise; −inf at 0 without a warning."""
    xp = namespace(values)
    return xp.where(values > 0, xp.log(xp.where(values > 0, values, 1.0)), -math.inf)
