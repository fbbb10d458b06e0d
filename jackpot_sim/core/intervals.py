"""Confidence intervals from independent clusters: from a figure with each cluster left out, and from values alone.

Figures of rollouts are skewed and their clusters few, where a percentile bootstrap and Student's interval both cover
too little. `of_left_out` therefore works on a scale on which the figure is nearly symmetric, removes the bias that the
jackknife sees, inverts the studentised figure through Hall's cubic transformation (Hall 1992, J. R. Stat. Soc. B 54),
which removes the effect of its skewness, and takes the degrees of freedom that the kurtosis of the clusters leaves.
Shares of tokens, which few clusters may carry, have an interval of their own: `of_share`.
`python -m tests.interval_coverage` shows the coverage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv, gammaincinv, ndtri, stdtrit

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.backend import floating
from jackpot_sim.core.checks import check_axes, check_integers, check_numpy, check_shape

LEVEL = 0.95
"""The coverage of the intervals, unless another is asked for."""
FEWEST = 8
"""The fewest clusters with an interval: fewer show neither the skewness nor the tails."""
_EQUAL = 1e-12
"""The relative difference below which figures are equal but for rounding."""
_STRAIGHT = 1e-6
"""The skewness below which Hall's transformation is the identity but for rounding."""
_BEYOND = 1e-3
"""The share by which a mean of overlaps may lie outside 0 to 1, as those of laws whose mass is 1 but for rounding."""
_LARGE = 1e6
"""The sum of a beta law's parameters up to which its quantile is taken as it is."""


class Scale(NamedTuple):
    """An increasing function to a scale on which a figure is nearly symmetric, and its inverse."""

    forward: Callable[[Floats], Floats]
    backward: Callable[[Floats], Floats]


def _itself(x: Floats) -> Floats:
    return x


def _logit(x: Floats) -> Floats:
    return np.asarray(np.log(x) - np.log1p(-x))


def _logistic(x: Floats) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0.0, -x)))


LINEAR = Scale(_itself, _itself)
"""For figures of either sign."""
LOG = Scale(np.log, np.exp)
"""For means of what is never negative."""
LOG1P = Scale(np.log1p, np.expm1)
"""For χ², of which 1 + χ² is such a mean."""
LOGIT = Scale(_logit, _logistic)
"""For figures between 0 and 1 that are no shares of tokens, as effective shares are; `of_share` is for those."""
FISHER = Scale(np.arctanh, np.tanh)
"""For correlations."""


class Interval(NamedTuple):
    """The uncertainty of a figure; the ends are nan where the clusters do not support an interval."""

    se: float
    low: float
    high: float


def of_left_out(value: float, left_out: Floats, scale: Scale = LINEAR, level: float = LEVEL) -> Interval:
    """The jackknife's standard error of a figure, and its interval on `scale`.

    The ends are nan if there are fewer than `FEWEST` clusters or the figure is not finite on the scale with some
    cluster left out, and equal the value where no cluster changes it.

    Args:
        value: the figure of all clusters.
        left_out: the figure without each cluster, shape (clusters,).
        scale: the scale on which the figure is nearly symmetric.
        level: the coverage.
    """
    check_axes(floating(left_out, "left_out"), "left_out", "clusters")
    number = len(left_out)
    with np.errstate(all="ignore"):
        if np.all(np.abs(left_out - value) <= _EQUAL * abs(value)):
            return Interval(0.0, value, value)
        error = math.sqrt((number - 1) / number * float(np.sum((left_out - left_out.mean()) ** 2)))
        there, moved = float(scale.forward(np.asarray(value))), scale.forward(left_out)
        if number < FEWEST or not (math.isfinite(there) and np.isfinite(moved).all()):
            return Interval(error, math.nan, math.nan)
        bias = (number - 1) * float(moved.mean() - there)
        ends = (there - bias) + _ends((number - 1) * (moved.mean() - moved), bias, level)
        low, high = scale.backward(ends).tolist()
    return Interval(error, low, high)


def _ends(deviation: Floats, bias: float, level: float) -> Floats:
    """Both ends less the figure, (2,), from the deviation of each cluster's pseudo-value, (clusters,), and their bias.

    The bias that was removed is itself uncertain, by about its own size.
    """
    number = len(deviation)
    square = float(np.mean(deviation**2))
    error = math.hypot(math.sqrt(square / (number - 1)), bias)
    unit = deviation / math.sqrt(square)
    skewness = float(np.mean(unit**3)) * math.sqrt(number * (number - 1)) / (number - 2)
    # The variance of the squared error, 2/(n − 1) for normal clusters, grows with their kurtosis.
    unbiased = ((number + 1) * (float(np.mean(unit**4)) - 3) + 6) * (number - 1) / ((number - 2) * (number - 3))
    excess = max(unbiased, 0.0)
    quantile = float(stdtrit(2 / (excess / number + 2 / (number - 1)), 0.5 + level / 2))
    return error * _straightened(np.array([-quantile, quantile]), -skewness / math.sqrt(number))


def _straightened(quantile: Floats, skewness: float) -> Floats:
    """The inverse of Hall's cubic transformation of a studentised mean whose skewness, over √n, is `skewness`."""
    if abs(skewness) < _STRAIGHT:
        return quantile
    return np.asarray(3 / skewness * (np.cbrt(1 + skewness * (quantile - skewness / 6)) - 1))


def of_share(sums: Floats, sizes: Floats, units: float | None = None, level: float = LEVEL) -> Interval:
    """The interval of a share of tokens, Σ sums / Σ sizes: a mean of 0 and 1, or of values in [0, 1], over all tokens.

    It is that of `of_share_moments`.

    Args:
        sums: the sum over the tokens of each cluster, (clusters,).
        sizes: the number of tokens in each cluster, or the sum of their weights, (clusters,).
        units: the independent units (sequences) in all clusters, where clusters hold several; by default the clusters.
        level: the coverage.

    Raises:
        ValueError: a sum lies outside 0 to the size by more than the masses of laws in float32 may.
    """
    check_numpy(sums=sums, sizes=sizes)
    check_axes(floating(sums, "sums"), "sums", "clusters")
    check_shape(floating(sizes, "sizes"), sums.shape, "sizes", "one number per cluster")
    sides = np.stack([sums, sizes - sums])
    if (sides < -_BEYOND * sizes).any():
        raise ValueError("sums must lie in 0 to sizes: give the sums of values that lie in [0, 1]")
    # A side that is empty but for rounding is empty.
    sides = np.where(sides <= _EQUAL * sizes, 0.0, sides)
    # Without BLAS, whose last bits depend on its threads.
    return of_share_moments(sides.sum(axis=1), np.einsum("ic,jc->ij", sides, sides), len(sums), units, level)


def of_share_moments(
    totals: Floats, products: Floats, clusters: int, units: float | None = None, level: float = LEVEL
) -> Interval:
    """The interval of a share of tokens, from moments of two sides: the tokens that count, and the others.

    It is Clopper and Pearson's, with the number of independent tokens that has the variance which the clusters show
    (Korn and Graubard 1998, Survey Methodology 24). Like Fay and Feuer's (1997, Statistics in Medicine 16), its high
    end adds one more such token, and its low end takes one away. Three things make it hold for rare shares, which few
    clusters carry:

    - Student's factor widens the standard error with as many degrees of freedom as clusters carry the rarer side,
      (Σc)²/Σc² of their tokens c, for they alone tell how it is spread;
    - yet no further than to clusters that lie on one side as a whole, for nothing spreads more within [0, 1];
    - where one side has no token, nothing tells how it would be spread, and whole clusters are what is counted.

    Ends are nan for fewer than `FEWEST` clusters, and equal a share between 0 and 1 that all clusters have.
    `python -m tests.interval_coverage share` shows the coverage.

    Args:
        totals: Σ over clusters of the tokens of each side, (2,).
        products: Σ over clusters of the products of both sides' tokens, (2, 2).
        clusters: the number of clusters.
        units: as in `of_share`.
        level: the coverage.
    """
    check_numpy(totals=totals, products=products)
    check_shape(floating(totals, "totals"), (2,), "totals", "both sides")
    check_shape(floating(products, "products"), (2, 2), "products", "each side with each")
    with np.errstate(all="ignore"):
        size, quantile = float(totals.sum()), 0.5 + level / 2
        share, other = (totals / size).tolist()
        slope, among = np.array([other, -share]) / size, float(products.sum() / totals.sum() ** 2)
        # Shares of independent tokens differ from that of all by 1 − Σ size²/(Σ size)² of their variance. Rounding may
        # leave less than none.
        variance = max(float(np.einsum("i,ij,j", slope, products, slope)), 0.0) / (1 - among) if among < 1 else math.nan
        if clusters < FEWEST or not math.isfinite(variance):
            return Interval(math.sqrt(variance), math.nan, math.nan)
        if share > 0 and other > 0 and math.sqrt(variance) <= _EQUAL * min(share, other):
            return Interval(0.0, share, share)
        whole = among if units is None else among * clusters / units
        spread, step = variance, whole
        if share > 0 and other > 0:
            carriers = float(np.min(totals**2 / np.diagonal(products)))
            student = float(stdtrit(min(carriers, clusters - 1), quantile) / ndtri(quantile)) ** 2
            spread = max(variance, min(student * variance, share * other * whole))
            step = spread / (share * other)
        high = _beta_quantile(*_reached(share, other, spread, step), quantile) if other > 0 else 1.0
        low = _beta_quantile(*_reached(other, share, spread, step)[::-1], 1 - quantile) if share > 0 else 0.0
    return Interval(math.sqrt(variance), low, high)


def _reached(share: float, other: float, spread: float, step: float) -> tuple[float, float]:
    """The parameters of the beta law whose upper quantile is the high end; Clopper's where spread is of tokens."""
    mean, rest = (share + step) / (1 + step), other / (1 + step)
    size = mean * rest * (1 + step) ** 2 / (spread + step**2 * other) + 1
    return mean * size, rest * size


def _beta_quantile(first: float, second: float, quantile: float) -> float:
    """The quantile of a beta law; beyond `_LARGE`, where scipy's loses its digits, from the gamma law of fewer."""
    size = first + second
    if size <= _LARGE:
        return float(betaincinv(first, second, quantile))
    if first > second:
        return 1 - _beta_quantile(second, first, 1 - quantile)
    return (first + (float(gammaincinv(first, quantile)) - first) * math.sqrt(second / size)) / size


def student(values: Floats, level: float = LEVEL) -> Interval:
    """The standard error and Student's interval of the mean of independent values, (n,); nan for fewer than 2."""
    check_axes(floating(values, "values"), "values", "n")
    number = len(values)
    if number < 2:
        return Interval(math.nan, math.nan, math.nan)
    error = float(np.std(values, ddof=1)) / math.sqrt(number)
    half = float(stdtrit(number - 1, 0.5 + level / 2)) * error
    mean = float(np.mean(values))
    return Interval(error, mean - half, mean + half)


def stratified_mean(values: Floats, stratum: Ints) -> tuple[float, Floats]:
    """The mean of values, (n,), and the mean without each, (n,), whose jackknife is that of fixed strata.

    Only the spread within strata counts, each with its own size. A stratum with one value has none: nan.
    """
    check_numpy(values=values, stratum=stratum)
    check_axes(floating(values, "values"), "values", "n")
    check_shape(check_integers(stratum, "stratum"), (len(values),), "stratum", "one number per value")
    number, at = len(values), np.unique(stratum, return_inverse=True)[1]
    size = np.bincount(at)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = values - (np.bincount(at, values) / size)[at]
        spread *= np.sqrt(size / (size - 1))[at]
    mean = float(np.mean(values))
    return mean, mean - spread / math.sqrt(number * (number - 1))
