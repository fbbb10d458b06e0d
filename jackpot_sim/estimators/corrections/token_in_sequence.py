"""Corrections that weigh each token by itself, with its sequence in view: what came before it, or the whole.

Their weights differ from token to token, as those of token-level corrections do, but take the rest of the sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from typing_extensions import override

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import cumulative_minimum, namespace
from jackpot_sim.core.log_ratios import Aggregate, aggregate
from jackpot_sim.estimators.corrections.correction import Level
from jackpot_sim.estimators.corrections.inputs import Tokens, given
from jackpot_sim.estimators.corrections.parameters import log_band, require_band, require_positive
from jackpot_sim.estimators.corrections.registry import register
from jackpot_sim.estimators.corrections.sequence import SequenceCorrection


@register("geometric-band-is")
@dataclass(frozen=True)
class GeometricBandImportanceSampling(SequenceCorrection):
    """(1[low ≤ e^G ≤ high], r): untruncated r inside a geometric band (NeMo-RL and Tunix, `seq-mask-tis`).

    It is `is` beside `sequence-mask-k1` under one name.
    """

    low: float = 0.999
    """Smallest geometric mean of r kept."""
    high: float = 1.002
    """Largest geometric mean of r kept."""

    def __post_init__(self) -> None:
        require_band(self)

    @override
    def accept(self, tokens: Tokens) -> Array:
        """a = 1[low ≤ e^G ≤ high]."""
        mean = aggregate(tokens.log_ratio, tokens.live, Aggregate.MEAN)
        low, high = log_band(self.low, self.high)
        return namespace(mean).astype((mean >= low) & (mean <= high), mean.dtype)

    @override
    def outside(self, tokens: Tokens) -> tuple[Array, Array]:
        mean = aggregate(tokens.log_ratio, tokens.live, Aggregate.MEAN)
        low, high = log_band(self.low, self.high)
        return mean < low, mean > high

    @override
    def weight(self, tokens: Tokens) -> Array:
        """w = r."""
        return namespace(tokens.log_ratio).exp(tokens.log_ratio)


class _OneByOne(SequenceCorrection):
    """A correction whose self-normalised weights are averaged over tokens."""

    @property
    @override
    def unit(self) -> Level:
        return Level.TOKEN


@register("minpro")
@dataclass(frozen=True)
class MinimumPrefixRatio(_OneByOne):
    """(1, r_t · min_{i<t} r_i): MinPRO, the smallest ratio of the prefix in place of their product (arXiv 2601.22718).

    The first token of a sequence has the weight r. A token that follows one with r = 0 has the weight 0.
    """

    @override
    def weight(self, tokens: Tokens) -> Array:
        """w = r_t · min_{i<t} r_i."""
        log_ratio = tokens.log_ratio
        xp = namespace(log_ratio)
        smallest = cumulative_minimum(xp.where(tokens.live, log_ratio, math.inf))
        count = xp.cumulative_sum(xp.astype(tokens.live, xp.int64), axis=-1)
        # Moved on by one, so that a token does not see itself; before the first token that counts there is no factor.
        start = xp.zeros_like(log_ratio[..., :1])
        moved = xp.concat([start, xp.where(count > 0, smallest, 0.0)[..., :-1]], axis=-1)
        impossible = (log_ratio == -math.inf) | (moved == -math.inf)
        return xp.exp(xp.where(impossible, -math.inf, log_ratio + xp.where(impossible, 0.0, moved)))


@register("vaco")
@dataclass(frozen=True)
class TotalVariationFilter(_OneByOne):
    """(0 where mean |r − 1| of the sequence exceeds b and A·ℓ > 0, 1): the filter of VACO (arXiv 2603.01365).

    The mean of |r − 1| over the actor's tokens estimates 2·TV. In a sequence that is too far away, it drops the tokens
    whose update would take p further from q. A token with A = 0 stays.
    """

    _looks_at = frozenset({"advantages"})
    bound: float = 0.2
    """b > 0. The default is ours: open-instruct leaves its bound unset."""

    def __post_init__(self) -> None:
        require_positive(self, "bound")

    @override
    def accept(self, tokens: Tokens) -> Array:
        """a = 1 − 1[mean |r − 1| > b]·1[A·ℓ > 0]."""
        sign, log_ratio = given(tokens.advantages), tokens.log_ratio
        xp = namespace(log_ratio)
        distance = aggregate(xp.abs(xp.expm1(log_ratio)), tokens.live, Aggregate.MEAN)
        widened = ((sign > 0) & (log_ratio > 0)) | ((sign < 0) & (log_ratio < 0))
        return xp.astype(~(widened & (distance > self.bound)), log_ratio.dtype)
