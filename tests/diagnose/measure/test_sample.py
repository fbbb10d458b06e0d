"""The sample: the same however the dump is cut, as large as it says, and drawn evenly."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jackpot_sim.core.topk import TopK
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.measure.sample import Sample
from jackpot_sim.readers.table import TokenTable
from tests.diagnose.measure.tables import cut, drawn, filled, table_of


def taken(batches: list[Batch], tokens: int) -> TokenTable:
    table = filled(lambda: Sample(tokens), batches).table()
    assert table is not None
    return table


def test_a_small_dump_is_there_whole_and_in_order() -> None:
    table = drawn(50)
    sample = filled(lambda: Sample(len(table)), cut(table, 20, 3))
    found = sample.table()
    assert sample.whole
    assert found is not None
    assert found.name == table.name
    np.testing.assert_array_equal(found.policy_log_probs, table.policy_log_probs)


@pytest.mark.parametrize("tokens", [10, 300, 1500])
def test_the_sample_does_not_depend_on_the_batches(tokens: int) -> None:
    table = drawn(500)
    whole = taken([Batch(table, 0)], tokens)
    for sizes in ((100, 100, 100), (1, 498), (499,)):
        assert taken(cut(table, *sizes), tokens).name == whole.name
    one = Sample(tokens)
    for batch in cut(table, *[10] * 49):
        one.add(batch)
    assert not one.whole
    alone = one.table()
    assert alone is not None
    assert alone.name == whole.name
    assert len(whole) - whole.lengths.max() < tokens <= len(whole)


def test_long_sequences_are_drawn_as_often_as_there_are() -> None:
    """Half of the sequences have 50 tokens and half 1: without the one that completes the sample they are too few."""
    lengths = np.where(np.arange(200) % 2, 50, 1)
    long = []
    for first in range(0, 80_000, 200):
        sample = Sample(120)
        sample.add(Batch(table_of(-np.ones(lengths.sum()), -np.ones(lengths.sum()), lengths), first))
        table = sample.table()
        assert table is not None
        long.append((int((table.lengths == 50).sum()), table.sequences))
    count, of = np.sum(long, axis=0)
    # Wald: the numbers of both are half of the sequences drawn; a binomial of about 2,000 has a deviation of 0.011.
    assert count / of == pytest.approx(0.5, abs=0.04)


def test_tables_with_other_columns_share_what_they_have() -> None:
    first, second = (dataclasses.replace(drawn(4, seed), token=np.arange(len(drawn(4, seed)))) for seed in (0, 1))
    number = len(second)
    topk = TopK(np.zeros((number, 5), dtype=np.int32), np.zeros((number, 5), dtype=np.float32))
    second = dataclasses.replace(second, reward=np.zeros(4), advantages=np.zeros(number), actor_topk=topk)
    found = taken([Batch(first, 0), Batch(second, 4)], 10_000)
    assert found.sequences == 8
    assert found.columns == first.columns | {"actor_topk"}
    assert found.actor_topk is not None
    assert found.actor_topk.k == 5
    assert np.isnan(found.actor_topk.log_probs[: len(first)]).all()
    assert not np.isnan(found.actor_topk.log_probs[len(first) :]).any()


def test_long_top_k_leave_room_for_fewer_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    table = drawn(500)
    monkeypatch.setattr("jackpot_sim.diagnose.measure.sample.ROOM", 300 * 8 * 4)
    topk = TopK(np.zeros((len(table), 4), dtype=np.int32), np.zeros((len(table), 4), dtype=np.float32))
    long = dataclasses.replace(table, actor_topk=topk)
    whole, mixed = filled(Sample, [Batch(long, 0)]), filled(Sample, [Batch(table, 0), Batch(long, 500)])
    for sample in (whole, mixed):
        found = sample.table()
        assert found is not None
        assert 300 <= len(found) < 312
    assert mixed.sequences == 1000


def test_of_no_sequence_there_is_none() -> None:
    assert Sample().table() is None
    assert Sample().whole
