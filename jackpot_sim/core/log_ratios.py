"""Statistics of log-ratios and of weights, of tokens and of whole sequences, as frameworks log them.

The tokens are those that the actor wrote: ℓ = log p − log q, policy over actor, r = e^ℓ. The last axis is
time, and a mask is True on tokens that count; the other tokens may hold anything. The masks among the
corrections bound the same statistics.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TypeVar, cast

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.backend import Array, as_array, floating, namespace
from jackpot_sim.core.numerics import exp_remainder, overflow_to_inf

A = TypeVar("A", bound=Array)
F = TypeVar("F", float, Floats, Array)


class Aggregate(StrEnum):
    """The ways to aggregate the values of a sequence's tokens."""

    SUM = "sum"
    """Σ: of ℓ, S = log p(y)/q(y)."""
    MEAN = "mean"
    """The mean over the tokens that count: of ℓ, G, so that e^G is the geometric mean of r."""
    MAX = "max"
    """The largest."""


def k1(log_ratio: Array) -> Array:
    """k1 = −ℓ, elementwise, nats; its mean over the actor's tokens estimates KL(q‖p) without bias.

    Its sign is what makes verl's k1 bounds act on 1/r (verl `rollout_corr/kl`, slime `mis_kl`).
    """
    return -log_ratio


def k2(log_ratio: Array) -> Array:
    """k2 = ℓ²/2, elementwise, nats²: at small ℓ the KL with little variance, biased (verl `*_k2`)."""
    return log_ratio * log_ratio / 2


def k3(log_ratio: Array) -> Array:
    """k3 = r − 1 − ℓ ≥ 0, elementwise, nats: as k1 without bias, with less variance (verl `k3_kl`)."""
    with overflow_to_inf():
        return exp_remainder(log_ratio)


def aggregate(values: Array, mask: Array, how: Aggregate) -> Array:
    """The value of each sequence from those of its tokens.

    A sequence with a token at −inf is at −inf, also if another is at +inf: of log-ratios, it is one
    that the policy can never write, so that p(y)/q(y) = 0. A sequence without tokens is at 0.

    Args:
        values: shape (..., length); log-ratios, or k-statistics for MAX.
        mask: the same shape, boolean.
        how: sum, mean or max.

    Returns:
        Shape (..., 1).
    """
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
    """(Σ w)²/(n · Σ w²): the effective sample size as a share of the n samples.

    Args:
        weight: Σ w, or its mean where n is 1.
        square: Σ w², or its mean.
        units: n.
    """
    return weight**2 / (square * units)


def chi_square(log_ratio: Array, mask: Array | None = None, how: Aggregate | None = None) -> Array:
    """χ²(p‖q) as the actor's tokens estimate it: the mean of a squared ratio, less 1. A scalar array.

    >>> import numpy as np
    >>> log_ratio = np.log([[2.0, 0.5], [1.0, 3.0]])
    >>> [round(float(chi_square(log_ratio, how=how)), 2) for how in (None, Aggregate.SUM, Aggregate.MEAN)]
    [2.56, 4.0, 1.0]

    Args:
        log_ratio: ℓ, shape (..., length), nats.
        mask: the same shape, boolean; None: every token counts.
        how: None for the mean of r² over tokens (verl `chi2_token`), SUM for that of e^{2S} over
            sequences (verl `chi2_seq`), MEAN for that of e^{2G} (ms-swift calls this one the sequences').

    Raises:
        ValueError: no token counts, or `how` is MAX.
    """
    if how is Aggregate.MAX:
        raise ValueError("chi_square: how must be sum or mean, or None for tokens, got max")
    log_ratio = floating(log_ratio)
    live = _mask(log_ratio, mask)
    xp = namespace(log_ratio, live)
    if how is not None:
        log_ratio = aggregate(log_ratio, live, how)
        live = xp.any(live, axis=-1, keepdims=True)
    with overflow_to_inf():
        return masked_mean(chi_square_term(log_ratio), live)


def effective_sample_size(weight: Array, mask: Array | None = None) -> Array:
    """1/mean((w/w̄)²), the share of the samples that the weights leave, in [0, 1]. A scalar array.

    >>> import numpy as np
    >>> round(float(effective_sample_size(np.array([1.0, 1.0, 2.0]))), 3)
    0.889

    verl clamps the weights to [1/C, C] first, and counts a sequence's weight once for each of its tokens.

    Args:
        weight: w ≥ 0, any shape. nan where all are 0; infinite weights count for all there is.
        mask: True on the weights that count, the same shape; None: all.

    Raises:
        ValueError: no weight counts.
    """
    weight = floating(weight)
    live = _mask(weight, mask)
    xp = namespace(weight, live)
    weight = xp.where(live, weight, 0.0)
    peak = xp.max(weight)
    # Relative to the largest, so that squares neither overflow nor vanish.
    largest = weight == peak
    share = xp.where(largest, 1.0, xp.where(largest, 0.0, weight) / xp.where(peak > 0, peak, 1.0))
    ess = ess_fraction(masked_mean(share, live), masked_mean(share * share, live), xp.ones_like(peak))
    return xp.where(peak > 0, ess, math.nan)


def masked_mean(values: Array, mask: Array | None = None) -> Array:
    """The mean over all that counts, of any shape: of k1 or k3 over tokens, verl's `kl` and `k3_kl`.

    Raises:
        ValueError: nothing counts.
    """
    live = _mask(values, mask)
    xp = namespace(values, live)
    return xp.sum(xp.where(live, values, 0.0)) / xp.sum(as_array(live, values))


def _mask(values: Array, mask: Array | None) -> Array:
    """`mask`, or one that is True everywhere; refused where nothing is."""
    xp = namespace(values)
    live = xp.ones_like(values, dtype=xp.bool) if mask is None else mask
    if not bool(xp.any(live)):
        raise ValueError("mask leaves nothing to average: no position counts")
    return live
