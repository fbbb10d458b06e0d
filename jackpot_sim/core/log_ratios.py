"""Statistics of log-ratios and weights, per token and per sequence, as frameworks log them.

The tokens are those that the actor wrote: ℓ = log p − log q, policy over actor, r = e^ℓ. The last axis is
time, and a mask is True on tokens that count; the other tokens may hold anything. The corrections that are
masks bound the same statistics.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TypeVar, cast

from jackpot_sim.core.arrays import Array, Floats
from jackpot_sim.core.backend import as_array, floating, namespace, overflow_to_inf
from jackpot_sim.core.checks import check_mask
from jackpot_sim.core.numerics import exp_remainder

A = TypeVar("A", bound=Array)
F = TypeVar("F", float, Floats, Array)


class Aggregate(StrEnum):
    """The ways to aggregate the values of a sequence's tokens."""

    SUM = "sum"
    """The sum; of ℓ it is S = log p(y)/q(y)."""
    MEAN = "mean"
    """The mean over the tokens that count; of ℓ it is G, so that e^G is the geometric mean of r."""
    MAX = "max"
    """The maximum over the tokens that count."""


def k1(log_ratio: Array) -> Array:
    """k1 = −ℓ, elementwise, nats; its mean over the actor's tokens estimates KL(q‖p) without bias.

    Because of its sign verl's k1 bounds act on 1/r (verl `rollout_corr/kl`, slime `mis_kl`).
    """
    return -log_ratio


def k2(log_ratio: Array) -> Array:
    """k2 = ℓ²/2, elementwise, nats²: a biased estimate of a small KL, with little variance (verl `*_k2`)."""
    return log_ratio * log_ratio / 2


def k3(log_ratio: Array) -> Array:
    """k3 = r − 1 − ℓ ≥ 0, elementwise, nats: unbiased like k1, with less variance (verl `k3_kl`)."""
    with overflow_to_inf():
        return exp_remainder(log_ratio)


def aggregate(values: Array, mask: Array, how: Aggregate) -> Array:
    """The sum, mean or maximum over the tokens of each sequence.

    A sequence with a token at −inf gets −inf, even if another token is at +inf: where the values are
    log-ratios, the policy can never write it, so that p(y)/q(y) = 0. A sequence without tokens gets 0.

    Args:
        values: shape (..., length); log-ratios, or k-statistics for MAX.
        mask: the same shape, boolean.
        how: sum, mean or max.

    Returns:
        Shape (..., 1).

    Raises:
        TypeError: `mask` is not boolean, or the values are no real floating numbers.
        ValueError: the shapes differ, or are ().
    """
    values = floating(values, "values")
    check_mask(mask, values, "values")
    if values.ndim == 0:
        raise ValueError("values has shape (): it must be (..., length), with the tokens along the last axis")
    xp = namespace(values, mask)
    if how is Aggregate.MAX and values.shape[-1]:
        largest = xp.max(xp.where(mask, values, -math.inf), axis=-1, keepdims=True)
        return xp.where(xp.any(mask, axis=-1, keepdims=True), largest, 0.0)
    values = xp.where(mask, values, 0.0)
    impossible = xp.any(values == -math.inf, axis=-1, keepdims=True)
    total = xp.sum(xp.where(impossible, 0.0, values), axis=-1, keepdims=True)
    if how is Aggregate.MEAN:
        count = xp.sum(xp.astype(mask, values.dtype), axis=-1, keepdims=True)
        total = total / xp.where(count > 0, count, 1.0)
    return xp.where(impossible, -math.inf, total)


def chi_square_term(log_ratio: A) -> A:
    """r² − 1, elementwise; its mean over the actor's tokens, or sequences, estimates χ²(p‖q)."""
    return cast("A", namespace(log_ratio).expm1(2 * log_ratio))


def ess_fraction(weight: F, square: F, units: F) -> F:
    """(Σ w)²/(n · Σ w²), elementwise: the effective sample size as a share of the n samples.

    Args:
        weight: Σ w, or the mean of w where n is 1.
        square: Σ w², or the mean of w².
        units: n.
    """
    return weight**2 / (square * units)


def chi_square(log_ratio: Array, mask: Array | None = None, how: Aggregate | None = None) -> Array:
    """The estimate of χ²(p‖q) from the actor's tokens: the mean of a squared ratio, less 1. A scalar array.

    >>> import numpy as np
    >>> log_ratio = np.log([[2.0, 0.5], [1.0, 3.0]])
    >>> [round(float(chi_square(log_ratio, how=how)), 2) for how in (None, Aggregate.SUM, Aggregate.MEAN)]
    [2.56, 4.0, 1.0]

    Args:
        log_ratio: ℓ, shape (..., length), nats.
        mask: the same shape, boolean; None: every token counts.
        how: None takes the mean of r² over tokens (verl `chi2_token`), SUM the mean of e^{2S} over
            sequences (verl `chi2_seq`), MEAN the mean of e^{2G} over sequences (ms-swift's χ² of sequences). verl
            clamps ℓ and S at ±20, and counts rows without a token as sequences of ratio 1.

    Raises:
        TypeError: `mask` is not boolean, or ℓ holds no real floating numbers.
        ValueError: no token counts, `how` is MAX, or the shapes differ.
    """
    if how is Aggregate.MAX:
        raise ValueError("chi_square: how must be sum or mean, or None for tokens, got max")
    log_ratio = floating(log_ratio, "log_ratio")
    live = _mask(log_ratio, mask, "log_ratio")
    xp = namespace(log_ratio, live)
    if how is not None:
        log_ratio = aggregate(log_ratio, live, how)
        live = xp.any(live, axis=-1, keepdims=True)
    with overflow_to_inf():
        return masked_mean(chi_square_term(log_ratio), live)


def perplexity_ratio(log_ratio: Array, mask: Array | None = None) -> Array:
    """The mean over sequences of e^{−G}, the policy's perplexity over the actor's (verl `ppl_ratio`). A scalar array.

    Args:
        log_ratio: ℓ, shape (..., length), nats; G is its mean over a sequence's tokens.
        mask: the same shape, boolean; None: every token counts. A sequence without tokens does not count.

    Raises:
        TypeError: `mask` is not boolean, or ℓ holds no real floating numbers.
        ValueError: no token counts, or the shapes differ.
    """
    log_ratio = floating(log_ratio, "log_ratio")
    live = _mask(log_ratio, mask, "log_ratio")
    xp = namespace(log_ratio, live)
    mean = aggregate(log_ratio, live, Aggregate.MEAN)
    with overflow_to_inf():
        return masked_mean(xp.exp(-mean), xp.any(live, axis=-1, keepdims=True))


def effective_sample_size(weight: Array, mask: Array | None = None) -> Array:
    """1/mean((w/w̄)²), the effective share of the samples under weights w, in [0, 1]. A scalar array.

    >>> import numpy as np
    >>> round(float(effective_sample_size(np.array([1.0, 1.0, 2.0]))), 3)
    0.889

    verl counts a sequence's weight once for each of its tokens, and its ESS is of weights clamped to [0, C].

    Args:
        weight: w ≥ 0, any shape. Infinite weights outweigh all others and count alike; if all weights are 0,
            the share is nan.
        mask: True on the weights that count, the same shape; None: all weights count.

    Raises:
        TypeError: `mask` is not boolean, or the weights are no real floating numbers.
        ValueError: no weight counts, or the shapes differ.
    """
    weight = floating(weight, "weight")
    live = _mask(weight, mask, "weight")
    xp = namespace(weight, live)
    weight = xp.where(live, weight, 0.0)
    peak = xp.max(weight)
    # Weights are relative to the largest, so that squares neither overflow nor vanish.
    largest = weight == peak
    share = xp.where(largest, 1.0, xp.where(largest, 0.0, weight) / xp.where(peak > 0, peak, 1.0))
    ess = ess_fraction(masked_mean(share, live), masked_mean(share * share, live), xp.ones_like(peak))
    return xp.where(peak > 0, ess, math.nan)


def masked_mean(values: Array, mask: Array | None = None) -> Array:
    """The mean of the values that count, a scalar array; of k1 and k3 it is verl's `kl` and `k3_kl`.

    Args:
        values: any shape.
        mask: True on the values that count, the same shape; None: all values count.

    Raises:
        TypeError: `mask` is not boolean, or the values are no real floating numbers.
        ValueError: no value counts, or the shapes differ.
    """
    values = floating(values, "values")
    live = _mask(values, mask, "values")
    xp = namespace(values, live)
    return xp.sum(xp.where(live, values, 0.0)) / xp.sum(as_array(live, values))


def _mask(values: Array, mask: Array | None, name: str) -> Array:
    """`mask`, checked, or one that is True everywhere; refused if it is True nowhere."""
    xp = namespace(values)
    live = xp.ones_like(values, dtype=xp.bool) if mask is None else check_mask(mask, values, name)
    if not bool(namespace(live).any(live)):
        raise ValueError("mask leaves nothing to average: no position counts")
    return live
