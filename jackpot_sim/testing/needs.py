"""The contract that a correction reads the fields of its tokens that it says it needs, and no others."""

from __future__ import annotations

import numpy as np
from typing_extensions import override

from jackpot_sim.estimators import Correction, Tokens
from jackpot_sim.estimators.corrections.correction import is_ours
from jackpot_sim.estimators.corrections.inputs import HOW_TO_GIVE
from jackpot_sim.testing.contracts import require
from jackpot_sim.testing.tokens import draws, fields_beside


def needs_what_it_reads(correction: Correction) -> None:
    """`_looks_at` names the fields of `Tokens` that accept and weight read, and no others.

    A world computes fields where they are needed, and a table of weights is kept for corrections that need no
    advantages: a field that is read and not named may be missing, or be another token's.
    """
    read = _read(correction)
    undeclared, unread = read - correction.needs, correction.needs - read
    require(not undeclared, f"it reads {', '.join(sorted(undeclared))} of the tokens: name them in _looks_at")
    require(not unread, f"it never reads {', '.join(sorted(unread))} of the tokens: leave them out of _looks_at")


def _read(correction: Correction) -> frozenset[str]:
    """The optional fields that a correction reads of tokens which have all of them."""
    names: set[str] = set()

    class Watched(Tokens):
        @override
        def __getattribute__(self, name: str) -> object:
            if name in HOW_TO_GIVE:
                names.add(name)
            return super().__getattribute__(name)

    log_ratio = draws((3, 6))
    mask = np.ones(log_ratio.shape, dtype=bool)
    tokens = correction.checked(Watched(log_ratio, overlap=np.full((3, 1), 0.8), mask=mask, **fields_beside(log_ratio)))
    names.clear()
    if is_ours(type(correction)) or type(correction).pair is not Correction.pair:
        correction.pair(tokens)
    else:  # whose pair takes away what it does not name
        correction.accept(tokens)
        correction.weight(tokens)
    return frozenset(names)
