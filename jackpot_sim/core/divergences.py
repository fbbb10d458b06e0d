"""Divergences between two laws over a vocabulary: log-probabilities in, nats out.

Each divergence takes `p` and `q` of shape (..., vocab) and returns shape (...). Where p > 0 and q = 0 the
KL, χ² and Rényi (α ≥ 1) divergences are inf, and are reported as inf.

Near-equal laws keep their digits: sums run over terms that cannot be negative, and each term follows without
cancellation from the log-ratio ℓ, a difference that float64 computes exactly where it is small.

Rounding of the log-probs leaves Σp and Σq a few 1e-16 away from 1, and every formula is evaluated at these
numbers. The result differs from the divergence of the normalised laws by the square of 1e-16. Only TV, which is
of first order, differs by 1e-16 itself: a TV of 1e-9 has 7 digits if the rounding counts as an error.

All raise ValueError for NaN, unnormalised laws and differing shapes, except the functions of checked laws.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import logsumexp, namespace, overflow_to_inf, placed
from jackpot_sim.core.checks import check_alike, check_at_most_one, check_pair
from jackpot_sim.core.numerics import exp_difference, exp_remainder, log_ratio, mul_exp


def kl(p: Array, q: Array) -> Array:
    """KL(p‖q) = Σ p log(p/q) = Σ [p log(p/q) − p + q], whose terms are never negative; (..., vocab) → (...)."""
    p, q = check_pair(p, q)
    return kl_of_checked(p, q)


def kl_of_checked(p: Array, q: Array) -> Array:
    """`kl` for laws that the caller has already checked; (..., vocab) → (...)."""
    return namespace(p, q).sum(kl_terms(p, log_ratio(p, q), q), axis=-1)


def kl_terms(p: Array, ratio: Array, q: Array) -> Array:
    """p·ℓ − p + q ≥ 0, elementwise, from log p, ℓ = log p/q and log q."""
    check_alike(p=p, ratio=ratio, q=q)
    xp = namespace(p, q)
    # For p near q, p(e^−ℓ − 1 + ℓ) keeps the digits that pℓ − p + q would cancel.
    near = ratio > -1.0
    close = mul_exp(exp_remainder(xp.where(near, -ratio, 0.0)), p)
    far = mul_exp(xp.where(near, 0.0, ratio), p) - xp.exp(p) + xp.exp(q)
    return xp.where(near, close, far)


def binary_kl(p: Array, q: Array) -> Array:
    """bKL(p, q) = p log(p/q) + (1−p) log((1−p)/(1−q)), elementwise: KL between "this token" and "another", nats.

    It is the KL of the laws of one yes or no, and so at most the KL of the whole laws. Near-equal probabilities, and
    those near 0 or 1, keep their digits. It is inf where q = 0 < p, and where p < 1 = q.

    Args:
        p: log-probabilities of tokens, any shape, nats.
        q: the same shape.

    Raises:
        ValueError: the shapes differ, or a probability exceeds 1.
    """
    check_alike(p=p, q=q)
    xp = namespace(p, q)
    with overflow_to_inf():
        check_at_most_one(xp.exp(p), "p")
        check_at_most_one(xp.exp(q), "q")
    # What passed the check exceeds 1 by rounding alone.
    p, q = (xp.minimum(x, xp.zeros_like(x)) for x in (p, q))
    rest_of_p, rest_of_q = _log_complement(p), _log_complement(q)
    # log (1−p)/(1−q) from the difference q − p, where the two rests are so near that their logs would cancel.
    gap, room = exp_difference(q, p), -xp.expm1(q)
    slight = xp.abs(gap) < room / 2
    close = xp.log1p(xp.where(slight, gap, 0.0) / xp.where(slight, room, 1.0))
    rest_ratio = xp.where(slight, close, log_ratio(rest_of_p, rest_of_q))
    return kl_terms(p, log_ratio(p, q), q) + kl_terms(rest_of_p, rest_ratio, rest_of_q)


def binary_kl_exceeds(p: Array, q: Array, bound: float) -> Array:
    """True where `binary_kl` of the same log-probabilities exceeds a bound > 0 (nats), elementwise.

    bKL lies between 2(p − q)² and (p − q)²/(q(1 − q)), which settles all but a few tokens of a large vocabulary.

    Raises:
        ValueError: as `binary_kl`.
    """
    check_alike(p=p, q=q)
    xp = namespace(p, q)
    with overflow_to_inf():
        policy, actor = xp.exp(p), xp.exp(q)
    check_at_most_one(policy, "p")
    check_at_most_one(actor, "q")
    if not _SLACK < bound < math.inf:
        return binary_kl(p, q) > bound
    square = (policy - actor) ** 2
    above = square > bound * (0.5 + _SLACK)
    # Near an actor's probability of 1 its distance from 1 has few digits.
    below = (square <= bound * (1 - _SLACK) * (actor * (1 - actor))) & (actor < 0.99)
    open_ = xp.reshape(~(above | below), (-1,))
    (places,) = xp.nonzero(open_)
    if places.shape[0] == 0:
        return above
    exceeding = binary_kl(*(xp.take(xp.reshape(x, (-1,)), places) for x in (p, q))) > bound
    return above | xp.reshape(placed(exceeding, open_), above.shape)


_SLACK = 1e-6
"""A relative margin far above the rounding of squares, at bounds and probabilities that are not tiny themselves."""


def _log_complement(log_prob: Array) -> Array:
    """log(1 − e^x) for x ≤ 0, elementwise."""
    xp = namespace(log_prob)
    likely, certain = log_prob > -math.log(2), log_prob == 0
    above = xp.log(-xp.expm1(xp.where(likely & ~certain, log_prob, -1.0)))
    below = xp.log1p(-xp.exp(xp.where(likely, -1.0, log_prob)))
    return xp.where(certain, -math.inf, xp.where(likely, above, below))


def kl_to_measure(p: Array, ratio: Array, measure: Array) -> Array:
    """KL(p‖m/Σm), nats, shape (...); nan where m has no mass. That p are laws is not checked.

    Args:
        p: log p of laws, shape (..., vocab).
        ratio: log p/m, the same shape. Where m is near p it must be computed on its own: the difference
            log p − log m keeps its digits only where both logs are exact.
        measure: log m, the same shape; m itself may be too small for a float.
    """
    check_alike(p=p, ratio=ratio, measure=measure)
    xp = namespace(p, ratio, measure)
    log_total = logsumexp(measure, keepdims=True)
    has_mass = log_total > -math.inf
    near = xp.abs(ratio) < 1
    mass = xp.exp(p)
    close = mass * xp.expm1(-xp.where(near, ratio, 0.0))
    with overflow_to_inf():
        excess = xp.where(near, close, xp.exp(measure) - mass)
    # Σm − 1 from the differences m − p: from Σm itself it would be lost in rounding where m is near p.
    less_one = xp.sum(excess, axis=-1, keepdims=True) / xp.sum(mass, axis=-1, keepdims=True)
    slight = xp.abs(less_one) < 0.5
    log_total = xp.where(slight, xp.log1p(xp.where(slight, less_one, 0.0)), xp.where(has_mass, log_total, 0.0))
    divergence = xp.sum(kl_terms(p, ratio + log_total, measure - log_total), axis=-1)
    return xp.where(has_mass[..., 0], divergence, math.nan)


def total_variation(p: Array, q: Array) -> Array:
    """TV(p, q) = ½ Σ |p − q|, in [0, 1]; (..., vocab) → (...)."""
    p, q = check_pair(p, q)
    xp = namespace(p, q)
    return xp.sum(xp.abs(exp_difference(p, q)), axis=-1) / 2


def chi_square(p: Array, q: Array) -> Array:
    """χ²(p‖q) = Σ p²/q − 1 = Σ q (p/q − 1)²; (..., vocab) → (...)."""
    p, q = check_pair(p, q)
    return chi_square_of_checked(p, log_ratio(p, q), q)


def chi_square_of_checked(p: Array, ratio: Array, q: Array) -> Array:
    """`chi_square` from checked log p, ℓ = log p/q and log q, each (..., vocab)."""
    check_alike(p=p, ratio=ratio, q=q)
    xp = namespace(p, q)
    # Small ratios: q·expm1(ℓ)². Large ones: exp(log p + ℓ) − 2p + q, which is inf only if p·r is.
    near = ratio <= 1.0
    close = mul_exp(xp.expm1(xp.where(near, ratio, 0.0)) ** 2, q)
    with overflow_to_inf():
        far = xp.exp(xp.where(near, 0.0, p + ratio)) - 2 * xp.exp(p) + xp.exp(q)
    return xp.sum(xp.where(near, close, far), axis=-1)


def hellinger(p: Array, q: Array) -> Array:
    """The squared Hellinger distance H²(p, q) = ½ Σ (√p − √q)² = 1 − Σ √(pq), in [0, 1]; shape (...)."""
    p, q = check_pair(p, q)
    xp = namespace(p, q)
    return xp.sum(exp_difference(p / 2, q / 2) ** 2, axis=-1) / 2


def jensen_shannon(p: Array, q: Array) -> Array:
    """JS(p, q) = ½ KL(p‖m) + ½ KL(q‖m), m = (p + q)/2, in [0, log 2]; (..., vocab) → (...)."""
    p, q = check_pair(p, q)
    xp = namespace(p, q)
    ratio = log_ratio(p, q)
    policy_is_larger = ratio > 0
    larger = xp.where(policy_is_larger, p, q)
    distance = xp.where(policy_is_larger, ratio, -ratio)
    # log(larger/m) from the ratio alone: log m is rounded to 1e-16, and ℓ may be no larger than that.
    above = -xp.log1p(xp.expm1(-distance) / 2)
    below, middle = above - distance, larger - above
    of_p = kl_terms(p, xp.where(policy_is_larger, above, below), middle)
    of_q = kl_terms(q, xp.where(policy_is_larger, below, above), middle)
    return xp.sum(of_p + of_q, axis=-1) / 2


def renyi(p: Array, q: Array, alpha: float) -> Array:
    """Rényi's D_α(p‖q) = log(Σ p^α q^(1−α)) / (α − 1) for α > 0; α = 1 is KL(p‖q); (..., vocab) → (...).

    Raises:
        ValueError: α is not positive and finite, or as all divergences.
    """
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha must be positive and finite, got {alpha}")
    if alpha == 1:
        return kl(p, q)
    p, q = check_pair(p, q)
    xp = namespace(p, q)
    log_sum = _log_renyi_sum(p, q, alpha)
    # For near-equal laws the sum is 1 + excess, whose log would lose an excess near the rounding of 1.
    near_one = xp.abs(log_sum) < 0.5
    excess = xp.where(near_one, _renyi_excess(p, q, alpha), 0.0)
    return xp.where(near_one, xp.log1p(excess), log_sum) / (alpha - 1)


def _log_renyi_sum(p: Array, q: Array, alpha: float) -> Array:
    """The logarithm of Σ p^α q^(1−α)."""
    xp = namespace(p, q)
    outside = (p == -math.inf) | ((q == -math.inf) if alpha < 1 else xp.zeros_like(p, dtype=xp.bool))
    exponent = alpha * xp.where(outside, 0.0, p) + (1 - alpha) * xp.where(outside, 0.0, q)
    if alpha > 1 and bool(xp.any(exponent == math.inf)):
        # logsumexp takes no +inf; one support violation makes the whole state inf.
        violated = xp.any(exponent == math.inf, axis=-1)
        exponent = xp.where(exponent == math.inf, 0.0, exponent)
        return xp.where(violated, math.inf, logsumexp(xp.where(outside, -math.inf, exponent)))
    return logsumexp(xp.where(outside, -math.inf, exponent))


def _renyi_excess(p: Array, q: Array, alpha: float) -> Array:
    """Σ p^α q^(1−α) − 1 = Σ [p^α q^(1−α) − αp − (1−α)q], in terms of one sign, for p^α q^(1−α) ≤ e."""
    xp = namespace(p, q)
    ratio = log_ratio(p, q)
    beta = alpha - 1
    size = xp.abs(ratio) * max(1.0, abs(beta))
    tiny, near = size < 0.25, size < 1
    small = xp.where(near & ~tiny, ratio, 0.0)
    series = _power_series(xp.where(tiny, ratio, 0.0), alpha)
    close = mul_exp(xp.where(tiny, series, xp.exp(small) * xp.expm1(beta * small) - beta * xp.expm1(small)), q)
    outside = near | (p == -math.inf) | (q == -math.inf)
    change = beta * xp.where(outside, 0.0, ratio)
    # Near α = 1 the power changes little although p and q are not close.
    slight = (xp.abs(change) < 1) & ~outside
    joint = xp.exp(xp.minimum(xp.where(outside, 0.0, p) + change, xp.ones_like(change)))
    change = mul_exp(xp.expm1(xp.where(slight, change, 0.0)), xp.where(slight, p, -math.inf))
    change = xp.where(slight, change, xp.where(outside, 0.0, joint) - xp.exp(p))
    far = change - beta * (xp.exp(p) - xp.exp(q))
    return xp.sum(xp.where(near, close, far), axis=-1)


def _power_series(ratio: Array, alpha: float) -> Array:
    """r^α − 1 − α(r − 1) = α(α − 1) Σ_k (1 + α + … + α^(k−2)) ℓ^k/k! from k = 2, for |ℓ|·max(1, |α − 1|) < 1/4."""
    # In units of 1/max(1, α), so that no power of α overflows.
    unit = max(1.0, alpha)
    sums = [1.0]
    for power in range(1, 16):
        sums.append(sums[-1] / unit + (alpha / unit) ** power)
    scaled = unit * ratio
    series = namespace(ratio).zeros_like(ratio)
    for power, total in reversed(list(enumerate(sums))):
        series = series * scaled + total / math.factorial(power + 2)
    return alpha * (alpha - 1) * ratio * ratio * series


BY_NAME: dict[str, Callable[..., Array]] = {
    "kl_policy_actor": kl,
    "kl_actor_policy": lambda policy_log_probs, actor_log_probs: kl(actor_log_probs, policy_log_probs),
    "total_variation": total_variation,
    "chi_square": chi_square,
}
"""The divergences in records, of (policy_log_probs, actor_log_probs): (..., vocab) → (...), KLs in nats."""
