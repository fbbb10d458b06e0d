"""Figures of clustered values, each with the figure that every cluster left out would leave.

All take the cluster of each value, integers of shape (m,), from 0 to count − 1. Time and memory are linear in the
values, apart from sorting them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jackpot_sim.core import intervals
from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.intervals import Interval
from jackpot_sim.core.log_ratios import ess_fraction


class LeftOut(NamedTuple):
    """A figure of all values, and the figure without each cluster, shape (clusters,)."""

    value: float
    without: Floats


@dataclass(frozen=True, eq=False)
class Units:
    """The clusters of values: the cluster of each, (m,), and the number of clusters."""

    cluster: Ints
    count: int

    def summed(self, values: Floats | Flags | None) -> Floats:
        """Σ of values, (m,), in each cluster, (clusters,); for None the number of values."""
        return np.asarray(np.bincount(self.cluster, weights=values, minlength=self.count), dtype=np.float64)

    def mean(self, values: Floats) -> LeftOut:
        """The mean of the values, (m,); inf where one is, nan where both inf and −inf are."""
        return mean_of(self.summed(values), self.summed(None))

    def effective_share(self, log_weight: Floats) -> LeftOut:
        """(Σw)²/(m Σw²) of weights from log w, (m,), relative to the largest; nan where all weights are 0."""
        weight = np.exp(log_weight)
        return effective_share_of(*(self.summed(each) for each in (weight, weight**2, None)))

    def correlation(self, first: Floats, second: Floats) -> LeftOut:
        """Pearson's correlation of two columns, (m,) each; nan where one of them is constant."""
        # Centred at the means over all values, so that the moments lose no digits.
        x, y = first - first.mean(), second - second.mean()
        return correlation_of(*(self.summed(each) for each in (None, x, y, x * x, y * y, x * y)))

    def trimmed_mean(self, values: Floats, share: float) -> LeftOut:
        """The mean without `share` of the values, (m,), at either end; a value at the edge counts in part.

        Inf where too many are. Without a cluster it is the first-order change, from the values pulled in to the edges.
        """
        ordered = np.sort(values)
        edges = np.arange(len(ordered) + 1) / len(ordered)
        weight = np.diff(np.clip(edges, share, 1 - share))
        kept = np.where(weight > 0, ordered, 0.0)
        value = float(weight @ kept / (1 - 2 * share))
        inner = np.clip(values, *kept[weight > 0][[0, -1]]) if math.isfinite(value) else values
        sizes = self.summed(None)
        change = self.summed(inner - inner.mean()) / ((1 - 2 * share) * _others(sizes))
        return LeftOut(value, value - change)

    def quantile(self, values: Floats, level: float) -> tuple[float, Interval]:
        """The smallest value at which `level` of the values, (m,), is reached, and Woodruff's interval.

        The interval is that of the share of values up to the quantile, read back through the values. Its ends are nan
        where it reaches beyond the outermost value, or where few clusters have a value above (or below) the quantile.
        The standard error is that of a normal interval as wide.
        """
        ordered, number = np.sort(values), len(values)
        value = float(ordered[math.ceil(level * number) - 1])
        if ordered[-1] == ordered[0]:
            return value, Interval(0.0, value, value)
        beyond = min(np.count_nonzero(self.summed(side)) for side in (values > value, values < value))
        if beyond < min(_BEYOND, self.count / 2):
            return value, Interval(math.nan, math.nan, math.nan)
        upto = self.mean((values <= value).astype(np.float64))
        _, low, high = intervals.of_left_out(*upto, intervals.LOGIT)
        # The share jumps at a value that many share, so that the level stands for it.
        first, last = (number * (end - upto.value + level) for end in (low, high))
        if not (first >= 1 and last <= number - 1):
            return value, Interval(math.nan, math.nan, math.nan)
        ends = [float(ordered[math.ceil(first) - 1]), float(ordered[math.floor(last)])]
        return value, Interval((ends[1] - ends[0]) / (2 * _NORMAL), *ends)


_BEYOND = 15
"""The fewest clusters on either side of a quantile with an interval, or half of all where that is less."""
_NORMAL = 1.96
"""The standard errors from the middle of a normal 95 % interval to its ends."""


def mean_of(sums: Floats, sizes: Floats) -> LeftOut:
    """The mean of values from their sum and number in each cluster, (clusters,) each."""
    return LeftOut(float(sums.sum() / sizes.sum()), _others(sums) / _others(sizes))


def effective_share_of(weight: Floats, square: Floats, sizes: Floats) -> LeftOut:
    """(Σw)²/(m Σw²) from Σw, Σw² and the number of values of each cluster, (clusters,) each."""
    return _of_sums(ess_fraction, weight, square, sizes)


def correlation_of(sizes: Floats, x: Floats, y: Floats, xx: Floats, yy: Floats, xy: Floats) -> LeftOut:
    """Pearson's correlation from the number of values, Σx, Σy, Σx², Σy² and Σxy of each cluster, (clusters,) each."""
    return _of_sums(_correlation, sizes, x, y, xx, yy, xy)


def _of_sums(figure: Callable[..., Floats], *sums: Floats) -> LeftOut:
    value = figure(*(np.asarray(each.sum()) for each in sums))
    return LeftOut(float(value), figure(*(_others(each) for each in sums)))


def relative(log_weight: Floats) -> Floats:
    """Log-weights, (n,), relative to the largest; if it is inf, infinite ones become 0 and all others −inf."""
    peak = float(log_weight.max())
    if peak == math.inf:
        return np.where(log_weight == math.inf, 0.0, -math.inf)
    return log_weight - peak if peak > -math.inf else log_weight


def _others(sums: Floats) -> Floats:
    """Σ of the other clusters, (clusters,): not total less own, which loses the digits of what is small."""
    before, after = np.cumsum(sums), np.cumsum(sums[::-1])[::-1]
    return np.asarray(np.append(0.0, before[:-1]) + np.append(after[1:], 0.0))


def _correlation(number: Floats, x: Floats, y: Floats, xx: Floats, yy: Floats, xy: Floats) -> Floats:
    """Pearson's correlation from sums, elementwise."""
    x, y, xx, yy, xy = (each / number for each in (x, y, xx, yy, xy))
    return np.asarray((xy - x * y) / np.sqrt((xx - x * x) * (yy - y * y)))
