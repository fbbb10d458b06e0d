"""Tests find nothing where nothing is, as often as they promise, and take sequences as their unit."""

from __future__ import annotations

import numpy as np

from jackpot_sim.diagnose.causes import chance
from jackpot_sim.estimators.mismatch.clusters import Units

SEQUENCES, LENGTH = 40, 10
UNITS = Units(np.repeat(np.arange(SEQUENCES), LENGTH), SEQUENCES)


def test_values_that_sequences_share_are_no_more_often_beyond_zero_than_the_level_says() -> None:
    """Were tokens the unit, two of five would be."""
    rng = np.random.default_rng(0)
    shared = (np.repeat(rng.standard_normal(SEQUENCES), LENGTH) for _ in range(400))
    found = sum(chance.mean(UNITS, values).beyond_zero for values in shared)
    assert found <= 8  # of 400 · LEVEL = 2


def test_a_mean_far_from_zero_is_beyond_it_and_certain() -> None:
    found = chance.mean(UNITS, 1 + np.random.default_rng(1).standard_normal(SEQUENCES * LENGTH))
    assert found.beyond_zero
    assert found.certainty > 0.9
    assert chance.mean(UNITS, -np.ones(SEQUENCES * LENGTH)).beyond_zero


def test_few_sequences_tell_nothing() -> None:
    few = chance.FEWEST - 1
    found = chance.mean(Units(np.arange(few), few), np.ones(few))
    assert not found.beyond_zero
    assert found.certainty == 0
    assert not chance.rises(np.arange(few) * 1.0, np.arange(few) * 1.0)[0]
    assert not chance.larger(np.arange(few) * 1.0, np.arange(few) > 3)


def test_ranks_rise_and_groups_are_larger_beyond_chance_alone() -> None:
    rng = np.random.default_rng(2)
    x = np.arange(60.0)
    assert chance.rises(x + rng.standard_normal(60), x)[0]
    assert not chance.rises(-x, x)[0]
    assert not chance.rises(rng.standard_normal(60), x)[0]
    assert not chance.rises(x, np.ones(60))[0]
    assert chance.larger(x, x > 30)
    assert not chance.larger(x, x < 30)
    values, here = np.append(np.zeros(30), 0.8 * np.ones(30)) + rng.standard_normal(60), x >= 30
    assert chance.larger(values, here)
    assert not chance.larger(values, here, tries=10**6)
