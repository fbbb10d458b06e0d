"""The findings of the one pass over a dump, from which causes are named and advice is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jackpot_sim.diagnose.results import Figure
from jackpot_sim.readers.left_out import LeftOut
from jackpot_sim.readers.table import TokenTable


@dataclass(frozen=True, eq=False)
class Evidence:
    """The findings that a cause may look at, and nothing else.

    Attributes:
        sample: whole sequences drawn evenly from all of the dump, with all their columns, at most about 200,000 tokens;
            only tokens that count. Small dumps are here whole. None where no token is left.
        left_out: the tokens that were left out before, and why.
        read: the tokens that were read, left out or not.
        metrics: the figures over all tokens, by name.
        bypass: True where both log-probs are equal bit for bit at every token.
        shifted: tokens whose sequence, moved by this many places on one side, agrees far better than as it stands;
            by the move, −1 or +1.
    """

    sample: TokenTable | None
    left_out: LeftOut
    read: int
    metrics: Mapping[str, Figure]
    bypass: bool
    shifted: Mapping[int, int]
