"""The checks of a dump before anything is averaged, a table at a time, in the order of the dump."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from jackpot_sim.core.arrays import Flags
from jackpot_sim.readers.left_out import SAMPLES, LeftOut, Reason
from jackpot_sim.readers.screening.alignment import MOVES, moved
from jackpot_sim.readers.screening.duplicates import Duplicates
from jackpot_sim.readers.screening.segments import counted
from jackpot_sim.readers.screening.values import Blame, Sides, no_log_probs
from jackpot_sim.readers.screening.zeros import Zeros, all_zero
from jackpot_sim.readers.table import TokenTable


class Screening:
    """The screen of a dump: it finds what is no token that counts, while the tables pass.

    Every token that is read is used or left out, for the first of its reasons: read = used + Σ left_out.
    Tables pass in the order of the dump, once; what is kept of them is 12 bytes a sequence and a few counts. No
    log-prob is changed but a positive one of at most `values.ROUNDING`, which is read as 0 and counted.

    Attributes:
        left_out: the tokens left out, by reason.
        read: the tokens read.
        used: those that count.
        sequences_read: the sequences read.
        sequences_used: those of which a token counts.
        rounded: the tokens that count with a log-prob above 0 by rounding, which is read as 0.
        shifted: the tokens of sequences of which one side is moved, by the move k: the policy's log-prob of token t is
            the actor's of token t + k.
    """

    def __init__(self) -> None:
        self.left_out = LeftOut()
        self.read = self.used = self.sequences_read = self.sequences_used = self.rounded = 0
        self.shifted: dict[int, int] = dict.fromkeys(MOVES, 0)
        self._duplicates, self._zeros = Duplicates(), Zeros()
        self._differs = self._uncertain = False

    @property
    def bypass(self) -> bool:
        """True where both log-probs are equal bit for bit at all tokens used, of which not all are 0.0, as certain."""
        return self._uncertain and not self._differs

    def screen(self, table: TokenTable) -> TokenTable | None:
        """The tokens of a table that count; None where there is none.

        Raises:
            ValueError: the table lacks the log-probs of a side.
        """
        sides, live = Sides.of(table), np.ones(len(table), dtype=np.bool_)
        table = _with_known_advantages(table)
        self.read += len(table)
        self.sequences_read += table.sequences
        self._whole(table, Reason.DUPLICATE, live, self._duplicates.found(table, sides))
        if not table.mask.all():
            self._tokens(table, live, Reason.MASKED, Blame(~table.mask, ~table.mask))
        for reason, blame in no_log_probs(table, sides):
            self._tokens(table, live, reason, blame)
        self._tokens(table, live, Reason.ALL_ZERO, all_zero(table, sides, live))
        for move, sequences in moved(table, sides, live).items():
            self.shifted[move] += self._whole(table, Reason.MISALIGNED, live, sequences)
        self._tokens(table, live, Reason.ZERO, self._zeros.placeholders(sides, live))
        kept = table if live.all() else table.keep(live)
        if kept is not None:
            self.used += len(kept)
            self.sequences_used += kept.sequences
            left = Sides.of(kept)
            self._differs = self._differs or not np.array_equal(*left)
            self._uncertain = self._uncertain or bool(np.any(left.actor))
            kept = self._rounded(kept)
        return kept

    def _rounded(self, table: TokenTable) -> TokenTable:
        """The table in which no log-prob is above 0."""
        sides = Sides.of(table)
        if all(side.max() <= 0.0 for side in sides):
            return table
        self.rounded += int(np.count_nonzero((sides.actor > 0) | (sides.policy > 0)))
        actor, policy = (np.minimum(side, 0.0) for side in sides)
        return dataclasses.replace(table, actor_log_probs=actor, policy_log_probs=policy)

    def _whole(self, table: TokenTable, reason: Reason, live: Flags, sequences: Flags) -> int:
        """Leaves out the live tokens of some sequences, (S,), and gives their number."""
        if not sequences.any():
            return 0
        out = live & np.repeat(sequences, table.lengths)
        hit = np.flatnonzero(sequences & (counted(out, table.starts) > 0))
        count = int(np.count_nonzero(out))
        self.left_out.add(reason, count, (table.place[row] for row in hit[:SAMPLES]))
        live &= ~out
        return count

    def _tokens(self, table: TokenTable, live: Flags, reason: Reason, blame: Blame) -> None:
        """Leaves out the live ones of some tokens."""
        out = live & (blame.actor | blame.policy)
        if out.any():
            self.left_out.add(reason, int(np.count_nonzero(out)), _places(table, out, blame))
            live &= ~out


def _places(table: TokenTable, out: Flags, blame: Blame) -> Iterator[str]:
    """The places of the first tokens, and the side that is the cause, where it is one."""
    for token in np.flatnonzero(out)[:SAMPLES].tolist():
        sequence = int(np.searchsorted(table.starts, token, side="right")) - 1
        actor, policy = blame.actor[token], blame.policy[token]
        side = "" if actor and policy else " (actor)" if actor else " (policy)"
        yield f"{table.place[sequence]}, position {table.position[token]}{side}"


def _with_known_advantages(table: TokenTable) -> TokenTable:
    """The table without advantages, where none of them is a number."""
    if table.advantages is None or np.isfinite(table.advantages).any():
        return table
    return dataclasses.replace(table, advantages=None)
