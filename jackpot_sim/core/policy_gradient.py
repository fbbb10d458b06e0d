"""The policy gradient in logits: f(x) = A(x)(e_x − p), its mean under any law, and its squared length.

At a near-certain token 1 − p, like the sum over all other tokens, would be a small difference of nearly equal
numbers. There both are summed over the other tokens, so that no digit is lost.
"""

from __future__ import annotations

import array_api_compat

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import namespace
from jackpot_sim.core.checks import check_alike


def gradient_under(law: Array, p: Array, advantage: Array) -> Array:
    """Σ_x law(x) A(x) (e_x − p), the gradient in logits under any signed law; all (..., vocab)."""
    check_alike(law=law, p=p, advantage=advantage)
    xp = namespace(p)
    terms, top = law * advantage, _likeliest(p)
    at_top = xp.sum(xp.where(top, terms, 0.0), axis=-1, keepdims=True)
    elsewhere = xp.sum(xp.where(top, 0.0, terms), axis=-1, keepdims=True)
    rest = xp.sum(xp.where(top, 0.0, p), axis=-1, keepdims=True)
    return xp.where(top, terms * rest - p * elsewhere, terms - p * (at_top + elsewhere))


def policy_gradient(p: Array, advantage: Array) -> Array:
    """g = E_p[f]: exactly 0 where the advantage is constant; all (..., vocab)."""
    check_alike(p=p, advantage=advantage)
    # A constant advantage has no gradient; it is subtracted first, lest its rounding pass for a gradient.
    xp = namespace(p)
    constant = xp.sum(xp.where(_likeliest(p), advantage, 0.0), axis=-1, keepdims=True)
    return gradient_under(p, p, advantage - constant)


def feature_norm_sq(p: Array, advantage: Array) -> Array:
    """‖f(x)‖² = A(x)²(1 − 2p_x + ‖p‖²) of every token; all (..., vocab)."""
    check_alike(p=p, advantage=advantage)
    xp = namespace(p)
    others = xp.where(_likeliest(p), 0.0, p)
    rest, rest_sq = (xp.sum(x, axis=-1, keepdims=True) for x in (others, others**2))
    p_sq = xp.sum(p * p, axis=-1, keepdims=True)
    return advantage**2 * xp.where(_likeliest(p), rest**2 + rest_sq, 1 - 2 * p + p_sq)


def score_dot(p: Array, vector: Array) -> Array:
    """⟨e_x − p, v⟩ of every token x for a vector v of each state; all (..., vocab)."""
    check_alike(p=p, vector=vector)
    xp, top = namespace(p), _likeliest(p)
    rest = xp.sum(xp.where(top, 0.0, p), axis=-1, keepdims=True)
    elsewhere = xp.sum(xp.where(top, 0.0, p * vector), axis=-1, keepdims=True)
    at_top = xp.sum(xp.where(top, p * vector, 0.0), axis=-1, keepdims=True)
    return xp.where(top, rest * vector, vector - at_top) - elsewhere


def _likeliest(p: Array) -> Array:
    """A mask of the likeliest token of each state."""
    xp = namespace(p)
    ids = xp.arange(p.shape[-1], dtype=xp.int64, device=array_api_compat.device(p))
    return ids == xp.argmax(p, axis=-1, keepdims=True)
