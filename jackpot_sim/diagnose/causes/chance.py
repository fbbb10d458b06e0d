"""Tests against chance, whose unit is the sequence, at a level that all rules share."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from jackpot_sim.core import intervals
from jackpot_sim.core.arrays import Flags, Floats
from jackpot_sim.core.intervals import Scale
from jackpot_sim.estimators.mismatch.clusters import Units

TESTS = 10
"""The tests of all rules together."""
LEVEL = 0.05 / TESTS
"""The chance that one test finds something where nothing is; all together do so in at most 5 % of dumps."""
_NORMAL = float(stats.norm.ppf(1 - LEVEL / 2))
FEWEST = intervals.FEWEST
"""The fewest sequences that a test takes."""


class Mean(NamedTuple):
    """A mean over tokens with the interval of the shared level; its ends are nan where there are too few sequences."""

    value: float
    low: float
    high: float

    @property
    def beyond_zero(self) -> bool:
        """True if the mean is not 0 by chance."""
        return self.low > 0 or self.high < 0

    @property
    def error(self) -> float:
        """The standard error that a normal interval as wide has; nan where there is no interval."""
        return (self.high - self.low) / (2 * _NORMAL)

    @property
    def certainty(self) -> float:
        """1 far from 0, ½ where the interval just excludes it, 0 at 0."""
        half = (self.high - self.low) / 2
        if not (math.isfinite(half) and self.value != 0):
            return 0.0
        return 1 / (1 + (half / self.value) ** 2)


def mean(units: Units, values: Floats, scale: Scale = intervals.LINEAR) -> Mean:
    """The mean of values of tokens, (N,), with sequences as clusters; `scale` is `intervals.LOG` for positive ones."""
    if units.count < FEWEST:
        return Mean(float(np.mean(values)), math.nan, math.nan)
    value, without = units.mean(values)
    _, low, high = intervals.of_left_out(value, without, scale, level=1 - LEVEL)
    return Mean(value, low, high)


def rises(values: Floats, along: Floats) -> tuple[bool, float]:
    """True if values rise along another column by more than chance, both (S,), with Spearman's rank correlation."""
    if len(values) < FEWEST or np.ptp(along) == 0 or np.ptp(values) == 0:
        return False, math.nan
    found = stats.spearmanr(values, along, alternative="greater")
    return bool(found.pvalue < LEVEL), float(found.statistic)


def larger(values: Floats, here: Flags, tries: float = 1) -> bool:
    """True if values, (S,), are larger where `here` than elsewhere by more than chance, the best of some tries."""
    if min(here.sum(), (~here).sum()) < 2 or len(values) < FEWEST:
        return False
    found = stats.mannwhitneyu(values[here], values[~here], alternative="greater", method="auto")
    return bool(found.pvalue * tries < LEVEL)
