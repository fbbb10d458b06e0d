"""PPO's clipped objective with the actor in the place of the old policy, as a correction of tokens.

In bypass mode (verl) a trainer takes the rollout's log-probs for those of p_ref, so that PPO's ratio is p_new/q. What
the clip does to a token is then a pair like any other: (0, r) where the clipped branch is the minimum, else (1, r).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from jackpot_sim.core.arrays import Array, Floats
from jackpot_sim.core.backend import namespace
from jackpot_sim.estimators.corrections.correction import TokenCorrection
from jackpot_sim.estimators.corrections.inputs import Tokens, given
from jackpot_sim.estimators.corrections.parameters import log_band, require_positive
from jackpot_sim.estimators.corrections.pieces import ONE, RATIO, Monomial, Piece
from jackpot_sim.estimators.corrections.registry import register


@register("ppo-clip")
@dataclass(frozen=True)
class ClippedObjective(TokenCorrection):
    """The gradient of PPO's min(r·A, clip(r, 1 − low, 1 + high)·A), with r = p/q (verl's bypass mode).

    The weight is r; accept is 0 where A > 0 and r > 1 + high, and where A < 0 and r < 1 − low or r > dual, the dual
    clip.
    """

    _looks_at: ClassVar[frozenset[str]] = frozenset({"advantages"})
    low: float = 0.2
    """The largest fall of r below 1 where A < 0, in [0, 1]."""
    high: float = 0.2
    """The largest rise of r above 1 where A > 0, ≥ 0."""
    dual: float = 3.0
    """The largest r where A < 0, > 1 (verl); inf: no dual clip."""
    c2: float | None = None
    """Cap on p_ref/p_new where the target is p_new; None refuses that target."""

    def __post_init__(self) -> None:
        if not (0 <= self.low <= 1 and self.high >= 0 and self.dual > 1):
            raise ValueError(
                f"{self.name}: low must lie in [0, 1], high be >= 0 and dual > 1, got {self.low}, {self.high} and "
                f"{self.dual}"
            )
        require_positive(self, "c2")

    def _band(self, sign: int) -> tuple[float, float]:
        """The ends in log r of what is kept, for the sign of A."""
        if sign > 0:
            return log_band(0.0, 1 + self.high)
        return log_band(1 - self.low, self.dual) if sign < 0 else (-math.inf, math.inf)

    @override
    def accept(self, tokens: Tokens) -> Array:
        """a = 0 where the clipped objective has no gradient, else 1."""
        log_ratio, sign = tokens.log_ratio, given(tokens.advantages)
        low, high = self._band(-1)
        clipped = ((sign > 0) & (log_ratio > self._band(1)[1])) | (
            (sign < 0) & ((log_ratio < low) | (log_ratio > high))
        )
        return namespace(log_ratio).astype(~clipped, log_ratio.dtype)

    @override
    def weight(self, tokens: Tokens) -> Array:
        """w = r."""
        return namespace(tokens.log_ratio).exp(tokens.log_ratio)

    @override
    def pieces(self, overlap: Floats | None = None, sign: int = 0) -> tuple[Piece, ...]:
        (low, high), dropped = self._band(sign), Monomial(0.0, 0)
        below = (Piece(low, False, dropped, RATIO),) if low > -math.inf else ()
        above = (Piece(math.inf, True, dropped, RATIO),) if high < math.inf else ()
        return (*below, Piece(high, True, ONE, RATIO), *above)
