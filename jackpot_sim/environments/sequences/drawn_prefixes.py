"""The prefixes of drawn sequences, where a tree of all prefixes would not fit.

They form the visited part of the tree: row 0 is the empty prefix, and every other row a prefix of at least one of the
sequences, each once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.checks import check_ids, check_integers, check_mask, check_padding, check_same_shape
from jackpot_sim.core.sequences import Sequences
from jackpot_sim.environments.language_models.scoring import Scorer

_AT_ONCE = 1024
"""Sequences that a model reads together."""


@dataclass(frozen=True, eq=False)
class DrawnPrefixes:
    """The prefixes of n sequences.

    Attributes:
        sequences: the sequences, as paths through the rows.
        example: a sequence that passes each row, (rows,).
        depth: the number of tokens of each row, (rows,).
    """

    sequences: Sequences
    example: Ints
    depth: Ints

    def __post_init__(self) -> None:
        check_ids(check_integers(self.example, "example", "rows"), len(self.sequences), "example")
        check_same_shape(self.example, check_integers(self.depth, "depth"), "example", "depth")

    @classmethod
    def of(cls, tokens: Ints, mask: Flags) -> DrawnPrefixes:
        """The prefixes of sequences of shape (n, length); the mask, of that shape, is True on tokens.

        Raises:
            TypeError: tokens are no integers, or the mask is not boolean.
            ValueError: the shapes differ, a token is negative, or padding comes before a token.
        """
        check_mask(mask, check_integers(tokens, "tokens", "n", "length"), "tokens")
        check_padding(mask)
        prefix = np.zeros(tokens.shape, dtype=np.int64)
        example, depth = [np.zeros(1, dtype=np.int64)], [np.zeros(1, dtype=np.int64)]
        count, vocab = 1, int(tokens.max()) + 1
        for step in range(1, tokens.shape[1]):
            live = np.flatnonzero(mask[:, step])
            longer = prefix[live, step - 1] * vocab + tokens[live, step - 1]
            distinct, first, which = np.unique(longer, return_index=True, return_inverse=True)
            prefix[live, step] = count + which
            example.append(live[first])
            depth.append(np.full(len(distinct), step))
            count += len(distinct)
        return cls(Sequences(prefix, tokens, mask), np.concatenate(example), np.concatenate(depth))

    def laws(self, scorer: Scorer, prompt: Ints) -> Floats:
        """log p(x|s) at every row, (rows, vocab), nats; `prompt` has shape (prompt_length,)."""
        needed = np.unique(self.example)
        place = np.searchsorted(needed, self.example)
        parts = []
        for start in range(0, len(needed), _AT_ONCE):
            rows = np.flatnonzero((place >= start) & (place < start + _AT_ONCE))
            along = scorer.log_probs_along(prompt, self.sequences.token[needed[start : start + _AT_ONCE]])
            parts.append((rows, along[place[rows] - start, self.depth[rows]]))
        out = np.empty((len(self.example), parts[0][1].shape[-1]))
        for rows, law in parts:
            out[rows] = law
        return out
