"""Optimal budgeted rejection sampling: accept a token x ~ q with probability min(1, p/(λq)).

The theorems T1 and T2 (`help(jackpot_sim)`) are about this rule; `tests/core/test_optimality.py` tests both.
"""

from __future__ import annotations

import math

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import floating, logsumexp, namespace
from jackpot_sim.core.budget import solve_lam
from jackpot_sim.core.checks import beside, check_alike, check_pair, per_state, positive

__all__ = [
    "acceptance_probability",
    "accepted_log_probs",
    "log_overlap_terms",
    "overlap",
    "overlap_of_checked",
    "solve_lam",
]


def acceptance_probability(log_ratio: Array, lam: float | Array) -> Array:
    """a = min(1, r/λ) with r = p/q, elementwise ([J] eq. 4).

    Args:
        log_ratio: policy over actor, any shape, nats.
        lam: λ > 0, a number or an array with the axes of `log_ratio`, each as long or 1.

    Raises:
        TypeError: `log_ratio` holds no real floating numbers.
        ValueError: λ is not positive and finite, or its shape does not fit.
    """
    log_ratio = floating(log_ratio, "log_ratio")
    xp = namespace(log_ratio)
    log_lam = xp.log(positive(beside(lam, log_ratio, "lam", "log_ratio"), "lam", log_ratio))
    return xp.exp(xp.minimum(log_ratio - log_lam, xp.zeros_like(log_ratio)))


def overlap(policy_log_probs: Array, actor_log_probs: Array, lam: float | Array = 1.0) -> Array:
    """Z(λ) = Σ min(q, p/λ): the mean acceptance rate of OBRS, and 1 − TV(p, q) at λ = 1.

    Args:
        policy_log_probs: log p, shape (..., vocab), nats.
        actor_log_probs: log q, the same shape.
        lam: λ > 0, a number or one per state, shape (...) or, as `at_budget` leaves it, (..., 1).

    Returns:
        Z, shape (...).

    Raises:
        ValueError: λ is not positive, a law is not normalised, or a shape does not fit.
    """
    return overlap_of_checked(*check_pair(policy_log_probs, actor_log_probs), lam)


def overlap_of_checked(policy_log_probs: Array, actor_log_probs: Array, lam: float | Array = 1.0) -> Array:
    """`overlap` for laws that the caller has already checked; (..., vocab) → (...)."""
    terms = log_overlap_terms(policy_log_probs, actor_log_probs, lam)
    return namespace(terms).sum(namespace(terms).exp(terms), axis=-1)


def accepted_log_probs(policy_log_probs: Array, actor_log_probs: Array, lam: float | Array) -> Array:
    """log q̃ with q̃ = min(q, p/λ)/Z(λ), the law of the accepted tokens ([J] eq. 3).

    Shapes as in `overlap`; the result has shape (..., vocab).

    Raises:
        ValueError: as `overlap`, or the supports are disjoint at some state (Z = 0).
    """
    policy_log_probs, actor_log_probs = check_pair(policy_log_probs, actor_log_probs)
    xp = namespace(policy_log_probs)
    terms = log_overlap_terms(policy_log_probs, actor_log_probs, lam)
    log_z = logsumexp(terms, keepdims=True)
    if bool(xp.any(log_z == -math.inf)):
        raise ValueError("policy and actor share no token at some state: nothing can be accepted there")
    return terms - log_z


def log_overlap_terms(policy_log_probs: Array, actor_log_probs: Array, lam: float | Array) -> Array:
    """log min(q, p/λ), shape (..., vocab), for laws that the caller has already checked."""
    check_alike(policy_log_probs=policy_log_probs, actor_log_probs=actor_log_probs)
    xp = namespace(policy_log_probs, actor_log_probs)
    lam = positive(per_state(lam, policy_log_probs, "lam"), "lam", policy_log_probs)
    return lesser(policy_log_probs, actor_log_probs, xp.log(lam))


def lesser(policy_log_probs: Array, actor_log_probs: Array, log_lam: Array) -> Array:
    """log min(q, p/λ) of laws (..., vocab) and log λ (..., 1) that are checked: `fused` compiles it."""
    return namespace(policy_log_probs).minimum(actor_log_probs, policy_log_probs - log_lam)
