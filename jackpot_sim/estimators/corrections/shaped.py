"""Corrections of each token that reshape r by the sign of its advantage, or smoothly, without any mask.

The factor of A·∇log p is the weight here, so that what a framework writes as a loss is its gradient: SAPO's gate
4σ(τ(r−1))/τ becomes 4σ(1−σ)·r, since ∇r = r·∇log p. All three are meant for r = p_new/q with no PPO clip beside it:
with the target p_new, c2 = inf makes the update that of r = p_new/q.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from jackpot_sim.core.arrays import Array, Floats
from jackpot_sim.core.backend import namespace, to_numpy
from jackpot_sim.estimators.corrections.correction import TokenCorrection
from jackpot_sim.estimators.corrections.inputs import Tokens, given
from jackpot_sim.estimators.corrections.parameters import Parameter, log_of, require_positive
from jackpot_sim.estimators.corrections.pieces import ONE, RATIO, Monomial, Piece, log, number
from jackpot_sim.estimators.corrections.registry import register

_SIGN = frozenset({"advantages"})


@register("cispo")
@dataclass(frozen=True)
class ClippedWeight(TokenCorrection):
    """(1, clip(r, 1 − low, 1 + high)): CISPO (arXiv 2506.13585), whatever the sign of A.

    verl has 0.2 and 0.2; TRL, SkyRL and prime-rl have no lower end and at most 5, which is low = 1 and high = 4. The
    weight is that of tis(clip = 1 + high, floor = 1 − low).
    """

    _threshold: ClassVar[str | None] = "high"
    low: float = 0.2
    """The largest fall of the weight below 1, in [0, 1]."""
    high: Parameter = 0.2
    """The largest rise of the weight above 1, ≥ 0."""
    c2: float | None = None
    """Cap on p_ref/p_new where the target is p_new; None refuses that target."""

    def __post_init__(self) -> None:
        require_positive(self, "c2")
        if not (0 <= self.low <= 1 and (to_numpy(self.high) >= 0).all()):
            raise ValueError(f"{self.name}: low must lie in [0, 1] and high be >= 0, got {self.low} and {self.high}")

    @override
    def outside(self, tokens: Tokens) -> tuple[Array, Array]:
        log_ratio = tokens.log_ratio
        floor = math.log1p(-self.low) if self.low < 1 else -math.inf
        return log_ratio < floor, log_ratio > log_of(1 + self.high, log_ratio)

    @override
    def weight(self, tokens: Tokens) -> Array:
        """w = min(max(r, 1 − low), 1 + high)."""
        log_ratio = tokens.log_ratio
        xp = namespace(log_ratio)
        if self.low < 1:
            log_ratio = xp.maximum(log_ratio, log_of(1 - self.low, log_ratio))
        return xp.exp(xp.minimum(log_ratio, log_of(1 + self.high, log_ratio)))

    @override
    def pieces(self, overlap: Floats | None = None, sign: int = 0) -> tuple[Piece, ...]:
        floor, most = 1 - self.low, 1 + number(self.high)
        raised = (Piece(math.log(floor), True, ONE, Monomial(floor, 0)),) if floor > 0 else ()
        return (*raised, Piece(log(most), True, ONE, RATIO), Piece(math.inf, True, ONE, Monomial(most, 0)))


@register("sapo")
@dataclass(frozen=True)
class SoftAdaptiveWeight(TokenCorrection):
    """(1, 4σ(1 − σ)·r) with σ = sigmoid(τ(r − 1)): the gradient of SAPO's soft gate (arXiv 2511.20347).

    The weight is 1 at r = 1 and falls on both sides. τ depends on the sign of A, and A = 0, whose weight moves
    nothing, has τ of A < 0 (verl, TRL).
    """

    _looks_at: ClassVar[frozenset[str]] = _SIGN
    tau_positive: float = 1.0
    """τ > 0 where A > 0."""
    tau_negative: float = 1.05
    """τ > 0 where A ≤ 0."""
    c2: float | None = None
    """Cap on p_ref/p_new where the target is p_new; None refuses that target."""

    def __post_init__(self) -> None:
        require_positive(self, "tau_positive", "tau_negative", infinite=False)
        require_positive(self, "c2")

    @override
    def weight(self, tokens: Tokens) -> Array:
        """w = 4σ(1 − σ)·r."""
        xp = namespace(tokens.log_ratio)
        steepness = xp.where(given(tokens.advantages) > 0, self.tau_positive * tokens.ones(), self.tau_negative)
        # 4σ(1 − σ) is even in τ(r − 1), so that no exponential overflows. At r = inf it is 0, and so is the weight.
        decay = xp.exp(-xp.abs(steepness * tokens.ratio_less_one))
        return 4 * decay / (1 + decay) ** 2 * xp.where(decay > 0, tokens.ratio, 0.0)


@register("topr")
@dataclass(frozen=True)
class TaperedWeight(TokenCorrection):
    """(1, 1) where A > 0, and (1, clip(r, 0, 1)) elsewhere: TOPR (arXiv 2503.14286; ROLL, Trinity).

    A = 0, whose weight moves nothing, has that of A < 0.
    """

    _looks_at: ClassVar[frozenset[str]] = _SIGN
    c2: float | None = None
    """Cap on p_ref/p_new where the target is p_new; None refuses that target."""

    def __post_init__(self) -> None:
        require_positive(self, "c2")

    @override
    def weight(self, tokens: Tokens) -> Array:
        """w = 1 where A > 0, else min(r, 1)."""
        xp = namespace(tokens.log_ratio)
        tapered = xp.exp(xp.minimum(tokens.log_ratio, xp.zeros_like(tokens.log_ratio)))
        return xp.where(given(tokens.advantages) > 0, tokens.ones(), tapered)

    @override
    def pieces(self, overlap: Floats | None = None, sign: int = 0) -> tuple[Piece, ...]:
        rest = Piece(math.inf, True, ONE, ONE)
        return (rest,) if sign > 0 else (Piece(0.0, True, ONE, RATIO), rest)
