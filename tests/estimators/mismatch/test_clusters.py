"""What each cluster leaves when it is left out: against the figure of the other values alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from jackpot_sim.core import log_ratios
from jackpot_sim.core.arrays import Floats
from jackpot_sim.estimators.mismatch.clusters import LeftOut, Units

_generator = np.random.default_rng(0)
of_value = _generator.permutation(np.repeat(np.arange(6), [1, 2, 3, 4, 5, 9]))
first, second = _generator.normal(size=(2, len(of_value)))
units = Units(of_value, 6)

Of = Callable[[Floats, Floats], float]


@pytest.mark.parametrize(
    ("found", "figure"),
    [
        (units.mean(first), lambda x, y: x.mean()),
        (units.effective_share(first), lambda x, y: float(log_ratios.effective_sample_size(np.exp(x)))),
        (units.correlation(first, second), lambda x, y: np.corrcoef(x, y)[0, 1]),
    ],
)
def test_left_out_is_the_figure_of_the_others(found: LeftOut, figure: Of) -> None:
    assert found.value == pytest.approx(figure(first, second), rel=1e-12)
    others = [figure(first[of_value != cluster], second[of_value != cluster]) for cluster in range(6)]
    assert found.without == pytest.approx(others, rel=1e-10)


def test_small_clusters_keep_their_digits_beside_a_large_one() -> None:
    values = np.array([1e20, 1.0, 2.0])
    assert Units(np.arange(3), 3).mean(values).without[0] == 1.5


def test_a_trimmed_mean_changes_as_its_clusters_say() -> None:
    """To first order: the more values, the nearer to the trimmed mean of the others."""
    generator = np.random.default_rng(1)
    cluster, values = np.repeat(np.arange(500), 10), generator.exponential(size=5000)
    found = Units(cluster, 500).trimmed_mean(values, 0.1)
    exact = [Units(np.arange(4990) % 2, 2).trimmed_mean(values[cluster != c], 0.1).value for c in range(20)]
    change = found.without[:20] - found.value
    assert np.array(exact) - found.value == pytest.approx(change, abs=0.15 * np.abs(change).max())


def test_the_interval_of_a_median_holds_as_many_values_as_a_binomial_says() -> None:
    """Of independent values: Woodruff's ends are the order statistics m/2 ± 1.96·√m/2, but for the t and rounding."""
    values = np.arange(400.0)
    value, (error, low, high) = Units(np.arange(400), 400).quantile(values, 0.5)
    assert value == 199
    assert error == pytest.approx((high - low) / (2 * 1.96), rel=1e-12)
    assert (low, high) == pytest.approx((199 - 19.6, 199 + 19.6), abs=2)


def test_a_constant_has_no_error() -> None:
    value, interval = units.quantile(np.ones(len(of_value)), 0.5)
    assert (value, *interval) == (1, 0, 1, 1)


def test_a_quantile_at_the_end_of_the_values_has_no_interval() -> None:
    # Nothing lies below the least value, though half of the clusters hold it.
    value, interval = Units(np.arange(40), 40).quantile(np.repeat([0.0, 1.0], [20, 20]), 0.5)
    assert value == 0
    assert np.isnan(interval).all()
