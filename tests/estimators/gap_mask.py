"""A correction in a file of its own, as a user would add one: a mask on |p(x) − q(x)| that looks at the sign of A."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import namespace
from jackpot_sim.estimators import Tokens
from jackpot_sim.estimators.corrections.correction import TokenCorrection
from jackpot_sim.estimators.corrections.inputs import given
from jackpot_sim.estimators.corrections.parameters import require_positive


@dataclass(frozen=True)
class ProbabilityGapMask(TokenCorrection):
    """(0 if |p(x) − q(x)| > γ and the update would widen the gap, 1)."""

    _looks_at: ClassVar[frozenset[str]] = frozenset({"policy_log_probs", "actor_log_probs", "advantages"})
    gap: float = 0.1
    """γ > 0."""

    def __post_init__(self) -> None:
        require_positive(self, "gap")

    @override
    def accept(self, tokens: Tokens) -> Array:
        xp = namespace(tokens.log_ratio)
        gap = xp.exp(given(tokens.policy_log_probs)) - xp.exp(given(tokens.actor_log_probs))
        widened = xp.where(given(tokens.advantages) > 0, gap, -gap) > self.gap
        return xp.astype(~(widened & (given(tokens.advantages) != 0)), tokens.log_ratio.dtype)
