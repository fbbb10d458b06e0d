"""Tokens whose log-probs are no log-probs: padding, missing, infinite, +1.0, or positive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats
from jackpot_sim.readers.left_out import Reason
from jackpot_sim.readers.screening.segments import counted, leading, trailing
from jackpot_sim.readers.table import TokenTable

ROUNDING = 1e-4
"""The largest log-prob above 0 that rounding explains: float32's at logits of up to 1,000. Such a log-prob is that of a
certain token, and is read as 0. One that was normalised in bf16 may be as far off as 0.1, and is none any more."""
NEVER = -9999.0
"""The number that vLLM's server writes for −inf."""

RUN, FEW = 16, 0.25
"""The tokens in a row at an end of a sequence that both sides are certain of, to the last bit, and the share of such
tokens in its rest below which that is no chance."""


class Sides(NamedTuple):
    """Both log-probs of each token, (N,) each."""

    actor: Floats
    policy: Floats

    @classmethod
    def of(cls, table: TokenTable) -> Sides:
        """The columns of a table.

        Raises:
            ValueError: the table lacks a side.
        """
        if table.actor_log_probs is None or table.policy_log_probs is None:
            raise ValueError("table lacks the log-probs of a side: recompute them first")
        return cls(table.actor_log_probs, table.policy_log_probs)


class Blame(NamedTuple):
    """Tokens that cannot count, by the side whose log-prob is the cause, (N,) each; both are where it is neither."""

    actor: Flags
    policy: Flags


def no_log_probs(table: TokenTable, sides: Sides) -> Iterator[tuple[Reason, Blame]]:
    """The findings, the first of which that holds a token is its reason; none where all is well."""
    if not all(side.max() <= 0.0 and side.min() > NEVER for side in sides):  # NaN compares as False
        missing = Blame(*map(np.isnan, sides))
        yield Reason.PADDING, _without_neighbours(table, missing)
        yield Reason.MISSING, missing
        yield Reason.INFINITE, Blame(*(np.isinf(side) | (side <= NEVER) for side in sides))
        yield Reason.ONE, Blame(*(side == 1.0 for side in sides))
        yield Reason.POSITIVE, Blame(*(side > ROUNDING for side in sides))
    firsts, ends = table.starts[:-1], table.starts[1:] - 1
    certain_end = np.any((sides.actor[ends] == 0) & (sides.policy[ends] == 0))
    if table.token is not None and certain_end:
        padded = _repeated_to_the_end(table, sides)
        yield Reason.PADDING, Blame(padded, padded)
    if certain_end or np.any((sides.actor[firsts] == 0) & (sides.policy[firsts] == 0)):
        padded = _zeros_at_either_end(table, sides)
        yield Reason.PADDING, Blame(padded, padded)
    if table.advantages is not None and not np.isfinite(table.advantages).all():
        unknown = ~np.isfinite(table.advantages)
        yield Reason.NO_ADVANTAGE, Blame(unknown, unknown)


def _without_neighbours(table: TokenTable, missing: Blame) -> Blame:
    """The missing log-probs that the shape of the data explains, where a sequence has others.

    They are the first of a sequence, which no position before it predicts, and runs at either end without any side.
    """
    neither = missing.actor & missing.policy
    ends = leading(neither, table.starts) | trailing(neither, table.starts)
    ends[table.starts[:-1]] = True
    ends &= np.repeat(counted(~(missing.actor | missing.policy), table.starts) > 0, table.lengths)
    return Blame(missing.actor & ends, missing.policy & ends)


def _zeros_at_either_end(table: TokenTable, sides: Sides) -> Flags:
    """The long runs of 0.0 on both sides, at either end of sequences that hold few such tokens elsewhere.

    They are prompts and padding whose mask the dump lacks. Figures would be averaged down by them.
    """
    both = (sides.actor == 0) & (sides.policy == 0)
    found = np.zeros(len(table), dtype=np.bool_)
    for run in (leading(both, table.starts), trailing(both, table.starts)):
        found |= run & np.repeat(counted(run, table.starts) >= RUN, table.lengths)
    rest = table.lengths - counted(found, table.starts)
    few = counted(both & ~found, table.starts) < FEW * rest
    return np.asarray(found & np.repeat(few, table.lengths))


def _repeated_to_the_end(table: TokenTable, sides: Sides) -> Flags:
    """The run of one token up to the end with 0.0 on both sides, but for its first, which may be real."""
    assert table.token is not None
    last = np.repeat(table.token[table.starts[1:] - 1], table.lengths)
    run = trailing((sides.actor == 0) & (sides.policy == 0) & (table.token == last), table.starts)
    run[1:] &= run[:-1] & ~_first(table)[1:]
    run[0] = False
    return run


def _first(table: TokenTable) -> Flags:
    first = np.zeros(len(table), dtype=np.bool_)
    first[table.starts[:-1]] = True
    return first
