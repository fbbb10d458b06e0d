"""The worst tokens and sequences: those of a plain sort, with where they stand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.measure.worst import KEPT, Worst
from tests.diagnose.measure.tables import cut, drawn, filled, table_of


@pytest.mark.parametrize("sizes", [(), (1, 40)])
def test_they_are_those_of_a_plain_sort(sizes: tuple[int, ...]) -> None:
    table = drawn(60, scale=1.0)
    table = dataclasses.replace(table, token=np.arange(len(table)) + 1000)
    ratio = Batch(table, 0).log_ratio
    found = filled(Worst, cut(table, *sizes))
    order = np.argsort(ratio)
    wanted = np.concatenate([order[:KEPT], order[-KEPT:]])
    wanted = wanted[np.argsort(-np.abs(ratio[wanted]))]
    assert [each.token for each in found.tokens()] == [1000 + at for at in wanted]
    worst, at = found.tokens()[0], wanted[0]
    row = table.owner[at]
    assert (worst.sequence, worst.place, worst.position) == (table.name[row], table.place[row], table.position[at])
    assert worst.log_ratio == ratio[at]
    assert np.log([worst.actor_probability, worst.policy_probability]) == pytest.approx(
        [Batch(table, 0).actor_log_probs[at], Batch(table, 0).policy_log_probs[at]]
    )
    total = np.add.reduceat(ratio, table.starts[:-1])
    by_total, by_mean = (np.argsort(-np.abs(each))[:KEPT] for each in (total, total / table.lengths))
    names = [each.sequence for each in found.sequences()]
    assert names == [table.name[row] for row in [*by_total, *(each for each in by_mean if each not in by_total)]]
    assert found.sequences()[0].log_ratio == pytest.approx(total[by_total[0]])


def test_of_equal_ones_the_first_are_kept() -> None:
    lengths = np.full(40, 2)
    table = table_of(np.full(80, -1.0), np.full(80, -2.0), lengths)
    for sizes in ((), (15,), (1, 2)):
        found = filled(Worst, cut(table, *sizes))
        assert [(each.sequence, each.position) for each in found.tokens()][:3] == [("s0", 0), ("s0", 1), ("s1", 0)]
        assert [each.sequence for each in found.sequences()] == [f"s{i}" for i in range(KEPT)]


def test_tokens_that_agree_are_no_worst_ones() -> None:
    assert filled(Worst, cut(table_of(-np.ones(4), -np.ones(4), np.array([4])))).tokens() == []
