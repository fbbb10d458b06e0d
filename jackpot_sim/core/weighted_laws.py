"""Differences between the policy and a weighted law of the actor, with full digits where the two are near.

A correction turns the actor q into a measure q·v, for instance with v = a·w. Both the bias and the KL are small
differences between this measure and the policy p. They are computed from the log-ratio, not by subtraction.
"""

from __future__ import annotations

import math

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import floating, namespace
from jackpot_sim.core.checks import check_alike, check_beside
from jackpot_sim.core.divergences import kl_to_measure
from jackpot_sim.core.numerics import log_ratio


def weighted_less_policy(q: Array, p: Array, weight: Array, ratio: Array) -> Array:
    """q·v − p, elementwise, from a finite weight v and ℓ = log p/q; near-equal laws keep their digits.

    Args:
        q: the axes of the weight, each as long or 1: laws of whole sequences have shape (n, 1).
        p: the same shape as q.
        weight: v, shape (..., vocab), or (n, length).
        ratio: ℓ, the same shape as q, nats.

    Raises:
        ValueError: a shape does not fit.
    """
    check_alike(q=q, p=p, ratio=ratio)
    check_beside(q, floating(weight, "weight"), "q", "weight")
    xp = namespace(q, weight)
    near = xp.abs(ratio) < 1
    small = xp.where(near, ratio, 0.0)
    # A weight of r, rounding included, leaves 0; a weight of 1 leaves q − p.
    close = xp.where(weight == xp.exp(small), 0.0, (weight - 1) - xp.expm1(small))
    return xp.where(near, q * close, q * weight - p)


def over_divisor(law: Array, excess: Array, p: Array, divisor: Array, divisor_less_one: Array) -> Array:
    """law/D − p, elementwise; where D is near 1, from law − p and D − 1, so that nothing cancels.

    Args:
        law: any shape.
        excess: law − p, the same shape.
        p: the axes of `law`, each as long or 1.
        divisor: D, a number or the axes of `law`, each as long or 1.
        divisor_less_one: D − 1, the shape of `divisor`.

    Raises:
        ValueError: a shape does not fit.
    """
    check_alike(law=law, excess=excess)
    check_alike(divisor=divisor, divisor_less_one=divisor_less_one)
    check_beside(floating(p, "p"), law, "p", "law")
    check_beside(divisor, law, "divisor", "law")
    xp = namespace(law, p, divisor)
    close = (excess - divisor_less_one * p) / divisor
    return xp.where(xp.abs(divisor_less_one) < 0.5, close, law / divisor - p)


def kl_to_weighted(log_p: Array, log_q: Array, *factors: Array) -> Array:
    """KL(p‖q·v/Σqv) for a weight v ≥ 0, nats, shape (...); nan where q·v has no mass.

    Args:
        log_p: shape (..., vocab), nats.
        log_q: the same shape.
        factors: v is their product; finite, each of the same shape.
    """
    xp = namespace(log_p, log_q)
    ratio = log_ratio(log_p, log_q)
    near = xp.abs(ratio) < 1
    log_weight, weight = xp.zeros_like(ratio), xp.ones_like(ratio)
    for factor in factors:
        check_alike(log_p=log_p, factor=factor)
        log_weight, weight = log_weight + log_mass(factor), weight * factor
    # Where v is r, ℓ − log v is 0, but for the rounding of v.
    is_ratio = near & (weight == xp.exp(xp.where(near, ratio, 0.0)))
    dead = log_p == -math.inf
    to_weighted = xp.where(is_ratio, 0.0, xp.where(dead, 0.0, ratio) - xp.where(dead, 0.0, log_weight))
    return kl_to_measure(log_p, xp.where(dead, -math.inf, to_weighted), log_q + log_weight)


def log_mass(values: Array) -> Array:
    """The log of values ≥ 0, elementwise; −inf at 0 without a warning."""
    xp = namespace(values)
    return xp.where(values > 0, xp.log(xp.where(values > 0, values, 1.0)), -math.inf)
