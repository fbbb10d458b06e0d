"""The tokens and the sequences on which the two policies disagree most."""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import numpy as np

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.results import Worst as Entry

KEPT = 10
"""The entries of each list: tokens with ℓ > 0, tokens with ℓ < 0, sequences by |Σ ℓ|, and by |mean ℓ|."""


class _Ranked(NamedTuple):
    """An entry and the number that ranks it, the largest first."""

    size: float
    entry: Entry


class Worst:
    """An accumulator of the entries; of equal ones the first of the dump are kept."""

    def __init__(self) -> None:
        self._lists: dict[str, list[_Ranked]] = {name: [] for name in ("above", "below", "total", "mean")}

    def add(self, batch: Batch) -> None:
        """Takes the batch in."""
        table, ratio = batch.table, batch.log_ratio
        for name, sizes in (("above", ratio), ("below", -ratio)):
            self._keep(name, [_Ranked(float(sizes[at]), _token(batch, at)) for at in _largest(sizes)])
        for name, sizes in (("total", np.abs(batch.total)), ("mean", np.abs(batch.total / table.lengths))):
            self._keep(name, [_Ranked(float(sizes[at]), _sequence(batch, at)) for at in _largest(sizes)])

    def merge(self, later: Self) -> None:
        """Takes in the entries of the batches that come next."""
        for name, entries in later._lists.items():
            self._keep(name, entries)

    def tokens(self) -> list[Entry]:
        """The tokens with the largest |ℓ| of either sign, the largest first."""
        return _entries(self._lists["above"] + self._lists["below"])

    def sequences(self) -> list[Entry]:
        """The sequences with the largest |Σ ℓ|, the largest first, and then the others with the largest |mean ℓ|."""
        first, second = _entries(self._lists["total"]), _entries(self._lists["mean"])
        return first + [each for each in second if each not in first]

    def _keep(self, name: str, entries: list[_Ranked]) -> None:
        both = sorted(self._lists[name] + entries, key=lambda each: -each.size)
        self._lists[name] = both[:KEPT]


def _entries(ranked: list[_Ranked]) -> list[Entry]:
    return [each.entry for each in sorted(ranked, key=lambda each: -each.size)]


def _largest(sizes: Floats) -> Ints:
    """The places of the largest sizes above 0, (n,); among equal ones the first."""
    least = np.partition(sizes, -KEPT)[-KEPT] if len(sizes) > KEPT else -math.inf
    places = np.flatnonzero((sizes >= least) & (sizes > 0))
    return places[np.argsort(-sizes[places], kind="stable")][:KEPT]


def _token(batch: Batch, at: int) -> Entry:
    table = batch.table
    row = int(np.searchsorted(table.starts, at, side="right")) - 1
    return Entry(
        place=table.place[row],
        sequence=table.name[row],
        position=int(table.position[at]),
        token=None if table.token is None else int(table.token[at]),
        actor_probability=math.exp(batch.actor_log_probs[at]),
        policy_probability=math.exp(batch.policy_log_probs[at]),
        log_ratio=float(batch.log_ratio[at]),
    )


def _sequence(batch: Batch, row: int) -> Entry:
    table = batch.table
    return Entry(
        place=table.place[row],
        sequence=table.name[row],
        position=None,
        actor_probability=None,
        policy_probability=None,
        log_ratio=float(batch.total[row]),
    )
