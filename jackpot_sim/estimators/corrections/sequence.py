"""Corrections that look at a whole sequence: one weight for all its tokens, or keep or drop it.

S = Σ_t ℓ_t over the tokens that count, G = S/|y|, so that e^S = p(y)/q(y) and e^G is the geometric mean
of r. Untruncated e^S is unbiased ([L] Liu & Li, 2025), and for independent states of equal χ² its second
moment is (1+χ²)^|y|; everything else here buys variance with bias. "Sequence" means e^S in TRL, verl and
SkyRL, as it does here, and e^G in ms-swift and AReaL: that is `geometric-*`.

A sequence that the policy can never write (some ℓ = −inf) has e^S = e^G = 0, whatever its other tokens.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jackpot_sim.core.backend import Array, as_array, namespace
from jackpot_sim.core.log_ratios import Aggregate as Aggregate
from jackpot_sim.core.log_ratios import aggregate, k2, k3
from jackpot_sim.core.numerics import overflow_to_inf
from jackpot_sim.estimators.corrections.correction import (
    Correction,
    Level,
    TokenWeights,
    live_tokens,
    log_band,
    log_of,
    only_live,
    register,
    require_band,
    require_positive,
)


class SequenceCorrection(Correction):
    """A correction of tokens by the sequence that they are in. A subclass says what a and w are."""

    _needs_advantages: ClassVar[bool] = False

    @property
    def level(self) -> Level:
        """SEQUENCE."""
        return Level.SEQUENCE

    def weights(
        self,
        log_ratio: Array,
        overlap: Array | None = None,
        *,
        log_reference_ratio: Array | None = None,
        mask: Array | None = None,
        advantages: Array | None = None,
    ) -> TokenWeights:
        """See `Correction.weights`. Every token of a sequence has the sequence's pair, unless a subclass says more."""
        log_ratio, mask = live_tokens(self, log_ratio, mask)
        signs = self._advantages(log_ratio, mask, advantages) if self._needs_advantages else None
        with overflow_to_inf():
            pair = TokenWeights(self.accept(log_ratio, mask, signs), self.weight(log_ratio, mask))
        return only_live(pair, mask)

    def accept(self, log_ratio: Array, mask: Array, advantages: Array | None) -> Array:
        """a in [0, 1] of each token (..., length), or of each sequence (..., 1).

        Args:
            log_ratio: ℓ, shape (..., length); 0 at masked tokens.
            mask: the same shape.
            advantages: the same shape, 0 at masked tokens, for a correction that needs them.
        """
        return namespace(log_ratio).ones_like(log_ratio)

    def weight(self, log_ratio: Array, mask: Array) -> Array:
        """w ≥ 0; arguments and shapes as in `accept`."""
        return namespace(log_ratio).ones_like(log_ratio)

    def _advantages(self, log_ratio: Array, mask: Array, advantages: Array | None) -> Array:
        xp = namespace(log_ratio)
        if advantages is None:
            raise ValueError(f"{self.name} needs advantages: pass one per sequence, shape (..., 1), or one per token")
        try:
            known = xp.where(mask, as_array(advantages, log_ratio), 0.0)
        except (RuntimeError, ValueError):
            known = None
        if known is None or known.shape != log_ratio.shape:
            raise ValueError(
                f"advantages has shape {tuple(advantages.shape)}: it does not broadcast against log_ratio, "
                f"of shape {tuple(log_ratio.shape)} (one per sequence has shape (..., 1))"
            )
        if bool(xp.any(xp.isnan(known))):
            raise ValueError(f"advantages holds NaN: {self.name} cannot tell its sign")
        return known


class _Aggregated(SequenceCorrection):
    """One that looks at the sequence through one number; `aggregate` is a field of each subclass."""

    aggregate: Aggregate
    _may_be_largest: ClassVar[bool] = False

    def __post_init__(self) -> None:
        known = [each.value for each in Aggregate if self._may_be_largest or each is not Aggregate.MAX]
        if self.aggregate not in known:
            raise ValueError(f"{self.name}: aggregate must be one of {', '.join(known)}, got {self.aggregate!r}")
        object.__setattr__(self, "aggregate", Aggregate(self.aggregate))

    def _kept(self, statistic: Array, low: float, high: float) -> Array:
        return namespace(statistic).astype((statistic >= low) & (statistic <= high), statistic.dtype)


@register("sequence-is")
@dataclass(frozen=True)
class SequenceImportanceSampling(_Aggregated):
    """(1, e^S): unbiased on the actor's support, with a variance that grows like (1+χ²)^|y| ([L])."""

    aggregate: Aggregate = Aggregate.SUM

    def weight(self, log_ratio: Array, mask: Array) -> Array:
        """w = e^S, or e^G."""
        return namespace(log_ratio).exp(aggregate(log_ratio, mask, self.aggregate))


@register("geometric-is")
@dataclass(frozen=True)
class GeometricImportanceSampling(SequenceImportanceSampling):
    """(1, e^G): of the order of 1 at any length, and biased. ms-swift and AReaL call it "sequence"."""

    aggregate: Aggregate = Aggregate.MEAN


@register("sequence-tis")
@dataclass(frozen=True)
class SequenceTruncatedImportanceSampling(_Aggregated):
    """(1, min(e^S, C)): truncated (verl with C = 2, SkyRL 5, TRL `sequence_truncate`)."""

    clip: float = 2.0
    """C > 0."""
    aggregate: Aggregate = Aggregate.SUM

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "clip")

    def weight(self, log_ratio: Array, mask: Array) -> Array:
        """w = min(e^S, C), or min(e^G, C)."""
        xp = namespace(log_ratio)
        return xp.exp(xp.minimum(aggregate(log_ratio, mask, self.aggregate), log_of(self.clip, log_ratio)))


@register("geometric-tis")
@dataclass(frozen=True)
class GeometricTruncatedImportanceSampling(SequenceTruncatedImportanceSampling):
    """(1, min(e^G, C)): what ms-swift (C = 2) and AReaL (C = 5) call "sequence"."""

    aggregate: Aggregate = Aggregate.MEAN


@register("sequence-mis")
@dataclass(frozen=True)
class SequenceMaskedImportanceSampling(SequenceImportanceSampling):
    """(1[low ≤ e^S ≤ high], e^S): TRL's default, `sequence_mask` with at most 3; SkyRL 0.5-2."""

    low: float = 0.0
    """Smallest ratio kept."""
    high: float = 3.0
    """Largest ratio kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_band(self)

    def accept(self, log_ratio: Array, mask: Array, advantages: Array | None) -> Array:
        """a = 1[low ≤ e^S ≤ high], or of e^G."""
        return self._kept(aggregate(log_ratio, mask, self.aggregate), *log_band(self.low, self.high))


@register("geometric-mis")
@dataclass(frozen=True)
class GeometricMaskedImportanceSampling(SequenceMaskedImportanceSampling):
    """(1[low ≤ e^G ≤ high], e^G): "sequence" masking in ms-swift and AReaL."""

    aggregate: Aggregate = Aggregate.MEAN


@register("sequence-mask-k1")
@dataclass(frozen=True)
class SequenceRatioMask(_Aggregated):
    """(1[low ≤ e^G ≤ high], 1): the geometric mask (verl `seq_mean_k1` 0.999-1.001, SkyRL 0.99-1.01).

    verl bounds the sum or mean of k1 = −ℓ by log low and log high, which is low ≤ 1/ratio ≤ high:
    `inverted` does the same.
    """

    low: float = 0.999
    """Smallest ratio kept."""
    high: float = 1.001
    """Largest ratio kept."""
    aggregate: Aggregate = Aggregate.MEAN
    inverted: bool = False
    """Whether the bounds are on 1/ratio, as verl's are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_band(self)

    def accept(self, log_ratio: Array, mask: Array, advantages: Array | None) -> Array:
        """a = 1[low ≤ e^G ≤ high], or of e^S."""
        band = log_band(self.low, self.high, self.inverted)
        return self._kept(aggregate(log_ratio, mask, self.aggregate), *band)


class _StatisticMask(_Aggregated):
    """Keeps sequences whose aggregated statistic is at most `bound`."""

    _may_be_largest = True
    bound: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "bound")

    @abstractmethod
    def _statistic(self, log_ratio: Array) -> Array:
        """Of each token."""

    def accept(self, log_ratio: Array, mask: Array, advantages: Array | None) -> Array:
        """a = 1[the statistic's sum, mean or max ≤ bound]."""
        return self._kept(aggregate(self._statistic(log_ratio), mask, self.aggregate), -math.inf, self.bound)


@register("sequence-mask-k2")
@dataclass(frozen=True)
class SequenceSquaredMask(_StatisticMask):
    """(1[max ℓ²/2 ≤ b], 1): by the k2 statistic; verl's examples run `seq_max_k2` at 2.5."""

    bound: float = 2.5
    """b > 0, nats²."""
    aggregate: Aggregate = Aggregate.MAX

    def _statistic(self, log_ratio: Array) -> Array:
        return k2(log_ratio)


@register("sequence-mask-k3")
@dataclass(frozen=True)
class SequenceBregmanMask(_StatisticMask):
    """(1[mean (r − 1 − ℓ) ≤ b], 1): by the k3 statistic; verl's presets run `seq_mean_k3` at 0.01."""

    bound: float = 0.01
    """b > 0, nats."""
    aggregate: Aggregate = Aggregate.MEAN

    def _statistic(self, log_ratio: Array) -> Array:
        return k3(log_ratio)


@register("gspo")
@dataclass(frozen=True)
class SequencePolicyOptimisation(SequenceCorrection):
    """The gradient of GSPO's min(s·A, clip(s, 1−low, 1+high)·A) with s = e^G (arXiv 2507.18071).

    Weight s, and accept 0 where the clip is what counts: A > 0 and s > 1+high, or A < 0 and s < 1−low.
    ∇s = s·(1/|y|)·Σ_t ∇ log p, of which the 1/|y| belongs to the loss aggregation and is not in here.
    """

    _needs_advantages = True
    low: float = 3e-4
    """How far s may fall below 1 where A < 0, in [0, 1]."""
    high: float = 4e-4
    """How far s may rise above 1 where A > 0, ≥ 0."""

    def __post_init__(self) -> None:
        if not (0 <= self.low <= 1 and self.high >= 0):
            raise ValueError(f"{self.name}: low must lie in [0, 1] and high be >= 0, got {self.low} and {self.high}")

    def accept(self, log_ratio: Array, mask: Array, advantages: Array | None) -> Array:
        """a = 0 where the objective is clipped, and so has no gradient."""
        mean, sign = aggregate(log_ratio, mask, Aggregate.MEAN), as_array(advantages, log_ratio)
        low, high = log_band(1 - self.low, 1 + self.high)
        clipped = ((sign > 0) & (mean > high)) | ((sign < 0) & (mean < low))
        return namespace(mean).astype(~clipped, mean.dtype)

    def weight(self, log_ratio: Array, mask: Array) -> Array:
        """w = e^G."""
        return namespace(log_ratio).exp(aggregate(log_ratio, mask, Aggregate.MEAN))


@register("veto")
@dataclass(frozen=True)
class Veto(SequenceCorrection):
    """(0 if any r < τ, 1): one token that the policy would hardly write costs the sequence (slime)."""

    threshold: float = 1e-4
    """τ > 0."""

    def __post_init__(self) -> None:
        require_positive(self, "threshold", infinite=False)

    def accept(self, log_ratio: Array, mask: Array, advantages: Array | None) -> Array:
        """a = 1[r ≥ τ at every token]."""
        xp = namespace(log_ratio)
        vetoed = xp.any(mask & (log_ratio < math.log(self.threshold)), axis=-1, keepdims=True)
        return xp.astype(~vetoed, log_ratio.dtype)


@register("opsm")
@dataclass(frozen=True)
class OffPolicySequenceMask(SequenceCorrection):
    """(0 if A < 0 and mean(−ℓ) > δ, 1): drops what was bad and is no longer likely (slime)."""

    _needs_advantages = True
    delta: float = 1e-4
    """δ > 0, nats per token."""

    def __post_init__(self) -> None:
        require_positive(self, "delta")

    def accept(self, log_ratio: Array, mask: Array, advantages: Array | None) -> Array:
        """a = 1 − 1[A < 0]·1[−G > δ]."""
        drifted = aggregate(log_ratio, mask, Aggregate.MEAN) < -self.delta
        return namespace(log_ratio).astype(~((as_array(advantages, log_ratio) < 0) & drifted), log_ratio.dtype)
