"""Sequences of which one side is moved by a place: they agree with a neighbour far better than with themselves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.readers.screening.segments import counted, summed
from jackpot_sim.readers.screening.values import Sides
from jackpot_sim.readers.table import TokenTable

BETTER = 4.0
"""The factor by which |log p − log q| must be smaller once a side is moved."""
DIFFERENT = 0.05
"""The mean |log p − log q|, nats, below which nothing needs to be moved."""
PAIRS = 16
"""The fewest neighbouring tokens from which a sequence, or the short sequences of a table together, can be judged."""
FAR = 5.0
"""The largest difference of a token that counts, nats, so that a few wild ones do not decide."""
MOVES = (-1, 1)
"""Places: with move k the policy's log-prob of token t is the actor's of token t + k."""


def moved(table: TokenTable, sides: Sides, live: Flags) -> Mapping[int, Flags]:
    """The sequences, (S,), that are moved by each of `MOVES`.

    A sequence of at least `PAIRS` pairs of neighbouring tokens is judged by itself, and shorter ones all together.

    Args:
        table: the sequences.
        sides: their log-probs.
        live: True at tokens with both log-probs, (N,).
    """
    starts = table.starts
    pair = live[:-1] & live[1:]
    pair[starts[1:-1] - 1] = False
    own = _difference(sides.actor, sides.policy)
    there = _sums((own[:-1] + own[1:]) / 2, pair, starts)
    pairs = counted(np.append(pair, False), starts)
    short = pairs < PAIRS
    found: dict[int, Flags] = {}
    for move, late in zip(MOVES, (False, True), strict=True):
        first, second = (sides.policy, sides.actor) if late else (sides.actor, sides.policy)
        elsewhere = _sums(_difference(first[:-1], second[1:]), pair, starts)
        found[move] = ~short & _agrees(there, elsewhere, pairs)
        together = [np.asarray([each[short].sum()]) for each in (there, elsewhere, pairs)]
        if together[2][0] >= PAIRS and _agrees(*together)[0]:
            found[move] |= short & (pairs > 0) & _agrees(there, elsewhere, pairs)
    return found


def _difference(first: Floats, second: Floats) -> Floats:
    with np.errstate(invalid="ignore"):  # inf less inf, at tokens that are in no pair
        return np.asarray(np.minimum(np.abs(first - second), FAR))


def _sums(values: Floats, pair: Flags, starts: Ints) -> Floats:
    """Σ over the pairs of each sequence, (N − 1,) → (S,)."""
    return summed(np.append(np.where(pair, values, 0.0), 0.0), starts)


def _agrees(there: Floats, elsewhere: Floats, pairs: Ints) -> Flags:
    return np.asarray((there > DIFFERENT * pairs) & (elsewhere * BETTER < there))
