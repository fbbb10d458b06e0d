"""The table of a run: a figure is marked as the least where the noise tells it from the others."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from jackpot_sim.sweep.summary import _rivals, _standing_out, _winner


def means(*figures: tuple[float, float]) -> pd.DataFrame:
    """Estimators a, b, ... with these figures and their standard errors; nan for exact ones."""
    rows = [
        {"estimator": "abcd"[at], "denominator": "proposed", "mse": figure, "mse_se": error}
        for at, (figure, error) in enumerate(figures)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("figures", "least"),
    [
        ([(0.363, 0.4), (0.416, 0.5)], math.nan),
        ([(0.363, 0.01), (0.416, 0.01)], 0.363),
        ([(0.363, 0.01), (0.390, 0.01)], math.nan),
        ([(0.363, math.nan), (0.364, math.nan)], 0.363),
        ([(0.363, math.nan), (0.363, math.nan), (0.9, math.nan)], 0.363),
        ([(0.9, 0.0), (0.363, 0.001), (math.nan, math.nan)], 0.363),
        ([(0.9, 10.0), (0.363, 0.001), (0.7, 0.001)], math.nan),
        ([(math.nan, math.nan)], math.nan),
    ],
)
def test_the_least_stands_out_by_two_standard_errors(figures: list[tuple[float, float]], least: float) -> None:
    assert _standing_out(means(*figures), "mse") == pytest.approx(least, nan_ok=True)


def test_a_winner_inside_the_noise_is_a_tie() -> None:
    assert _winner(means((0.4, 0.4), (0.5, 0.1), (9.0, 0.1)), "mse") == ("tie of 2 within the noise; least: a", "0.4")
    assert _winner(means((0.4, math.nan), (0.4, math.nan), (9.0, math.nan)), "mse") == ("a and 1 more", "0.4")
    assert _rivals(means((0.4, 0.01), (0.4, 0.3), (0.6, 0.01)), "mse") == 1, "the noise of either of the tied counts"
