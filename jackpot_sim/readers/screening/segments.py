"""Sums and runs over the sequences of a table."""

from __future__ import annotations

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints


def counted(flags: Flags, starts: Ints) -> Ints:
    """The number of True tokens of each sequence: (N,) and (S + 1,) → (S,)."""
    return np.asarray(np.add.reduceat(flags, starts[:-1], dtype=np.int64))


def summed(values: Floats, starts: Ints) -> Floats:
    """Σ of values of tokens over each sequence, likewise."""
    return np.asarray(np.add.reduceat(values, starts[:-1]))


def leading(flags: Flags, starts: Ints) -> Flags:
    """True at the tokens of each sequence before its first False one."""
    others = np.append(0, np.cumsum(~flags))
    before = np.repeat(others[starts[:-1]], np.diff(starts))
    return np.asarray(others[1:] == before)


def trailing(flags: Flags, starts: Ints) -> Flags:
    """True at the tokens of each sequence after its last False one."""
    others = np.append(0, np.cumsum(~flags))
    until = np.repeat(others[starts[1:]], np.diff(starts))
    return np.asarray(others[:-1] == until)
