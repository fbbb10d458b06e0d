"""Estimates of the overlap Z(λ) = Σ min(q, p/λ) without the full vocabulary.

A rollout server returns a few log-probs per token, not 151,936 of them. The ways to Z:

exact            `obrs.overlap`, from both full laws; `chunked`, from hidden states, never holding a law in full.
topk             Z_k, the terms of TopK(q) ∪ TopK(p): never more than Z ([J] §4.4.1).
bias_correction  κ·Z_k with κ = accepted / mean Z_k: right for the batch mean, not state by state ([J] §4.4.2).
bracket          Z_k ≤ Z ≤ Z_k + min(q_rest, p_rest/λ), which holds but for rounding.
calibrated       the point inside a bracket that meets the batch's mean acceptance probability.
intersection     the terms min(q/λ, p) of TopK(q) ∩ TopK(p), of Z at λ = 1 only (Sparrow, arXiv 2606.08446).

The three brackets, by the log-probs that they need:

bracket_on_topk     q and p on the same k tokens: O(k) per token, and for TopK(q) the widest of the three.
actor_topk_bracket  q on TopK(q), and one pass over p: inside the one above, and the tightest from what it knows.
bracket             q and p on TopK(q) ∪ TopK(p): inside `bracket_on_topk` of TopK(q).
"""

from __future__ import annotations

import math
from dataclasses import replace

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import as_array, floating, into, namespace, overflow_to_inf, topk_mask
from jackpot_sim.core.backend import topk as largest
from jackpot_sim.core.checks import (
    check_alike,
    check_at_most_one,
    check_ids,
    check_log_probs,
    check_pair,
    check_same_shape,
    check_same_states,
    per_state,
    positive,
    require_vocabulary,
)
from jackpot_sim.core.heads import ChunkedLaw, Head
from jackpot_sim.core.obrs import log_overlap_terms


def topk(policy_log_probs: Array, actor_log_probs: Array, k: int, lam: float | Array = 1.0) -> Array:
    """Z_k = Σ over TopK(q) ∪ TopK(p) of min(q, p/λ) ≤ Z, shape (...) ([J] §4.4.1).

    Args:
        policy_log_probs: log p, shape (..., vocab), nats.
        actor_log_probs: log q, the same shape.
        k: the number of tokens kept of each law, 1 ≤ k; a k beyond the vocabulary keeps all of it. Among
            tied tokens the lower id is kept, on every backend.
        lam: λ > 0, a number or shape (...).

    Raises:
        ValueError: k < 1, λ is not positive, a law is not normalised, or the shapes differ.
    """
    return _split_at_topk(policy_log_probs, actor_log_probs, k, lam)[0]


def intersection(policy_log_probs: Array, actor_log_probs: Array, k: int, lam: float | Array = 1.0) -> Array:
    """Σ over TopK(q) ∩ TopK(p) of min(q/λ, p), shape (...): the estimate of [J]'s authors in Sparrow (2606.08446).

    At λ = 1 it is at most Z_k. At any other λ it has terms of Z(1/λ)/λ, not of Z(λ) = Σ min(q, p/λ), and may lie on
    either side of Z. It needs q on TopK(q) alone. Sparrow has k = 20, calibrates by `bias_correction` and caps at 1.

    Arguments and errors as `topk`.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    policy_log_probs, actor_log_probs = check_pair(policy_log_probs, actor_log_probs)
    xp = namespace(policy_log_probs, actor_log_probs)
    both = topk_mask(policy_log_probs, k) & topk_mask(actor_log_probs, k)
    terms = log_overlap_terms(actor_log_probs, policy_log_probs, lam)
    return xp.sum(xp.exp(xp.where(both, terms, -math.inf)), axis=-1)


def bracket(policy_log_probs: Array, actor_log_probs: Array, k: int, lam: float | Array = 1.0) -> tuple[Array, Array]:
    """(low, high) with Z_k = low ≤ Z ≤ high = Z_k + min(q_rest, p_rest/λ), each of shape (...).

    The rests are the masses outside TopK(q) ∪ TopK(p). Arguments and errors as `topk`.
    """
    return _close(*_split_at_topk(policy_log_probs, actor_log_probs, k, lam), lam)


def bracket_on_topk(
    policy_topk_log_probs: Array, actor_topk_log_probs: Array, lam: float | Array = 1.0
) -> tuple[Array, Array]:
    """(low, high) around Z from both laws on the same k tokens K, at O(k) per token.

    low = Σ_K min(q, p/λ) and high = low + min(1 − q(K), (1 − p(K))/λ), both of shape (...). K is any set of
    tokens, the same for both laws: TopK(q) as the rollout stored it, with p gathered there, or a union. A set
    that contains another gives a bracket inside the other's, so `bracket`'s union is tighter than either
    top-k alone. For K = TopK(q) `actor_topk_bracket` lies inside it.

    Args:
        policy_topk_log_probs: log p on K, shape (..., k), nats.
        actor_topk_log_probs: log q on the same tokens, the same shape, of the law that was sampled from.
        lam: λ > 0, a number or shape (...).

    Raises:
        ValueError: the arrays are empty or differ in shape, one holds NaN or more mass than one, or λ is
            not positive.
    """
    policy = floating(policy_topk_log_probs, "policy_topk_log_probs")
    actor = floating(actor_topk_log_probs, "actor_topk_log_probs")
    check_same_shape(policy, actor, "policy_topk_log_probs", "actor_topk_log_probs")
    require_vocabulary(actor, "actor_topk_log_probs")
    xp = namespace(policy, actor)
    dtype = xp.result_type(policy.dtype, actor.dtype)
    policy, actor = xp.astype(policy, dtype, copy=False), xp.astype(actor, dtype, copy=False)
    with overflow_to_inf():
        policy_mass, actor_mass = (xp.sum(xp.exp(law), axis=-1) for law in (policy, actor))
    check_at_most_one(policy_mass, "policy_topk_log_probs")
    check_at_most_one(actor_mass, "actor_topk_log_probs")
    low = xp.sum(xp.exp(log_overlap_terms(policy, actor, lam)), axis=-1)
    # A rest is a difference, which rounding may leave below 0.
    nothing = xp.zeros_like(low)
    policy_rest, actor_rest = (xp.maximum(1 - mass, nothing) for mass in (policy_mass, actor_mass))
    return _close(low, policy_rest, actor_rest, lam)


def chunked(
    policy_hidden: Array,
    actor_hidden: Array,
    policy_head: Head,
    actor_head: Head,
    lam: float | Array = 1.0,
    *,
    chunk: int | None = None,
) -> Array:
    """The exact Z(λ) = Σ min(q, p/λ) from last hidden states, over chunks of the vocabulary; shape (...).

    Two passes over each head give the log-normalisers and then the sum, in O(tokens × chunk) memory: no array
    has the size tokens × vocabulary. The result is a constant of differentiation, as Z is in Jackpot's weight.

    Args:
        policy_hidden: the policy's last hidden states, shape (..., its hidden size).
        actor_hidden: the actor's last hidden states, the same shape but for the last axis.
        policy_head: the policy's map from hidden states to logits.
        actor_head: the actor's map, over the same vocabulary.
        lam: λ > 0, a number or shape (...).
        chunk: the number of tokens of the vocabulary at a time; None takes a 64th of them.

    Raises:
        ValueError: the vocabularies or the leading shapes differ, hidden states do not fit their head, a
            state's logits are no law, λ is not positive, or chunk < 1.
    """
    if policy_head.vocab != actor_head.vocab:
        raise ValueError(
            f"policy_head has {policy_head.vocab} tokens, actor_head has {actor_head.vocab}: "
            "the vocabularies must be the same"
        )
    check_same_states(policy_hidden, actor_hidden, "policy_hidden", "actor_hidden")
    policy_head.require(policy_hidden, "policy_hidden")
    actor_head.require(actor_hidden, "actor_hidden")
    policy = ChunkedLaw.of(policy_head, policy_hidden, chunk)
    actor = ChunkedLaw.of(actor_head, actor_hidden, chunk)
    xp = namespace(policy_hidden, actor_hidden)
    lam = positive(per_state(lam, policy.log_total, "lam"), "lam", policy.log_total)
    # p/λ is p with log λ on its normaliser.
    scaled = replace(policy, log_total=policy.log_total + xp.log(lam))
    total = xp.zeros_like(policy.log_total[..., 0])
    for tokens in policy_head.chunks(chunk):
        terms = xp.minimum(scaled.log_probs(tokens), actor.log_probs(tokens))
        total = total + xp.sum(into(terms, "exp", terms), axis=-1)
    return total


def actor_topk_bracket(
    policy_log_probs: Array, actor_topk_ids: Array, actor_topk_log_probs: Array, lam: float | Array = 1.0
) -> tuple[Array, Array]:
    """(low, high) around Z, shape (...), from the actor's top-k alone, as an inference server returns it.

    With K = TopK(q), T = 1 − q(K) and c_i = p_i/λ, the actor's other tokens share T, and none is likelier than the
    k-th: high = Σ_K min(q, c) + min(T, Σ_{i∉K} min(q_(k), c_i)) and low = Σ_K min(q, c) + Σ_{i∉K} min(f_i, c_i), where
    f fills the tokens with the least c first, q_(k) each, until T is spent.

    There is no tighter bracket, as some actor with this top-k attains either end: Σ min(f, c) is concave in f, hence
    least at a corner, where all f but one are 0 or q_(k). To fill a token costs the less, the smaller its c, and to
    leave one partly filled, q_(k) − ρ short, saves min(q_(k), c) − min(ρ, c), which grows with c.

    Args:
        policy_log_probs: log p in full, shape (..., vocab), nats.
        actor_topk_ids: the ids of K, integers of shape (..., k), distinct within a state.
        actor_topk_log_probs: log q on K, shape (..., k), of the law that was sampled from.
        lam: λ > 0, a number or shape (...).

    Raises:
        TypeError: an id is no integer.
        ValueError: the two top-k arrays are empty or differ in shape, they hold NaN or more mass than
            one, an id lies outside the vocabulary, the policy is not normalised or of other states, or λ is
            not positive.
    """
    policy_log_probs = check_log_probs(policy_log_probs, "policy_log_probs")
    actor_topk_log_probs = floating(actor_topk_log_probs, "actor_topk_log_probs")
    check_same_shape(actor_topk_ids, actor_topk_log_probs, "actor_topk_ids", "actor_topk_log_probs")
    require_vocabulary(actor_topk_log_probs, "actor_topk_log_probs")
    check_same_states(policy_log_probs, actor_topk_ids, "policy_log_probs", "actor_topk_ids")
    check_ids(actor_topk_ids, policy_log_probs.shape[-1], "actor_topk_ids")
    xp = namespace(policy_log_probs, actor_topk_log_probs)
    lam = positive(per_state(lam, policy_log_probs, "lam"), "lam", policy_log_probs)
    scaled = policy_log_probs - xp.log(lam)
    ids = xp.astype(actor_topk_ids, xp.int64)
    on_topk = xp.exp(xp.take_along_axis(scaled, ids, axis=-1))
    least = xp.min(actor_topk_log_probs, axis=-1, keepdims=True)
    capped_everywhere = xp.sum(xp.exp(xp.minimum(scaled, least)), axis=-1)
    capped_outside = capped_everywhere - xp.sum(xp.minimum(on_topk, xp.exp(least)), axis=-1)
    known = xp.sum(xp.minimum(xp.exp(actor_topk_log_probs), on_topk), axis=-1)
    mass = xp.sum(xp.exp(actor_topk_log_probs), axis=-1)
    check_at_most_one(mass, "actor_topk_log_probs")
    # Rests are differences, which rounding may leave below 0.
    rest = xp.maximum(1 - mass, xp.zeros_like(mass))
    low = _least_outside(scaled, ids, xp.exp(least), rest[..., None])
    high = xp.maximum(xp.minimum(rest, capped_outside), low)
    return known + low, known + high


def _least_outside(scaled: Array, ids: Array, most: Array, rest: Array) -> Array:
    """Σ_{i∉K} min(f_i, c_i), shape (...), where f fills the least c with `most` each until `rest` is spent.

    Args:
        scaled: log c, shape (..., vocab), nats.
        ids: K, int64 of shape (..., k).
        most: q_(k), shape (..., 1).
        rest: T, shape (..., 1).
    """
    xp, k = namespace(scaled), ids.shape[-1]
    # What rounding alone may have left is no mass to fill with.
    spent = (rest <= k * xp.finfo(rest.dtype).eps) | (most <= 0)
    filled = xp.where(spent, 0.0, rest / xp.where(spent, 1.0, most))
    count = 0 if 0 in filled.shape else math.ceil(min(float(xp.max(filled)), scaled.shape[-1]))
    if count == 0:
        return xp.zeros_like(rest[..., 0])
    negative, places = largest(-scaled, count + k)
    outside = xp.ones_like(places, dtype=xp.bool)
    for each in range(k):
        outside = outside & (places != ids[..., each : each + 1])
    before = xp.cumulative_sum(xp.astype(outside, most.dtype), axis=-1) - 1
    room = xp.clip(rest - before * most, 0.0, None)
    terms = xp.minimum(xp.minimum(room, most), xp.exp(-negative))
    return xp.sum(xp.where(outside & ~spent, terms, 0.0), axis=-1)


def bias_correction(topk_overlap: Array, accepted: Array, most: float = math.inf) -> Array:
    """min(κ·Z_k, most), shape (...), with κ = mean accepted / mean Z_k over the batch ([J] §4.4.2).

    The batch mean is unbiased; at a single state κ·Z_k need not be nearer to Z than Z_k, and may exceed 1.

    Args:
        topk_overlap: Z_k, shape (...).
        accepted: the mask of the proposed tokens, or their acceptance probabilities, any shape.
        most: the largest estimate; Sparrow's is 1, which biases the batch mean.

    Raises:
        TypeError: Z_k holds no real floating numbers.
        ValueError: the mean of Z_k is zero.
    """
    topk_overlap = floating(topk_overlap, "topk_overlap")
    xp = namespace(topk_overlap, accepted)
    mean = xp.mean(topk_overlap)
    if not bool(mean > 0):
        raise ValueError("topk_overlap is zero everywhere: kappa = accepted / mean(Z_k) does not exist")
    scaled = topk_overlap * (xp.mean(xp.astype(accepted, topk_overlap.dtype)) / mean)
    return scaled if most == math.inf else xp.minimum(scaled, as_array(most, scaled))


def calibrated(low: Array, high: Array, acceptance_probability: Array) -> Array:
    """Ẑ = low + s·(high − low), shape (...), with one share s for the batch.

    s = (mean a − mean low) / mean(high − low), so that the mean of Ẑ is the mean acceptance probability. It is
    clipped to [0, 1], because Z lies inside the bracket.

    Args:
        low: the lower end of a bracket, shape (...), as `bracket` gives it.
        high: its upper end, the same shape.
        acceptance_probability: min(1, r/λ) of the batch's sampled tokens, any shape. The mean of the
            probabilities is far less noisy than the mean of the masks drawn from them.

    Raises:
        ValueError: the shapes of the bracket's ends differ.
    """
    check_alike(low=low, high=high)
    acceptance_probability = floating(acceptance_probability, "acceptance_probability")
    xp = namespace(low, high, acceptance_probability)
    width = xp.mean(high - low)
    missing = xp.mean(acceptance_probability) - xp.mean(low)
    with overflow_to_inf():
        share = xp.where(width > 0, missing / xp.where(width > 0, width, 1.0), 0.0)
    return low + xp.clip(share, 0.0, 1.0) * (high - low)


def calibrated_on_topk(
    policy_topk_log_probs: Array,
    actor_topk_log_probs: Array,
    acceptance_probability: Array,
    lam: float | Array = 1.0,
) -> Array:
    """Ẑ from a stored top-k, shape (...): the `calibrated` point inside `bracket_on_topk`.

    Arguments and errors as those two; Ẑ has the dtype of `acceptance_probability`.
    """
    ends = bracket_on_topk(policy_topk_log_probs, actor_topk_log_probs, lam)
    acceptance_probability = floating(acceptance_probability, "acceptance_probability")
    xp = namespace(*ends, acceptance_probability)
    low, high = (xp.astype(end, acceptance_probability.dtype, copy=False) for end in ends)
    return calibrated(low, high, acceptance_probability)


def _close(low: Array, policy_rest: Array, actor_rest: Array, lam: float | Array) -> tuple[Array, Array]:
    """(low, high) from the sum of the known terms and the masses of p and q on the other tokens."""
    lam = per_state(lam, low[..., None], "lam")
    lam = positive(lam if lam.ndim == 0 else lam[..., 0], "lam", low)
    return low, low + namespace(low).minimum(actor_rest, policy_rest / lam)


def _split_at_topk(
    policy_log_probs: Array, actor_log_probs: Array, k: int, lam: float | Array
) -> tuple[Array, Array, Array]:
    """Z_k on the union of the two top-k sets, and the masses of p and of q outside it."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    policy_log_probs, actor_log_probs = check_pair(policy_log_probs, actor_log_probs)
    xp = namespace(policy_log_probs, actor_log_probs)
    union = topk_mask(policy_log_probs, k) | topk_mask(actor_log_probs, k)
    terms = xp.where(union, log_overlap_terms(policy_log_probs, actor_log_probs, lam), -math.inf)
    rests = (xp.where(union, -math.inf, law) for law in (policy_log_probs, actor_log_probs))
    topk_overlap, policy_rest, actor_rest = (xp.sum(xp.exp(x), axis=-1) for x in (terms, *rests))
    return topk_overlap, policy_rest, actor_rest
