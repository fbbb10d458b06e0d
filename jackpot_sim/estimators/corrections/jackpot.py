"""Jackpot: OBRS, and weights on the accepted tokens ([J] Algorithm 1, eq. 5).

By I2 (`help(jackpot_sim)`) Jackpot is Z(s)·TIS(c1/Z(s)) plus the noise of its mask. Three things set it apart from
TIS: the factor Z(s), by which a state with little overlap counts less; the clip, which depends on the state; and the
noise, which `rao_blackwell` removes and which by I3 only adds variance. With c1 = ∞ the effective law is p itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from typing_extensions import override

from jackpot_sim.core.arrays import Array, Floats
from jackpot_sim.core.backend import as_array, namespace
from jackpot_sim.core.obrs import acceptance_probability
from jackpot_sim.estimators.corrections.correction import TokenCorrection
from jackpot_sim.estimators.corrections.inputs import Tokens, given
from jackpot_sim.estimators.corrections.parameters import Parameter, log_of, require_positive
from jackpot_sim.estimators.corrections.pieces import ONE, Monomial, Piece, log, number
from jackpot_sim.estimators.corrections.registry import register


@register("jackpot")
@dataclass(frozen=True)
class Jackpot(TokenCorrection):
    """(min(1, r/λ), min(Z·max(λ, r), c1)·F2) with r = p_target/q.

    F2 = min(p_ref/p_new, c2) where the target is p_new, that is where the tokens carry
    `log_reference_ratio`; F2 = 1 where the target is p_ref. With p_new and c1 = c2 = ∞ the weight
    leads to p_ref, and the PPO ratio p_new/p_ref from there to p_new.
    """

    _threshold: ClassVar[str | None] = "c1"
    lam: Parameter = 1.0
    """λ > 0 of the rejection."""
    c1: Parameter = 2.0
    """Clip on Z·max(λ, r)."""
    c2: float | None = 2.0
    """Cap on p_ref/p_new where the target is p_new; None refuses that target."""

    def __post_init__(self) -> None:
        require_positive(self, "lam", infinite=False)
        require_positive(self, "c1", "c2")

    @property
    @override
    def overlap_lam(self) -> Parameter:
        return self.lam

    @property
    @override
    def draws_mask(self) -> bool:
        return True

    @override
    def accept(self, tokens: Tokens) -> Array:
        """a = min(1, r/λ)."""
        return acceptance_probability(tokens.log_ratio, self.lam)

    @override
    def weight(self, tokens: Tokens) -> Array:
        """w = min(Z·max(λ, r), c1), without F2."""
        xp = namespace(tokens.log_ratio)
        ratio = xp.exp(xp.maximum(tokens.log_ratio, log_of(self.lam, tokens.log_ratio)))
        return _clipped(given(tokens.overlap), ratio, self.c1)

    @override
    def pieces(self, overlap: Floats | None = None, sign: int = 0) -> tuple[Piece, ...]:
        z, lam = given(overlap), number(self.lam)
        turn = np.maximum(_turn(self.c1, z), lam)
        flat = Monomial(np.minimum(z * lam, number(self.c1)), 0)
        return (
            Piece(log(self.lam), True, Monomial(1 / lam, 1), flat),
            Piece(np.log(turn), True, ONE, Monomial(z, 1)),
            Piece(math.inf, True, ONE, Monomial(number(self.c1), 0)),
        )


def _clipped(overlap: Array, ratio: Array, c1: Parameter) -> Array:
    """min(Z·ratio, c1)."""
    xp = namespace(ratio)
    # Where Z = 0 nothing is ever accepted; 0·inf must not make it nan.
    scaled = overlap * xp.where(overlap > 0, ratio, xp.zeros_like(ratio))
    return xp.minimum(scaled, as_array(c1, ratio))


def _turn(c1: Parameter, overlap: Floats) -> Floats:
    """c1/Z, the ratio at which Z·r reaches the clip; inf where Z = 0."""
    with np.errstate(divide="ignore"):
        return np.divide(number(c1), overlap)


@register("overlap-tis")
@dataclass(frozen=True)
class OverlapTruncatedImportanceSampling(TokenCorrection):
    """(1, Z·min(r, c1/Z)) with Z = Z(λ): Jackpot in expectation for c1 ≥ λZ, without a mask (I2)."""

    _threshold: ClassVar[str | None] = "c1"
    lam: Parameter = 1.0
    """λ > 0 of the overlap."""
    c1: Parameter = 2.0
    """Clip on Z·r."""
    c2: float | None = None
    """Cap on p_ref/p_new where the target is p_new; None refuses that target."""

    def __post_init__(self) -> None:
        require_positive(self, "lam", infinite=False)
        require_positive(self, "c1", "c2")

    @property
    @override
    def overlap_lam(self) -> Parameter:
        return self.lam

    @override
    def weight(self, tokens: Tokens) -> Array:
        """w = min(Z·r, c1)."""
        xp = namespace(tokens.log_ratio)
        return _clipped(given(tokens.overlap), xp.exp(tokens.log_ratio), self.c1)

    @override
    def pieces(self, overlap: Floats | None = None, sign: int = 0) -> tuple[Piece, ...]:
        z = given(overlap)
        return (
            Piece(np.log(_turn(self.c1, z)), True, ONE, Monomial(z, 1)),
            Piece(math.inf, True, ONE, Monomial(number(self.c1), 0)),
        )
