"""Log-space arithmetic shared by every formula.

Conventions, everywhere in the project: log-probabilities are in nats, the vocabulary is the
last axis, and a log-ratio is policy over actor. 0·log 0 = 0, with finite gradients.
"""

from __future__ import annotations

import math

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import floating, logsumexp, namespace, stop_gradient
from jackpot_sim.core.checks import check_alike, require_vocabulary


def log_softmax(logits: Array) -> Array:
    """log softmax over the last axis, shape (..., vocab); −inf logits stay −inf.

    Raises:
        ValueError: the vocabulary is empty, a logit is NaN or +inf, or a whole row is −inf.
    """
    logits = floating(logits, "logits")
    require_vocabulary(logits, "logits")
    xp = namespace(logits)
    peak = xp.max(stop_gradient(logits), axis=-1, keepdims=True)
    if not bool(xp.all(xp.isfinite(peak))):
        raise ValueError("logits: a state holds NaN or +inf, or nothing but -inf")
    # Without this shift the normaliser of large logits, and so the law, would have few digits after the point.
    shifted = logits - peak
    return shifted - logsumexp(shifted, keepdims=True)


def log_ratio(policy_log_probs: Array, actor_log_probs: Array) -> Array:
    """ℓ = log p − log q, policy over actor, elementwise in nats.

    It is +inf where only the policy has support (a support violation), −inf where the policy has none.

    Raises:
        ValueError: the shapes differ.
    """
    check_alike(policy_log_probs=policy_log_probs, actor_log_probs=actor_log_probs)
    xp = namespace(policy_log_probs, actor_log_probs)
    outside = policy_log_probs == -math.inf
    return policy_log_probs - xp.where(outside, 0.0, actor_log_probs)


def mul_exp(x: Array, log_weight: Array) -> Array:
    """x · exp(log_weight), elementwise: 0 where log_weight is −inf, whatever x is.

    Raises:
        ValueError: the shapes differ.
    """
    check_alike(x=x, log_weight=log_weight)
    xp = namespace(x, log_weight)
    dead = log_weight == -math.inf
    # inf stays inf at every positive weight: times a weight that underflows to 0 it would be nan.
    endless = (x == math.inf) & ~dead
    product = xp.where(dead | endless, 0.0, x) * xp.exp(xp.where(dead, 0.0, log_weight))
    return xp.where(endless, math.inf, xp.where(dead, 0.0, product))


def exp_difference(log_first: Array, log_second: Array) -> Array:
    """e^log_first − e^log_second of log-probabilities, elementwise; near-equal ones keep their digits.

    Raises:
        ValueError: the shapes differ.
    """
    check_alike(log_first=log_first, log_second=log_second)
    xp = namespace(log_first, log_second)
    ratio = log_ratio(log_first, log_second)
    first_is_larger = ratio > 0
    lacking = xp.expm1(xp.where(first_is_larger, -ratio, ratio))
    larger = xp.exp(xp.where(first_is_larger, log_first, log_second))
    return larger * xp.where(first_is_larger, -lacking, lacking)


NEAR = 0.125
"""The |x| up to which `near_exp_remainder` holds."""


def exp_remainder(x: Array) -> Array:
    """e^x − 1 − x ≥ 0, elementwise, which is x²/2 at small x and keeps its digits there; inf at ±inf."""
    xp = namespace(x)
    small, endless = xp.abs(x) < NEAR, x == math.inf
    close = near_exp_remainder(xp.where(small, x, 0.0))
    outside = xp.where(small | endless, 0.0, x)
    # At x = inf the difference e^x − x would be nan.
    plain = xp.where(endless, math.inf, xp.expm1(outside) - outside)
    return xp.where(small, close, plain)


def near_exp_remainder(x: Array) -> Array:
    """`exp_remainder` of |x| < `NEAR`, elementwise."""
    # With R = x·coth(x/2) − 2 = x²/6 − x⁴/360 + …, e^x − 1 is 2x/(2 − x + R): subtracting x cancels nothing.
    square = x * x
    even = square * (1 / 6 - square * (1 / 360 - square * (1 / 15120 - square / 604800)))
    return x * (x - even) / (2 - x + even)
