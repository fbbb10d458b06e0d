"""Advantages A(x) of tokens, which the policy gradient weighs.

Each is a frozen configuration whose `draw` gives A of shape (states, vocab) for laws of that shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.checks import check_reals
from jackpot_sim.environments.fields import FORBID_EXTRA, check_non_negative, check_share
from jackpot_sim.environments.files import load_array


@dataclass(frozen=True, kw_only=True)
class NormalAdvantage:
    """A ~ N(0, scale²), independent over states and tokens, and of the law."""

    kind: Literal["normal"] = "normal"
    scale: float = 1.0

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        check_non_negative("scale", self.scale)

    def draw(self, log_probs: Floats, generator: np.random.Generator) -> Floats:
        """A of shape (states, vocab), for laws of that shape."""
        check_reals(log_probs, "log_probs", "states", "vocab")
        return self.scale * generator.standard_normal(log_probs.shape)


@dataclass(frozen=True, kw_only=True)
class BinaryReward:
    """A verifiable reward: each token is right with probability `correct`, and A = R − E_p[R].

    R is 1 for a right token and 0 for a wrong one, drawn independently of the law, so the mass of the right tokens is
    `correct` on average only. A state without a right token has A = 0, as a group of equal rewards has in GRPO.
    """

    kind: Literal["binary"] = "binary"
    correct: float = 0.1

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        check_share("correct", self.correct)

    def draw(self, log_probs: Floats, generator: np.random.Generator) -> Floats:
        """A of shape (states, vocab), centred under exp(`log_probs`)."""
        check_reals(log_probs, "log_probs", "states", "vocab")
        reward = (generator.random(log_probs.shape) < self.correct).astype(np.float64)
        baseline: Floats = np.sum(np.exp(log_probs) * reward, axis=-1, keepdims=True)
        return reward - baseline


@dataclass(frozen=True, kw_only=True)
class FileAdvantage:
    """A from a file: the judgement of a reward model or a critic on the tokens of these laws.

    `path` is a .npy file, or a .npz file that holds one array, of finite real numbers of shape (..., vocab); all but
    the last axis are states, as in a file of logits. A is not centred.
    """

    kind: Literal["file"] = "file"
    path: Path

    __pydantic_config__ = FORBID_EXTRA

    def draw(self, log_probs: Floats, generator: np.random.Generator) -> Floats:
        """A of shape (states, vocab), for laws of that shape; nothing is drawn.

        Raises:
            ValueError: the file cannot be read, does not fit the laws, or holds anything but finite numbers; the
                error names it.
        """
        check_reals(log_probs, "log_probs", "states", "vocab")
        array = load_array(self.path, "an advantage")
        if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
            raise ValueError(f"{self.path}: an advantage must hold real numbers, got dtype {array.dtype}")
        rows = array.reshape(-1, array.shape[-1]) if array.ndim > 2 and array.size > 0 else array
        if rows.shape != log_probs.shape:
            raise ValueError(f"{self.path}: the advantage has shape {array.shape}, the laws have {log_probs.shape}")
        out: Floats = rows.astype(np.float64)
        if not np.all(np.isfinite(out)):
            raise ValueError(f"{self.path}: the advantage holds NaN or inf")
        return out


Advantage: TypeAlias = NormalAdvantage | BinaryReward | FileAdvantage
