"""Log-probs of exactly 0.0: those of certain tokens, and those that stand for no log-prob.

A token whose probability rounds to 1 has a true log-prob of 0.0, on both sides or on one. A side is taken to write 0.0
where it has no log-prob if the other side finds such tokens unlikely far more often than it does those that the side
itself calls likely. Truncated sampling writes 0.0 too, where one token alone is left, and is told apart by the same
rule: the other side then gives at least top-p.
"""

from __future__ import annotations

import math

import numpy as np

from jackpot_sim.core.arrays import Flags
from jackpot_sim.readers.screening.segments import counted, summed
from jackpot_sim.readers.screening.values import Blame, Sides
from jackpot_sim.readers.table import TokenTable

UNLIKELY = math.log(2)
"""The nats by which the other side must be lower."""
LIKELY = math.log(0.8)
"""The log-prob from which a token is one that the side calls likely."""
TIMES = 2.0
"""The factor between both shares of unlikely tokens from which 0.0 is a placeholder."""
CERTAIN = -1e-3
"""The other side's log-prob, nats, from which a 0.0 may be true even of a side that writes placeholders."""
NEVER_ALL = 5.0
"""The nats that the other side gives tokens, together, which a side calls certain throughout, from which it has no
log-probs at all."""
MANY = 64
"""The tokens that no model is certain of throughout, on both sides."""


class Zeros:
    """The zeros of both sides that were seen, and how far the other side was from them."""

    def __init__(self) -> None:
        self._counts = np.zeros((2, 4))
        """For the actor and the policy: zeros that the other side finds unlikely, zeros, and likely tokens likewise."""

    def placeholders(self, sides: Sides, live: Flags) -> Blame:
        """True where each side's 0.0 stands for no log-prob, (N,) each.

        Args:
            sides: the log-probs.
            live: True at tokens with both, (N,).
        """
        found = []
        for at, (side, other) in enumerate((sides, sides[::-1])):
            zero = live & (side == 0.0)
            if not zero.any():
                found.append(zero)
                continue
            likely = live & (side < 0.0) & (side >= LIKELY)
            far = other < side - UNLIKELY
            self._counts[at] += [np.count_nonzero(each) for each in (zero & far, zero, likely & far, likely)]
            found.append(zero & (other < CERTAIN) if self._writes_zeros(at) else np.zeros_like(zero))
        return Blame(*found)

    def _writes_zeros(self, side: int) -> bool:
        far, zeros, likely_far, likely = self._counts[side]
        # Half a token more, so that a few likely tokens do not prove that none is ever far.
        return bool(far > 0 and far / zeros >= TIMES * (likely_far + 0.5) / (likely + 1))


def all_zero(table: TokenTable, sides: Sides, live: Flags) -> Blame:
    """True at the tokens, (N,) each, of sequences, or of a whole table, at which a side has nothing but 0.0."""
    found = []
    sizes = counted(live, table.starts)
    for side, other in (sides, sides[::-1]):
        zeros = counted(live & (side == 0.0), table.starts)
        whole = (zeros == sizes) & (sizes > 0)
        if not whole.any():
            found.append(np.zeros_like(live))
            continue
        surprise = -summed(np.where(live, other, 0.0), table.starts)
        if zeros.sum() == sizes.sum():
            whole &= bool(surprise.sum() > NEVER_ALL or sizes.sum() >= MANY)
        else:
            # Sequences of tokens that are each likely may have been cut to one token throughout.
            unlikely = counted(live & (other < side - UNLIKELY), table.starts) > 0
            whole &= unlikely & ((surprise > NEVER_ALL) | (sizes >= MANY))
        found.append(live & np.repeat(whole, table.lengths))
    return Blame(*found)
