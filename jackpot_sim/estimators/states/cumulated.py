"""Tables of cumulated sums over a state's tokens in ascending order of r."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from jackpot_sim.core.arrays import Floats, Ints

Places: TypeAlias = int | Ints
"""Places in a table of cumulated sums: a number, or one for each threshold."""

Coefficient: TypeAlias = float | Floats
"""A number, or one for each threshold."""


class Run(NamedTuple):
    """Tokens of a state in ascending order of r; their advantages have one sign where the sign matters."""

    sign: int
    tokens: slice
    """The run's place among the sorted tokens."""
    first: int
    """The run's first place in the tables of cumulated sums, in which it has one entry more than tokens."""
    log_ratio: Floats

    @property
    def last(self) -> int:
        """The run's last place in the tables."""
        return self.first + len(self.log_ratio)

    @property
    def places(self) -> slice:
        """The slice of the tables that belongs to the run."""
        return slice(self.first, self.last + 1)


def runs_of(log_ratio: Floats, sign: Ints) -> list[Run]:
    """The runs of sorted tokens, from ℓ and the sign of A, each (tokens,); a single empty run if there is no token."""
    starts = [0, *(np.flatnonzero(np.diff(sign)) + 1).tolist()]
    spans = itertools.pairwise([*starts, len(sign)])
    return [
        Run(int(sign[start]) if start < stop else 0, slice(start, stop), start + before, log_ratio[start:stop])
        for before, (start, stop) in enumerate(spans)
    ]


def cumulated(values: Floats, runs: Sequence[Run], from_top: bool) -> Floats:
    """The table whose entry i of a run sums its first i values or, `from_top`, those from the i-th on.

    Args:
        values: shape (..., tokens).
        runs: the runs of these tokens.
        from_top: sums begin at the largest r.

    Returns:
        Shape (..., tokens + runs).
    """
    table = np.zeros((*values.shape[:-1], values.shape[-1] + len(runs)))
    for run in runs:
        own, out = values[..., run.tokens], table[..., run.places]
        if from_top:
            np.cumsum(own[..., ::-1], axis=-1, out=out[..., -2::-1])
        else:
            np.cumsum(own, axis=-1, out=out[..., 1:])
    return table
