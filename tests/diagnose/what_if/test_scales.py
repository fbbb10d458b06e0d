"""Bins on a logarithmic scale."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jackpot_sim.diagnose.what_if.scales import LENGTHS, WEIGHTS, LogScale


@given(st.lists(st.floats(2.0**-32, 2.0**32, exclude_max=True), min_size=1), st.floats(0.01, 1))
def test_quantiles_are_within_half_a_bin(values: list[float], level: float) -> None:
    array = np.asarray(values)
    found = WEIGHTS.quantile(WEIGHTS.counts(WEIGHTS.bins(array)), level)
    wanted = float(np.sort(array)[math.ceil(level * len(values) * (1 - 1e-12)) - 1])
    assert abs(found / wanted - 1) <= 2**-8


def test_bins_take_their_lower_ends_and_all_numbers() -> None:
    scale = LogScale(-1, 2, 1)
    values = np.array([0.0, 0.49, 0.5, 0.74, 0.75, 1.0, 1.5, 3.99, 4.0, math.inf])
    assert scale.bins(values).tolist() == [0, 0, 1, 1, 2, 3, 4, 6, 7, 7]
    assert scale.size == 8
    assert scale.middles.tolist() == [0, 0.625, 0.875, 1.25, 1.75, 2.5, 3.5, math.inf]


def test_short_lengths_are_exact() -> None:
    lengths = np.arange(1.0, 65.0)
    assert len(set(LENGTHS.bins(lengths).tolist())) == 64


def test_masses_are_counted() -> None:
    scale = LogScale(0, 2, 0)
    bins = scale.bins(np.array([1.0, 1.5, 2.0]))
    assert scale.counts(bins).tolist() == [0, 2, 1, 0]
    assert scale.counts(bins, np.array([0.5, 0.25, 3.0])).tolist() == [0, 0.75, 3, 0]
    assert math.isnan(scale.quantile(scale.zeros(), 0.5))
