"""GRPO's advantages of a batch of rewards. Torch only."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from jackpot_sim.core.checks import check_reals

if TYPE_CHECKING:
    from torch import Tensor

STD_EPSILON = 1e-4
"""Added to a standard deviation of rewards, as TRL does."""


class Standardisation(StrEnum):
    """The divisor of the centred rewards, reward − mean of its group, that makes them advantages."""

    GROUP = "group"
    """The group's standard deviation (ddof 1) + 1e-4, as TRL has it; a group of equal rewards has A = 0."""
    BATCH = "batch"
    """The standard deviation of the batch, likewise."""
    NONE = "none"
    """Nothing (Dr. GRPO)."""


def advantages(rewards: Tensor, samples: int, standardisation: Standardisation = Standardisation.GROUP) -> Tensor:
    """GRPO's A = (R − mean of its group) / (std + 1e-4), shape (n,).

    Args:
        rewards: R, shape (n,), the `samples` rollouts of a prompt side by side.
        samples: the size of a group.
        standardisation: the standard deviation (ddof 1) that divides; rewards that are all equal give A = 0.

    Raises:
        TypeError: rewards are no real floating numbers.
        ValueError: rewards are not of shape (n,), are no whole groups, or a group has one rollout only.
    """
    check_reals(rewards, "rewards", "n")
    if samples < 2 or len(rewards) % samples:
        raise ValueError(
            f"samples must be at least 2 and divide the number of rewards, got {samples} and {len(rewards)}"
        )
    groups = rewards.reshape(-1, samples)
    centred = groups - groups.mean(-1, keepdim=True)
    # A mean of equal numbers may miss them by its rounding.
    centred = (centred * (groups != groups[:, :1]).any(-1, keepdim=True)).reshape(-1)
    if standardisation is Standardisation.NONE:
        return centred
    if standardisation is Standardisation.BATCH:
        return centred / (_std(rewards) + STD_EPSILON)
    return (centred.reshape(-1, samples) / (_std(groups)[:, None] + STD_EPSILON)).reshape(-1)


def _std(values: Tensor) -> Tensor:
    mean = values.mean(-1, keepdim=True)
    variance = ((values - mean) ** 2).sum(-1) / (values.shape[-1] - 1)
    return variance.pow(0.5)
