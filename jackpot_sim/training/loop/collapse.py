"""When training has collapsed.

The accuracy's running mean over 20 steps is below half of the best that it has been, for good, with at least 20
further steps behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jackpot_sim.core.arrays import Floats

WINDOW = 20
"""Steps of the running mean, and the further steps that have to follow."""
SHARE = 0.5
"""Of the best running mean."""


class Course(NamedTuple):
    """What became of a run."""

    best: float
    """The largest running mean."""
    last: float
    """The last one."""
    collapsed_at: int | None
    """The first step at which it was below half of its best for good; None if it did not collapse."""


def running_mean(steps: Sequence[int], accuracy: Sequence[float]) -> Floats:
    """The mean of the tests of the last 20 steps, at every test; (tests,).

    Args:
        steps: the step of each test, ascending.
        accuracy: the accuracy found.
    """
    at, values = np.asarray(steps), np.asarray(accuracy, dtype=np.float64)
    return np.array([values[(at > step - WINDOW) & (at <= step)].mean() for step in at])


def course(steps: Sequence[int], accuracy: Sequence[float]) -> Course:
    """What became of a run with these tests.

    A test counts as below where its running mean is below half the best one *until then*. The collapse is where the
    last unbroken stretch of such tests begins, if it lasts to the end and that is at least 20 steps on.

    Raises:
        ValueError: there is no test.
    """
    if not len(steps):
        raise ValueError("there is no test of the policy: nothing can be said of collapse")
    mean = running_mean(steps, accuracy)
    below = mean < SHARE * np.maximum.accumulate(mean)
    first = int(np.flatnonzero(~below)[-1]) + 1  # the first test is never below itself
    collapsed = first < len(mean) and steps[-1] - steps[first] >= WINDOW
    return Course(float(mean.max()), float(mean[-1]), int(steps[first]) if collapsed else None)
