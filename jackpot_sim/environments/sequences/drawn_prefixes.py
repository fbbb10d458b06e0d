"""The prefixes that drawn sequences pass, where a tree of all of them would not fit.

They form the part of the tree that was seen: row 0 is the empty prefix, and every other row a prefix
that at least one of the sequences has, each once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.sequences import Sequences
from jackpot_sim.environments.language_models.scoring import Scorer

_AT_ONCE = 1024
"""Sequences that go through a model together."""


@dataclass(frozen=True, eq=False)
class DrawnPrefixes:
    """The prefixes of n sequences.

    Attributes:
        sequences: the sequences, as paths through the rows.
        example: of every row, a sequence that passes it, (rows,).
        depth: of every row, the number of its tokens, (rows,).
    """

    sequences: Sequences
    example: Ints
    depth: Ints

    def laws(self, scorer: Scorer, prompt: Ints) -> Floats:
        """log p(x|s) at every row, (rows, vocab), nats."""
        needed = np.unique(self.example)
        place = np.searchsorted(needed, self.example)
        parts = []
        for start in range(0, len(needed), _AT_ONCE):
            rows = np.flatnonzero((place >= start) & (place < start + _AT_ONCE))
            along = scorer.log_probs_along(prompt, self.sequences.token[needed[start : start + _AT_ONCE]])
            parts.append((rows, along[place[rows] - start, self.depth[rows]]))
        out = np.empty((len(self.example), parts[0][1].shape[-1]))
        for rows, found in parts:
            out[rows] = found
        return out


def visited(tokens: Ints, mask: Flags) -> DrawnPrefixes:
    """The prefixes of sequences of shape (n, length), the mask True on tokens."""
    prefix = np.zeros(tokens.shape, dtype=np.int64)
    example, depth = [np.zeros(1, dtype=np.int64)], [np.zeros(1, dtype=np.int64)]
    count, vocab = 1, int(tokens.max()) + 1
    for step in range(1, tokens.shape[1]):
        there = np.flatnonzero(mask[:, step])
        longer = prefix[there, step - 1] * vocab + tokens[there, step - 1]
        found, first, which = np.unique(longer, return_index=True, return_inverse=True)
        prefix[there, step] = count + which
        example.append(there[first])
        depth.append(np.full(len(found), step))
        count += len(found)
    return DrawnPrefixes(Sequences(prefix, tokens, mask), np.concatenate(example), np.concatenate(depth))
