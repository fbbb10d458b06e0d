"""Corrections that look at a whole sequence: one weight for all its tokens, or a mask on all of them.

S = Σ_t ℓ_t over the tokens that count, G = S/|y|, so that e^S = p(y)/q(y) and e^G is the geometric mean
of r. Untruncated e^S is unbiased ([L] Liu & Li, 2025), and for independent states of equal χ² its second
moment is (1+χ²)^|y|; all other corrections here accept a bias for less variance. "Sequence" means e^S in TRL,
verl and SkyRL, as it does here; it means e^G in ms-swift and AReaL, which is `geometric-*` here.

A sequence that the policy can never write (some ℓ = −inf) has e^S = e^G = 0, whatever its other tokens.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import namespace
from jackpot_sim.core.log_ratios import Aggregate, aggregate, k2, k3
from jackpot_sim.estimators.corrections.correction import Correction, Level
from jackpot_sim.estimators.corrections.inputs import Tokens
from jackpot_sim.estimators.corrections.parameters import log_band, log_of, require_band, require_positive
from jackpot_sim.estimators.corrections.registry import register


@dataclass(frozen=True)
class SequenceCorrection(Correction):
    """A correction of tokens by the sequence that they belong to. A subclass defines a and w."""

    @property
    @override
    def level(self) -> Level:
        return Level.SEQUENCE


class _Aggregated(SequenceCorrection):
    """A correction by one number per sequence; `aggregate` is a field of each subclass."""

    aggregate: Aggregate
    _may_be_largest: ClassVar[bool] = False

    def __post_init__(self) -> None:
        known = [each.value for each in Aggregate if self._may_be_largest or each is not Aggregate.MAX]
        if self.aggregate not in known:
            raise ValueError(f"{self.name}: aggregate must be one of {', '.join(known)}, got {self.aggregate!r}")
        object.__setattr__(self, "aggregate", Aggregate(self.aggregate))

    def _aggregated(self, tokens: Tokens) -> Array:
        """S or G, shape (..., 1)."""
        return aggregate(tokens.log_ratio, tokens.live, self.aggregate)

    def _kept(self, statistic: Array, low: float, high: float) -> Array:
        return namespace(statistic).astype((statistic >= low) & (statistic <= high), statistic.dtype)


@register("sequence-is")
@dataclass(frozen=True)
class SequenceImportanceSampling(_Aggregated):
    """(1, e^S): unbiased on the actor's support, with a variance that grows like (1+χ²)^|y| ([L])."""

    aggregate: Aggregate = Aggregate.SUM

    @override
    def weight(self, tokens: Tokens) -> Array:
        """w = e^S, or e^G."""
        return namespace(tokens.log_ratio).exp(self._aggregated(tokens))


@register("geometric-is")
@dataclass(frozen=True)
class GeometricImportanceSampling(SequenceImportanceSampling):
    """(1, e^G): of the order of 1 at any length, and biased ("sequence" in ms-swift and AReaL)."""

    aggregate: Aggregate = Aggregate.MEAN


@register("sequence-tis")
@dataclass(frozen=True)
class SequenceTruncatedImportanceSampling(_Aggregated):
    """(1, min(e^S, C)): truncated (verl with C = 2, SkyRL 5, TRL `sequence_truncate`).

    With a floor the weight is min(max(e^S, floor), C) (OpenRLHF).
    """

    _threshold: ClassVar[str | None] = "clip"
    clip: float = 2.0
    """C > 0."""
    floor: float = 0.0
    """The smallest weight, in [0, C]."""
    aggregate: Aggregate = Aggregate.SUM

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "clip")
        if not 0 <= self.floor <= self.clip:
            raise ValueError(f"{self.name}: floor must lie between 0 and clip, got {self.floor} and {self.clip}")

    @override
    def outside(self, tokens: Tokens) -> tuple[Array, Array]:
        total = self._aggregated(tokens)
        floor = math.log(self.floor) if self.floor > 0 else -math.inf
        return total < floor, total > math.log(self.clip)

    @override
    def weight(self, tokens: Tokens) -> Array:
        """w = min(max(e^S, floor), C), or with e^G."""
        xp, total = namespace(tokens.log_ratio), self._aggregated(tokens)
        if self.floor > 0:
            total = xp.maximum(total, log_of(self.floor, total))
        return xp.exp(xp.minimum(total, log_of(self.clip, total)))


@register("geometric-tis")
@dataclass(frozen=True)
class GeometricTruncatedImportanceSampling(SequenceTruncatedImportanceSampling):
    """(1, min(e^G, C)): "sequence" truncation in ms-swift (C = 2) and AReaL (C = 5)."""

    aggregate: Aggregate = Aggregate.MEAN


@register("sequence-mis")
@dataclass(frozen=True)
class SequenceMaskedImportanceSampling(SequenceImportanceSampling):
    """(1[low ≤ e^S ≤ high], e^S): TRL's default, `sequence_mask` with at most 3; SkyRL 0.5-2.

    verl's IcePop of sequences has these weights, and keeps a sequence of weight 0 in the count of tokens, which is
    the `proposed` denominator here.
    """

    _threshold: ClassVar[str | None] = "high"
    low: float = 0.0
    """Smallest ratio kept."""
    high: float = 3.0
    """Largest ratio kept."""

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        require_band(self)

    @override
    def accept(self, tokens: Tokens) -> Array:
        """a = 1[low ≤ e^S ≤ high], or of e^G."""
        return self._kept(self._aggregated(tokens), *log_band(self.low, self.high))

    @override
    def outside(self, tokens: Tokens) -> tuple[Array, Array]:
        (low, high), total = log_band(self.low, self.high), self._aggregated(tokens)
        return total < low, total > high


@register("geometric-mis")
@dataclass(frozen=True)
class GeometricMaskedImportanceSampling(SequenceMaskedImportanceSampling):
    """(1[low ≤ e^G ≤ high], e^G): "sequence" masking in ms-swift and AReaL."""

    aggregate: Aggregate = Aggregate.MEAN


@register("sequence-mask-k1")
@dataclass(frozen=True)
class SequenceRatioMask(_Aggregated):
    """(1[low ≤ e^G ≤ high], 1): the geometric mask (verl `seq_mean_k1` 0.999-1.001, SkyRL 0.99-1.01).

    verl bounds the sum or mean of k1 = −ℓ by log low and log high, which means low ≤ 1/ratio ≤ high;
    `inverted` does the same.
    """

    _threshold: ClassVar[str | None] = "high"
    low: float = 0.999
    """Smallest ratio kept."""
    high: float = 1.001
    """Largest ratio kept."""
    aggregate: Aggregate = Aggregate.MEAN
    inverted: bool = False
    """True puts the bounds on 1/ratio, as verl does."""

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        require_band(self)

    @override
    def accept(self, tokens: Tokens) -> Array:
        """a = 1[low ≤ e^G ≤ high], or of e^S."""
        band = log_band(self.low, self.high, self.inverted)
        return self._kept(self._aggregated(tokens), *band)

    @override
    def outside(self, tokens: Tokens) -> tuple[Array, Array]:
        (low, high), total = log_band(self.low, self.high, self.inverted), self._aggregated(tokens)
        return total < low, total > high


class _StatisticMask(_Aggregated):
    """A mask that keeps sequences whose aggregated statistic is at most `bound`."""

    _may_be_largest = True
    _threshold: ClassVar[str | None] = "bound"
    bound: float

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "bound")

    @abstractmethod
    def _statistic(self, log_ratio: Array) -> Array:
        """The statistic of each token."""

    @override
    def accept(self, tokens: Tokens) -> Array:
        """a = 1[the statistic's sum, mean or max ≤ bound]."""
        return self._kept(
            aggregate(self._statistic(tokens.log_ratio), tokens.live, self.aggregate), -math.inf, self.bound
        )


@register("sequence-mask-k2")
@dataclass(frozen=True)
class SequenceSquaredMask(_StatisticMask):
    """(1[max ℓ²/2 ≤ b], 1): a mask on the k2 statistic; verl's examples run `seq_max_k2` at 2.5."""

    bound: float = 2.5
    """b > 0, nats²."""
    aggregate: Aggregate = Aggregate.MAX

    @override
    def _statistic(self, log_ratio: Array) -> Array:
        return k2(log_ratio)


@register("sequence-mask-k3")
@dataclass(frozen=True)
class SequenceBregmanMask(_StatisticMask):
    """(1[mean (r − 1 − ℓ) ≤ b], 1): a mask on the k3 statistic; verl's presets run `seq_mean_k3` at 0.01."""

    bound: float = 0.01
    """b > 0, nats."""
    aggregate: Aggregate = Aggregate.MEAN

    @override
    def _statistic(self, log_ratio: Array) -> Array:
        return k3(log_ratio)


@register("sequence-mask-error")
@dataclass(frozen=True)
class SequenceErrorMask(_StatisticMask):
    """(1[mean e^|ℓ| ≤ b], 1): a mask on the mean factor between p and q (NeMo-RL and Tunix, b = 2)."""

    bound: float = 2.0
    """b; a sequence without any mismatch has the mean 1."""
    aggregate: Aggregate = Aggregate.MEAN

    @override
    def _statistic(self, log_ratio: Array) -> Array:
        xp = namespace(log_ratio)
        return xp.exp(xp.abs(log_ratio))


@register("veto")
@dataclass(frozen=True)
class Veto(SequenceCorrection):
    """(0 if any r < τ, 1): drops sequences with a token that the policy would hardly write (slime)."""

    _threshold: ClassVar[str | None] = "threshold"
    threshold: float = 1e-4
    """τ > 0."""

    def __post_init__(self) -> None:
        require_positive(self, "threshold", infinite=False)

    @override
    def accept(self, tokens: Tokens) -> Array:
        """a = 1[r ≥ τ at every token]."""
        xp = namespace(tokens.log_ratio)
        vetoed = xp.any(tokens.live & (tokens.log_ratio < math.log(self.threshold)), axis=-1, keepdims=True)
        return xp.astype(~vetoed, tokens.log_ratio.dtype)
