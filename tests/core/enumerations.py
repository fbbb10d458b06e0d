"""Sequences small enough to be written down."""

from __future__ import annotations

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.sequences import Enumeration, SequenceLaws, Sequences
from tests.core.laws import Pair


def of_two_tokens(laws: Pair, advantage: Floats) -> Enumeration:
    """All nine sequences of two tokens out of three, from the laws at the four prefixes, (4, 3)."""
    first, second = (x.reshape(-1) for x in np.meshgrid(np.arange(3), np.arange(3), indexing="ij"))
    prefix, token = np.stack([0 * first, 1 + first], axis=1), np.stack([first, second], axis=1)
    sequences = Sequences(prefix, token, np.ones((9, 2), dtype=bool))
    return Enumeration(SequenceLaws(laws.policy, laws.actor, laws.policy), sequences, advantage)
