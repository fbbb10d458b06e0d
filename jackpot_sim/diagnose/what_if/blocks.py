"""Blocks of a batch, small enough for the cache, as corrections take them: tokens in a row, or padded sequences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.estimators import Tokens

CELLS = 2**15
"""The numbers of a block, padding included, unless one sequence alone has more."""
WASTE = 1.5
"""The longest sequence of a padded block over its shortest, unless the block is small."""
SMALL = 2**11
"""The numbers up to which sequences of any length may be padded to one block."""
WHOLE = 2**19
"""The numbers of a block that is the whole batch of a correction that looks at it."""


@dataclass(frozen=True, eq=False)
class Block:
    """Some sequences of a batch, s of them, with n tokens; as corrections take them they have `shape`.

    Attributes:
        batch: the batch.
        rows: the numbers of the sequences, in the batch, (s,).
        padded: True where the sequences are rows of one array, padded to the longest; False where all tokens are one
            row.
    """

    batch: Batch
    rows: Ints
    padded: bool

    @cached_property
    def lengths(self) -> Ints:
        """The number of tokens of each sequence, (s,)."""
        return self.batch.table.lengths[self.rows]

    @cached_property
    def starts(self) -> Ints:
        """The first of the block's tokens of each sequence, (s,)."""
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def mask(self) -> Flags | None:
        """True at tokens, (s, longest); None where there is no padding."""
        longest = int(self.lengths.max())
        if not self.padded or bool(np.all(self.lengths == longest)):
            return None
        return np.asarray(np.arange(longest) < self.lengths[:, None])

    @cached_property
    def _index(self) -> Ints | slice:
        """The tokens of the block among those of the batch, (n,)."""
        table = self.batch.table
        if bool(np.all(np.diff(self.rows) == 1)):
            return slice(int(table.starts[self.rows[0]]), int(table.starts[self.rows[-1] + 1]))
        return np.arange(int(self.lengths.sum())) + np.repeat(table.starts[self.rows] - self.starts, self.lengths)

    def of(self, column: Floats) -> Floats:
        """A column of the batch's tokens, (N,), at the block's, (n,)."""
        return np.asarray(column[self._index])

    def shaped(self, values: Floats) -> Floats:
        """Values of the block's tokens, (n,), in its shape, with 0 at padding."""
        if not self.padded:
            return values
        if self.mask is None:
            return values.reshape(len(self.rows), -1)
        out = np.zeros(self.mask.shape)
        out[self.mask] = values
        return out

    def flat(self, values: Floats) -> Floats:
        """Values in the block's shape, at its tokens, (n,)."""
        return values.ravel() if self.mask is None else values[self.mask]

    @cached_property
    def tokens(self) -> Tokens:
        """The tokens as corrections take them, without an overlap."""
        batch = self.batch
        advantages = batch.table.advantages
        return Tokens(
            self.shaped(self.of(batch.log_ratio)),
            policy_log_probs=self.shaped(self.of(batch.policy_log_probs)),
            actor_log_probs=self.shaped(self.of(batch.actor_log_probs)),
            advantages=None if advantages is None else self.shaped(self.of(advantages)),
            mask=self.mask,
        )


def in_a_row(batch: Batch) -> Iterator[Block]:
    """The sequences of a batch in their order, for corrections of single tokens."""
    starts, first = batch.table.starts, 0
    while first < batch.table.sequences:
        end = max(int(np.searchsorted(starts, starts[first] + CELLS, "right")) - 1, first + 1)
        yield Block(batch, np.arange(first, end), padded=False)
        first = end


def by_length(batch: Batch) -> Iterator[Block]:
    """The sequences of a batch from the shortest on, padded, for corrections of sequences."""
    order = np.argsort(batch.table.lengths, kind="stable")
    lengths, first = batch.table.lengths[order], 0
    while first < len(order):
        ahead = lengths[first : first + max(CELLS // int(lengths[first]), 1)]
        cells = ahead * np.arange(1, len(ahead) + 1)
        alike = (ahead <= WASTE * ahead[0]) | (cells <= SMALL)
        count = max(int(np.count_nonzero(alike & (cells <= CELLS))), 1)
        yield Block(batch, order[first : first + count], padded=True)
        first += count


def by_step(batch: Batch) -> Iterator[Block]:
    """The sequences of each step in a batch, padded, for corrections that look at their batch.

    Where they have more than `WHOLE` numbers, they are cut into pieces, in their order, as trainers cut a batch into
    minibatches.
    """
    step = np.zeros(batch.table.sequences, np.int64) if batch.table.step is None else batch.table.step
    for each in np.unique(step):
        rows = np.flatnonzero(step == each)
        while len(rows):
            longest = np.maximum.accumulate(batch.table.lengths[rows])
            cells = longest * np.arange(1, len(rows) + 1)
            count = max(int(np.searchsorted(cells, WHOLE, "right")), 1)
            yield Block(batch, rows[:count], padded=True)
            rows = rows[count:]
