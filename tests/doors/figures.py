"""The doors of analysis and paper_figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from analysis import tables
from paper_figures import fits
from paper_figures.training import statistics
from tests.doors.harness import Door, Sizes, Values, array, numbers

EXEMPT: Mapping[str, str] = {
    "analysis.bootstrap.Candidate": "made by bootstrap.environments",
    "analysis.tables.tied": "its arguments broadcast",
}
"""The public functions without a door, and why."""


def ascending(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """Steps."""
    return np.sort(generator.integers(0, 20, size=shape))


def six(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """As many clusters as rows."""
    return np.arange(shape[0])


positive = numbers(0.5, 2)
DOORS = (
    Door(
        tables.undominated,
        {"bias": array("candidates replicates", positive), "variance": array("candidates replicates", positive)},
        torch=False,
    ),
    Door(tables.is_lowest, {"values": array("candidates replicates", any_shape=True)}, torch=False),
    Door(
        lambda values, length, clusters: fits.power_law(values, {"length": length}, clusters),
        {
            "values": array("6", positive, any_dtype=True),
            "length": array("6", positive, any_dtype=True),
            "clusters": array("6", six, any_dtype=True),
        },
        name="paper_figures.fits.power_law",
        torch=False,
    ),
    Door(
        fits.jackknifed,
        {"numerators": array("n", positive, any_dtype=True), "denominators": array("n", positive, any_dtype=True)},
        torch=False,
    ),
    Door(
        lambda steps, values: statistics.running_mean(steps, values, 4),
        {"steps": array("n", ascending), "values": array("n")},
        name="paper_figures.training.statistics.running_mean",
        torch=False,
    ),
)
