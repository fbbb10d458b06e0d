"""Intervals from clusters left out: by hand where they are symmetric, and beyond it where they are not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from jackpot_sim.core import intervals
from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.intervals import Interval, of_left_out, of_share, stratified_mean, student


def of_mean(values: Floats, scale: intervals.Scale = intervals.LINEAR) -> Interval:
    return of_left_out(float(values.mean()), (values.sum() - values) / (len(values) - 1), scale)


SYMMETRIC = np.concatenate([np.arange(1, 11), -np.arange(1, 11)]).astype(float) + 50


def test_of_symmetric_values_it_is_students() -> None:
    found, wanted = of_mean(SYMMETRIC), student(SYMMETRIC)
    assert found == pytest.approx(wanted, rel=1e-9)
    assert wanted == pytest.approx((stats.sem(SYMMETRIC), *stats.t.interval(0.95, 19, 50, stats.sem(SYMMETRIC))))


@pytest.mark.parametrize("sign", [1, -1])
def test_of_skewed_values_it_reaches_further_to_the_side_of_the_tail(sign: int) -> None:
    values = sign * np.random.default_rng(0).exponential(size=40)
    found, plain = of_mean(values), student(values)
    far, near = (found.high, found.low)[::sign]
    far_of_plain, near_of_plain = (plain.high, plain.low)[::sign]
    assert found.se == pytest.approx(plain.se, rel=1e-9)
    assert sign * far > sign * far_of_plain
    assert sign * near > sign * near_of_plain


def test_halls_transformation_by_its_own_inverse() -> None:
    """g(T) = T + κT²/3 + κ²T³/27 + κ/6 with κ the skewness over √n (Hall 1992, eq. 1.3)."""
    wanted = np.array([-2.2, 2.2])
    for skewness in (-0.8, -1e-7, 0.3):
        t = intervals._straightened(wanted, skewness)
        back = t + skewness * t**2 / 3 + skewness**2 * t**3 / 27 + skewness / 6
        assert back == pytest.approx(wanted, abs=1e-6)


def test_heavy_tails_leave_fewer_degrees_of_freedom() -> None:
    spread = np.array([-1.0, 1.0] * 20)
    heavy = np.concatenate([spread[:-2] / 100, [-4.0, 4.0]])
    light, wide = ((found.high - found.low) / found.se for found in (of_mean(spread), of_mean(heavy)))
    assert light == pytest.approx(2 * stats.t.ppf(0.975, 39), rel=1e-6)
    assert wide > 1.3 * light


@pytest.mark.parametrize("scale", [intervals.LOG, intervals.LOG1P, intervals.LOGIT, intervals.FISHER])
def test_ends_stay_where_the_scale_lives(scale: intervals.Scale) -> None:
    grid = np.array([0.01, 0.3, 0.9])
    assert scale.backward(scale.forward(grid)) == pytest.approx(grid, rel=1e-12)
    values = np.random.default_rng(3).choice([0.02, 0.9], p=[0.9, 0.1], size=9)
    values[0] = 0.9
    found = of_mean(values, scale)
    bottom = {intervals.LOG1P: -1.0, intervals.FISHER: -1.0}.get(scale, 0.0)
    assert bottom <= found.low < values.mean() < found.high


def test_where_nothing_covers_there_are_no_ends() -> None:
    values = np.arange(7.0)
    assert math.isnan(of_mean(values).low)
    assert of_mean(values).se == pytest.approx(stats.sem(values))
    assert not math.isnan(of_mean(np.arange(8.0)).low)
    alone = np.eye(9)[0]  # without the first, the mean is 0 and has no logarithm
    assert math.isnan(of_mean(alone, intervals.LOG).high)
    assert of_mean(np.full(9, 0.1)) == (0.0, pytest.approx(0.1), pytest.approx(0.1))


def test_a_fixed_stratum_counts_only_the_spread_within() -> None:
    values, stratum = np.array([1.0, 2, 3, 11, 15, 13, 12, 14]), np.array([5, 5, 5, 7, 7, 7, 7, 7])
    mean, left_out = stratified_mean(values, stratum)
    assert mean == values.mean()
    # Σ n_s² · s²/n_s over n²: 3 · 1 and 5 · 2.5.
    assert of_left_out(mean, left_out).se == pytest.approx(math.sqrt(3 * 1 + 5 * 2.5) / 8)
    assert np.isnan(stratified_mean(values, np.arange(8))[1]).all()


def clopper(count: float, number: float) -> tuple[float, float]:
    return stats.beta.ppf(0.025, count, number - count + 1), stats.beta.ppf(0.975, count + 1, number - count)


def test_of_whole_clusters_a_share_has_clopper_and_pearsons_interval_of_one_fewer() -> None:
    """Their variance is p(1 − p)/(n − 1), that of n − 1 independent ones."""
    for clusters, counted in ((20, 1), (20, 5), (64, 60)):
        sums = np.where(np.arange(clusters) < counted, 30.0, 0.0)
        found = of_share(sums, np.full(clusters, 30.0))
        share = counted / clusters
        assert found[1:] == pytest.approx(clopper(share * (clusters - 1), clusters - 1), rel=1e-9)
        assert found.se == pytest.approx(stats.sem(sums / 30), rel=1e-9)


def test_a_share_of_none_or_all_is_bounded_by_whole_clusters() -> None:
    sizes = np.full(50, 80.0)
    bound = 1 - 0.025 ** (1 / 50)
    assert of_share(np.zeros(50), sizes) == (0, 0, pytest.approx(bound))
    assert of_share(sizes * (1 + 1e-15), sizes) == (0, pytest.approx(1 - bound), 1)
    # Overlaps of laws in float32 may exceed 1.
    assert of_share(sizes * (1 + 1e-6), sizes) == of_share(sizes, sizes)
    assert of_share(-1e-6 * sizes, sizes) == of_share(0 * sizes, sizes)
    # Clusters that hold ten units each, and clusters of which half have next to no token.
    assert of_share(np.zeros(50), sizes, units=500).high == pytest.approx(1 - 0.025 ** (1 / 500))
    assert of_share(np.zeros(50), np.where(np.arange(50) % 2, sizes, 1e-9)).high == pytest.approx(1 - 0.025 ** (1 / 25))


def test_the_share_of_the_other_side_has_the_mirrored_interval() -> None:
    generator = np.random.default_rng(0)
    sizes = generator.integers(20, 200, size=40).astype(float)
    sums = sizes * generator.beta(0.3, 3, size=40)
    found, other = of_share(sums, sizes), of_share(sizes - sums, sizes)
    assert (1 - other.high, 1 - other.low) == pytest.approx(found[1:], rel=1e-9)
    assert found.low < sums.sum() / sizes.sum() < found.high


def test_of_values_that_differ_little_it_is_students() -> None:
    values = np.random.default_rng(0).normal(0.4, 1e-4, size=200)
    found = of_share(7 * values, np.full(200, 7.0))
    assert found == pytest.approx(student(values), rel=1e-6)
    assert found.high - found.low == pytest.approx(3.94 * found.se, rel=0.01)


def test_quantiles_of_beta_laws_of_many_tokens() -> None:
    """From the other way round, where scipy has digits; and the normal law, and the gamma law, where it has none."""
    for first, second in ((3, 2e6), (1000, 2e6), (2e6, 1000), (1e6, 2e6), (2e6, 2e6)):
        for quantile in (0.025, 0.975):
            found = intervals._beta_quantile(first, second, quantile)
            assert stats.beta.cdf(found, first, second) == pytest.approx(quantile, abs=2e-4)
    assert intervals._beta_quantile(1000, 1e22, 0.975) == pytest.approx(stats.gamma.ppf(0.975, 1000) / 1e22, rel=1e-9)
    half = stats.norm.ppf(0.975) * math.sqrt(0.25 / 2e14)
    assert intervals._beta_quantile(1e14, 1e14, 0.975) - 0.5 == pytest.approx(half, rel=1e-6)


def test_a_share_that_few_clusters_carry_keeps_a_length_that_tells() -> None:
    """On the logit scale the second interval ends at 0.83."""
    sizes = np.full(64, 100.0)
    alone, few = np.zeros(64), np.zeros(64)
    alone[3], few[[5, 20, 50]] = 1.0, (2.0, 1.0, 20.0)
    on_logit = of_left_out(few.sum() / 6400, (few.sum() - few) / 6300, intervals.LOGIT)
    assert on_logit.high > 0.8
    assert of_share(few, sizes).high < 0.08
    # A token of one sequence: more than of independent tokens, and less than of whole sequences.
    assert clopper(1, 6400)[1] < of_share(alone, sizes).high < clopper(1, 64)[1]


def test_a_share_has_no_interval_of_few_clusters_and_none_beyond_0_and_1() -> None:
    assert math.isnan(of_share(np.ones(7), np.full(7, 5.0)).low)
    assert math.isnan(of_share(np.zeros(9), np.zeros(9)).low)
    assert of_share(np.full(9, 0.3), np.full(9, 3.0)) == (0, pytest.approx(0.1), pytest.approx(0.1))
    assert math.isnan(of_share(np.full(9, math.nan), np.full(9, 3.0)).low)
    for sums in (np.full(9, 6.0), np.full(9, -1.0), np.where(np.arange(9) < 8, 1.0, 5.1)):
        with pytest.raises(ValueError, match="sums must lie in 0 to sizes"):
            of_share(sums, np.full(9, 5.0))


def test_one_value_has_no_error() -> None:
    assert all(math.isnan(each) for each in student(np.array([1.0])))
