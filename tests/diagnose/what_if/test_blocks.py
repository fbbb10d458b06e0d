"""Blocks of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackpot_sim.core.arrays import Ints
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.what_if import blocks
from jackpot_sim.diagnose.what_if.blocks import Block
from tests.cases import each
from tests.diagnose.what_if.dumps import dump, padded

LAYOUTS = (blocks.in_a_row, blocks.by_length, blocks.by_step)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CELLS", 60), ("SMALL", 20), ("WHOLE", 90)):
        monkeypatch.setattr(blocks, name, value)


@pytest.mark.usefixtures("small")
@each("layout", LAYOUTS)
def test_each_sequence_is_in_one_block_with_its_tokens(layout: Callable[[Batch], Iterator[Block]]) -> None:
    lengths = np.array([3, 70, 1, 8, 8, 30, 2, 8, 5, 1, 1, 61])
    table = dump(0, lengths, steps=2)
    batch, rollouts = Batch(table, 5), padded(table)
    rows = []
    for block in layout(batch):
        rows.extend(block.rows.tolist())
        own = rollouts.take(block.rows)
        np.testing.assert_array_equal(block.of(batch.log_ratio), own.log_ratio[own.mask])
        np.testing.assert_array_equal(block.flat(block.shaped(block.of(batch.log_ratio))), block.of(batch.log_ratio))
        tokens = block.tokens
        if block.padded:
            longest = block.lengths.max()
            np.testing.assert_array_equal(tokens.live, own.mask[:, :longest])
            np.testing.assert_array_equal(tokens.log_ratio, own.log_ratio[:, :longest])
        assert np.array_equal(np.add.reduceat(np.ones(block.lengths.sum()), block.starts), block.lengths)
    assert sorted(rows) == list(range(len(lengths)))


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60))
def test_padding_is_bounded(lengths: list[int]) -> None:
    batch = Batch(dump(0, np.asarray(lengths)), 0)
    found = list(blocks.by_length(batch))
    cells = [len(block.rows) * int(block.lengths.max()) for block in found]
    for block, size in zip(found, cells, strict=True):
        assert size <= blocks.CELLS or len(block.rows) == 1
        assert size <= max(blocks.WASTE * block.lengths.sum(), blocks.SMALL)
    assert len(found) <= 2 + 2 * sum(cells) / blocks.SMALL


@pytest.mark.usefixtures("small")
def test_a_step_is_a_block_unless_it_is_large() -> None:
    table = dump(0, np.full(30, 3), steps=1)
    mixed = dataclasses.replace(table, step=np.arange(30) % 2)
    rows: list[Ints] = [block.rows for block in blocks.by_step(Batch(mixed, 0))]
    assert [each.tolist() for each in rows] == [list(range(0, 30, 2)), list(range(1, 30, 2))]
    assert [len(block.rows) for block in blocks.by_step(Batch(dataclasses.replace(table, step=None), 0))] == [30]
    longer = Batch(dump(0, np.full(31, 3)), 0)
    assert [len(block.rows) for block in blocks.by_step(longer)] == [30, 1]
