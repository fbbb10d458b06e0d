"""Sums by group of sequences: those of a plain loop, wherever a batch begins."""

from __future__ import annotations

import numpy as np
import pytest

from jackpot_sim.diagnose.batch import GROUPS, Batch
from tests.diagnose.measure.tables import drawn


@pytest.mark.parametrize("first", [0, 7, GROUPS - 1, 5 * GROUPS, 5 * GROUPS + 300])
@pytest.mark.parametrize("sequences", [1, 40, GROUPS, 3 * GROUPS + 9])
def test_sums_are_those_of_a_plain_loop(first: int, sequences: int) -> None:
    batch = Batch(drawn(sequences), first)
    values = np.random.default_rng(0).normal(size=(sequences, 2))
    wanted, tokens = np.zeros((GROUPS, 2)), np.zeros(GROUPS)
    for row in range(sequences):
        wanted[(first + row) % GROUPS] += values[row]
        tokens[(first + row) % GROUPS] += batch.table.lengths[row]
    assert batch.by_group(values) == pytest.approx(wanted, rel=1e-12, abs=1e-12)
    assert batch.by_group(values[:, 0]) == pytest.approx(wanted[:, 0], rel=1e-12, abs=1e-12)
    assert batch.token_sums(None)[:, 0].tolist() == tokens.tolist()
