"""Cluster bootstrap: statistics of tokens as functions of cluster multiplicities.

A group of figures is made once from the tokens' values and clusters. It is then called with `times`, shape
(k, clusters), the multiplicity of each cluster in each of k resamples. All sums over tokens are taken cluster by
cluster beforehand, so that a resample costs a product of matrices; quantiles are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.log_ratios import ess_fraction

Group: TypeAlias = Callable[[Floats], dict[str, Floats]]
"""A function of `times`, shape (k, clusters), that returns figures by name, each (k,)."""


class Means:
    """Means of the drawn values; inf where an inf is drawn, nan where both inf and −inf are.

    Args:
        values: the values by name, each (m,).
        cluster: the cluster of each value, (m,).
        count: the number of clusters.
    """

    def __init__(self, values: Mapping[str, Floats], cluster: Ints, count: int) -> None:
        self._values = {name: _Infinite.of(each, cluster, count) for name, each in values.items()}
        finite = [np.where(np.isfinite(each), each, 0.0) for each in values.values()]
        self._sums = np.column_stack([_summed(each, cluster, count) for each in finite])
        self._sizes = _summed(None, cluster, count)

    def __call__(self, times: Floats) -> dict[str, Floats]:
        """The means of each resample, by name, each (k,)."""
        means = (times @ self._sums) / (times @ self._sizes)[:, None]
        columns = zip(self._values.items(), means.T, strict=True)
        return {name: each.with_infinities(mean, times) for (name, each), mean in columns}


class _Infinite:
    """The clusters that hold inf or −inf."""

    def __init__(self, above: Floats | None, below: Floats | None) -> None:
        self._above, self._below = above, below

    @classmethod
    def of(cls, values: Floats, cluster: Ints, count: int) -> _Infinite:
        counts = (_summed(values == end, cluster, count) for end in (math.inf, -math.inf))
        return cls(*(each if each.any() else None for each in counts))

    def with_infinities(self, finite: Floats, times: Floats) -> Floats:
        """`finite` plus the infinities drawn: in a product of matrices 0 · inf would be nan."""
        for end, counts in ((math.inf, self._above), (-math.inf, self._below)):
            if counts is not None:
                finite = finite + np.where(times @ counts > 0, end, 0.0)
        return finite


class Ordered:
    """Figures of ordered values: quantiles, trimmed means, and the number of values that make up a share of a sum.

    Values are sorted once and cut into bins of equal size. A resample finds its bin from sums per cluster and bin,
    and looks at single values only within this bin.

    Args:
        values: (m,), inf allowed.
        cluster: the cluster of each, (m,).
        count: the number of clusters.
        measure: the measure of each value, (m,) ≥ 0; None: 1 each.
        quantiles: levels by the name of the figure, which is the smallest value at which this share of the measure
            is reached.
        trimmed: shares by the name of the figure, which is the mean without this share at either end; a value at
            the edge counts in part.
        counted: shares by the name of the figure, which is the number of values, smallest first, that make up this
            share of the measure.
    """

    BINS = 1024
    """The largest number of bins; with small clusters there are fewer, so that sums do not outnumber the values."""

    def __init__(
        self,
        values: Floats,
        cluster: Ints,
        count: int,
        *,
        measure: Floats | None = None,
        quantiles: Mapping[str, float] | None = None,
        trimmed: Mapping[str, float] | None = None,
        counted: Mapping[str, float] | None = None,
    ) -> None:
        order = np.argsort(values, kind="stable")
        self._quantiles, self._trimmed, self._counted = quantiles or {}, trimmed or {}, counted or {}
        self._values, self._cluster = values[order], cluster[order]
        self._measure = None if measure is None else measure[order]
        self._width = self.width(len(values), count)
        self._masses = self._binned(self._measure, count)
        finite = np.isfinite(self._values)
        self._carried = np.where(finite, self._values, 0.0)
        self._sums = self._binned(self._carried, count) if self._trimmed else None
        self._sizes = self._binned(None, count) if self._counted else None
        self._finite = _summed(finite, self._cluster, count)

    @classmethod
    def width(cls, tokens: int, count: int) -> int:
        """The number of values in a bin."""
        return math.ceil(tokens / min(cls.BINS, math.ceil(4 * tokens / count)))

    def _binned(self, weights: Floats | None, count: int) -> Floats:
        """Sums per cluster and bin, (clusters, bins)."""
        bins = math.ceil(len(self._values) / self._width)
        cell = self._cluster * bins + np.arange(len(self._values)) // self._width
        return _summed(weights, cell, count * bins).reshape(count, bins)

    def __call__(self, times: Floats) -> dict[str, Floats]:
        """The figures of each resample, by name, each (k,)."""
        upto = np.cumsum(times @ self._masses, axis=1)
        total, figures = upto[:, -1], {}
        for name, level in self._quantiles.items():
            figures[name] = self._values[self._reach(times, upto, level * total)[0]]
        for name, share in self._trimmed.items():
            assert self._sums is not None
            sums = np.cumsum(times @ self._sums, axis=1)
            ends = [share * total, total - share * total]
            low, high = (self._upto(times, upto, wanted, sums, self._carried) for wanted in ends)
            endless = ends[1] > times @ self._finite
            figures[name] = np.where(endless, math.inf, (high - low) / (ends[1] - ends[0]))
        for name, share in self._counted.items():
            assert self._sizes is not None
            sizes = np.cumsum(times @ self._sizes, axis=1)
            number = self._upto(times, upto, share * total, sizes, np.ones(len(self._values)))
            # Rounding must not add a value to the count.
            figures[name] = np.where(total > 0, np.ceil(number - 1e-9 * np.abs(number)), math.nan)
        return figures

    def _reach(self, times: Floats, upto: Floats, wanted: Floats) -> tuple[Ints, Any]:
        """The value at which the measure reaches `wanted`, (k,), the content of its bin and the measure before it."""
        rows = np.arange(len(times))
        at = np.minimum(np.sum(upto < wanted[:, None], axis=1), upto.shape[1] - 1)
        token = at[:, None] * self._width + np.arange(self._width)
        exists = token < len(self._values)
        token = np.minimum(token, len(self._values) - 1)
        number = np.where(exists, times[rows[:, None], self._cluster[token]], 0.0)
        mass = number if self._measure is None else number * self._measure[token]
        before = np.where(at > 0, upto[rows, at - 1], 0.0)
        inner = before[:, None] + np.cumsum(mass, axis=1)
        place = np.minimum(np.sum(inner < wanted[:, None], axis=1), exists.sum(axis=1) - 1)
        return token[rows, place], (at, place, token, number, inner - mass)

    def _upto(self, times: Floats, upto: Floats, wanted: Floats, sums: Floats, carried: Floats) -> Floats:
        """Σ of `carried` over the values until the measure reaches `wanted`, the last one in part; (k,)."""
        rows = np.arange(len(times))
        last, (at, place, token, number, before) = self._reach(times, upto, wanted)
        inside = np.where(np.arange(self._width) < place[:, None], number * carried[token], 0.0).sum(axis=1)
        measure = 1.0 if self._measure is None else self._measure[last]
        part = (wanted - before[rows, place]) / measure * carried[last]
        return np.asarray(np.where(at > 0, sums[rows, at - 1], 0.0) + inside + part)


class Largest:
    """The largest drawn value."""

    def __init__(self, name: str, values: Floats, cluster: Ints, count: int) -> None:
        self._name, self._peak = name, _peaks(values, cluster, count)

    def __call__(self, times: Floats) -> dict[str, Floats]:
        """The figure of each resample, (k,)."""
        return {self._name: np.where(times > 0, self._peak, -math.inf).max(axis=1)}


class Weights:
    """The effective sample share of weights, (Σw)²/(m Σw²), and the share of Σw² in the largest weight.

    Weights are taken relative to the largest one drawn, so that squares neither overflow nor vanish. Infinite
    weights outweigh all others and count alike. Where all weights are 0, the shares are nan.

    Args:
        log_weight: (m,), nats.
        cluster: the cluster of each, (m,).
        count: the number of clusters.
        ess: the name of the effective share.
        largest: the name of the share of the largest weight; None leaves it out.
    """

    def __init__(self, log_weight: Floats, cluster: Ints, count: int, *, ess: str, largest: str | None = None) -> None:
        log_weight = relative(log_weight)
        self._ess, self._largest = ess, largest
        self._peak = _peaks(log_weight, cluster, count)
        reachable = np.where(self._peak > -math.inf, self._peak, 0.0)
        share = np.exp(log_weight - reachable[cluster])
        self._sum, self._square = (_summed(each, cluster, count) for each in (share, share**2))
        self._sizes = _summed(None, cluster, count)

    def __call__(self, times: Floats) -> dict[str, Floats]:
        """The shares of each resample, by name, each (k,)."""
        top = np.where(times > 0, self._peak, -math.inf).max(axis=1, keepdims=True)
        scale = np.exp(np.where(times > 0, self._peak - top, -math.inf))
        total, square = (times * scale) @ self._sum, (times * scale**2) @ self._square
        shares = {self._ess: ess_fraction(total, square, times @ self._sizes)}
        return shares if self._largest is None else shares | {self._largest: 1 / square}


class Correlation:
    """Pearson's correlation of two columns, (m,) each; nan where one of them is constant."""

    def __init__(self, name: str, first: Floats, second: Floats, cluster: Ints, count: int) -> None:
        self._name = name
        # Centred at the means over all values, so that the moments of a resample lose no digits.
        x, y = first - first.mean(), second - second.mean()
        columns = (None, x, y, x * x, y * y, x * y)
        self._sums = np.column_stack([_summed(each, cluster, count) for each in columns])

    def __call__(self, times: Floats) -> dict[str, Floats]:
        """The figure of each resample, (k,)."""
        number, *sums = (times @ self._sums).T
        x, y, xx, yy, xy = (each / number for each in sums)
        return {self._name: (xy - x * y) / np.sqrt((xx - x * x) * (yy - y * y))}


def relative(log_weight: Floats) -> Floats:
    """Log-weights, (n,), relative to the largest; if it is inf, infinite ones become 0 and all others −inf."""
    peak = float(log_weight.max())
    if peak == math.inf:
        return np.where(log_weight == math.inf, 0.0, -math.inf)
    return log_weight - peak if peak > -math.inf else log_weight


def _summed(values: Floats | Flags | None, cluster: Ints, count: int) -> Floats:
    """Σ of values in each cluster, (clusters,); for None the number of elements."""
    return np.bincount(cluster, weights=values, minlength=count).astype(np.float64)


def _peaks(values: Floats, cluster: Ints, count: int) -> Floats:
    """The largest value of each cluster, (clusters,)."""
    out = np.full(count, -math.inf)
    np.maximum.at(out, cluster, values)
    return out
