"""Corrections of whole sequences that look at the sign of A: what clipped objectives of sequences do to a token.

The factor of A·∇log p is (a, w), so that an objective is its gradient here. The 1/|y| of a mean over the tokens of a
sequence belongs to the aggregation of the loss, and is part of no weight.
"""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import namespace
from jackpot_sim.core.log_ratios import Aggregate, aggregate
from jackpot_sim.estimators.corrections.inputs import Tokens, given
from jackpot_sim.estimators.corrections.parameters import log_band, require_positive
from jackpot_sim.estimators.corrections.registry import register
from jackpot_sim.estimators.corrections.sequence import SequenceCorrection

_SIGN = frozenset({"advantages"})


@register("gspo")
@dataclass(frozen=True)
class SequencePolicyOptimisation(SequenceCorrection):
    """The gradient of GSPO's min(s·A, clip(s, 1−low, 1+high)·A) with s = e^G (arXiv 2507.18071).

    The weight is s; accept is 0 where the clipped branch is the minimum, for A > 0 and s > 1+high or A < 0 and
    s < 1−low. ∇s = s·(1/|y|)·Σ_t ∇ log p; the factor 1/|y| belongs to the loss aggregation and is not included.
    """

    _looks_at = _SIGN
    low: float = 3e-4
    """The largest fall of s below 1 where A < 0, in [0, 1]."""
    high: float = 4e-4
    """The largest rise of s above 1 where A > 0, ≥ 0."""

    def __post_init__(self) -> None:
        if not (0 <= self.low <= 1 and self.high >= 0):
            raise ValueError(f"{self.name}: low must lie in [0, 1] and high be >= 0, got {self.low} and {self.high}")

    @override
    def accept(self, tokens: Tokens) -> Array:
        """a = 0 where the clipped objective has no gradient, else 1."""
        mean, sign = aggregate(tokens.log_ratio, tokens.live, Aggregate.MEAN), given(tokens.advantages)
        low, high = log_band(1 - self.low, 1 + self.high)
        clipped = ((sign > 0) & (mean > high)) | ((sign < 0) & (mean < low))
        return namespace(mean).astype(~clipped, mean.dtype)

    @override
    def weight(self, tokens: Tokens) -> Array:
        """w = e^G."""
        return namespace(tokens.log_ratio).exp(aggregate(tokens.log_ratio, tokens.live, Aggregate.MEAN))


@register("luspo")
@dataclass(frozen=True)
class LengthUnbiasedPolicyOptimisation(SequencePolicyOptimisation):
    """GSPO times the number of tokens: (as gspo, |y|·e^G), LUSPO (arXiv 2602.05261; TRL).

    The factor |y| undoes the 1/|y| of a loss that takes the mean over the tokens of each sequence. Where an update
    adds up the tokens of a sequence, as the moments of sequences do, gspo itself is LUSPO's update.
    """

    @override
    def weight(self, tokens: Tokens) -> Array:
        """w = |y|·e^G."""
        xp = namespace(tokens.log_ratio)
        length = xp.sum(xp.astype(tokens.live, tokens.log_ratio.dtype), axis=-1, keepdims=True)
        return length * super().weight(tokens)


@register("gmpo")
@dataclass(frozen=True)
class GeometricMeanPolicyOptimisation(SequenceCorrection):
    """The gradient of GMPO's A·(Π_t clip r_t)^(1/|y|) (arXiv 2507.20673; verl's geo_mean, TRL).

    Each token's ℓ is capped at `high` where A > 0, and at −`low` from below where A < 0. The weight is e to the mean
    of these, for all tokens of the sequence, and a token beyond its cap is dropped. With A = 0 nothing is capped.
    """

    _looks_at = _SIGN
    low: float = 0.4
    """The largest fall of ℓ below 0 where A < 0, nats, ≥ 0 (TRL; verl takes its clip ratio, 0.2)."""
    high: float = 0.4
    """The largest rise of ℓ above 0 where A > 0, nats, ≥ 0."""

    def __post_init__(self) -> None:
        if not (self.low >= 0 and self.high >= 0):
            raise ValueError(f"{self.name}: low and high must be >= 0, got {self.low} and {self.high}")

    def _capped(self, tokens: Tokens) -> Array:
        """True at the tokens beyond their cap."""
        sign, log_ratio = given(tokens.advantages), tokens.log_ratio
        return ((sign > 0) & (log_ratio > self.high)) | ((sign < 0) & (log_ratio < -self.low))

    @override
    def accept(self, tokens: Tokens) -> Array:
        """a = 0 where the cap leaves no gradient, else 1."""
        return namespace(tokens.log_ratio).astype(~self._capped(tokens), tokens.log_ratio.dtype)

    @override
    def weight(self, tokens: Tokens) -> Array:
        """w = e to the mean of the capped ℓ."""
        xp, ones = namespace(tokens.log_ratio), tokens.ones()
        cap = xp.where(given(tokens.advantages) > 0, self.high * ones, -self.low)
        capped = xp.where(self._capped(tokens), cap, tokens.log_ratio)
        return xp.exp(aggregate(capped, tokens.live, Aggregate.MEAN))


@register("vespo")
@dataclass(frozen=True)
class VariationalSoftPolicyOptimisation(SequenceCorrection):
    """(1, e^λ·s^k·e^(−λs)) with s = e^S: the weight of VESPO, 1 at s = 1 (arXiv 2602.10693; TRL, Unsloth).

    k and λ depend on the sign of A; A = 0, whose weight moves nothing, has those of A > 0 (TRL).
    """

    _looks_at = _SIGN
    k_positive: float = 2.0
    """k > 0 where A ≥ 0."""
    lambda_positive: float = 3.0
    """λ > 0 where A ≥ 0."""
    k_negative: float = 3.0
    """k > 0 where A < 0."""
    lambda_negative: float = 2.0
    """λ > 0 where A < 0."""

    def __post_init__(self) -> None:
        require_positive(self, "k_positive", "lambda_positive", "k_negative", "lambda_negative", infinite=False)

    @override
    def weight(self, tokens: Tokens) -> Array:
        """w = exp(λ + kS − λe^S)."""
        xp, ones = namespace(tokens.log_ratio), tokens.ones()
        bad = given(tokens.advantages) < 0
        k = xp.where(bad, self.k_negative * ones, self.k_positive)
        decay = xp.where(bad, self.lambda_negative * ones, self.lambda_positive)
        total = aggregate(tokens.log_ratio, tokens.live, Aggregate.SUM)
        # At S = inf the weight is 0, where kS − λe^S would be nan.
        endless = xp.exp(total) == float("inf")
        inside = xp.where(endless, 0.0, total)
        return xp.where(endless, 0.0, xp.exp(k * inside - decay * xp.expm1(inside)))


@register("opsm")
@dataclass(frozen=True)
class OffPolicySequenceMask(SequenceCorrection):
    """(0 if A < 0 and mean(−ℓ) > δ, 1): drops bad sequences that the policy no longer writes (slime)."""

    _looks_at = _SIGN
    delta: float = 1e-4
    """δ > 0, nats per token."""

    def __post_init__(self) -> None:
        require_positive(self, "delta")

    @override
    def accept(self, tokens: Tokens) -> Array:
        """a = 1 − 1[A < 0]·1[−G > δ]."""
        drifted = aggregate(tokens.log_ratio, tokens.live, Aggregate.MEAN) < -self.delta
        return namespace(tokens.log_ratio).astype(~((given(tokens.advantages) < 0) & drifted), tokens.log_ratio.dtype)
