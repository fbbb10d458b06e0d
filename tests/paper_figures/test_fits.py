"""Power laws: exponents that are known, errors that are honest, and numbers that have no logarithm."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from jackpot_sim.studies.errors import StudyError
from paper_figures import fits


def noisy(generator: np.random.Generator, clusters: int = 60, each: int = 3) -> dict[str, np.ndarray]:
    """2·T^1.5·Δ^0.8 with an error that a whole cluster shares, and one of each row."""
    labels = np.repeat(np.arange(clusters), each)
    length = np.repeat(generator.integers(1, 7, clusters), each).astype(float)
    distance = np.tile([0.01, 0.03, 0.1], clusters)[: clusters * each]
    shared = np.repeat(0.3 * generator.standard_normal(clusters), each)
    own = 0.05 * generator.standard_normal(clusters * each)
    values = 2 * length**1.5 * distance**0.8 * np.exp(shared + own)
    return {"values": values, "T": length, "distance": distance, "clusters": labels}


def test_exponents_are_recovered_within_their_errors() -> None:
    off = []
    for seed in range(200):
        data = noisy(np.random.default_rng(seed))
        found = fits.power_law(data["values"], {"T": data["T"], "D": data["distance"]}, data["clusters"])
        off.append([(found["T"].value - 1.5) / found["T"].se, (found["D"].value - 0.8) / found["D"].se])
    # Errors that took the rows of a cluster for independent would leave the exponent in T 1.7 off instead.
    assert np.std(off, axis=0) == pytest.approx([1, 1], abs=0.25)
    assert np.abs(np.mean(off, axis=0)).max() < 0.25


def test_errors_of_few_clusters_are_not_too_small() -> None:
    """Those of a sandwich of eight clusters are 0.8 of the scatter."""
    off = []
    for seed in range(200):
        data = noisy(np.random.default_rng(seed), clusters=8)
        found = fits.power_law(data["values"], {"T": data["T"], "D": data["distance"]}, data["clusters"])
        off.append((found["T"].value - 1.5, found["T"].se))
    scatter, stated = np.sqrt(np.mean(np.square(off), axis=0))
    assert stated > 0.95 * scatter


def test_without_noise_it_is_exact() -> None:
    length = np.array([1.0, 2, 3, 4, 5])
    found = fits.power_law(7 * length**2, {"T": length}, np.arange(5))
    assert found["T"].value == pytest.approx(2, abs=1e-12)
    assert found["T"].se == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
def test_a_number_without_a_logarithm_is_refused(wrong: float) -> None:
    with pytest.raises(StudyError, match="positive"):
        fits.power_law([1, 2, 3, wrong], {"T": [1, 2, 3, 4]}, [0, 1, 2, 3])


def test_factors_that_go_together_are_refused() -> None:
    length = np.arange(1.0, 7)
    with pytest.raises(StudyError, match="apart"):
        fits.power_law(length, {"T": length, "again": length**2}, np.arange(6))
    with pytest.raises(StudyError, match="add seeds"):
        fits.power_law(length, {"T": length}, np.zeros(6))


def test_geometric_mean() -> None:
    found = fits.geometric(pd.Series([1.0, np.e**2]))
    assert found == pytest.approx((1.0, 1.0))
    assert np.isnan(fits.geometric(pd.Series([1.0, 0.0])).value)


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.array([1.0, 4, 2, 8, 5])
    found = fits.jackknifed(values, np.ones(5))
    assert found == pytest.approx((values.mean(), values.std(ddof=1) / np.sqrt(5)))


def test_values_factors_and_clusters_are_one_per_row() -> None:
    rows = np.arange(1.0, 7.0)
    for wrong in (rows[:, None], rows[None], rows[:5], rows[0]):
        for values, length, clusters in ((wrong, rows, rows), (rows, wrong, rows), (rows, rows, wrong)):
            with pytest.raises(ValueError, match="has shape"):
                fits.power_law(values, {"T": length}, clusters)
        for above, below in ((wrong, rows), (rows, wrong)):
            with pytest.raises(ValueError, match="has shape"):
                fits.jackknifed(above, below)
