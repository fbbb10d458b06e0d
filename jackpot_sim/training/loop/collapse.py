"""The collapse of training: the step from which the accuracy stays below half of its best.

The accuracy is a running mean over 20 steps, and it must stay below for at least 20 further steps, to the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jackpot_sim.core.arrays import Floats

WINDOW = 20
"""Steps of the running mean, and the least number of further steps after a collapse."""
SHARE = 0.5
"""The share of the best running mean below which training has collapsed."""


class Course(NamedTuple):
    """The course of the accuracy over a run."""

    best: float
    """The largest running mean."""
    last: float
    """The last running mean."""
    collapsed_at: int | None
    """The first step from which it stays below half of its best; None without a collapse."""


def running_mean(steps: Sequence[int], accuracy: Sequence[float]) -> Floats:
    """The mean over the tests of the last 20 steps, at every test; (tests,).

    Args:
        steps: the step of each test, ascending.
        accuracy: the accuracy in each test.
    """
    at, values = np.asarray(steps), np.asarray(accuracy, dtype=np.float64)
    first, last = np.searchsorted(at, at - WINDOW, side="right"), np.searchsorted(at, at, side="right")
    return np.array([values[begin:end].mean() for begin, end in zip(first, last, strict=True)])


def course(steps: Sequence[int], accuracy: Sequence[float]) -> Course:
    """The course of a run with these tests.

    A test counts as below if its running mean is below half the best one *so far*. The collapse is the beginning of
    the last unbroken stretch of such tests, if it lasts to the end and for at least 20 steps.

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
