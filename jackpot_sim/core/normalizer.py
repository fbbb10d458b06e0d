"""Estimating the overlap Z(λ) = Σ min(q, p/λ) without the full vocabulary.

A rollout server returns a few log-probs per token, not 151,936 of them. What those few say of Z:

exact        `obrs.overlap`, from both full laws.
topk         the terms of TopK(q) ∪ TopK(p): never more than Z ([J] §4.4.1).
corrected    κ·Z_k with κ = accepted / mean Z_k: right for the batch mean, not state by state ([J] §4.4.2).
bracket      Z_k ≤ Z ≤ Z_k + min(q_rest, p_rest/λ): true but for rounding.
calibrated   the point inside the bracket that the batch's mean acceptance probability picks.
"""

from __future__ import annotations

import math
from typing import Any

from jackpot_sim.core.backend import Array, floating, kth_largest, namespace
from jackpot_sim.core.numerics import (
    check_at_most_one,
    check_log_probs,
    check_pair,
    check_same_shape,
    overflow_to_inf,
    positive,
    require_vocabulary,
)
from jackpot_sim.core.obrs import log_overlap_terms


def topk(policy_log_probs: Array, actor_log_probs: Array, k: int, lam: Any = 1.0) -> Array:
    """Z_k = Σ over TopK(q) ∪ TopK(p) of min(q, p/λ) ≤ Z, shape (...) ([J] §4.4.1).

    Args:
        policy_log_probs: log p, shape (..., vocab), nats.
        actor_log_probs: log q, the same shape.
        k: tokens kept of each law, 1 ≤ k; beyond the vocabulary it means all of it. Among tied
            tokens the lower id is kept, on every backend.
        lam: λ > 0, a number or shape (...).

    Raises:
        ValueError: k < 1, λ is not positive, a law is not normalised, or the shapes differ.
    """
    return _split_at_topk(policy_log_probs, actor_log_probs, k, lam)[0]


def bracket(policy_log_probs: Array, actor_log_probs: Array, k: int, lam: Any = 1.0) -> tuple[Array, Array]:
    """(low, high) with Z_k = low ≤ Z ≤ high = Z_k + min(q_rest, p_rest/λ), each of shape (...).

    The rests are the masses outside TopK(q) ∪ TopK(p). Arguments and errors as `topk`.
    """
    kept, policy_rest, actor_rest = _split_at_topk(policy_log_probs, actor_log_probs, k, lam)
    xp = namespace(kept)
    return kept, kept + xp.minimum(actor_rest, policy_rest / positive(lam, "lam", kept))


def actor_topk_bracket(
    policy_log_probs: Array, actor_topk_ids: Array, actor_topk_log_probs: Array, lam: Any = 1.0
) -> tuple[Array, Array]:
    """(low, high) around Z from what an inference server returns: the actor's top-k alone.

    With K = TopK(q), low = Σ_K min(q, p/λ) and
    high = low + min(1 − q(K), Σ_{i∉K} min(q_(k), p_i/λ)): outside K no token of the actor is
    likelier than the k-th. Some actor with this top-k reaches high; one reaches low where the policy
    vanishes on enough tokens outside K, (1 − q(K))/q_(k) of them.

    Args:
        policy_log_probs: log p in full, shape (..., vocab), nats.
        actor_topk_ids: the ids of K, integers of shape (..., k), distinct within a state.
        actor_topk_log_probs: log q on K, shape (..., k), of the law that was really sampled.
        lam: λ > 0, a number or shape (...).

    Raises:
        ValueError: the two top-k arrays are empty or differ in shape, they hold NaN or more mass than
            one, the policy is not normalised, or λ is not positive.
    """
    policy_log_probs = check_log_probs(policy_log_probs, "policy_log_probs")
    actor_topk_log_probs = floating(actor_topk_log_probs)
    check_same_shape(actor_topk_ids, actor_topk_log_probs, "actor_topk_ids", "actor_topk_log_probs")
    require_vocabulary(actor_topk_log_probs, "actor_topk_log_probs")
    xp = namespace(policy_log_probs, actor_topk_log_probs)
    lam = positive(lam, "lam", policy_log_probs)
    log_lam = xp.log(lam if lam.ndim == 0 else lam[..., None])
    scaled = policy_log_probs - log_lam
    ids = xp.astype(actor_topk_ids, xp.int64)
    on_topk = xp.exp(xp.take_along_axis(scaled, ids, axis=-1))
    least = xp.min(actor_topk_log_probs, axis=-1, keepdims=True)
    capped_everywhere = xp.sum(xp.exp(xp.minimum(scaled, least)), axis=-1)
    capped_outside = capped_everywhere - xp.sum(xp.minimum(on_topk, xp.exp(least)), axis=-1)
    low = xp.sum(xp.minimum(xp.exp(actor_topk_log_probs), on_topk), axis=-1)
    kept = xp.sum(xp.exp(actor_topk_log_probs), axis=-1)
    check_at_most_one(kept, "actor_topk_log_probs")
    # Both widths are differences, and may miss 0 by their rounding.
    return low, low + xp.maximum(xp.minimum(1 - kept, capped_outside), xp.zeros_like(low))


def bias_correction(topk_overlap: Array, accepted: Array) -> Array:
    """κ·Z_k with κ = mean accepted / mean Z_k over the batch ([J] §4.4.2).

    The batch mean is unbiased; a single state need not be nearer to Z, and may pass 1.

    Args:
        topk_overlap: Z_k, shape (...).
        accepted: whether each proposed token was accepted, or its acceptance probability, any shape.

    Raises:
        ValueError: the mean of Z_k is zero.
    """
    xp = namespace(topk_overlap)
    mean = xp.mean(topk_overlap)
    if not bool(mean > 0):
        raise ValueError("topk_overlap is zero everywhere: kappa = accepted / mean(Z_k) does not exist")
    return topk_overlap * (xp.mean(xp.astype(accepted, topk_overlap.dtype)) / mean)


def calibrated(low: Array, high: Array, acceptance_probability: Array) -> Array:
    """Ẑ = low + s·(high − low), one share s for the batch that meets its mean acceptance.

    s = (mean a − mean low) / mean(high − low), held to [0, 1] because Z lies inside the bracket.

    Args:
        low: the lower end of a bracket, shape (...), as `bracket` gives it.
        high: its upper end, the same shape.
        acceptance_probability: min(1, r/λ) of the batch's sampled tokens, any shape: the mean of the
            probabilities is far less noisy than the share of the masks drawn from them.

    Raises:
        ValueError: the shapes of the bracket's ends differ.
    """
    check_same_shape(low, high, "low", "high")
    xp = namespace(low, high)
    width = xp.mean(high - low)
    missing = xp.mean(acceptance_probability) - xp.mean(low)
    with overflow_to_inf():
        share = xp.where(width > 0, missing / xp.where(width > 0, width, 1.0), 0.0)
    return low + xp.clip(share, 0.0, 1.0) * (high - low)


def _split_at_topk(policy_log_probs: Array, actor_log_probs: Array, k: int, lam: Any) -> tuple[Array, Array, Array]:
    """Z_k on the union of the two top-k sets, and the masses of p and of q outside it."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    policy_log_probs, actor_log_probs = check_pair(policy_log_probs, actor_log_probs)
    xp = namespace(policy_log_probs, actor_log_probs)
    union = _topk_mask(policy_log_probs, k) | _topk_mask(actor_log_probs, k)
    terms = xp.where(union, log_overlap_terms(policy_log_probs, actor_log_probs, lam), -math.inf)
    rests = (xp.where(union, -math.inf, law) for law in (policy_log_probs, actor_log_probs))
    kept, policy_rest, actor_rest = (xp.sum(xp.exp(x), axis=-1) for x in (terms, *rests))
    return kept, policy_rest, actor_rest


def _topk_mask(log_probs: Array, k: int) -> Array:
    """True on the k likeliest tokens of each state; ties go to the lower id."""
    xp = namespace(log_probs)
    if k >= log_probs.shape[-1]:
        return xp.ones_like(log_probs, dtype=xp.bool)
    least = kth_largest(log_probs, k)
    above, tied = log_probs > least, log_probs == least
    room = k - xp.sum(xp.astype(above, xp.int64), axis=-1, keepdims=True)
    return above | (tied & (xp.cumulative_sum(xp.astype(tied, xp.int64), axis=-1) <= room))
