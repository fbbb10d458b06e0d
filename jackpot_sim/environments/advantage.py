"""What a token is worth: the advantage A(x) that the policy gradient weighs.

Frozen configurations; `draw` gives A of shape (states, vocab) for given laws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from jackpot_sim.environments.base import FORBID_EXTRA, FloatArray
from jackpot_sim.environments.fields import check_non_negative, check_share


@dataclass(frozen=True, kw_only=True)
class NormalAdvantage:
    """A ~ N(0, scale²), independent over states and tokens, whatever the law."""

    kind: Literal["normal"] = "normal"
    scale: float = 1.0

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        check_non_negative("scale", self.scale)

    def draw(self, log_probs: FloatArray, generator: np.random.Generator) -> FloatArray:
        """A of shape (states, vocab), for laws of that shape."""
        return self.scale * generator.standard_normal(log_probs.shape)


@dataclass(frozen=True, kw_only=True)
class BinaryReward:
    """A verifiable reward: each token is right with probability `correct`, and A = R − E_p[R].

    R is 1 for a right token and 0 for a wrong one, drawn independently of the law, so the mass of
    the right tokens is `correct` on average only. A state without a right token has A = 0, as a
    group of equal rewards has in GRPO.
    """

    kind: Literal["binary"] = "binary"
    correct: float = 0.1

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        check_share("correct", self.correct)

    def draw(self, log_probs: FloatArray, generator: np.random.Generator) -> FloatArray:
        """A of shape (states, vocab), centred under exp(`log_probs`)."""
        reward = (generator.random(log_probs.shape) < self.correct).astype(np.float64)
        baseline: FloatArray = np.sum(np.exp(log_probs) * reward, axis=-1, keepdims=True)
        return reward - baseline


Advantage: TypeAlias = NormalAdvantage | BinaryReward
