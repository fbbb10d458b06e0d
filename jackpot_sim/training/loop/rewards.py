"""Rewards of completions, perhaps by a user's own function, checked before anything is learnt from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.training.errors import RewardError
from jackpot_sim.training.tasks.base import Problem

RewardOf: TypeAlias = Callable[[Sequence[str], Sequence[Problem]], Floats]
"""A function of n completions and their problems that gives R, shape (n,)."""


def checked_rewards(reward: RewardOf, completions: Sequence[str], problems: Sequence[Problem], step: int) -> Floats:
    """The rewards, float64 of shape (n,).

    Raises:
        RewardError: the function raises, gives another shape, or a reward is not finite; the message names the step.
    """
    try:
        rewards: Floats = np.asarray(reward(completions, problems), dtype=np.float64)
    except Exception as error:  # a user's function may raise anything
        raise RewardError(f"step {step}: the reward raises {type(error).__name__}: {error}") from error
    if rewards.shape != (len(completions),):
        raise RewardError(
            f"step {step}: the reward gives shape {rewards.shape}, not one for each of {len(completions)} completions"
        )
    if not np.isfinite(rewards).all():
        bad = int(np.flatnonzero(~np.isfinite(rewards))[0])
        raise RewardError(
            f"step {step}: the reward of {completions[bad]!r} for the answer {problems[bad].answer!r} is "
            f"{rewards[bad]}, and must be a finite number"
        )
    return rewards
