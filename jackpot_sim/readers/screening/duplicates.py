"""Sequences that were read before, from another parallel rank.

Two samples of one prompt may be the same text, and then have the same log-probs: of short answers most are. A sequence
is a duplicate only where chance cannot have drawn it twice, or where its file is known to repeat another one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jackpot_sim.core.arrays import Flags, Ints
from jackpot_sim.core.hashing import splitmix64
from jackpot_sim.readers.screening.segments import summed
from jackpot_sim.readers.screening.values import Sides
from jackpot_sim.readers.table import TokenTable

CHANCE = 30.0
"""The surprise, −Σ log q in nats, from which a sequence is not drawn twice: a chance of 1e-13."""
_FACTORS = tuple(np.uint64(each) for each in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
"""Odd numbers (those of xxHash) that keep the parts of a token apart."""


class Duplicates:
    """The sequences that were seen, of which 12 bytes each are kept."""

    def __init__(self) -> None:
        self._digests: NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)
        self._files: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        """The file in which each was first, in the order of the digests."""
        self._numbers: dict[str, int] = {}
        self._repeated: set[tuple[int, int]] = set()
        """Pairs of files of which the second repeats the first."""

    def found(self, table: TokenTable, sides: Sides) -> Flags:
        """True at each sequence, (S,), that was seen before; remembers the others."""
        digests, files = digest(table, sides), self._file_numbers(table)
        first = self._first_file(digests, files)
        surprise = -summed(np.where(np.isfinite(sides.actor), np.minimum(sides.actor, 0.0), 0.0), table.starts)
        certain = (first >= 0) & (surprise > CHANCE)
        self._repeated |= {(int(a), int(b)) for a, b in zip(first[certain], files[certain], strict=True) if a != b}
        if self._repeated:
            for at in np.flatnonzero(first >= 0):
                certain[at] |= (int(first[at]), int(files[at])) in self._repeated
        return certain

    def _first_file(self, digests: NDArray[np.uint64], files: NDArray[np.int32]) -> Ints:
        """The file in which each sequence was first, and −1 for one that is new, (S,)."""
        order = np.argsort(digests, kind="stable")
        ordered = digests[order]
        new = np.append(True, ordered[1:] != ordered[:-1])
        leader = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
        first = np.where(new, -1, files[order[leader]]).astype(np.int64)
        at = np.searchsorted(self._digests, ordered)
        if len(self._digests):
            place = np.minimum(at, len(self._digests) - 1)
            known = self._digests[place] == ordered
            first = np.where(known, self._files[place], first)
            new &= ~known
        self._digests = np.insert(self._digests, at[new], ordered[new])
        self._files = np.insert(self._files, at[new], files[order[new]])
        out = np.empty(len(order), dtype=np.int64)
        out[order] = first
        return out

    def _file_numbers(self, table: TokenTable) -> NDArray[np.int32]:
        """The number of the file of each sequence, (S,)."""
        ends = {_file(table.place[each]) for each in (0, -1)}
        # Files come one after the other: where both ends are of one file, so is all between them.
        places = table.place[:1] if len(ends) == 1 else table.place
        numbers = [self._numbers.setdefault(_file(place), len(self._numbers)) for place in places]
        return np.broadcast_to(np.asarray(numbers, dtype=np.int32), (table.sequences,))


def _file(place: str) -> str:
    """The file of a place, which ends in a comma and the line or record."""
    return place.rpartition(", ")[0]


def digest(table: TokenTable, sides: Sides) -> NDArray[np.uint64]:
    """A hash of each sequence's tokens, in order, both log-probs to the last bit, and step, (S,)."""
    within = np.arange(len(table), dtype=np.uint64) - np.repeat(table.starts[:-1], table.lengths).astype(np.uint64)
    parts = [np.ascontiguousarray(side).view(np.uint64) for side in sides]
    if table.token is not None:
        parts.append(table.token.view(np.uint64))
    mixed = within
    for part, factor in zip(parts, _FACTORS, strict=False):
        mixed = mixed + part * factor
    whole = np.add.reduceat(splitmix64(mixed), table.starts[:-1]) + table.lengths.astype(np.uint64)
    if table.step is not None:
        whole += table.step.view(np.uint64) * _FACTORS[0]
    return splitmix64(whole)
