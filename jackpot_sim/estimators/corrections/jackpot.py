"""Jackpot: reject with OBRS, reweight what is left ([J] Algorithm 1, eq. 5).

What it is in expectation (ours). I2: if c1 ≥ λZ, which c1 ≥ 1 assures, E[m·w | x] =
Z·min(r, c1/Z); otherwise (c1/λ)·min(r, λ). So Jackpot equals Z(s)·TIS(c1/Z(s)) plus the noise of
its mask: what sets it apart is the factor Z(s) (a state with little overlap counts less), the clip
that depends on the state, and the noise, which `rao_blackwell` removes. With c1 = ∞ the effective
law is p itself. I3: its variance per proposal is never below that of its Rao-Blackwell form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from jackpot_sim.core.backend import Array, as_array, namespace
from jackpot_sim.core.obrs import acceptance_probability
from jackpot_sim.estimators.corrections.correction import (
    ONE,
    Monomial,
    Piece,
    TokenCorrection,
    TokenWeights,
    log_of,
    register,
    require_positive,
)


@register("jackpot")
@dataclass(frozen=True)
class Jackpot(TokenCorrection):
    """(min(1, r/λ), min(Z·max(λ, r), c1)·F2) with r = p_target/p_inf.

    F2 = min(p_ref/p_new, c2) where the target is p_new, that is where `weights` is given
    `log_reference_ratio`; it is 1 where the target is p_ref. With p_new and c1 = c2 = ∞ the weight
    targets p_ref, and the PPO ratio supplies the rest.
    """

    lam: Any = 1.0
    """λ > 0 of the rejection."""
    c1: Any = 2.0
    """Clip on Z·max(λ, r)."""
    c2: Any = 2.0
    """Clip on p_ref/p_new."""

    def __post_init__(self) -> None:
        require_positive(self, "lam", infinite=False)
        require_positive(self, "c1", "c2")

    @property
    def overlap_lam(self) -> Any:
        """λ."""
        return self.lam

    @property
    def draws_mask(self) -> bool:
        """True."""
        return True

    @property
    def carries_reference_ratio(self) -> bool:
        """True: F2."""
        return True

    def accept(self, log_ratio: Array) -> Array:
        """a = min(1, r/λ)."""
        return acceptance_probability(log_ratio, self.lam)

    def weight(self, log_ratio: Array, overlap: Array | None) -> Array:
        """w = min(Z·max(λ, r), c1), without F2."""
        xp = namespace(log_ratio)
        ratio = xp.exp(xp.maximum(log_ratio, log_of(self.lam, log_ratio)))
        return _clipped(overlap, ratio, self.c1)

    def weights(
        self,
        log_ratio: Array,
        overlap: Array | None = None,
        *,
        log_reference_ratio: Array | None = None,
        mask: Array | None = None,
        advantages: Array | None = None,
    ) -> TokenWeights:
        """See `Correction.weights`."""
        accept, weight = super().weights(log_ratio, overlap, mask=mask)
        if log_reference_ratio is None:
            return TokenWeights(accept, weight)
        xp = namespace(log_reference_ratio)
        if mask is not None:
            log_reference_ratio = xp.where(mask, log_reference_ratio, 0.0)
        if bool(xp.any(xp.isnan(log_reference_ratio))):
            raise ValueError("log_reference_ratio holds NaN: jackpot cannot weigh it")
        return TokenWeights(
            accept, weight * xp.exp(xp.minimum(log_reference_ratio, log_of(self.c2, log_reference_ratio)))
        )

    def pieces(self, overlap: Array | None = None) -> tuple[Piece, ...]:
        """See `Correction.pieces`; for the target p_ref."""
        turn = np.maximum(_turn(self.c1, overlap), self.lam)
        flat = Monomial(np.minimum(overlap * self.lam, self.c1), 0)
        return (
            Piece(np.log(self.lam), True, Monomial(1 / self.lam, 1), flat),
            Piece(np.log(turn), True, ONE, Monomial(overlap, 1)),
            Piece(math.inf, True, ONE, Monomial(self.c1, 0)),
        )


def _clipped(overlap: Any, ratio: Array, c1: Any) -> Array:
    """min(Z·ratio, c1)."""
    xp = namespace(ratio)
    # Z = 0 says that nothing is ever accepted; 0·inf must not turn that into nan.
    scaled = overlap * xp.where(overlap > 0, ratio, xp.zeros_like(ratio))
    return xp.minimum(scaled, as_array(c1, ratio))


def _turn(c1: Any, overlap: Any) -> Any:
    """c1/Z, the ratio at which Z·r reaches the clip: never, where Z = 0."""
    with np.errstate(divide="ignore"):
        return np.divide(c1, overlap)


@register("overlap-tis")
@dataclass(frozen=True)
class OverlapTruncatedImportanceSampling(TokenCorrection):
    """(1, Z·min(r, c1/Z)) with Z = Z(λ): what Jackpot is in expectation for c1 ≥ λZ, without a mask (I2)."""

    lam: Any = 1.0
    """λ > 0 of the overlap."""
    c1: Any = 2.0
    """Clip on Z·r."""

    def __post_init__(self) -> None:
        require_positive(self, "lam", infinite=False)
        require_positive(self, "c1")

    @property
    def overlap_lam(self) -> Any:
        """λ."""
        return self.lam

    def weight(self, log_ratio: Array, overlap: Array | None) -> Array:
        """w = min(Z·r, c1)."""
        xp = namespace(log_ratio)
        return _clipped(overlap, xp.exp(log_ratio), self.c1)

    def pieces(self, overlap: Array | None = None) -> tuple[Piece, ...]:
        """See `Correction.pieces`."""
        return (
            Piece(np.log(_turn(self.c1, overlap)), True, ONE, Monomial(overlap, 1)),
            Piece(math.inf, True, ONE, Monomial(self.c1, 0)),
        )
