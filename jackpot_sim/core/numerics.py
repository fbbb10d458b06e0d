"""Log-space arithmetic shared by every formula, and the checks of arguments.

Conventions, everywhere in the project: log-probabilities are in nats, the vocabulary is the
last axis, and a log-ratio is policy over actor. 0·log 0 = 0, with finite gradients.
"""

from __future__ import annotations

import math

import numpy as np

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import as_array, floating, logsumexp, namespace, stop_gradient

_NORMALISATION_TOLERANCE = {8: 1e-6, 4: 1e-4}
"""The largest |Σ exp(log_probs) − 1| allowed, by bytes per number."""


def overflow_to_inf() -> np.errstate:
    """A context in which numpy, like torch, turns an overflow into inf without a warning."""
    return np.errstate(over="ignore")


def log_softmax(logits: Array) -> Array:
    """log softmax over the last axis, shape (..., vocab); −inf logits stay −inf.

    Raises:
        ValueError: the vocabulary is empty, a logit is NaN or +inf, or a whole row is −inf.
    """
    logits = floating(logits)
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
    """
    xp = namespace(policy_log_probs, actor_log_probs)
    outside = policy_log_probs == -math.inf
    return policy_log_probs - xp.where(outside, 0.0, actor_log_probs)


def mul_exp(x: Array, log_weight: Array) -> Array:
    """x · exp(log_weight), elementwise: 0 where log_weight is −inf, whatever x is."""
    xp = namespace(x, log_weight)
    dead = log_weight == -math.inf
    # inf stays inf at every positive weight: times a weight that underflows to 0 it would be nan.
    endless = (x == math.inf) & ~dead
    product = xp.where(dead | endless, 0.0, x) * xp.exp(xp.where(dead, 0.0, log_weight))
    return xp.where(endless, math.inf, xp.where(dead, 0.0, product))


def exp_difference(log_first: Array, log_second: Array) -> Array:
    """e^log_first − e^log_second of log-probabilities, elementwise; near-equal ones keep their digits."""
    xp = namespace(log_first, log_second)
    ratio = log_ratio(log_first, log_second)
    first_is_larger = ratio > 0
    lacking = xp.expm1(xp.where(first_is_larger, -ratio, ratio))
    larger = xp.exp(xp.where(first_is_larger, log_first, log_second))
    return larger * xp.where(first_is_larger, -lacking, lacking)


def exp_remainder(x: Array) -> Array:
    """e^x − 1 − x ≥ 0, elementwise, which is x²/2 at small x and keeps its digits there; inf at ±inf."""
    xp = namespace(x)
    small, endless = xp.abs(x) < 0.125, x == math.inf
    # With R = x·coth(x/2) − 2 = x²/6 − x⁴/360 + …, e^x − 1 is 2x/(2 − x + R): subtracting x cancels nothing.
    inside = xp.where(small, x, 0.0)
    square = inside * inside
    even = square * (1 / 6 - square * (1 / 360 - square * (1 / 15120 - square / 604800)))
    close = inside * (inside - even) / (2 - inside + even)
    outside = xp.where(small | endless, 0.0, x)
    # At x = inf the difference e^x − x would be nan.
    plain = xp.where(endless, math.inf, xp.expm1(outside) - outside)
    return xp.where(small, close, plain)


def positive(value: float | Array, name: str, like: Array) -> Array:
    """`value`, any shape, as an array like `like`; refused unless every entry is positive and finite."""
    xp = namespace(like)
    out = as_array(value, like)
    if not bool(xp.all((out > 0) & xp.isfinite(out))):
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return out


def check_log_probs(log_probs: Array, name: str) -> Array:
    """`log_probs`, in float32 at least, refused unless it holds laws over the last axis.

    Args:
        log_probs: shape (..., vocab), nats; −inf marks a token outside the support.
        name: the caller's name for it, used in errors.

    Raises:
        TypeError: it is not an array of real floating numbers.
        ValueError: the vocabulary is empty, an entry is NaN, or a state does not sum to one.
    """
    log_probs = floating(log_probs)
    require_vocabulary(log_probs, name)
    with overflow_to_inf():
        total = namespace(log_probs).sum(namespace(log_probs).exp(stop_gradient(log_probs)), axis=-1)
    check_total(total, name)
    return log_probs


def check_total(total: Array, name: str) -> None:
    """Refuses total probabilities of shape (...) that are not one, for callers that have summed already."""
    xp = namespace(total)
    tolerance = _tolerance(total)
    off = xp.abs(total - 1.0)
    if bool(xp.all(off <= tolerance)):
        return
    if bool(xp.any(xp.isnan(off))):
        raise ValueError(f"{name} holds NaN")
    worst = float(xp.max(off))
    raise ValueError(
        f"{name} is not normalised: a state's probabilities miss 1 by {worst:.3g} "
        f"(at most {tolerance:g} is allowed; take log_softmax of the logits)"
    )


def check_at_most_one(total: Array, name: str) -> None:
    """Refuses probabilities of parts of laws, shape (...), that exceed one or are NaN."""
    if not bool(namespace(total).all(total <= 1.0 + _tolerance(total))):
        raise ValueError(f"{name} holds NaN, or probabilities that add up to more than 1")


def _tolerance(total: Array) -> float:
    return _NORMALISATION_TOLERANCE[namespace(total).finfo(total.dtype).bits // 8]


def check_pair(policy_log_probs: Array, actor_log_probs: Array) -> tuple[Array, Array]:
    """log p and log q, each of shape (..., vocab), checked as laws and for equal shapes.

    Raises:
        ValueError: as `check_log_probs`, or the shapes differ.
    """
    policy_log_probs = check_log_probs(policy_log_probs, "policy_log_probs")
    actor_log_probs = check_log_probs(actor_log_probs, "actor_log_probs")
    check_same_shape(policy_log_probs, actor_log_probs, "policy_log_probs", "actor_log_probs")
    return policy_log_probs, actor_log_probs


def check_same_shape(first: Array, second: Array, first_name: str, second_name: str) -> None:
    """Refuses two arrays of different shapes, naming both."""
    if tuple(first.shape) != tuple(second.shape):
        raise ValueError(
            f"{first_name} has shape {tuple(first.shape)}, {second_name} has shape {tuple(second.shape)}: "
            "they must be the same"
        )


def require_vocabulary(array: Array, name: str) -> None:
    """Refuses an array whose shape is not (..., vocab) with a vocabulary of at least one token."""
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(
            f"{name} has shape {tuple(array.shape)}: the last axis is the vocabulary and must not be empty"
        )
