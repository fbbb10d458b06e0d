"""Corrections of each token by its own importance ratio r = p/q.

The defaults are those of frameworks: TIS with C = 2 (verl, slime, SkyRL), IcePop with 0.5-5 (verl, OpenRLHF).
All bounds are on r, policy over actor; verl's `k1` bounds act on 1/r instead, as with `inverted`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from scipy.special import lambertw
from typing_extensions import override

from jackpot_sim.core.arrays import Array, Floats
from jackpot_sim.core.backend import namespace, to_numpy
from jackpot_sim.core.numerics import exp_remainder
from jackpot_sim.core.obrs import acceptance_probability
from jackpot_sim.estimators.corrections.correction import TokenCorrection
from jackpot_sim.estimators.corrections.inputs import Tokens
from jackpot_sim.estimators.corrections.parameters import Parameter, log_band, log_of, require_band, require_positive
from jackpot_sim.estimators.corrections.pieces import ONE, RATIO, Monomial, Piece, log, number
from jackpot_sim.estimators.corrections.registry import register


@register("none")
@dataclass(frozen=True)
class NoCorrection(TokenCorrection):
    """(1, 1): the actor's tokens are treated as if they were the policy's."""

    @override
    def pieces(self, overlap: Floats | None = None, sign: int = 0) -> tuple[Piece, ...]:
        return (Piece(math.inf, True, ONE, ONE),)


@register("is")
@dataclass(frozen=True)
class ImportanceSampling(TokenCorrection):
    """(1, r): unbiased on the actor's support, with unbounded variance (AReaL)."""

    c2: float | None = None
    """Cap on p_ref/p_new where the target is p_new; None refuses that target."""

    def __post_init__(self) -> None:
        require_positive(self, "c2")

    @override
    def weight(self, tokens: Tokens) -> Array:
        """w = r."""
        return tokens.ratio

    @override
    def pieces(self, overlap: Floats | None = None, sign: int = 0) -> tuple[Piece, ...]:
        return (Piece(math.inf, True, ONE, RATIO),)


@register("tis")
@dataclass(frozen=True)
class TruncatedImportanceSampling(TokenCorrection):
    """(1, min(r, C)): truncated importance sampling (FlashRL, verl, TRL).

    By I1 its effective law is that of OBRS at λ = C, so that by T2 it is the optimal correction among
    weights in [0, C] with the same mean. With a floor the weight is min(max(r, floor), C), which overweights
    tokens that the policy would hardly write (OpenRLHF, [0.5, 5]).
    """

    _threshold: ClassVar[str | None] = "clip"
    clip: Parameter = 2.0
    """C > 0."""
    floor: float = 0.0
    """The smallest weight, in [0, C]."""
    c2: float | None = None
    """Cap on p_ref/p_new where the target is p_new; None refuses that target."""

    def __post_init__(self) -> None:
        require_positive(self, "clip", "c2")
        if not ((self.floor >= 0) & (self.floor <= to_numpy(self.clip))).all():
            raise ValueError(f"{self.name}: floor must lie between 0 and clip, got {self.floor} and {self.clip}")

    @override
    def outside(self, tokens: Tokens) -> tuple[Array, Array]:
        log_ratio = tokens.log_ratio
        floor = math.log(self.floor) if self.floor > 0 else -math.inf
        return log_ratio < floor, log_ratio > log_of(self.clip, log_ratio)

    @override
    def weight(self, tokens: Tokens) -> Array:
        """w = min(max(r, floor), C)."""
        log_ratio = tokens.log_ratio
        xp = namespace(log_ratio)
        if self.floor > 0:
            log_ratio = xp.maximum(log_ratio, log_of(self.floor, log_ratio))
        return xp.exp(xp.minimum(log_ratio, log_of(self.clip, log_ratio)))

    @override
    def pieces(self, overlap: Floats | None = None, sign: int = 0) -> tuple[Piece, ...]:
        floor = (Piece(math.log(self.floor), True, ONE, Monomial(self.floor, 0)),) if self.floor > 0 else ()
        return (
            *floor,
            Piece(log(self.clip), True, ONE, RATIO),
            Piece(math.inf, True, ONE, Monomial(number(self.clip), 0)),
        )


@dataclass(frozen=True)
class _Band(TokenCorrection):
    """A mask that keeps the tokens whose log-ratio lies in a band, with weight `_kept`."""

    _kept: ClassVar[Monomial]

    @abstractmethod
    def _bounds(self) -> tuple[float, float]:
        """The band's ends in log r, both inside it."""

    @override
    def accept(self, tokens: Tokens) -> Array:
        """a = 1[low ≤ r ≤ high]."""
        (low, high), log_ratio = self._bounds(), tokens.log_ratio
        xp = namespace(log_ratio)
        return xp.astype((log_ratio >= low) & (log_ratio <= high), log_ratio.dtype)

    @override
    def outside(self, tokens: Tokens) -> tuple[Array, Array]:
        low, high = self._bounds()
        return tokens.log_ratio < low, tokens.log_ratio > high

    @override
    def pieces(self, overlap: Floats | None = None, sign: int = 0) -> tuple[Piece, ...]:
        low, high = self._bounds()
        dropped = Monomial(0.0, 0)
        return (
            Piece(low, False, dropped, self._kept),
            Piece(high, True, ONE, self._kept),
            Piece(math.inf, True, dropped, self._kept),
        )


@dataclass(frozen=True)
class _RatioBand(_Band):
    _threshold: ClassVar[str | None] = "high"
    low: float = 0.5
    """Smallest ratio kept."""
    high: float = 5.0
    """Largest ratio kept."""

    def __post_init__(self) -> None:
        require_band(self)
        require_positive(self, "c2")

    @override
    def _bounds(self) -> tuple[float, float]:
        return log_band(self.low, self.high)

    @override
    def kept_from(self, tokens: Tokens) -> Array:
        """r, or 1/r, the ratio that high bounds; inf below low, which stays as it is."""
        bounded = -tokens.log_ratio if getattr(self, "inverted", False) else tokens.log_ratio
        xp = namespace(bounded)
        return xp.where(bounded >= log_band(self.low, self.high)[0], xp.exp(bounded), math.inf)


@register("mis", "icepop")
@dataclass(frozen=True)
class MaskedImportanceSampling(_RatioBand):
    """(1[low ≤ r ≤ high], r): masked importance sampling, IcePop (Ling).

    A token outside the band is rejected. verl gives it a weight of 0 and keeps it in the count of tokens, which is
    the `proposed` denominator here.
    """

    _kept = RATIO
    c2: float | None = None
    """Cap on p_ref/p_new where the target is p_new; None refuses that target."""

    @override
    def weight(self, tokens: Tokens) -> Array:
        """w = r."""
        return tokens.ratio


@register("mask-k1")
@dataclass(frozen=True)
class RatioMask(_RatioBand):
    """(1[low ≤ r ≤ high], 1): a mask on the ratio itself (SkyRL, ROLL).

    verl's `token_k1` bounds −ℓ by log low and log high, which means low ≤ 1/r ≤ high: its "0.6_1.4" keeps
    r = 1.5 and drops r = 0.65. `inverted` does the same, for comparison.
    """

    _kept = ONE
    low: float = 0.8
    """Smallest ratio kept."""
    high: float = 1.2
    """Largest ratio kept."""
    inverted: bool = False
    """True puts the bounds on 1/r, as verl does."""
    c2: float | None = None
    """Cap on p_ref/p_new where the target is p_new; None refuses that target."""

    @override
    def _bounds(self) -> tuple[float, float]:
        return log_band(self.low, self.high, self.inverted)


@register("mask-k2")
@dataclass(frozen=True)
class SquaredMask(_Band):
    """(1[ℓ²/2 ≤ b], 1): a mask on the k2 statistic (verl)."""

    _kept = ONE
    _threshold: ClassVar[str | None] = "bound"
    bound: float = 0.02
    """b > 0, nats²."""
    c2: float | None = None
    """Cap on p_ref/p_new where the target is p_new; None refuses that target."""

    def __post_init__(self) -> None:
        require_positive(self, "bound", "c2")

    @override
    def _bounds(self) -> tuple[float, float]:
        half_width = math.sqrt(2 * self.bound)
        return -half_width, half_width

    @override
    def kept_from(self, tokens: Tokens) -> Array:
        """ℓ²/2."""
        return tokens.log_ratio**2 / 2


@register("mask-k3")
@dataclass(frozen=True)
class BregmanMask(_Band):
    """(1[r − 1 − ℓ ≤ b], 1): a mask on the k3 statistic (verl).

    The band's ends solve r − log r = 1 + b: r = −W(−e^−(1+b)) on the two real branches of Lambert's W.
    """

    _kept = ONE
    _threshold: ClassVar[str | None] = "bound"
    bound: float = 0.02
    """b > 0, nats."""
    c2: float | None = None
    """Cap on p_ref/p_new where the target is p_new; None refuses that target."""

    def __post_init__(self) -> None:
        require_positive(self, "bound", infinite=False)
        require_positive(self, "c2")

    @override
    def _bounds(self) -> tuple[float, float]:
        if self.bound > 700:  # e^−(1+b) leaves float64; log r = −(1+b) + r and r − log r = 1 + b by iteration
            high = 1 + self.bound
            for _ in range(50):
                high = 1 + self.bound + math.log(high)
            return -(1 + self.bound), math.log(high)
        inside = -math.exp(-(1 + self.bound))
        low, high = (-float(lambertw(inside, branch).real) for branch in (0, -1))
        return math.log(low), math.log(high)

    @override
    def kept_from(self, tokens: Tokens) -> Array:
        """r − 1 − ℓ."""
        return exp_remainder(tokens.log_ratio)


@register("obrs")
@dataclass(frozen=True)
class RejectionSampling(TokenCorrection):
    """(min(1, r/λ), 1): optimal budgeted rejection sampling, without a weight ([V])."""

    _threshold: ClassVar[str | None] = "lam"
    lam: Parameter = 1.0
    """λ > 0."""
    c2: float | None = None
    """Cap on p_ref/p_new where the target is p_new; None refuses that target."""

    def __post_init__(self) -> None:
        require_positive(self, "lam", infinite=False)
        require_positive(self, "c2")

    @override
    def accept(self, tokens: Tokens) -> Array:
        """a = min(1, r/λ)."""
        return acceptance_probability(tokens.log_ratio, self.lam)

    @property
    @override
    def draws_mask(self) -> bool:
        return True

    @override
    def pieces(self, overlap: Floats | None = None, sign: int = 0) -> tuple[Piece, ...]:
        return Piece(log(self.lam), True, Monomial(1 / number(self.lam), 1), ONE), Piece(math.inf, True, ONE, ONE)
