"""Whole sequences drawn evenly from a dump: the same ones however it is cut into batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from jackpot_sim.core.arrays import Flags
from jackpot_sim.core.hashing import splitmix64
from jackpot_sim.core.topk import TopK
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.readers.table import OF_SEQUENCES, OF_TOKENS, TOP_K, TokenTable, joined

TOKENS = 200_000
"""The tokens after which no further sequence is drawn."""
ROOM = 2**27
"""The bytes that their top-k may take: a dump with long ones has fewer tokens in its sample."""


class _Part(NamedTuple):
    """Sequences that are held, with the key of each, (S,)."""

    keys: NDArray[np.uint64]
    table: TokenTable


class Sample:
    """The sequences with the smallest keys, up to the one that completes `TOKENS`; a key is a hash of the number.

    The sequence that completes them belongs to the sample: without it, long sequences would be drawn too seldom.
    """

    def __init__(self, tokens: int = TOKENS) -> None:
        self.sequences = 0
        self._tokens = tokens
        self._parts: list[_Part] = []
        self._held = 0
        self._last = np.uint64(np.iinfo(np.uint64).max)

    @property
    def whole(self) -> bool:
        """True where no sequence is left out."""
        self._trim()
        return sum(part.table.sequences for part in self._parts) == self.sequences

    def add(self, batch: Batch) -> None:
        """Takes the batch in."""
        self.sequences += batch.table.sequences
        self._tokens = min(self._tokens, ROOM // max(_topk_bytes(batch.table), 1))
        keys = splitmix64(np.arange(batch.first, batch.first + batch.table.sequences).astype(np.uint64))
        self._hold(_Part(keys, batch.table), keys <= self._last)
        if 4 * self._held > 5 * self._tokens:
            self._trim()

    def merge(self, later: Self) -> None:
        """Takes in the sample of the batches that come next."""
        self.sequences += later.sequences
        self._tokens = min(self._tokens, later._tokens)
        for part in later._parts:
            self._hold(part, part.keys <= self._last)
        self._trim()

    def table(self) -> TokenTable | None:
        """The sample in the order of the dump, with the columns that all its tables have; None of no sequence.

        A top-k that only some tables have is NaN at the tokens of the others.
        """
        self._trim()
        return joined(_alike([part.table for part in self._parts])) if self._parts else None

    def _hold(self, part: _Part, kept: Flags) -> None:
        table = part.table if kept.all() else part.table.take(np.flatnonzero(kept))
        if table is not None:
            self._parts.append(_Part(part.keys[kept], table))
            self._held += len(table)

    def _trim(self) -> None:
        """Lets go of the sequences after the one that completes the tokens."""
        if self._held <= self._tokens:
            return
        keys = np.concatenate([part.keys for part in self._parts])
        lengths = np.concatenate([part.table.lengths for part in self._parts])
        order = np.argsort(keys)
        last = int(np.searchsorted(np.cumsum(lengths[order]), self._tokens))
        self._last = keys[order][last]
        parts, self._parts, self._held = self._parts, [], 0
        for part in parts:
            self._hold(part, part.keys <= self._last)


def _topk_bytes(table: TokenTable) -> int:
    """The bytes of both top-k at a token."""
    return sum(column.nbytes // len(table) for name in TOP_K if (column := getattr(table, name)) is not None)


def _alike(tables: Sequence[TokenTable]) -> list[TokenTable]:
    """The tables with the columns that all have, and with the smallest k of each top-k."""
    common = frozenset.intersection(*(each.columns for each in tables))
    absent: dict[str, Any] = dict.fromkeys({*OF_TOKENS, *OF_SEQUENCES} - common)
    least = {name: [c.k for each in tables if (c := getattr(each, name)) is not None] for name in TOP_K}
    tops = {name: min(ks) for name, ks in least.items() if ks}
    return [dataclasses.replace(each, **absent, **_topks(each, tops)) for each in tables]


def _topks(table: TokenTable, tops: Mapping[str, int]) -> dict[str, Any]:
    return {name: _topk(table, name, k) for name, k in tops.items()}


def _topk(table: TokenTable, name: str, k: int) -> TopK:
    column: TopK | None = getattr(table, name)
    if column is not None:
        return column.first(k)
    shape = (len(table), k)
    return TopK(np.zeros(shape, dtype=np.int32), np.full(shape, np.nan, dtype=np.float32))
