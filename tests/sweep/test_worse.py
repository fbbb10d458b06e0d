"""The ratios of MSEs to the least one, and the ties among them."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from jackpot_sim.sweep.worse import worse

KEYS = ["estimator", "method"]


def cells(figures: dict[str, list[float]], errors: dict[str, float] | None = None) -> list[str]:
    """The column for estimators by name, with their MSEs by seed and the standard errors of their means."""
    rows = pd.DataFrame(
        {"estimator": name, "method": "exact", "seed": seed, "mse": value}
        for name, values in figures.items()
        for seed, value in enumerate(values)
    )
    means = rows.groupby(KEYS, sort=False)["mse"].mean().reset_index()
    means["mse_se"] = [(errors or {}).get(name, math.nan) for name in means["estimator"]]
    return worse(rows, means, KEYS)


def test_an_exact_figure_is_compared_by_its_ratio() -> None:
    assert cells({"a": [0.4], "b": [0.2], "c": [0.2001], "d": [math.nan]}) == ["2", "least", "tie", "nan"]


@pytest.mark.parametrize(("error", "cell"), [(0.04, "1.5"), (0.09, "tie")])
def test_noise_is_two_standard_errors_of_the_difference(error: float, cell: str) -> None:
    """The difference 0.1 is 2.4 and 1.1 standard errors of the difference, where 0.01 belongs to the least."""
    assert cells({"a": [0.2], "b": [0.3]}, {"a": 0.01, "b": error}) == ["least", cell]


def test_seeds_are_compared_in_pairs() -> None:
    """The environments differ a hundredfold, but b is worse in each of them; c is worse in one alone."""
    a = [0.01, 0.1, 1.0, 0.5]
    assert cells({"a": a, "b": [x + 0.1 + 0.01 * x for x in a], "c": [0.01, 0.1, 2.0, 0.45]}) == [
        "least",
        "1.26",
        "tie",
    ]


def test_methods_are_compared_among_themselves() -> None:
    rows = pd.DataFrame(
        {"estimator": ["a", "b"] * 2, "method": ["exact"] * 2 + ["monte_carlo"] * 2, "seed": 0, "mse": [2, 4, 1, 4]}
    )
    assert worse(rows, rows.assign(mse_se=0.0), KEYS) == ["least", "2", "least", "4"]
