"""Jackpot: OBRS, and weights on the accepted tokens ([J] Algorithm 1, eq. 5).

By I2 (`help(jackpot_sim)`) Jackpot is Z(s)·TIS(c1/Z(s)) plus the noise of its mask. Three things set it apart from
TIS: the factor Z(s), by which a state with little overlap counts less; the clip, which depends on the state; and the
noise, which `rao_blackwell` removes and which by I3 only adds variance. With c1 = ∞ the effective law is p itself.

The paper clips the weight. Its authors' lab, in Sparrow (arXiv 2606.08446), clips the ratio r/λ instead, and then no
clip depends on the state: in expectation it is Z(s)·TIS(λ·c1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import numpy as np
from typing_extensions import override

from jackpot_sim.core.arrays import Array, Floats
from jackpot_sim.core.backend import as_array, namespace
from jackpot_sim.core.obrs import acceptance_probability
from jackpot_sim.estimators.corrections.correction import TokenCorrection
from jackpot_sim.estimators.corrections.inputs import Tokens, given
from jackpot_sim.estimators.corrections.parameters import Parameter, log_of, one_of, require_positive
from jackpot_sim.estimators.corrections.pieces import ONE, Monomial, Piece, log, number
from jackpot_sim.estimators.corrections.registry import register


class ClipOn(StrEnum):
    """The quantity of Jackpot's weight that c1 clips."""

    WEIGHT = "weight"
    """The weight itself: min(Z·max(λ, r), c1), so that E[m·w | x] = Z·min(r, c1/Z) where c1 ≥ λZ ([J])."""
    RATIO = "ratio"
    """The ratio: λ·Z·min(max(r/λ, 1), c1), so that E[m·w | x] = Z·min(r, λ·c1) where c1 ≥ 1 (Sparrow)."""


@register("jackpot")
@dataclass(frozen=True)
class Jackpot(TokenCorrection):
    """(min(1, r/λ), min(Z·max(λ, r), c1)·F2) with r = p_target/q; or with λ·Z·min(max(r/λ, 1), c1), see `clip_on`.

    F2 = min(p_ref/p_new, c2) where the target is p_new, that is where the tokens carry
    `log_reference_ratio`; F2 = 1 where the target is p_ref. With p_new and c1 = c2 = ∞ the weight
    leads to p_ref, and the PPO ratio p_new/p_ref from there to p_new.
    """

    _threshold: ClassVar[str | None] = "c1"
    lam: Parameter = 1.0
    """λ > 0 of the rejection."""
    c1: Parameter = 2.0
    """Clip on Z·max(λ, r), or on r/λ (Sparrow's C, 3)."""
    c2: float | None = 2.0
    """Cap on p_ref/p_new where the target is p_new; None refuses that target."""
    clip_on: ClipOn = ClipOn.WEIGHT
    """What c1 clips: `weight` as in the paper, or `ratio` as in its authors' Sparrow."""

    def __post_init__(self) -> None:
        require_positive(self, "lam", infinite=False)
        require_positive(self, "c1", "c2")
        object.__setattr__(self, "clip_on", one_of(self, "clip_on", ClipOn))

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
        """w = min(Z·max(λ, r), c1) or λ·Z·min(max(r/λ, 1), c1), without F2."""
        xp, log_lam = namespace(tokens.log_ratio), log_of(self.lam, tokens.log_ratio)
        log_ratio = xp.maximum(tokens.log_ratio, log_lam)
        if self.clip_on is ClipOn.WEIGHT:
            return _clipped(given(tokens.overlap), xp.exp(log_ratio), self.c1)
        most = log_lam + log_of(self.c1, tokens.log_ratio)
        return _clipped(given(tokens.overlap), xp.exp(xp.minimum(log_ratio, most)), math.inf)

    @override
    def pieces(self, overlap: Floats | None = None, sign: int = 0) -> tuple[Piece, ...]:
        z, lam = given(overlap), number(self.lam)
        most: float | Floats = number(self.c1)
        turn: float | Floats = _turn(self.c1, z)
        if self.clip_on is ClipOn.RATIO:
            turn = lam * most
            # Where Z = 0 nothing is ever accepted; 0·inf must not make it nan.
            with np.errstate(invalid="ignore"):
                most = np.where(z > 0, z * turn, 0.0)
        flat = Monomial(np.minimum(z * lam, most), 0)
        return (
            Piece(log(self.lam), True, Monomial(1 / lam, 1), flat),
            Piece(np.log(np.maximum(turn, lam)), True, ONE, Monomial(z, 1)),
            Piece(math.inf, True, ONE, Monomial(most, 0)),
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
