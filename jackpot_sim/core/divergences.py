"""Divergences between two laws over a vocabulary: log-probabilities in, nats out.

Each takes `p` and `q` of shape (..., vocab) and gives shape (...). Where p > 0 and q = 0 the
KL, χ² and Rényi (α ≥ 1) divergences are inf, and inf is what is reported. Sums run over terms
that cannot be negative, so that a tiny divergence does not drown in rounding.

All raise ValueError for NaN or unnormalised laws and for shapes that differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from jackpot_sim.core.backend import Array, logsumexp, namespace
from jackpot_sim.core.numerics import check_pair, log_ratio, mul_exp, overflow_to_inf


def kl(p: Array, q: Array) -> Array:
    """KL(p‖q) = Σ p log(p/q) = Σ [p log(p/q) − p + q], whose terms are never negative."""
    p, q = check_pair(p, q)
    return kl_of_checked(p, q)


def kl_of_checked(p: Array, q: Array) -> Array:
    """`kl` for laws that the caller has already checked."""
    xp = namespace(p, q)
    ratio = log_ratio(p, q)
    # For p near q, p(ℓ + e^−ℓ − 1) keeps the digits that pℓ − p + q would cancel.
    near = ratio > -1.0
    close = mul_exp(xp.where(near, ratio + xp.expm1(-xp.where(near, ratio, 0.0)), 0.0), p)
    far = mul_exp(xp.where(near, 0.0, ratio), p) - xp.exp(p) + xp.exp(q)
    return xp.sum(xp.where(near, close, far), axis=-1)


def total_variation(p: Array, q: Array) -> Array:
    """TV(p, q) = ½ Σ |p − q|, in [0, 1]."""
    p, q = check_pair(p, q)
    xp = namespace(p, q)
    return xp.sum(xp.abs(xp.exp(p) - xp.exp(q)), axis=-1) / 2


def chi_square(p: Array, q: Array) -> Array:
    """χ²(p‖q) = Σ p²/q − 1 = Σ q (p/q − 1)²."""
    p, q = check_pair(p, q)
    xp = namespace(p, q)
    ratio = log_ratio(p, q)
    # Small ratios: q·expm1(ℓ)². Large ones: exp(log p + ℓ) − 2p + q, which is inf only if p·r is.
    near = ratio <= 1.0
    close = mul_exp(xp.expm1(xp.where(near, ratio, 0.0)) ** 2, q)
    with overflow_to_inf():
        far = xp.exp(xp.where(near, 0.0, p + ratio)) - 2 * xp.exp(p) + xp.exp(q)
    return xp.sum(xp.where(near, close, far), axis=-1)


def hellinger(p: Array, q: Array) -> Array:
    """The squared Hellinger distance H²(p, q) = ½ Σ (√p − √q)² = 1 − Σ √(pq), in [0, 1]."""
    p, q = check_pair(p, q)
    xp = namespace(p, q)
    return xp.sum((xp.exp(p / 2) - xp.exp(q / 2)) ** 2, axis=-1) / 2


def jensen_shannon(p: Array, q: Array) -> Array:
    """JS(p, q) = ½ KL(p‖m) + ½ KL(q‖m) with m = (p + q)/2, in [0, log 2]."""
    p, q = check_pair(p, q)
    xp = namespace(p, q)
    neither = (p == -math.inf) & (q == -math.inf)
    both = xp.logaddexp(xp.where(neither, 0.0, p), xp.where(neither, 0.0, q))
    middle = xp.where(neither, -math.inf, both - math.log(2.0))
    return (kl_of_checked(p, middle) + kl_of_checked(q, middle)) / 2


def renyi(p: Array, q: Array, alpha: float) -> Array:
    """Rényi's D_α(p‖q) = log(Σ p^α q^(1−α)) / (α − 1) for α > 0; α = 1 is KL(p‖q).

    Raises:
        ValueError: also when α is not positive and finite.
    """
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha must be positive and finite, got {alpha}")
    if alpha == 1:
        return kl(p, q)
    p, q = check_pair(p, q)
    xp = namespace(p, q)
    log_sum = _log_renyi_sum(p, q, alpha)
    # Near equal laws the sum is 1 + excess, and log keeps nothing of an excess near the rounding of 1.
    near_one = xp.abs(log_sum) < 0.5
    excess = xp.where(near_one, _renyi_excess(p, q, alpha), 0.0)
    return xp.where(near_one, xp.log1p(excess), log_sum) / (alpha - 1)


def _log_renyi_sum(p: Array, q: Array, alpha: float) -> Array:
    """The logarithm of Σ p^α q^(1−α)."""
    xp = namespace(p, q)
    outside = (p == -math.inf) | ((q == -math.inf) if alpha < 1 else xp.zeros_like(p, dtype=xp.bool))
    exponent = alpha * xp.where(outside, 0.0, p) + (1 - alpha) * xp.where(outside, 0.0, q)
    if alpha > 1 and bool(xp.any(exponent == math.inf)):
        # logsumexp has no use for +inf: a support violation decides the whole state.
        violated = xp.any(exponent == math.inf, axis=-1)
        exponent = xp.where(exponent == math.inf, 0.0, exponent)
        return xp.where(violated, math.inf, logsumexp(xp.where(outside, -math.inf, exponent)))
    return logsumexp(xp.where(outside, -math.inf, exponent))


def _renyi_excess(p: Array, q: Array, alpha: float) -> Array:
    """Σ p^α q^(1−α) − 1 = Σ [p^α q^(1−α) − αp − (1−α)q], terms of one sign, where no p^α q^(1−α) passes e."""
    xp = namespace(p, q)
    ratio = log_ratio(p, q)
    beta = alpha - 1
    near = xp.abs(ratio) * max(1.0, abs(beta)) < 1
    small = xp.where(near, ratio, 0.0)
    close = mul_exp(xp.exp(small) * xp.expm1(beta * small) - beta * xp.expm1(small), q)
    outside = near | (p == -math.inf) | (q == -math.inf)
    exponent = xp.where(outside, 0.0, p) + beta * xp.where(outside, 0.0, ratio)
    joint = xp.where(outside, 0.0, xp.exp(xp.minimum(exponent, xp.ones_like(exponent))))
    far = joint - alpha * xp.exp(p) + beta * xp.exp(q)
    return xp.sum(xp.where(near, close, far), axis=-1)


BY_NAME: dict[str, Callable[..., Array]] = {
    "kl_policy_actor": kl,
    "kl_actor_policy": lambda policy_log_probs, actor_log_probs: kl(actor_log_probs, policy_log_probs),
    "total_variation": total_variation,
    "chi_square": chi_square,
}
"""What records hold of a pair of laws, policy first; shape (...) from (..., vocab), nats where they are KLs."""
