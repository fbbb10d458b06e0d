"""Means of exponentials over a dump that is read once, a batch at a time, none of which overflows on the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import numpy as np

from jackpot_sim.core import intervals, log_ratios
from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.intervals import Interval
from jackpot_sim.diagnose.batch import GROUPS
from jackpot_sim.estimators.mismatch import clusters, summaries
from jackpot_sim.estimators.mismatch.clusters import LeftOut

LARGEST = 600.0
"""The exponent up to which Σ (e^x − 1) is taken as it stands: the sum of 10⁴⁷ such terms is still finite."""

FEW, STRICTER = 16, 0.4
"""The units per group up to which the means of groups may spread as widely as in `summaries`, and its share beyond.

The means of many units hide the tail that single ones show; `python -m tests.interval_coverage dump` has the coverage.
"""


class Exponentials:
    """Σ e^x and Σ e^{2x} of units (tokens or sequences) by group.

    They are held twice: relative to the largest e^x, for shares and where they would overflow; and as Σ (e^x − 1),
    which keeps the digits of x near 0.
    """

    def __init__(self) -> None:
        self.peak = -math.inf
        self.units = np.zeros(GROUPS)
        self._relative = np.zeros((GROUPS, 2))
        self._excess = np.zeros((GROUPS, 2))

    def add(self, x: Floats, sums: Callable[..., Floats]) -> None:
        """Takes in x, (m,), finite; `sums` gives the sums of columns, (m,) each, by group, (GROUPS, columns)."""
        with np.errstate(over="ignore", under="ignore"):
            self._rise(float(x.max()))
            weight = np.exp(x - self.peak)
            new = sums(np.ones_like(x), weight, weight * weight, np.expm1(x), log_ratios.chi_square_term(x))
        self.units += new[:, 0]
        self._relative += new[:, 1:3]
        self._excess += new[:, 3:]

    def merge(self, later: Self) -> None:
        """Takes in the sums of others."""
        self._rise(later.peak)
        self.units += later.units
        self._relative += later._relative * _scale(later.peak - self.peak)
        self._excess += later._excess

    def mean_excess(self, power: int) -> tuple[float, Interval]:
        """The mean of e^{power·x}, less 1, for a power of 1 or 2, with its interval where the tail allows one."""
        mean = self._mean_excess(power)
        interval = intervals.of_left_out(*mean, intervals.LOG1P)
        return mean.value, self._resolved(interval, power, summaries.WIDEST_MEAN)

    def effective_share(self) -> tuple[float, Interval]:
        """(Σ e^x)²/(m Σ e^{2x}), with its interval where the tail allows one."""
        live = self.units > 0
        weight, square = self._relative[live].T
        share = clusters.effective_share_of(weight, square, self.units[live])
        interval = intervals.of_left_out(*share, intervals.LOGIT)
        return share.value, self._resolved(interval, 2, summaries.WIDEST_SHARE)

    def largest_share(self) -> float:
        """The share of Σ e^{2x} at the largest x."""
        return 1 / float(self._relative[:, 1].sum())

    def _mean_excess(self, power: int) -> LeftOut:
        live, height = self.units > 0, power * self.peak
        if height <= LARGEST:
            return clusters.mean_of(self._excess[live, power - 1], self.units[live])
        value, without = clusters.mean_of(self._relative[live, power - 1], self.units[live])
        return LeftOut(float(np.expm1(np.log(value) + height)), np.expm1(np.log(without) + height))

    def _resolved(self, interval: Interval, power: int, widest: float) -> Interval:
        """The interval; ends of nan where the means of e^{power·x} of groups spread too widely for one that covers."""
        live = self.units > 0
        means = self._relative[live, power - 1] / self.units[live]
        stricter = STRICTER if self.units.sum() > FEW * live.sum() else 1.0
        return summaries.resolved(interval, means, stricter * widest)

    def _rise(self, peak: float) -> None:
        if peak > self.peak:
            self._relative *= _scale(self.peak - peak)
            self.peak = peak


def _scale(change: float) -> Floats:
    """The factors of Σ e^x and Σ e^{2x} when the largest x changes by so much."""
    return np.exp(change * np.array([1.0, 2.0]))
